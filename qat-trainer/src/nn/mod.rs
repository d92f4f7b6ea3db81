//! The network during training, in two forms over the layers of one [`crate::spec::ModelSpec`]: in floating point with
//! batch normalisation, and quantised, with batch normalisation folded, mirroring the integer engine operator by
//! operator.

mod float;
mod fold;
mod graph;
mod optimiser;
mod parallel;
mod param;
mod quant;
mod range;
pub(crate) mod state;
pub(crate) mod weights;

pub(crate) use float::FloatNet;
pub(crate) use fold::fold;
pub(crate) use optimiser::{Moments, Update};
pub use optimiser::{Rule, Sgd};
pub(crate) use parallel::{UNIT, in_units};
pub(crate) use param::{Param, leaf};
pub(crate) use quant::{Learning, QuantNet};
pub(crate) use range::fake_quantize_slice;
pub use weights::Rates;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use tch::Tensor;

/// Gets the output of every layer, in order, with its index.
pub(crate) type See<'a> = &'a mut dyn FnMut(usize, &Tensor);

/// What the training loop needs of a network.
pub(crate) trait Network {
    /// Logits, `[batch, classes]`, for a batch of examples. `train`: batch normalisation uses (and learns) the
    /// statistics of the batch.
    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.forward_seen(x, train, &mut |_, _| ())
    }

    /// As [`Self::forward`], showing the outputs of the layers on the way.
    fn forward_seen(&self, x: &Tensor, train: bool, see: See<'_>) -> Result<Tensor>;

    /// Called before each epoch (from 0) of a phase of `epochs`. Returns whether the network became another one, with
    /// which nothing measured before can be compared.
    fn start_epoch(&mut self, _epoch: u32, _epochs: u32) -> Result<bool> {
        Ok(false)
    }

    /// Called after each step (from 1) of the phase.
    fn finish_step(&mut self, _step: usize) -> Result<()> {
        Ok(())
    }

    /// Everything that gets a gradient, in a fixed order.
    fn leaves(&self) -> Vec<&Tensor>;

    /// One step of the optimiser, given the gradients of [`Self::leaves`] in their order.
    fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()>;

    /// Moves the running averages of everything that is learned.
    fn average(&mut self, decay: f32) -> Result<()>;

    /// Exchanges what is learned and its running average, if there is one.
    fn swap_average(&mut self) -> Result<()>;

    /// All numbers, under the names of [`crate::checkpoint`].
    fn save(&self) -> Result<Checkpoint>;

    /// Adds all that the training needs beside them to go on as if it had never stopped, under names of its own.
    fn save_state(&self, to: &mut Checkpoint) -> Result<()>;

    /// Takes out what [`Self::save_state`] added; the network is the one that [`Self::save`] saved.
    fn load_state(&mut self, from: &Checkpoint) -> Result<()>;
}

fn one_gradient(grad: Option<&Tensor>) -> Result<&Tensor> {
    grad.ok_or_else(|| Error::new(ErrorKind::Train, "fewer gradients than parameters"))
}
