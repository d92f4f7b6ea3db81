//! Perplexity on consecutive windows of a text.

use super::causal::CausalModel;
use crate::error::{Error, ErrorKind, Result};
use serde::Serialize;

/// How a text is cut: windows of `size` tokens one after the other, nothing added between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens in a window; the first is given, the others are predicted.
    pub size: usize,
    /// At most so many windows.
    pub count: usize,
}

/// What a model makes of a text.
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
/// [`ErrorKind::Data`] for fewer tokens than a window has, windows longer than the model's context, or of fewer than two
/// tokens; [`ErrorKind::Train`] if torch refuses.
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
