//! `qat llm exact`.

use super::Exact;
use crate::cli::output::{say, say_json};
use qat_trainer::llm::{self, Corpus, Quantisation, exact, tokenise};
use qat_trainer::spec::{Layers, LlmRun};
use qat_trainer::{Error, ErrorKind, Result};
use serde::Serialize;

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    solved: llm::Exact,
    share: f64,
    quantisation: Option<Quantisation>,
}

impl Exact {
    pub(super) fn run(self) -> Result<()> {
        let run = LlmRun::layered(Layers { file: Some(&self.config), ..Layers::default() })?;
        let corpus = Corpus::load(&run.data)?;
        let mut model = self.model.load()?;
        let quantisation = self.rounding.apply(&mut model)?;
        let end = model.ends.first().copied();
        let examples = tokenise(&corpus.held_out, &model.tokenizer, end, run.data.window)
            .map_err(|e| e.file(&self.config))?;
        let solved = exact(&model, &examples)?;
        let Some(share) = solved.share() else {
            return Err(Error::new(ErrorKind::Data, "no problem with a question and an answer is held out")
                .file(&self.config)
                .remedy("name `held_out` problems in [data]"));
        };
        if self.json {
            return say_json(&Answer { solved, share, quantisation });
        }
        if let Some(q) = quantisation {
            say(&format!("{} weights rounded to {:.3} bits", q.weights, q.bits))?;
        }
        say(&format!("{} of {} answers exact, {:.1} %", solved.exact, solved.problems, 100.0 * share))
    }
}
