//! How many problems a model solves.

use super::causal::CausalModel;
use super::examples::{Example, Span};
use super::generate::{Generation, Sampling, Stop, generate};
use super::model::LanguageModel;
use crate::error::Result;
use serde::Serialize;

/// What a model makes of problems.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exact {
    /// Problems whose answer it gave, token by token, and then ended.
    pub exact: usize,
    /// Problems that it was given.
    pub problems: usize,
}

impl Exact {
    /// The share of them, 0 to 1; `None` without problems.
    #[must_use]
    pub fn share(self) -> Option<f64> {
        (self.problems > 0).then(|| self.exact as f64 / self.problems as f64)
    }
}

/// Lets a model think about the questions of examples, taking the likeliest token every time, and compares the tokens that it
/// ends with to those of the answers: reasoning may go another way, the answer may not. Examples without a question are left
/// out. It may think for as many tokens as the example does and half as many more.
///
/// # Errors
/// Those of [`generate`].
pub fn exact(model: &LanguageModel, examples: &[Example]) -> Result<Exact> {
    let mut result = Exact::default();
    for example in examples {
        let question = example.spans.iter().take_while(|&&span| span == Span::Question).count();
        let (given, expected) = example.tokens.split_at(question);
        if question == 0 || expected.is_empty() {
            continue;
        }
        let is_end = |token: &u32| model.ends.contains(token);
        let parts = example.tokens.iter().zip(&example.spans);
        let answer: Vec<u32> = parts
            .filter(|(token, span)| **span == Span::Answer && !is_end(token))
            .map(|(&token, _)| token)
            .collect();
        let most = expected.len() + expected.len() / 2;
        let mut text = model.decoder.begin(given.len() + most)?;
        let mut written = Vec::new();
        let stop = Stop { tokens: most, ends: &model.ends };
        let end = generate(text.as_mut(), given, Sampling::default(), stop, |token| {
            written.push(token);
            Ok(true)
        })?;
        result.problems += 1;
        result.exact += usize::from(end == Generation::End && written.ends_with(&answer));
    }
    Ok(result)
}
