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
    ///
    /// ```
    /// use qat_trainer::llm::Exact;
    /// assert_eq!(Exact { exact: 3, problems: 4 }.share(), Some(0.75));
    /// assert_eq!(Exact::default().share(), None); // not 0: nothing was asked
    /// ```
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
///
/// ```
/// # use qat_trainer::llm::{Decoder, Dense, LanguageModel, Linear, Tokenizer, config::LlmConfig};
/// # use tch::{Device, Kind, Tensor};
/// use qat_trainer::llm::{Exact, Example, Span, exact};
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 8, "hidden_size": 8,
/// #     "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": false }"#)?;
/// # let mut decoder = Decoder::generated(&config, 1)?;
/// # decoder.replace(|name, linear| {
/// #     let one = Tensor::eye(8, (Kind::Float, Device::Cpu));
/// #     let weight = match name {
/// #         "model.embed_tokens" => one,
/// #         "lm_head" => one.roll([1i64], [0i64]),
/// #         _ => linear.weight()?.zeros_like(),
/// #     };
/// #     Ok(Some(Box::new(Dense::new(weight, None)) as Box<dyn Linear>))
/// # })?;
/// # let tokenizer = Tokenizer::characters(&"abcdef".chars().collect())?;
/// # let model = LanguageModel { decoder, tokenizer, chat: None, ends: vec![5] };
/// // A model that counts: behind token 2 it writes 3, 4 and so on; 5 ends its texts.
/// let spans = [Span::Question, Span::Step(0), Span::Answer, Span::Answer];
/// let problem = |tokens: [u32; 4]| Example { tokens: tokens.into(), spans: spans.into() };
/// let right = problem([2, 3, 4, 5]); // the answer is 4
/// let other_way = problem([2, 6, 4, 5]); // by another way of reasoning
/// let wrong = problem([2, 3, 6, 5]); // the answer is 6
/// let result = exact(&model, &[right, other_way, wrong])?;
/// assert_eq!(result, Exact { exact: 2, problems: 3 });
/// # Ok::<(), qat_trainer::Error>(())
/// ```
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
