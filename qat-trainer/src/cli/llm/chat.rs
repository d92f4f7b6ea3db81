//! `qat llm chat`.

use super::Chat;
use super::generate::write;
use crate::cli::output::{complain, say, say_json};
use qat_trainer::llm::{KvCache, LanguageModel, Message};
use qat_trainer::{Error, ErrorKind, Result};
use std::io::{BufRead, IsTerminal, Write};

impl Chat {
    pub(super) fn run(self) -> Result<()> {
        let mut model = self.model.load()?;
        let Some(template) = model.chat.clone() else {
            return Err(Error::new(ErrorKind::Model, "the model has no chat template")
                .remedy("use `qat llm generate`, or an instruction-tuned model"));
        };
        self.rounding.apply(&mut model)?;
        let mut messages: Vec<Message> =
            self.system.iter().map(|text| Message::new("system", text)).collect();
        let mut seen =
            Seen { cache: model.decoder.cache(1, model.decoder.config().context)?, tokens: Vec::new() };
        let mut lines = std::io::stdin().lock().lines();
        loop {
            prompt();
            let line = match lines.next() {
                None => return Ok(()),
                Some(line) => line.map_err(|e| Error::io("read", "standard input", &e))?,
            };
            if line.trim().is_empty() {
                continue;
            }
            messages.push(Message::new("user", line.trim()));
            let text = template.render(&messages)?;
            let new = seen.follow(&model, &text)?;
            let answer = write(&model, &mut seen.cache, &new, &self.sample, !self.json)?;
            if self.json {
                say_json(&answer)?
            } else {
                say("")?
            }
            messages.push(Message::new("assistant", answer.text()));
        }
    }
}

/// What the cache holds.
struct Seen {
    cache: KvCache,
    tokens: Vec<u32>,
}

impl Seen {
    /// Tokens of a conversation that the cache does not hold yet. What it holds beyond the beginning that both share is
    /// forgotten: a template may write past turns in another way than the model did.
    fn follow(&mut self, model: &LanguageModel, text: &str) -> Result<Vec<u32>> {
        let tokens = model.tokenizer.encode(text)?;
        let held = self.tokens.iter().take(self.cache.len());
        let common =
            held.zip(&tokens).take_while(|(a, b)| a == b).count().min(tokens.len().saturating_sub(1));
        self.cache.truncate(common);
        let new = tokens.get(common..).unwrap_or_default().to_vec();
        self.tokens = tokens;
        Ok(new)
    }
}

/// Shows on a terminal that a line is awaited.
fn prompt() {
    if std::io::stdin().is_terminal() && std::io::stderr().lock().write_all(b"> ").is_err() {
        complain("");
    }
}
