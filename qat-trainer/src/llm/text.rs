//! Texts for measuring and training.

use crate::error::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::Path;

/// Reads a text of UTF-8. Every line ends in `\n` afterwards, whether it ended in `\r\n`, `\r` or `\n`, so that a text is the
/// same tokens wherever it was written.
///
/// # Errors
/// [`ErrorKind::Io`] if it cannot be read; [`ErrorKind::Data`] if it is not UTF-8.
///
/// ```
/// use qat_trainer::ErrorKind;
/// use qat_trainer::llm::read_text;
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("poem.txt");
/// std::fs::write(&path, "one\r\ntwo\rthree\n")?;
/// assert_eq!(read_text(&path)?, "one\ntwo\nthree\n");
/// std::fs::write(&path, b"caf\xE9")?; // é in Latin-1
/// assert_eq!(read_text(&path).unwrap_err().kind(), ErrorKind::Data);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_text(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => {
            Error::new(ErrorKind::Data, "the text is not UTF-8").file(path).remedy("convert it to UTF-8")
        }
        _ => Error::io("read", path, &e),
    })?;
    Ok(if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text })
}

/// These characters of a text.
///
/// # Errors
/// [`ErrorKind::Data`] if it has fewer.
///
/// ```
/// use qat_trainer::llm::characters;
/// assert_eq!(characters("naïve", 2..4)?, "ïv"); // characters, of which `ï` is two bytes
/// let e = characters("naïve", 2..6).unwrap_err();
/// assert!(e.to_string().starts_with("the text has 5 characters, not 6"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn characters(text: &str, range: Range<usize>) -> Result<String> {
    let all = text.chars().count();
    if range.end > all {
        return Err(Error::new(ErrorKind::Data, format!("the text has {all} characters, not {}", range.end))
            .remedy("use a smaller range"));
    }
    Ok(text.chars().skip(range.start).take(range.len()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_alike_and_characters_are_counted_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        std::fs::write(&path, "ä\r\nb\rc\n").unwrap();
        let text = read_text(&path).unwrap();
        assert_eq!(text, "ä\nb\nc\n");
        assert_eq!(characters(&text, 1..4).unwrap(), "\nb\n");
        assert!(characters(&text, 1..7).unwrap_err().to_string().contains("has 6 characters, not 7"));
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path).unwrap_err().kind(), ErrorKind::Data);
        assert_eq!(read_text(dir.path()).unwrap_err().kind(), ErrorKind::Io);
    }
}
