//! What stands where a weight matrix is used.

use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::quantised::QuantisedMatrix;
use crate::nn::Rates;
use std::fmt::Debug;
use tch::{Kind, Tensor};

/// A matrix, `[out, in]`, and perhaps a bias, `[out]`, in the kind that products are computed in; with their histories.
///
/// ```
/// use qat_trainer::llm::{Dense, Linear};
/// use tch::{Kind, Tensor};
/// let layer = Dense::new(Tensor::from_slice(&[1f32, 1.0 / 3.0]).view([1, 2]), None);
/// let plain = layer.plain(Kind::BFloat16)?; // no more than a product: W can be had in this kind
/// let third = plain.map(|plain| plain.weight.double_value(&[0, 1]));
/// assert_eq!(third, Some(171.0 / 512.0)); // ⅓ in eight significant bits
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Debug)]
pub struct Plain {
    /// W.
    pub weight: Tensor,
    /// b.
    pub bias: Option<Tensor>,
}

impl Plain {
    /// Both in `kind`.
    pub(super) fn new(weight: &Tensor, bias: Option<&Tensor>, kind: Kind) -> Result<Self> {
        let bias = bias.map(|bias| bias.f_to_kind(kind)).transpose()?;
        Ok(Self { weight: weight.f_to_kind(kind)?, bias })
    }
}

/// An affine map `y = x·Wᵀ + b`, with W of shape `[out, in]`, as the decoder uses it. Dense matrices, fake-quantised ones and
/// those with adapters beside them are its implementations; [`super::Decoder::replace`] puts one in another's place.
///
/// The embedding is one too: its rows are looked up in [`Self::weight`], and a tied head is its [`Self::forward`].
///
/// ```
/// # use qat_trainer::llm::config::LlmConfig;
/// # use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
/// # use std::sync::Arc;
/// # use tch::{Device, Kind, Tensor};
/// use qat_trainer::{Result, llm::{Decoder, Linear}};
/// /// A matrix that counts the vectors it is multiplied with.
/// #[derive(Debug)]
/// struct Counted(Box<dyn Linear>, Arc<AtomicUsize>);
/// impl Linear for Counted {
///     fn forward(&self, x: &Tensor) -> Result<Tensor> {
///         self.1.fetch_add(x.numel() / *x.size().last().unwrap_or(&1) as usize, Relaxed);
///         self.0.forward(x)
///     }
///     fn share(&self) -> Box<dyn Linear> { Box::new(Self(self.0.share(), self.1.clone())) }
///     // …, the others as those of the matrix
/// #   fn weight(&self) -> Result<Tensor> { self.0.weight() }
/// #   fn bias(&self) -> Option<&Tensor> { self.0.bias() }
/// #   fn leaves(&self) -> Vec<&Tensor> { self.0.leaves() }
/// }
/// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
/// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
/// let (mut decoder, count) = (Decoder::generated(&config, 1)?, Arc::new(AtomicUsize::new(0)));
/// decoder.replace(|_, linear| Ok(Some(Box::new(Counted(linear.share(), count.clone())))))?;
/// decoder.forward(&Tensor::zeros([1, 5], (Kind::Int64, Device::Cpu)))?;
/// assert_eq!(count.load(Relaxed), 5 * (7 + 1)); // five tokens by a block's matrices and the head
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub trait Linear: Debug + Send {
    /// `x·Wᵀ + b` over the last dimension of x.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Train`] if torch refuses, as for another width.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;

    /// W, `[out, in]`, as [`Self::forward`] uses it: after quantisation, with adapters added.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Train`] if torch refuses.
    fn weight(&self) -> Result<Tensor>;

    /// b, `[out]`.
    fn bias(&self) -> Option<&Tensor>;

    /// W and b in `kind`, if [`Self::forward`] is no more than their product with an x of that kind: what computes a whole block at
    /// once can then do the product itself.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Train`] if torch refuses.
    fn plain(&self, _kind: Kind) -> Result<Option<Plain>> {
        Ok(None)
    }

    /// The quantised matrix that [`Self::forward`] computes with, α rounded to binary16 as files have it; adapters that stay in
    /// floating point beside it are left out. Nothing if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] for weights that are not finite.
    fn quantised(&self) -> Result<Option<QuantisedMatrix>> {
        Ok(None)
    }

    /// The tensors that training gives gradients to, in a fixed order.
    fn leaves(&self) -> Vec<&Tensor>;

    /// The same map on the same tensors, for a forward pass that is computed again during the backward pass.
    fn share(&self) -> Box<dyn Linear>;

    /// One step of the optimiser, given the gradients of [`Self::leaves`] in their order. No graph that used the leaves may be
    /// alive. What has no leaves has nothing to do.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] for gradients that do not belong to the leaves, or if the training has diverged.
    fn update(&mut self, grads: &[Tensor], _rates: &Rates) -> Result<()> {
        if grads.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Train, format!("{} gradients for weights that do not learn", grads.len())))
    }

    /// Adds all that a training needs to go on with this map as if it had never stopped (what is learned, and what the
    /// optimiser remembers), under names that begin with `name`. What has no leaves has nothing to add.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if a checkpoint cannot hold it.
    fn save_state(&self, _name: &str, _to: &mut Checkpoint) -> Result<()> {
        Ok(())
    }

    /// Takes out again what [`Self::save_state`] added.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] naming what is missing or has another shape.
    fn load_state(&mut self, _name: &str, _from: &Checkpoint) -> Result<()> {
        Ok(())
    }
}

/// A plain matrix, in f32 or bf16.
#[derive(Debug)]
pub struct Dense {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Dense {
    /// W, `[out, in]`, and b, `[out]`.
    ///
    /// ```
    /// use qat_trainer::llm::{Dense, Linear};
    /// use tch::Tensor;
    /// let w = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]);
    /// let layer = Dense::new(w, Some(Tensor::from_slice(&[10f32, 20.0])));
    /// let y = layer.forward(&Tensor::from_slice(&[1f32, 0.0, -1.0]))?;
    /// assert_eq!(Vec::<f32>::try_from(y)?, [1.0 - 3.0 + 10.0, 4.0 - 6.0 + 20.0]);
    /// assert!(layer.leaves().is_empty()); // frozen
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub const fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }
}

impl Linear for Dense {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        affine(x, &self.weight, self.bias())
    }

    fn weight(&self) -> Result<Tensor> {
        Ok(self.weight.shallow_clone())
    }

    fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    fn plain(&self, kind: Kind) -> Result<Option<Plain>> {
        Plain::new(&self.weight, self.bias(), kind).map(Some)
    }

    fn leaves(&self) -> Vec<&Tensor> {
        [Some(&self.weight), self.bias.as_ref()].into_iter().flatten().filter(|t| t.requires_grad()).collect()
    }

    fn share(&self) -> Box<dyn Linear> {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        Box::new(Self { weight: self.weight.shallow_clone(), bias })
    }
}

/// `x·Wᵀ + b`, computed in the kind of x.
pub(super) fn affine(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let kind = x.f_kind()?;
    let bias = bias.map(|bias| bias.f_to_kind(kind)).transpose()?;
    Ok(x.f_linear(&weight.f_to_kind(kind)?, bias)?)
}
