//! A token for every character: for small models on small alphabets.

use super::Tokenizer;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Inner};

/// What stands for characters that the alphabet lacks; [`Tokenizer::encode`] refuses them.
pub(super) const UNKNOWN: &str = "<|unknown|>";

impl Tokenizer {
    /// The token that ends a text, of tokenizers that this program makes.
    pub const END: &str = "<|end|>";

    /// A tokenizer with a token for each character of an alphabet, in order, and [`Self::END`].
    ///
    /// # Errors
    /// [`ErrorKind::Data`] for an empty alphabet.
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, llm::Tokenizer};
    /// use std::collections::BTreeSet;
    /// let alphabet: BTreeSet<char> = "salt".chars().collect(); // a, l, s, t
    /// let tokenizer = Tokenizer::characters(&alphabet)?;
    /// let first = tokenizer.encode("a")?[0];
    /// assert_eq!(tokenizer.encode("last")?, [1, 0, 2, 3].map(|place| first + place));
    /// let none = Tokenizer::characters(&BTreeSet::new()).unwrap_err();
    /// assert_eq!(none.kind(), ErrorKind::Data);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn characters(alphabet: &BTreeSet<char>) -> Result<Self> {
        if alphabet.is_empty() {
            return Err(
                Error::new(ErrorKind::Data, "there is no character to learn").remedy("give some text")
            );
        }
        let refused = |e: tokenizers::Error| Error::new(ErrorKind::Data, format!("no tokenizer: {e}"));
        let names = [UNKNOWN.to_owned(), Self::END.to_owned()];
        let names = names.into_iter().chain(alphabet.iter().map(char::to_string));
        let model = WordLevel::builder().vocab(names.zip(0..).collect()).unk_token(UNKNOWN.into()).build();
        let mut inner = Inner::new(model.map_err(refused)?);
        let each = SplitPattern::Regex("(?s).".into());
        let split = Split::new(each, SplitDelimiterBehavior::Isolated, false).map_err(refused)?;
        inner.with_pre_tokenizer(Some(split));
        inner.with_decoder(Some(Fuse::new()));
        let special = [UNKNOWN, Self::END].map(|name| AddedToken::from(name, true).normalized(false));
        inner.add_special_tokens(special).map_err(refused)?;
        Ok(Self { inner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_a_token_also_after_writing_and_reading() {
        let made = Tokenizer::characters(&"b\na ü".chars().collect()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, made.to_json().unwrap()).unwrap();
        for tokenizer in [made, Tokenizer::from_file(&path).unwrap()] {
            let ids = tokenizer.encode("a b\nüa").unwrap();
            assert_eq!(ids, [4, 3, 5, 2, 6, 4]);
            assert_eq!(tokenizer.decode(&ids).unwrap(), "a b\nüa");
            assert_eq!((tokenizer.id(Tokenizer::END), tokenizer.len()), (Some(1), 7));
            let e = tokenizer.encode("abc").unwrap_err().to_string();
            assert!(e.contains("no token for `c`"), "{e}");
        }
        assert!(Tokenizer::characters(&BTreeSet::new()).is_err());
    }
}
