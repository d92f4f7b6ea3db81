//! The network during training, in two forms over the layers of one [`crate::spec::ModelSpec`]: in floating point with
//! batch normalisation, and quantised, with batch normalisation folded, mirroring the integer engine operator by
//! operator.

mod float;
mod fold;
mod graph;
mod parallel;
mod param;
mod quant;
mod range;
mod weights;

pub(crate) use float::{FloatNet, weight_shapes};
pub(crate) use fold::fold;
pub(crate) use parallel::{UNIT, in_units};
pub(crate) use quant::{Learning, QuantNet};
pub(crate) use range::fake_quantize_slice;
pub(crate) use weights::Rates;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use tch::Tensor;

/// What the training loop needs of a network.
pub(crate) trait Network {
    /// Logits, `[batch, classes]`, for a batch of examples. `train`: batch normalisation uses (and learns) the
    /// statistics of the batch.
    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor>;

    /// Everything that gets a gradient, in a fixed order.
    fn leaves(&self) -> Vec<&Tensor>;

    /// One step of the optimiser, given the gradients of [`Self::leaves`] in their order.
    fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()>;

    /// Moves the running averages of everything that is learned.
    fn average(&mut self, decay: f32) -> Result<()>;

    /// Replaces what is learned by its running average, if there is one.
    fn take_average(&mut self) -> Result<()>;

    /// All numbers, under the names of [`crate::checkpoint`].
    fn save(&self) -> Result<Checkpoint>;
}

fn one_gradient(grad: Option<&Tensor>) -> Result<&Tensor> {
    grad.ok_or_else(|| Error::new(ErrorKind::Train, "fewer gradients than parameters"))
}
