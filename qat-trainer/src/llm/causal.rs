//! What predicts the next token: the decoder in torch's operators, and the one on packed codes.

use super::config::LlmConfig;
use crate::error::{Error, ErrorKind, Result};
use std::fmt::Debug;

/// A network that predicts each token of a text from those before it.
pub trait CausalModel: Debug {
    /// Its shape.
    fn config(&self) -> &LlmConfig;

    /// An empty text of up to `room` tokens, or of the context if that is shorter.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if there is no memory for it.
    fn begin(&self, room: usize) -> Result<Box<dyn Sequence + '_>>;

    /// The mean of −ln p(token), nats, over all tokens of a window but the first one, each predicted from those before it.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] for fewer than two tokens, more than the context, or tokens that the model does not have;
    /// [`ErrorKind::Train`] if torch refuses.
    fn loss(&self, window: &[u32]) -> Result<f64>;
}

/// A text in progress, with what the network remembers of it.
pub trait Sequence {
    /// Tokens seen so far.
    fn len(&self) -> usize;

    /// Whether no token has been seen.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that there is room for.
    fn room(&self) -> usize;

    /// Forgets all tokens but the first `len`.
    fn truncate(&mut self, len: usize);

    /// Takes in one token or more; returns the logits behind the last one.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] for no tokens, more than there is room for, or tokens that the model does not have;
    /// [`ErrorKind::Train`] if torch refuses.
    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;
}

/// Refuses windows and texts of too few tokens to compute anything of.
pub(super) fn at_least(count: usize, tokens: &[u32]) -> Result<()> {
    if tokens.len() >= count {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Data, format!("{} tokens, where at least {count} are needed", tokens.len())))
}
