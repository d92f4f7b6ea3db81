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
///
/// ```
/// # #[cfg(all(feature = "signature", feature = "alloc"))] {
/// use qat_kernels::artifact::signature::sign;
/// use qat_kernels::infer::Model;
/// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
/// # use qat_kernels::{Grid, Levels};
/// # let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 1], scale: 0.5, zero_point: 0 });
/// # let levels = Levels::new(2, Grid::MidTread)?;
/// # let weights = Weights { levels, codes: &[1], steps: Steps::PerChannel(&[0.5]) };
/// # b.linear(b.input(), &weights, &[0.0], Output::new(0.5, 0))?;
/// let signed = sign(&b.finish(&Metadata::default(), &[])?, &[7; 32])?;
/// let model = Model::parse(&signed)?;
/// let signature = model.signature().ok_or(qat_kernels::Error::Empty { what: qat_kernels::What::Input })?;
/// // All of the file but the signature and the CRC-32 behind it; the key is the end of what is signed.
/// assert_eq!(signature.message.len(), signed.len() - 64 - 4);
/// assert!(signed.starts_with(signature.message) && signature.message.ends_with(signature.signer));
/// # }
/// # Ok::<(), qat_kernels::Error>(())
/// ```
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
    ///
    /// ```
    /// use qat_kernels::artifact::signature::Signature;
    /// use qat_kernels::{Error, FileFault};
    /// # fn hex<const N: usize>(text: &str) -> [u8; N] {
    /// #     core::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap_or(0))
    /// # }
    /// // RFC 8032, section 7.1, test 2: a message of one byte.
    /// let key: [u8; 32] = hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
    /// let bytes: [u8; 64] = hex(concat!(
    ///     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
    ///     "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    /// ));
    /// let signature = Signature { signer: &key, message: &[0x72], bytes: &bytes };
    /// assert_eq!(signature.check(&key), Ok(()));
    /// let changed = Signature { message: &[0x73], ..signature };
    /// assert_eq!(changed.check(&key), Err(Error::File { at: 1, fault: FileFault::Signature }));
    /// assert_eq!(signature.check(&[1; 32]), Err(Error::File { at: 1, fault: FileFault::OtherSigner }));
    /// ```
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
///
/// ```
/// use qat_kernels::artifact::signature::public_key;
/// # fn hex<const N: usize>(text: &str) -> [u8; N] {
/// #     core::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap_or(0))
/// # }
/// // RFC 8032, section 7.1, test 1.
/// let private: [u8; 32] = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
/// let public: [u8; 32] = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
/// assert_eq!(public_key(&private), public);
/// ```
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
///
/// ```
/// use qat_kernels::artifact::signature::{public_key, sign};
/// use qat_kernels::infer::Model;
/// use qat_kernels::{Error, FileFault};
/// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
/// # use qat_kernels::{Grid, Levels};
/// # let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 1], scale: 0.5, zero_point: 0 });
/// # let levels = Levels::new(2, Grid::MidTread)?;
/// # let weights = Weights { levels, codes: &[1], steps: Steps::PerChannel(&[0.5]) };
/// # b.linear(b.input(), &weights, &[0.0], Output::new(0.5, 0))?;
/// let file = b.finish(&Metadata::default(), &[])?;
/// let (private, other) = ([3; 32], [4; 32]);
/// let signed = sign(&file, &private)?;
/// assert_eq!(Model::parse_signed(&signed, &public_key(&private))?.output_len(), 1);
/// assert_eq!(sign(&signed, &private)?, signed); // signed once more: the same bytes
/// let fault = Model::parse_signed(&sign(&signed, &other)?, &public_key(&private)).map(|_| ());
/// assert!(matches!(fault, Err(Error::File { fault: FileFault::OtherSigner, .. }))); // the first one is gone
/// # Ok::<(), Error>(())
/// ```
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
