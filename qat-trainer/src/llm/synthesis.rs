//! Texts that a model writes of itself, many at a time: it can be quantised and trained on what it knows, without other text
//! (Liu et al. 2023, "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models").

use super::decoder::Decoder;
use super::generate::Sampling;
use crate::error::{Error, ErrorKind, Result};
use crate::random::{Purpose, Random};
use tch::{Kind, Tensor};

/// What is to be written.
///
/// ```
/// # use qat_trainer::{Error, llm::{Decoder, config::LlmConfig}};
/// use qat_trainer::llm::{Sampling, Synthesis, synthesise};
/// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
/// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
/// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
/// # let decoder = Decoder::generated(&config, 1)?;
/// let write = |how: &Synthesis| {
///     let mut texts = Vec::new();
///     synthesise(&decoder, &[1], how, |text| { texts.push(text.to_vec()); Ok(()) })?;
///     Ok::<_, Error>(texts)
/// };
/// let sampling = Sampling { temperature: 1.0, top_p: 1.0, seed: 1 };
/// let five = write(&Synthesis { texts: 5, tokens: 12, batch: 5, sampling })?;
/// // The third of five is the third of three, too, written by itself.
/// assert_eq!(write(&Synthesis { texts: 3, tokens: 12, batch: 1, sampling })?, five[..3]);
/// assert_ne!(five[0], five[1]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Synthesis {
    /// How many texts, at least 1.
    pub texts: usize,
    /// Tokens in each, those that it begins with included; at most the model's context. Where the model ends a text it goes on
    /// with another one, so that all are equally long.
    pub tokens: usize,
    /// How many are written at a time, at least 1. Every text has random numbers of its own, whatever stands beside it.
    pub batch: usize,
    /// How tokens are drawn; the temperature must be above 0, or all texts would be the same.
    pub sampling: Sampling,
}

/// Writes texts that begin with `begin`; `each` gets their tokens, one text after the other.
///
/// # Errors
/// [`ErrorKind::Spec`] for numbers out of the ranges above; [`ErrorKind::Data`] if `begin` is empty or leaves no room;
/// [`ErrorKind::Model`] for logits that are not numbers; [`ErrorKind::Train`] if torch refuses; and the errors of `each`.
///
/// ```
/// # use qat_trainer::llm::{Decoder, config::LlmConfig};
/// use qat_trainer::ErrorKind;
/// use qat_trainer::llm::{Sampling, Synthesis, synthesise};
/// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
/// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
/// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
/// # let decoder = Decoder::generated(&config, 1)?;
/// let sampling = Sampling { temperature: 0.8, top_p: 0.9, seed: 1 };
/// let how = Synthesis { texts: 3, tokens: 10, batch: 2, sampling };
/// let mut tokens = Vec::new(); // to quantise the model on
/// synthesise(&decoder, &[4, 2], &how, |text| { tokens.extend_from_slice(text); Ok(()) })?;
/// assert_eq!(tokens.len(), 3 * 10);
/// assert!(tokens.chunks(10).all(|text| text.starts_with(&[4, 2])));
/// // The likeliest token every time would make all texts the same.
/// let cold = Synthesis { sampling: Sampling::default(), ..how };
/// assert_eq!(synthesise(&decoder, &[4], &cold, |_| Ok(())).unwrap_err().kind(), ErrorKind::Spec);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn synthesise(
    decoder: &Decoder,
    begin: &[u32],
    how: &Synthesis,
    mut each: impl FnMut(&[u32]) -> Result<()>,
) -> Result<()> {
    let &Synthesis { texts, tokens, batch, sampling } = how;
    sampling.check()?;
    if texts == 0 || batch == 0 || sampling.temperature == 0.0 {
        let temperature = sampling.temperature;
        let problem = format!("{texts} texts, {batch} at a time, drawn at temperature {temperature}");
        return Err(Error::new(ErrorKind::Spec, problem).remedy("each must be above 0"));
    }
    let context = decoder.config().context;
    if tokens > context {
        let problem = format!("{tokens} tokens are more than the model's context of {context}");
        return Err(Error::new(ErrorKind::Spec, problem).remedy("write shorter texts"));
    }
    if begin.is_empty() || begin.len() >= tokens {
        let problem = format!("a text of {tokens} tokens cannot begin with {} given ones", begin.len());
        return Err(Error::new(ErrorKind::Data, problem).remedy("begin with one token or more, but fewer"));
    }
    for first in (0..texts).step_by(batch) {
        let rows = first..texts.min(first + batch);
        for text in write(decoder, begin, tokens, sampling, rows)? {
            each(&text)?;
        }
    }
    Ok(())
}

/// The texts of these numbers, side by side.
fn write(
    decoder: &Decoder,
    begin: &[u32],
    tokens: usize,
    sampling: Sampling,
    rows: std::ops::Range<usize>,
) -> Result<Vec<Vec<u32>>> {
    let count = rows.len() as i64;
    let mut randoms: Vec<Random> =
        rows.map(|row| Random::new(sampling.seed, Purpose::Generated(row))).collect();
    let mut texts = vec![begin.to_vec(); randoms.len()];
    let mut cache = decoder.cache(randoms.len(), tokens)?;
    let start: Vec<i64> = begin.iter().map(|&token| token.into()).collect();
    let mut next = Tensor::from_slice(&start).f_repeat([count, 1])?.f_to_device(decoder.device())?;
    for _ in begin.len()..tokens {
        let hidden = decoder.hidden_cached(&next, &mut cache)?;
        let last = hidden.f_select(1, next.size2()?.1 - 1)?;
        let uniform: Vec<f64> = randoms.iter_mut().map(Random::uniform).collect();
        let uniform = Tensor::from_slice(&uniform).f_view([count, 1])?.f_to_device(decoder.device())?;
        next = tch::no_grad(|| draw(&decoder.logits(&last)?, sampling, &uniform))?;
        for (text, token) in texts.iter_mut().zip(Vec::<i64>::try_from(next.f_flatten(0, 1)?)?) {
            text.push(token as u32);
        }
    }
    Ok(texts)
}

/// A token of each row of logits, `[rows, vocabulary]`: where the number in [0, 1) of the same row, `[rows, 1]`, falls among the
/// probabilities that are drawn from. `[rows, 1]` of int64.
fn draw(logits: &Tensor, sampling: Sampling, uniform: &Tensor) -> Result<Tensor> {
    let scaled = logits.f_to_kind(Kind::Float)?.f_div_scalar(f64::from(sampling.temperature))?;
    let probabilities = scaled.f_softmax(-1, Kind::Double)?;
    // All, or the most likely ones first, down to where they are as likely together as is asked for.
    let (probabilities, order) = match sampling.top_p < 1.0 {
        true => probabilities.f_sort(-1, true).map(|(sorted, order)| (sorted, Some(order)))?,
        false => (probabilities, None),
    };
    let sums = probabilities.f_cumsum(-1, Kind::Double)?;
    let last = sums.size2()?.1 - 1;
    let whole = sums.f_narrow(-1, last, 1)?;
    if whole.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
        return Err(Error::new(ErrorKind::Model, "the model computes logits that are not numbers")
            .remedy("its weights are damaged; fetch or train it again"));
    }
    let first_above = |number: &Tensor, right: bool| -> Result<Tensor> {
        let side = if right { "right" } else { "left" };
        Ok(number.f_searchsorted(&sums, false, right, side, None::<Tensor>)?.f_clamp_max(last)?)
    };
    let kept = match &order {
        Some(_) => {
            let enough = first_above(&whole.f_mul_scalar(f64::from(sampling.top_p))?, false)?;
            sums.f_gather(-1, &enough, false)?
        }
        None => whole,
    };
    let drawn = first_above(&uniform.f_mul(&kept)?, true)?;
    Ok(match order {
        Some(order) => order.f_gather(-1, &drawn, false)?,
        None => drawn,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::config::{Architecture, tiny};

    fn sampling(temperature: f32, top_p: f32) -> Sampling {
        Sampling { temperature, top_p, seed: 5 }
    }

    fn texts(how: &Synthesis) -> Result<Vec<Vec<u32>>> {
        let decoder = Decoder::generated(&tiny(Architecture::Llama), 3)?;
        let mut all = Vec::new();
        synthesise(&decoder, &[1, 2], how, |text| {
            all.push(text.to_vec());
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn a_text_does_not_depend_on_those_beside_it() {
        let how = Synthesis { texts: 5, tokens: 9, batch: 1, sampling: sampling(1.0, 0.9) };
        let alone = texts(&how).unwrap();
        assert_eq!(alone.len(), 5);
        assert!(alone.iter().all(|text| text.len() == 9 && text.starts_with(&[1, 2])));
        assert_ne!(alone[0], alone[1]);
        for batch in [2, 5, 64] {
            assert_eq!(texts(&Synthesis { batch, ..how }).unwrap(), alone, "{batch} at a time");
        }
        let other = Synthesis { sampling: Sampling { seed: 6, ..how.sampling }, ..how };
        assert_ne!(texts(&other).unwrap(), alone);
    }

    #[test]
    fn tokens_are_drawn_by_their_probabilities() {
        let logits = Tensor::from_slice(&[0.2f32.ln(), 0.5f32.ln(), f32::NEG_INFINITY, 0.3f32.ln()]);
        let drawn = |numbers: &[f64], how| {
            let rows = logits.unsqueeze(0).repeat([numbers.len() as i64, 1]);
            let token = draw(&rows, how, &Tensor::from_slice(numbers).unsqueeze(1)).unwrap();
            Vec::<i64>::try_from(token.flatten(0, 1)).unwrap()
        };
        // In the order of the vocabulary: up to 0.2, 0.7 and 1.
        assert_eq!(drawn(&[0.0, 0.19, 0.21, 0.69, 0.71, 0.999], sampling(1.0, 1.0)), [0, 0, 1, 1, 3, 3]);
        // In that of their probability, of 0.8 together.
        assert_eq!(drawn(&[0.0, 0.62, 0.63, 0.999], sampling(1.0, 0.75)), [1, 1, 3, 3]);
        assert_eq!(drawn(&[0.999], sampling(1.0, 0.5)), [1]);
        // Cold: nearly always the most likely.
        assert_eq!(drawn(&[0.001, 0.999], sampling(0.01, 1.0)), [1, 1]);
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let good = Synthesis { texts: 2, tokens: 9, batch: 2, sampling: sampling(1.0, 1.0) };
        for (bad, want) in [
            (Synthesis { texts: 0, ..good }, "0 texts"),
            (Synthesis { batch: 0, ..good }, "0 at a time"),
            (Synthesis { sampling: sampling(0.0, 1.0), ..good }, "temperature 0"),
            (Synthesis { sampling: sampling(-1.0, 1.0), ..good }, "temperature -1"),
            (Synthesis { sampling: sampling(1.0, 0.0), ..good }, "top-p 0"),
            (Synthesis { tokens: 2, ..good }, "2 given ones"),
            (Synthesis { tokens: 1_000_000, ..good }, "the model's context"),
        ] {
            let e = texts(&bad).unwrap_err().to_string();
            assert!(e.contains(want), "{e} lacks {want}");
        }
        let nan = Tensor::from_slice(&[0.0f32, f32::NAN]).unsqueeze(0);
        let e = draw(&nan, sampling(1.0, 1.0), &Tensor::from_slice(&[0.5]).unsqueeze(1)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Model);
    }
}
