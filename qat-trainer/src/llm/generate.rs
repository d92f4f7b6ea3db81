//! Text, token by token.

use super::causal::{Sequence, fits};
use crate::error::{Error, ErrorKind, Result};
use crate::random::{Purpose, Random};

/// How the next token is chosen.
///
/// ```
/// # use qat_trainer::{Error, Result, llm::Sequence};
/// use qat_trainer::llm::{Sampling, Stop, generate};
/// # struct Fixed(usize);
/// # impl Sequence for Fixed {
/// #     fn len(&self) -> usize { self.0 }
/// #     fn room(&self) -> usize { 1000 }
/// #     fn truncate(&mut self, len: usize) { self.0 = self.0.min(len); }
/// #     fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
/// #         self.0 += tokens.len();
/// #         Ok([0.2f32, 0.5, 0.3].map(f32::ln).into())
/// #     }
/// # }
/// // Fifty tokens of a text in which 0, 1 and 2 always have the probabilities 0.2, 0.5 and 0.3.
/// let draw = |how: Sampling| {
///     let mut text = Vec::new();
///     let stop = Stop { tokens: 50, ends: &[] };
///     generate(&mut Fixed(0), &[0], how, stop, |token| { text.push(token); Ok(true) })?;
///     Ok::<_, Error>(text)
/// };
/// assert_eq!(draw(Sampling::default())?, [1; 50]); // always the most likely
/// let how = Sampling { temperature: 1.0, top_p: 0.75, seed: 1 };
/// assert!(draw(how)?.iter().all(|token| [1, 2].contains(token))); // 0.5 + 0.3 are enough
/// assert_eq!(draw(how)?, draw(how)?);
/// assert_ne!(draw(how)?, draw(Sampling { seed: 2, ..how })?);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token every time.
    pub temperature: f32,
    /// Only the most likely tokens that together have this probability are drawn from (Holtzman et al. 2020); 1 for all.
    pub top_p: f32,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Default for Sampling {
    /// The most likely token.
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, seed: 1 }
    }
}

impl Sampling {
    /// Refuses what is no sampling.
    pub(super) fn check(&self) -> Result<()> {
        let Self { temperature, top_p, .. } = *self;
        if temperature >= 0.0 && temperature.is_finite() && top_p > 0.0 && top_p <= 1.0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Spec, format!("temperature {temperature} with top-p {top_p}"))
            .remedy("use a temperature of at least 0 and a top-p above 0, at most 1"))
    }
}

/// When to stop.
///
/// ```
/// # use qat_trainer::{Result, llm::Sequence};
/// use qat_trainer::llm::{Generation, Sampling, Stop, generate};
/// # struct Counting(usize);
/// # impl Sequence for Counting {
/// #     fn len(&self) -> usize { self.0 }
/// #     fn room(&self) -> usize { 100 }
/// #     fn truncate(&mut self, len: usize) { self.0 = self.0.min(len); }
/// #     fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
/// #         self.0 += tokens.len();
/// #         let next = tokens.last().map(|token| token + 1);
/// #         Ok((0..50).map(|token| f32::from(Some(token) == next)).collect())
/// #     }
/// # }
/// // A text that counts: each token is the next number.
/// let mut text = Vec::new();
/// let stop = Stop { tokens: 20, ends: &[7, 9] };
/// let why = generate(&mut Counting(0), &[3], Sampling::default(), stop, |token| {
///     text.push(token);
///     Ok(true)
/// })?;
/// // The end itself is no part of the text.
/// assert_eq!((why, text), (Generation::End, vec![4, 5, 6]));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Stop<'a> {
    /// After so many tokens.
    pub tokens: usize,
    /// Before one of these.
    pub ends: &'a [u32],
}

/// Why the text ended.
///
/// ```
/// # use qat_trainer::{Result, llm::Sequence};
/// use qat_trainer::llm::{Generation, Sampling, Stop, generate};
/// # struct Short(usize);
/// # impl Sequence for Short {
/// #     fn len(&self) -> usize { self.0 }
/// #     fn room(&self) -> usize { 4 }
/// #     fn truncate(&mut self, len: usize) { self.0 = self.0.min(len); }
/// #     fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
/// #         self.0 += tokens.len();
/// #         Ok(vec![1.0, 0.0])
/// #     }
/// # }
/// // A text with room for four tokens, of which the prompt takes one.
/// let write = |tokens, wanted| {
///     let stop = Stop { tokens, ends: &[] };
///     generate(&mut Short(0), &[1], Sampling::default(), stop, |_| Ok(wanted))
/// };
/// assert_eq!(write(4, true)?, Generation::Tokens);
/// assert_eq!(write(5, true)?, Generation::Context); // the fourth new token cannot be fed any more
/// assert_eq!(write(5, false)?, Generation::Receiver);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Generation {
    /// One of the ends was drawn.
    End,
    /// It has as many tokens as were asked for.
    Tokens,
    /// The text's room, at most the model's context, is full.
    Context,
    /// The receiver of the tokens wanted no more.
    Receiver,
}

/// Continues a text by `prompt` and then by what the model makes of it. `each` gets every new token and says whether to go on.
/// Afterwards the text holds the prompt and all new tokens but the last.
///
/// # Errors
/// [`ErrorKind::Spec`] for a sampling that is none; [`ErrorKind::Data`] for an empty prompt or one that there is no room
/// for; [`ErrorKind::Model`] for logits that are not numbers; [`ErrorKind::Train`] if torch refuses, and the errors of `each`.
///
/// ```
/// # use qat_trainer::llm::config::LlmConfig;
/// use qat_trainer::ErrorKind;
/// use qat_trainer::llm::{CausalModel, Decoder, Generation, Sampling, Stop, generate};
/// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
/// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
/// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
/// let decoder = Decoder::generated(&config, 1)?;
/// let (mut text, mut new) = (decoder.begin(16)?, Vec::new());
/// let (how, stop) = (Sampling::default(), Stop { tokens: 5, ends: &[] });
/// let why = generate(text.as_mut(), &[1, 2, 3], how, stop, |token| {
///     new.push(token);
///     Ok(true)
/// })?;
/// assert_eq!((why, new.len(), text.len()), (Generation::Tokens, 5, 3 + 5 - 1));
/// // The last token begins what follows; an empty prompt cannot.
/// generate(text.as_mut(), &new[4..], how, stop, |_| Ok(true))?;
/// let e = generate(text.as_mut(), &[], how, stop, |_| Ok(true)).unwrap_err();
/// assert_eq!(e.kind(), ErrorKind::Data);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn generate(
    text: &mut dyn Sequence,
    prompt: &[u32],
    sampling: Sampling,
    stop: Stop<'_>,
    mut each: impl FnMut(u32) -> Result<bool>,
) -> Result<Generation> {
    sampling.check()?;
    let Sampling { temperature, top_p, seed } = sampling;
    if prompt.is_empty() {
        return Err(Error::new(ErrorKind::Data, "the prompt is empty").remedy("begin with a word"));
    }
    let room = text.room();
    fits(text.len() + prompt.len(), room)?;
    let mut random = Random::new(seed, Purpose::Generated(0));
    let mut next = prompt.to_vec();
    for _ in 0..stop.tokens {
        if text.len() + next.len() > room {
            return Ok(Generation::Context);
        }
        let logits = text.feed(&next)?;
        let token = choose(&logits, temperature, top_p, || random.uniform())?;
        if stop.ends.contains(&token) {
            return Ok(Generation::End);
        }
        if !each(token)? {
            return Ok(Generation::Receiver);
        }
        next = vec![token];
    }
    Ok(Generation::Tokens)
}

/// The next token; `uniform` draws from [0, 1).
fn choose(logits: &[f32], temperature: f32, top_p: f32, uniform: impl FnOnce() -> f64) -> Result<u32> {
    if logits.iter().any(|x| x.is_nan()) {
        return Err(Error::new(ErrorKind::Model, "the model computes logits that are not numbers")
            .remedy("its weights are damaged; fetch or train it again"));
    }
    // Of equally likely tokens the first.
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let first = order.iter().copied().reduce(|a, b| if logits[b] > logits[a] { b } else { a });
    let first = first.ok_or_else(|| Error::new(ErrorKind::Model, "the model has no vocabulary"))?;
    if temperature == 0.0 {
        return Ok(first as u32);
    }
    let top = f64::from(logits[first]);
    let weights: Vec<f64> =
        logits.iter().map(|&x| ((f64::from(x) - top) / f64::from(temperature)).exp()).collect();
    let total: f64 = weights.iter().sum();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let mut kept = 0.0;
    let enough = order.iter().position(|&i| {
        kept += weights[i];
        kept >= f64::from(top_p) * total
    });
    order.truncate(enough.map_or(order.len(), |last| last + 1));
    let mut left = uniform() * kept;
    let drawn = order.iter().find(|&&i| {
        left -= weights[i];
        left < 0.0
    });
    Ok(drawn.copied().unwrap_or(first) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        assert_eq!(choose(&[0.0, 3.0, 3.0, 1.0], 0.0, 1.0, || 0.9).unwrap(), 1);
        assert!(choose(&[0.0, f32::NAN], 0.0, 1.0, || 0.0).is_err());
        assert!(choose(&[], 0.0, 1.0, || 0.0).is_err());
    }

    #[test]
    fn tokens_are_drawn_by_their_probabilities() {
        let logits = [2f32.ln(), 5f32.ln(), 3f32.ln()]; // 0.2, 0.5, 0.3
        let drawn = |u: f64, top_p| choose(&logits, 1.0, top_p, || u).unwrap();
        // In order of probability: token 1 up to 0.5, token 2 up to 0.8, token 0.
        assert_eq!([0.0, 0.49, 0.51, 0.79, 0.81, 0.999].map(|u| drawn(u, 1.0)), [1, 1, 2, 2, 0, 0]);
        // Tokens 1 and 2 have 0.8 together.
        assert_eq!([0.0, 0.62, 0.63, 0.999].map(|u| drawn(u, 0.75)), [1, 1, 2, 2]);
        assert_eq!(drawn(0.999, 0.5), 1);
        // Cold: nearly greedy. -inf is never drawn.
        assert_eq!(choose(&logits, 0.01, 1.0, || 0.999).unwrap(), 1);
        assert_eq!(choose(&[f32::NEG_INFINITY, 0.0], 1.0, 1.0, || 0.9999).unwrap(), 1);
    }
}
