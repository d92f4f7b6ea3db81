//! `qat llm chat`.

use super::Chat;
use super::generate::write;
use crate::cli::output::{complain, say, say_json};
use qat_trainer::llm::{Message, Sequence, TextModel};
use qat_trainer::{Error, ErrorKind, Result};
use std::io::{BufRead, IsTerminal, Write};

impl Chat {
    pub(super) fn run(self) -> Result<()> {
        let (model, _) = self.model.open(&self.rounding)?;
        let Some(template) = model.chat.clone() else {
            return Err(Error::new(ErrorKind::Model, "the model has no chat template")
                .remedy("use `qat llm generate`, or an instruction-tuned model"));
        };
        let mut messages: Vec<Message> =
            self.system.iter().map(|text| Message::new("system", text)).collect();
        let room = model.network.config().context;
        let mut seen = Seen { sequence: model.network.begin(room)?, tokens: Vec::new() };
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
            let answer = write(&model, seen.sequence.as_mut(), &new, &self.sample, !self.json)?;
            if self.json {
                say_json(&answer)?
            } else {
                say("")?
            }
            messages.push(Message::new("assistant", answer.text()));
        }
    }
}

/// What the network remembers.
struct Seen<'a> {
    sequence: Box<dyn Sequence + 'a>,
    tokens: Vec<u32>,
}

impl Seen<'_> {
    /// Tokens of a conversation that the network has not seen yet. What it remembers beyond the beginning that both share is
    /// forgotten: a template may write past turns in another way than the model did.
    fn follow(&mut self, model: &TextModel, text: &str) -> Result<Vec<u32>> {
        let tokens = model.tokenizer.encode(text)?;
        let held = self.tokens.iter().take(self.sequence.len());
        let common =
            held.zip(&tokens).take_while(|(a, b)| a == b).count().min(tokens.len().saturating_sub(1));
        self.sequence.truncate(common);
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
