//! Text to tokens and back, by the tokenizer that belongs to the model.

mod characters;
mod gguf;

use super::config::LlmConfig;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use std::path::Path;
use tokenizers::Tokenizer as Inner;

/// A tokenizer: `tokenizer.json` of a Hugging Face folder, or the tokens and merges in a GGUF file.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be read; [`ErrorKind::Model`] if it is no such file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        Self::from_bytes(&bytes).map_err(|e| e.file(path))
    }

    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if they are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let inner = Inner::from_bytes(bytes).map_err(|e| {
            Error::new(ErrorKind::Model, format!("not a tokenizer: {e}")).remedy("fetch the file again")
        })?;
        Ok(Self { inner })
    }

    /// Refuses a tokenizer whose tokens the model has no embedding for.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] naming the token.
    pub fn check(&self, config: &LlmConfig) -> Result<()> {
        let vocabulary = self.inner.get_vocab(true);
        match vocabulary.iter().max_by_key(|(_, id)| **id) {
            None => Err(Error::new(ErrorKind::Model, "the tokenizer has no tokens")),
            Some((token, id)) if *id as usize >= config.vocabulary => {
                let rows = config.vocabulary;
                let problem =
                    format!("the tokenizer's token {id} (`{token}`) is beyond the model's {rows} tokens");
                Err(Error::new(ErrorKind::Model, problem)
                    .remedy("use the tokenizer that belongs to the model"))
            }
            Some(_) => Ok(()),
        }
    }

    /// The tokens of a text. Special tokens written out in it (`<|im_end|>`) are recognised; none are added.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] if the tokenizer has no tokens for it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| Error::new(ErrorKind::Data, format!("the text cannot be tokenised: {e}")))?;
        // A text without a token for each of its characters would come back as another one.
        let unknown = self.id(characters::UNKNOWN);
        if let Some(i) = encoding.get_ids().iter().position(|&id| Some(id) == unknown) {
            let lost = self.inner.encode(text, false).ok().and_then(|with_offsets| {
                let &(from, to) = with_offsets.get_offsets().get(i)?;
                text.get(from..to).map(str::to_owned)
            });
            let lost = lost.unwrap_or_default();
            return Err(Error::new(ErrorKind::Data, format!("the tokenizer has no token for `{lost}`"))
                .remedy("use text with the characters that the model was trained on"));
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens, without special ones. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] if the tokenizer cannot decode them.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.inner
            .decode(tokens, true)
            .map_err(|e| Error::new(ErrorKind::Data, format!("the tokens cannot be written as text: {e}")))
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of a token, special or not.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of this number.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The tokens that are no part of any text, such as one that ends it.
    #[must_use]
    pub fn special(&self) -> BTreeSet<u32> {
        let added = self.inner.get_added_tokens_decoder();
        added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect()
    }

    /// The text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be made.
    pub fn to_json(&self) -> Result<String> {
        self.inner
            .to_string(true)
            .map_err(|e| Error::new(ErrorKind::Io, format!("the tokenizer cannot be written: {e}")))
    }
}
