//! Ed25519 keys in PEM files, as other programs write and read them: private keys as PKCS#8 (RFC 5958, RFC 8410), public
//! keys as SubjectPublicKeyInfo. `openssl genpkey -algorithm ed25519` makes such a key, `openssl pkey -pubout` its public half.

use crate::error::{Error, ErrorKind, Result};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{SigningKey, VerifyingKey};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

/// The private key of a signer; wiped from memory when it is dropped.
///
/// ```
/// use qat_kernels::artifact::signature::public_key;
/// use qat_trainer::keys::{PrivateKey, read_public};
/// # let dir = tempfile::tempdir()?;
/// let (private, public) = (dir.path().join("key.pem"), dir.path().join("key.pub.pem"));
/// let key = PrivateKey::generate()?;
/// key.write(&private, &public)?;
/// assert_eq!(read_public(&public)?, public_key(key.as_bytes())); // what others check this signer's files with
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// A new one, from the operating system's random numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the system has none.
    ///
    /// ```
    /// use qat_trainer::keys::PrivateKey;
    /// let (mine, yours) = (PrivateKey::generate()?, PrivateKey::generate()?);
    /// assert_ne!(mine.as_bytes(), yours.as_bytes());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn generate() -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|e| Error::new(ErrorKind::Io, format!("the system gives no random numbers: {e}")))?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Reads a PEM file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Spec`] for something else than a private Ed25519 key.
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, keys::PrivateKey};
    /// # let dir = tempfile::tempdir()?;
    /// let path = dir.path().join("signer.pem");
    /// // RFC 8410, section 10.1: a public key.
    /// let lines = "-----BEGIN PUBLIC KEY-----\n\
    ///              MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
    ///              -----END PUBLIC KEY-----\n";
    /// std::fs::write(&path, lines)?;
    /// let e = PrivateKey::read(&path).err().ok_or("a public key signs nothing")?;
    /// assert_eq!(e.kind(), ErrorKind::Spec);
    /// assert!(e.to_string().contains("this is a public key; signing needs the private one"), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(path: &Path) -> Result<Self> {
        let text = read(path)?;
        SigningKey::from_pkcs8_pem(&text).map(Self).map_err(|e| {
            let public = VerifyingKey::from_public_key_pem(&text).is_ok();
            let problem = if public {
                "this is a public key; signing needs the private one".to_owned()
            } else {
                format!("not an unencrypted Ed25519 private key in PEM form: {e}")
            };
            Error::new(ErrorKind::Spec, problem).file(path).remedy("make one with `qat keygen`")
        })
    }

    /// The key's bytes, as [`qat_kernels::artifact::signature::sign`] takes them.
    ///
    /// ```
    /// use qat_trainer::keys::PrivateKey;
    /// # let dir = tempfile::tempdir()?;
    /// let path = dir.path().join("key.pem");
    /// // RFC 8410, section 10.3: the private key D4EE72DB….
    /// let lines = "-----BEGIN PRIVATE KEY-----\n\
    ///              MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
    ///              -----END PRIVATE KEY-----\n";
    /// std::fs::write(&path, lines)?;
    /// assert_eq!(PrivateKey::read(&path)?.as_bytes()[..4], [0xD4, 0xEE, 0x72, 0xDB]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Writes the key to `private`, which only its owner may read, and its public half to `public`. Neither file may
    /// exist: a key that is overwritten cannot be had back.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, keys::PrivateKey};
    /// # let dir = tempfile::tempdir()?;
    /// let (private, public) = (dir.path().join("a.pem"), dir.path().join("a.pub.pem"));
    /// PrivateKey::generate()?.write(&private, &public)?;
    /// let before = std::fs::read(&private)?;
    /// assert!(before.starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
    /// let again = PrivateKey::generate()?.write(&private, &dir.path().join("b.pub.pem"));
    /// assert_eq!(again.unwrap_err().kind(), ErrorKind::Io);
    /// assert_eq!(std::fs::read(&private)?, before);
    /// let half = dir.path().join("c.pem");
    /// assert!(PrivateKey::generate()?.write(&half, &public).is_err()); // the public file is there already
    /// assert!(!half.exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(&self, private: &Path, public: &Path) -> Result<()> {
        let unwritable = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Io, format!("key encoding: {e}"));
        let secret = self.0.to_pkcs8_pem(LineEnding::LF).map_err(|e| unwritable(&e))?;
        let shared = self.0.verifying_key().to_public_key_pem(LineEnding::LF).map_err(|e| unwritable(&e))?;
        create(private, &secret, true)?;
        // Half a pair would only be in the way of the next try.
        create(public, &shared, false).inspect_err(|_| drop(std::fs::remove_file(private)))
    }
}

/// Reads a public key from a PEM file; a private key's file serves as well.
///
/// # Errors
/// [`ErrorKind::Io`], [`ErrorKind::Spec`] for something else than an Ed25519 key.
///
/// ```
/// use qat_trainer::keys::{PrivateKey, read_public};
/// # let dir = tempfile::tempdir()?;
/// let (private, public) = (dir.path().join("k.pem"), dir.path().join("k.pub.pem"));
/// PrivateKey::generate()?.write(&private, &public)?;
/// assert_eq!(read_public(&private)?, read_public(&public)?);
/// std::fs::write(&public, "ssh-ed25519 AAAA")?; // OpenSSH has a form of its own
/// assert!(read_public(&public).unwrap_err().to_string().contains("not an Ed25519 public key in PEM form"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_public(path: &Path) -> Result<[u8; 32]> {
    let text = read(path)?;
    let private = SigningKey::from_pkcs8_pem(&text).map(|key| key.verifying_key());
    private.or_else(|_| VerifyingKey::from_public_key_pem(&text)).map(|key| key.to_bytes()).map_err(|e| {
        Error::new(ErrorKind::Spec, format!("not an Ed25519 public key in PEM form: {e}"))
            .file(path)
            .remedy("give the file that `qat keygen` or `openssl pkey -pubout` wrote")
    })
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))
}

fn create(path: &Path, text: &str, secret: bool) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if secret {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let write = || {
        let mut file = options.open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e: std::io::Error| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::new(ErrorKind::Io, "this file exists, and a key that is overwritten cannot be had back")
                .file(path)
                .remedy("give another name")
        }
        _ => Error::io("write", path, &e),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example keys of RFC 8410, sections 10.1 and 10.3.
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";

    #[test]
    fn keys_of_other_programs_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("private.pem"), dir.path().join("public.pem"));
        std::fs::write(&private, PRIVATE).unwrap();
        std::fs::write(&public, PUBLIC).unwrap();
        let key = PrivateKey::read(&private).unwrap();
        let of_key = qat_kernels::artifact::signature::public_key(key.as_bytes());
        assert_eq!(read_public(&public).unwrap(), of_key);
        assert_eq!(read_public(&private).unwrap(), of_key);
        let e = PrivateKey::read(&public).err().unwrap();
        assert!(e.to_string().contains("this is a public key"), "{e}");
    }

    #[test]
    fn keys_come_back_and_are_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("a.pem"), dir.path().join("a.pub.pem"));
        let key = PrivateKey::generate().unwrap();
        key.write(&private, &public).unwrap();
        assert_eq!(PrivateKey::read(&private).unwrap().as_bytes(), key.as_bytes());
        let again = PrivateKey::generate().unwrap();
        assert_ne!(again.as_bytes(), key.as_bytes());
        let e = again.write(&private, &dir.path().join("b.pem")).unwrap_err();
        assert!(e.to_string().contains("this file exists"), "{e}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&private).unwrap().permissions().mode();
            assert_eq!(mode & 0o77, 0, "others may read the private key");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        for text in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", &PRIVATE[..90]] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_public(&path).unwrap_err().kind(), ErrorKind::Spec, "{text}");
            assert_eq!(PrivateKey::read(&path).err().unwrap().kind(), ErrorKind::Spec, "{text}");
        }
        assert_eq!(read_public(&dir.path().join("none")).unwrap_err().kind(), ErrorKind::Io);
    }
}
