//! Signed files: a section at the end of a `.piq` file in which the holder of an Ed25519 key (RFC 8032) vouches for every
//! byte in front of it. The CRC-32 finds accidents; only a signature finds intent.
//!
//! The signed message is a prefix of the file itself, so that a core checks it where it lies, in flash, without a copy, and
//! so that any other program can make and check signatures. The header and the section table are part of it: a section
//! cannot be taken out, put in, moved, or exchanged for another signed file's.

#[cfg(feature = "signature")]
use crate::error::{Error, FileFault, Result};

/// Bytes of a public key.
pub const PUBLIC_KEY_LEN: usize = 32;
/// Bytes of a private key (the seed of RFC 8032, section 5.1.5).
pub const PRIVATE_KEY_LEN: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// The signature section: the public key of the signer, then the signature of all bytes of the file in front of the
/// signature, the public key included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature<'a> {
    /// Whose signature it claims to be. Nothing follows from it until the signature is checked against a key that is
    /// known from elsewhere.
    pub signer: &'a [u8; PUBLIC_KEY_LEN],
    /// The bytes it is about.
    pub message: &'a [u8],
    /// The signature itself: R and S of RFC 8032, section 5.1.6.
    pub bytes: &'a [u8; SIGNATURE_LEN],
}

impl<'a> Signature<'a> {
    /// Reads the section `content`, which lies at `offset` in the file. `None` if it has the wrong length.
    pub(super) fn read(file: &'a [u8], offset: usize, content: &'a [u8]) -> Option<Self> {
        let (signer, bytes) = content.split_first_chunk()?;
        let message = file.get(..offset.checked_add(PUBLIC_KEY_LEN)?)?;
        Some(Self { signer, message, bytes: bytes.try_into().ok()? })
    }

    /// Checks the signature strictly (RFC 8032, section 5.1.7, without the cofactor; keys and points of small order are
    /// refused), in constant memory.
    ///
    /// # Errors
    /// [`FileFault::OtherSigner`] if it claims another key, [`FileFault::PublicKey`] for a key that is none,
    /// [`FileFault::Signature`] if a single bit of file or signature has changed.
    #[cfg(feature = "signature")]
    pub fn check(&self, public_key: &[u8; PUBLIC_KEY_LEN]) -> Result<()> {
        // The signature, and the section that holds it, lie right behind the message.
        let at = |fault| Error::File { at: self.message.len(), fault };
        if self.signer != public_key {
            return Err(at(FileFault::OtherSigner));
        }
        let key = ed25519_dalek::VerifyingKey::from_bytes(public_key);
        let key = key.ok().filter(|key| !key.is_weak()).ok_or(at(FileFault::PublicKey))?;
        let signature = ed25519_dalek::Signature::from_bytes(self.bytes);
        key.verify_strict(self.message, &signature).map_err(|_| at(FileFault::Signature))
    }
}

/// The public key that belongs to a private one.
#[cfg(feature = "signature")]
#[must_use]
pub fn public_key(private_key: &[u8; PRIVATE_KEY_LEN]) -> [u8; PUBLIC_KEY_LEN] {
    ed25519_dalek::SigningKey::from_bytes(private_key).verifying_key().to_bytes()
}

/// The same model, signed. A signature that is there already is replaced. Deterministic, as RFC 8032 has it: the same
/// file and key give the same bytes.
///
/// # Errors
/// Whatever is wrong with the file, as [`crate::infer::Model::parse`] says it.
#[cfg(all(feature = "signature", feature = "alloc"))]
pub fn sign(file: &[u8], private_key: &[u8; PRIVATE_KEY_LEN]) -> Result<alloc::vec::Vec<u8>> {
    use super::sections::{Section, Sections, assemble};
    use ed25519_dalek::Signer as _;

    crate::infer::Model::parse(file)?;
    let found = Sections::parse(file)?;
    let key = ed25519_dalek::SigningKey::from_bytes(private_key);
    let with = |signature: &[u8; SIGNATURE_LEN]| {
        let mut section = key.verifying_key().to_bytes().to_vec();
        section.extend(signature);
        let mut sections = alloc::vec![
            (Section::Program, found.program),
            (Section::Parameters, found.parameters),
            (Section::Metadata, found.metadata),
        ];
        if !found.known_answers.is_empty() {
            sections.push((Section::KnownAnswers, found.known_answers));
        }
        sections.push((Section::Signature, &section));
        assemble(&sections)
    };
    // The message does not reach as far as the signature: it is the same before and after.
    let unsigned = with(&[0; SIGNATURE_LEN])?;
    let message = Sections::parse(&unsigned)?.signature.map_or(&[][..], |s| s.message);
    with(&key.sign(message).to_bytes())
}
