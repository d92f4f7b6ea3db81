//! `qat llm generate`, and the making of text that `qat llm chat` shares.

use super::{Generate, Sample};
use crate::cli::output::{say, say_json};
use qat_trainer::llm::{Generation, Sequence, Stop, TextModel, generate};
use qat_trainer::{Error, Result};
use serde::Serialize;
use std::io::{ErrorKind as Io, Write};
use std::time::Instant;

/// What was written.
#[derive(Serialize)]
pub(super) struct Written {
    text: String,
    tokens: usize,
    end: Generation,
    /// From the first token on to the last one; nothing of fewer than two.
    tokens_per_second: Option<f64>,
}

impl Written {
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl Generate {
    pub(super) fn run(self) -> Result<()> {
        let (model, _) = self.model.open(&self.rounding)?;
        let prompt = model.tokenizer.encode(&self.prompt)?;
        let mut sequence = model.network.begin(prompt.len() + self.sample.tokens())?;
        let written = write(&model, sequence.as_mut(), &prompt, &self.sample, !self.json)?;
        if self.json { say_json(&written) } else { say("") }
    }
}

/// Continues the prompt, on standard output as it comes if `show`.
pub(super) fn write(
    model: &TextModel,
    sequence: &mut dyn Sequence,
    prompt: &[u32],
    sample: &Sample,
    show: bool,
) -> Result<Written> {
    let (mut tokens, mut shown) = (Vec::new(), 0);
    let stop = Stop { tokens: sample.tokens(), ends: &model.ends };
    let (mut first, mut last) = (None, None);
    let end = generate(sequence, prompt, sample.sampling(), stop, |token| {
        let now = Instant::now();
        first.get_or_insert(now);
        last = Some(now);
        tokens.push(token);
        if !show {
            return Ok(true);
        }
        let text = model.tokenizer.decode(&tokens)?;
        // A character may take several tokens; until it is whole it reads as U+FFFD.
        let whole = text.trim_end_matches('\u{fffd}').len();
        let new = text.get(shown..whole).unwrap_or_default();
        shown = shown.max(whole);
        print(new)
    })?;
    let text = model.tokenizer.decode(&tokens)?;
    if show {
        print(text.get(shown..).unwrap_or_default())?;
    }
    let seconds = first.zip(last).map(|(first, last)| (last - first).as_secs_f64());
    let tokens_per_second =
        seconds.filter(|seconds| *seconds > 0.0).map(|seconds| (tokens.len() - 1) as f64 / seconds);
    Ok(Written { text, tokens: tokens.len(), end, tokens_per_second })
}

/// Writes without a line's end; whether somebody still reads.
fn print(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == Io::BrokenPipe => Ok(false),
        Err(e) => Err(Error::io("write", "standard output", &e)),
        Ok(()) => Ok(true),
    }
}
