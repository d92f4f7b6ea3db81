//! `qat llm eval`.

use super::Eval;
use crate::cli::output::{say, say_json};
use qat_trainer::Result;
use qat_trainer::llm::{Perplexity, Quantisation, Windows, characters, perplexity, read_text};
use serde::Serialize;

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    perplexity: Perplexity,
    parameters: usize,
    quantisation: Option<Quantisation>,
}

impl Eval {
    pub(super) fn run(self) -> Result<()> {
        let text = self.text()?;
        let (model, quantisation) = self.model.open(&self.rounding)?;
        let tokens = model.tokenizer.encode(&text).map_err(|e| e.file(&self.text))?;
        let windows = Windows { size: self.window, count: self.windows.unwrap_or(usize::MAX) };
        let perplexity =
            perplexity(model.network.as_ref(), &tokens, windows).map_err(|e| e.file(&self.text))?;
        let parameters = model.network.config().parameters();
        if self.json {
            return say_json(&Answer { perplexity, parameters, quantisation });
        }
        if let Some(q) = quantisation {
            let sqnr = q.sqnr_db.map_or_else(|| "nothing lost".into(), |db| format!("SQNR {db:.2} dB"));
            say(&format!("{} weights rounded to {:.3} bits, {sqnr}", q.weights, q.bits))?;
        }
        let Perplexity { perplexity, loss, predictions, windows } = perplexity;
        let each: Vec<String> = windows.iter().take(8).map(|loss| format!("{:.2}", loss.exp())).collect();
        let more = if windows.len() > each.len() { " …" } else { "" };
        say(&format!(
            "perplexity {perplexity:.3} ({loss:.4} nats) over {predictions} predictions; window by window {}{more}",
            each.join(" ")
        ))
    }

    fn text(&self) -> Result<String> {
        let text = read_text(&self.text)?;
        match &self.chars {
            Some(range) => characters(&text, range.clone()).map_err(|e| e.file(&self.text)),
            None => Ok(text),
        }
    }
}
