//! Perplexity on consecutive windows of a text.

use super::causal::CausalModel;
use crate::error::{Error, ErrorKind, Result};
use serde::Serialize;

/// How a text is cut: windows of `size` tokens one after the other, nothing added between them.
///
/// ```
/// # use qat_trainer::llm::config::LlmConfig;
/// use qat_trainer::ErrorKind;
/// use qat_trainer::llm::{Decoder, Windows, perplexity};
/// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
/// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
/// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
/// # let decoder = Decoder::generated(&config, 1)?;
/// let text = [1, 2, 3, 4, 5, 6, 7, 8, 0, 1];
/// let measure = |size, count| perplexity(&decoder, &text, Windows { size, count });
/// assert_eq!(measure(4, 100)?.predictions, 2 * 3); // the last two tokens fill no window
/// assert_eq!(measure(4, 1)?.predictions, 3);
/// assert_eq!(measure(11, 1).unwrap_err().kind(), ErrorKind::Data); // more than the text has
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens in a window; the first is given, the others are predicted.
    pub size: usize,
    /// At most so many windows.
    pub count: usize,
}

/// What a model makes of a text.
///
/// ```
/// # use qat_trainer::llm::config::LlmConfig;
/// use qat_trainer::llm::{Decoder, Windows, perplexity};
/// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
/// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
/// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
/// # let decoder = Decoder::generated(&config, 1)?;
/// let text = [1, 2, 3, 4, 5, 6, 7, 8];
/// let measured = perplexity(&decoder, &text, Windows { size: 4, count: 2 })?;
/// // It is taken of the mean over the windows, and is not the mean of their perplexities.
/// let [first, second] = [measured.windows[0], measured.windows[1]];
/// assert!((measured.perplexity - (first.exp() * second.exp()).sqrt()).abs() < 1e-9);
/// let bits_per_token = measured.loss / std::f64::consts::LN_2;
/// assert!((bits_per_token - measured.perplexity.log2()).abs() < 1e-9);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// e to the mean of −ln p(token) over all predictions.
    pub perplexity: f64,
    /// That mean, nats.
    pub loss: f64,
    /// Tokens predicted.
    pub predictions: usize,
    /// The mean of every window, nats.
    pub windows: Vec<f64>,
}

/// Predicts every token of every window but the first ones. A last window that is not full is left out.
///
/// # Errors
/// [`ErrorKind::Spec`] for no windows, and for windows of fewer than two tokens; [`ErrorKind::Data`] for fewer tokens than a
/// window has, and for windows longer than the model's context; [`ErrorKind::Train`] if torch refuses.
///
/// ```
/// # use qat_trainer::llm::config::LlmConfig;
/// use qat_trainer::llm::{Decoder, Dense, Linear, Windows, perplexity};
/// # use tch::{Device, Kind, Tensor};
/// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
/// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
/// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
/// let mut decoder = Decoder::generated(&config, 1)?; // of nine tokens
/// decoder.replace(|name, _| {
///     let zeros = Tensor::zeros([9, 8], (Kind::Float, Device::Cpu));
///     Ok((name == "lm_head").then(|| Box::new(Dense::new(zeros, None)) as Box<dyn Linear>))
/// })?;
/// // Equal logits: it hesitates between nine tokens.
/// let measured = perplexity(&decoder, &[1, 2, 3, 4, 5, 6], Windows { size: 3, count: 2 })?;
/// assert!((measured.perplexity - 9.0).abs() < 1e-4);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn perplexity(model: &dyn CausalModel, tokens: &[u32], windows: Windows) -> Result<Perplexity> {
    let Windows { size, count } = windows;
    if size < 2 || count == 0 {
        return Err(Error::new(ErrorKind::Spec, format!("{count} windows of {size} tokens predict nothing"))
            .remedy("use at least one window of at least two tokens"));
    }
    let mut losses = Vec::new();
    for window in tokens.chunks_exact(size).take(count) {
        losses.push(model.loss(window)?);
    }
    if losses.is_empty() {
        let problem = format!("{} tokens do not fill a window of {size}", tokens.len());
        return Err(Error::new(ErrorKind::Data, problem).remedy("use more text or smaller windows"));
    }
    let loss = losses.iter().sum::<f64>() / losses.len() as f64;
    let predictions = losses.len() * (size - 1);
    Ok(Perplexity { perplexity: loss.exp(), loss, predictions, windows: losses })
}
