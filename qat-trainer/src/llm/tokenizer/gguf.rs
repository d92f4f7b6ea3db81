//! The tokenizer in a GGUF file: byte-level byte pair encoding, which the format calls `gpt2`.

use super::Tokenizer;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::gguf::Gguf;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Inner};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";

/// Types of tokens: control tokens (`<|im_end|>`), and those added by the model's makers.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How Qwen2 and Llama 3 cut text before merging, by the names of the variants; N is how many digits stay together.
macro_rules! words {
    ($digits:literal) => {
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

impl Tokenizer {
    /// Builds the tokenizer of tokens and merges in the metadata.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] naming the key that is missing or damaged, or a kind of tokenizer that is not supported.
    ///
    /// ```
    /// use qat_trainer::llm::{Tokenizer, gguf::Gguf};
    /// # let text = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    /// # let list = |kind: u32, count: u64, items: Vec<u8>| {
    /// #     [&kind.to_le_bytes()[..], &count.to_le_bytes(), &items].concat()
    /// # };
    /// # let tokens = ["h", "e", "he", "<|end|>"].map(text).concat();
    /// # let types = [1i32, 1, 1, 3].map(i32::to_le_bytes).concat();
    /// # let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0".to_vec(); // 5 entries
    /// # for (key, kind, value) in [
    /// #     ("tokenizer.ggml.model", 8u32, text("gpt2")),
    /// #     ("tokenizer.ggml.pre", 8, text("gpt-2")),
    /// #     ("tokenizer.ggml.tokens", 9, list(8, 4, tokens)),
    /// #     ("tokenizer.ggml.token_type", 9, list(5, 4, types)),
    /// #     ("tokenizer.ggml.merges", 9, list(8, 1, text("h e"))),
    /// # ] {
    /// #     bytes.extend([text(key), kind.to_le_bytes().to_vec(), value].concat());
    /// # }
    /// // A file whose tokens are `h`, `e`, `he` and the special `<|end|>`; `h` and `e` merge.
    /// let file = Gguf::parse(&bytes[..], bytes.len() as u64)?;
    /// let tokenizer = Tokenizer::from_gguf(&file)?;
    /// assert_eq!(tokenizer.encode("heeh<|end|>")?, [2, 1, 0, 3]);
    /// assert_eq!(tokenizer.special(), [3].into());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn from_gguf(file: &Gguf) -> Result<Self> {
        let model = file.text(MODEL)?;
        if model != "gpt2" {
            return Err(unsupported(MODEL, model));
        }
        let tokens = file.texts(TOKENS)?;
        let types = file.integers(TYPES)?;
        if types.len() != tokens.len() {
            return Err(damaged(TYPES, format!("{} types for {} tokens", types.len(), tokens.len())));
        }
        let merges = file.texts(MERGES)?.iter().map(|merge| {
            let pair = merge.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
            pair.ok_or_else(|| damaged(MERGES, format!("`{merge}` is no pair of tokens")))
        });
        let merges: Vec<(String, String)> = merges.collect::<Result<_>>()?;
        let vocabulary: Vocab = tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect();
        if vocabulary.len() != tokens.len() {
            return Err(damaged(TOKENS, "a token occurs twice".into()));
        }
        let bpe = BPE::builder().vocab_and_merges(vocabulary, merges).build();
        let mut inner = Inner::new(bpe.map_err(|e| damaged(MERGES, e.to_string()))?);
        inner.with_pre_tokenizer(Some(pre_tokenizer(file)?));
        inner.with_decoder(Some(ByteLevel::default()));
        let added = |wanted: i64| {
            let chosen = tokens.iter().zip(&types).filter(move |(_, kind)| **kind == wanted);
            chosen.map(move |(token, _)| AddedToken::from(token.clone(), wanted == CONTROL).normalized(false))
        };
        let refused = |e: tokenizers::Error| damaged(TOKENS, e.to_string());
        inner.add_special_tokens(added(CONTROL)).map_err(refused)?;
        inner.add_tokens(added(USER_DEFINED)).map_err(refused)?;
        Ok(Self { inner })
    }
}

/// What cuts the text into words before merging.
fn pre_tokenizer(file: &Gguf) -> Result<Sequence> {
    let split = |pattern: &str| -> Result<PreTokenizerWrapper> {
        let pattern = SplitPattern::Regex(pattern.into());
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map(Into::into)
            .map_err(|e| damaged(PRE, e.to_string()))
    };
    let bytes = |words: bool| ByteLevel::new(false, true, words).into();
    let steps = match file.text(PRE)? {
        "gpt-2" => vec![bytes(true)],
        "smollm" => vec![Digits::new(true).into(), bytes(true)],
        "qwen2" => vec![split(words!(""))?, bytes(false)],
        "llama-bpe" => vec![split(words!("{1,3}"))?, bytes(false)],
        other => return Err(unsupported(PRE, other)),
    };
    Ok(Sequence::new(steps))
}

fn unsupported(key: &str, value: &str) -> Error {
    Error::new(ErrorKind::Model, format!("a tokenizer of the kind `{value}` is not supported"))
        .place(format!("key `{key}`"))
        .remedy("use the model's Hugging Face folder, which has a tokenizer.json")
}

fn damaged(key: &str, problem: String) -> Error {
    Error::new(ErrorKind::Model, problem).place(format!("key `{key}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::gguf::writer::Writer;
    use crate::llm::tests::vocabulary;

    fn parse(w: &Writer) -> Gguf {
        let bytes = w.bytes();
        Gguf::parse(bytes.as_slice(), bytes.len() as u64).unwrap()
    }

    /// The tokens of a text, as texts of bytes.
    fn tokens(pre: &str, text: &str) -> Vec<String> {
        let tokenizer = Tokenizer::from_gguf(&parse(&vocabulary(Writer::default(), pre))).unwrap();
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text.replace("<|im_end|>", ""), "{pre}");
        ids.into_iter().map(|id| tokenizer.token(id).unwrap()).collect()
    }

    #[test]
    fn text_is_cut_as_the_variant_says_merged_and_put_together_again() {
        // The merges make `he`, `Ġt`, `Ġthe` and `12`.
        assert_eq!(tokens("gpt-2", " the 12"), ["Ġthe", "Ġ", "12"]);
        assert_eq!(tokens("smollm", " the 12"), ["Ġthe", "Ġ", "1", "2"]);
        assert_eq!(tokens("qwen2", "the 12"), ["t", "he", "Ġ", "1", "2"]);
        assert_eq!(tokens("llama-bpe", "the 12"), ["t", "he", "Ġ", "12"]);
        assert_eq!(tokens("gpt-2", "he<|im_end|>he"), ["he", "<|im_end|>", "he"]);
        assert_eq!(tokens("smollm", "ü\n").len(), 3);
    }

    #[test]
    fn damaged_tokenizers_are_refused_with_their_key() {
        let w = Writer::default;
        let cases = [
            (w(), "key `tokenizer.ggml.model`: this key is missing"),
            (w().text(MODEL, "llama"), "kind `llama` is not supported"),
            (vocabulary(w(), "klingon"), "kind `klingon` is not supported"),
            (
                w().text(MODEL, "gpt2").texts(TOKENS, &["a", "b"]).i32s(TYPES, &[1]),
                "key `tokenizer.ggml.token_type`: 1 types for 2 tokens",
            ),
            (
                w().text(MODEL, "gpt2")
                    .texts(TOKENS, &["a", "a"])
                    .i32s(TYPES, &[1, 1])
                    .texts(MERGES, &[""; 0]),
                "key `tokenizer.ggml.tokens`: a token occurs twice",
            ),
            (
                w().text(MODEL, "gpt2").texts(TOKENS, &["a"]).i32s(TYPES, &[1]).texts(MERGES, &["ab"]),
                "key `tokenizer.ggml.merges`: `ab` is no pair",
            ),
            (
                w().text(MODEL, "gpt2").texts(TOKENS, &["a"]).i32s(TYPES, &[1]).texts(MERGES, &["a b"]),
                "key `tokenizer.ggml.merges`",
            ),
        ];
        for (w, expected) in cases {
            let e = Tokenizer::from_gguf(&parse(&w)).unwrap_err().to_string();
            assert!(e.contains(expected), "{e}");
        }
    }
}
