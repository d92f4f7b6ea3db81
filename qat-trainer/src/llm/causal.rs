//! What predicts the next token: the decoder in torch's operators, and the one on packed codes.

use super::config::LlmConfig;
use crate::error::{Error, ErrorKind, Result};
use std::fmt::Debug;

/// A network that predicts each token of a text from those before it.
///
/// ```
/// use qat_trainer::llm::{CausalModel, Sequence, config::LlmConfig};
/// use qat_trainer::{Error, ErrorKind, Result};
/// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
/// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
/// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
/// /// Holds every token equally likely.
/// #[derive(Debug)]
/// struct Uniform(LlmConfig);
///
/// impl CausalModel for Uniform {
///     fn config(&self) -> &LlmConfig { &self.0 }
///     fn loss(&self, _window: &[u32]) -> Result<f64> { Ok((self.0.vocabulary as f64).ln()) }
///     fn begin(&self, _room: usize) -> Result<Box<dyn Sequence + '_>> {
///         Err(Error::new(ErrorKind::Unsupported, "it only measures"))
///     }
/// }
/// let model: Box<dyn CausalModel> = Box::new(Uniform(config)); // of nine tokens
/// assert!((model.loss(&[1, 2, 3])?.exp() - 9.0).abs() < 1e-9);
/// # Ok::<(), Error>(())
/// ```
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
///
/// ```
/// use qat_trainer::{Result, llm::Sequence};
/// /// A text whose last token is always the likeliest to come again.
/// struct Echo(Vec<u32>);
///
/// impl Sequence for Echo {
///     fn len(&self) -> usize { self.0.len() }
///     fn room(&self) -> usize { 100 }
///     fn truncate(&mut self, len: usize) { self.0.truncate(len); }
///     fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
///         self.0.extend(tokens);
///         Ok((0..3).map(|token| f32::from(self.0.last() == Some(&token))).collect())
///     }
/// }
/// let mut text = Echo(Vec::new());
/// assert_eq!(text.feed(&[0, 2])?, [0.0, 0.0, 1.0]);
/// text.truncate(1); // as if 2 had not been
/// assert_eq!(text.feed(&[1])?, [0.0, 1.0, 0.0]);
/// assert_eq!((text.len(), text.is_empty()), (2, false));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
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

/// The error for a token that a model does not have.
pub(super) fn unknown(token: usize) -> Error {
    Error::new(ErrorKind::Data, format!("token {token} is none of the model's"))
}

/// Refuses more tokens than there is room for.
pub(super) fn fits(tokens: usize, room: usize) -> Result<()> {
    if tokens <= room {
        return Ok(());
    }
    let problem = format!("{tokens} tokens are more than the {room} there is room for");
    Err(Error::new(ErrorKind::Data, problem).remedy("use a shorter text"))
}

/// Refuses windows and texts of too few tokens to compute anything of.
pub(super) fn at_least(count: usize, tokens: &[u32]) -> Result<()> {
    if tokens.len() >= count {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Data, format!("{} tokens, where at least {count} are needed", tokens.len())))
}
