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
    ///
    /// ```
    /// use qat_trainer::llm::Tokenizer;
    /// # let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("tokenizer.json");
    /// std::fs::write(&path, Tokenizer::characters(&"abc".chars().collect())?.to_json()?)?;
    /// let tokenizer = Tokenizer::from_file(&path)?;
    /// assert_eq!(tokenizer.decode(&tokenizer.encode("cab")?)?, "cab");
    /// std::fs::write(&path, "{}")?;
    /// let e = Tokenizer::from_file(&path).unwrap_err().to_string();
    /// assert!(e.starts_with(&format!("{}: not a tokenizer: ", path.display())), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        Self::from_bytes(&bytes).map_err(|e| e.file(path))
    }

    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if they are none.
    ///
    /// ```
    /// use qat_trainer::llm::Tokenizer;
    /// let tokenizer = Tokenizer::from_bytes(br#"{
    ///     "model": {"type": "WordLevel", "vocab": {"?": 0, "on": 1, "off": 2}, "unk_token": "?"},
    ///     "pre_tokenizer": { "type": "WhitespaceSplit" }
    /// }"#)?;
    /// assert_eq!(tokenizer.encode("off on off")?, [2, 1, 2]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
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
    ///
    /// ```
    /// use qat_trainer::llm::{Tokenizer, config::LlmConfig};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// // A network with embeddings of nine tokens; these have seven and two special ones.
    /// let seven = Tokenizer::characters(&('a'..='g').collect())?;
    /// seven.check(&config)?;
    /// let eight = Tokenizer::characters(&('a'..='h').collect())?;
    /// let e = eight.check(&config).unwrap_err();
    /// let problem = "the tokenizer's token 9 (`h`) is beyond the model's 9 tokens";
    /// assert!(e.to_string().starts_with(problem), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
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
    ///
    /// ```
    /// use qat_trainer::llm::Tokenizer;
    /// let tokenizer = Tokenizer::characters(&"+12".chars().collect())?;
    /// let [end, plus, one, two] = ["<|end|>", "+", "1", "2"].map(|token| tokenizer.id(token));
    /// let ids = tokenizer.encode("1+2<|end|>")?; // the end is one token, not seven characters
    /// assert_eq!(ids.into_iter().map(Some).collect::<Vec<_>>(), [one, plus, two, end]);
    /// let e = tokenizer.encode("1-2").unwrap_err();
    /// assert!(e.to_string().starts_with("the tokenizer has no token for `-`"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
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
    ///
    /// ```
    /// use qat_trainer::llm::Tokenizer;
    /// let tokenizer = Tokenizer::characters(&"+12".chars().collect())?;
    /// let tokens = tokenizer.encode("1+2<|end|>")?;
    /// assert_eq!(tokenizer.decode(&tokens)?, "1+2"); // special tokens are left out
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.inner
            .decode(tokens, true)
            .map_err(|e| Error::new(ErrorKind::Data, format!("the tokens cannot be written as text: {e}")))
    }

    /// How many tokens there are.
    ///
    /// ```
    /// use qat_trainer::llm::Tokenizer;
    /// let alphabet = ('a'..='z').collect();
    /// let tokenizer = Tokenizer::characters(&alphabet)?;
    /// // The rows that a new embedding needs: the end and the unknown character count, too.
    /// assert_eq!(tokenizer.len(), alphabet.len() + 2);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether there is none.
    ///
    /// ```
    /// use qat_trainer::llm::Tokenizer;
    /// let json = br#"{ "model": { "type": "WordLevel", "vocab": {}, "unk_token": "?" } }"#;
    /// assert!(Tokenizer::from_bytes(json)?.is_empty()); // a file may say so; `check` refuses it
    /// assert!(!Tokenizer::characters(&['a'].into())?.is_empty());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of a token, special or not.
    ///
    /// ```
    /// use qat_trainer::llm::{Stop, Tokenizer};
    /// let tokenizer = Tokenizer::characters(&"0123456789".chars().collect())?;
    /// let ends: Vec<u32> = tokenizer.id(Tokenizer::END).into_iter().collect();
    /// let stop = Stop { tokens: 100, ends: &ends }; // a text goes on up to the end
    /// assert_eq!(tokenizer.encode("7<|end|>")?[1..], *stop.ends);
    /// assert_eq!(tokenizer.id("10"), None); // two tokens, not one
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of this number.
    ///
    /// ```
    /// use qat_trainer::llm::Tokenizer;
    /// let tokenizer = Tokenizer::characters(&"ab".chars().collect())?;
    /// let end = tokenizer.id(Tokenizer::END).and_then(|id| tokenizer.token(id));
    /// assert_eq!(end.as_deref(), Some("<|end|>")); // where `decode` writes nothing
    /// assert_eq!(tokenizer.token(tokenizer.len() as u32), None);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The tokens that are no part of any text, such as one that ends it.
    ///
    /// ```
    /// use qat_trainer::llm::Tokenizer;
    /// let tokenizer = Tokenizer::characters(&"ab".chars().collect())?;
    /// let special = tokenizer.special();
    /// let mut written = tokenizer.encode("ab<|end|>b")?;
    /// written.retain(|token| !special.contains(token));
    /// assert_eq!(written, tokenizer.encode("abb")?);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn special(&self) -> BTreeSet<u32> {
        let added = self.inner.get_added_tokens_decoder();
        added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect()
    }

    /// The text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be made.
    ///
    /// ```
    /// use qat_trainer::llm::Tokenizer;
    /// let made = Tokenizer::characters(&"ab".chars().collect())?;
    /// let json = made.to_json()?;
    /// let read = Tokenizer::from_bytes(json.as_bytes())?;
    /// assert_eq!(read.encode("bab")?, made.encode("bab")?);
    /// assert_eq!(read.special(), made.special());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn to_json(&self) -> Result<String> {
        self.inner
            .to_string(true)
            .map_err(|e| Error::new(ErrorKind::Io, format!("the tokenizer cannot be written: {e}")))
    }
}
