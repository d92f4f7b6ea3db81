//! `qat llm synthesize`.

use super::{Synthesize, nothing_at};
use crate::cli::output::{say, say_json};
use qat_trainer::checkpoint::write_atomically;
use qat_trainer::llm::{LanguageModel, Sampling, Synthesis, Tokenizer, synthesise};
use qat_trainer::{Error, ErrorKind, Result};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// What separates texts in the training data of many models.
const SEPARATOR: &str = "<|endoftext|>";

#[derive(Serialize)]
struct Answer<'a> {
    /// Tokens that were drawn.
    tokens: usize,
    bytes: usize,
    file: &'a Path,
}

impl Synthesize {
    pub(super) fn run(self) -> Result<()> {
        nothing_at(&self.out)?;
        let model = self.model.load()?;
        let begin = match &self.begin {
            Some(text) => model.tokenizer.encode(text)?,
            None => vec![separator(&model)?],
        };
        let Self { texts, tokens, batch, temperature, top_p, seed, .. } = self;
        let sampling = Sampling { temperature, top_p, seed };
        let (special, mut written) = (model.tokenizer.special(), String::new());
        synthesise(&model.decoder, &begin, &Synthesis { texts, tokens, batch, sampling }, |text| {
            for part in parts(&model.tokenizer, &special, text)? {
                written.push_str(&part);
                written.push_str("\n\n");
            }
            Ok(())
        })?;
        write_atomically(&self.out, written.as_bytes())?;
        let answer = Answer { tokens: texts * (tokens - begin.len()), bytes: written.len(), file: &self.out };
        if self.json {
            return say_json(&answer);
        }
        let Answer { tokens, bytes, file } = answer;
        say(&format!("{}: {tokens} tokens, {bytes} bytes", file.display()))
    }
}

/// The token to begin with if none is asked for.
fn separator(model: &LanguageModel) -> Result<u32> {
    let token = model.tokenizer.id(SEPARATOR).or_else(|| model.ends.first().copied());
    token.ok_or_else(|| {
        Error::new(ErrorKind::Spec, "the model has no token that ends a text").remedy("give --begin")
    })
}

/// The texts between special tokens.
fn parts(tokenizer: &Tokenizer, special: &BTreeSet<u32>, tokens: &[u32]) -> Result<Vec<String>> {
    let parts = tokens.split(|token| special.contains(token)).filter(|part| !part.is_empty());
    parts.map(|part| tokenizer.decode(part)).collect()
}
