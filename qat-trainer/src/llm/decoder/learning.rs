//! What a training loop does with a decoder.

use super::{Decoder, EMBEDDING, HEAD, Norm, prefix};
use crate::autograd::fused::gradient_was_not_finite;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::learned::Learned;
use crate::llm::linear::Linear;
use crate::llm::qat::parameters::not_finite;
use crate::nn::Rates;
use tch::Tensor;

impl Decoder {
    /// Learns every matrix that has no leaves yet, and every norm, as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch refuses.
    pub fn learn(&mut self) -> Result<()> {
        self.replace(|_, linear| {
            if !linear.leaves().is_empty() {
                return Ok(None);
            }
            let learned = Learned::new(&linear.weight()?, linear.bias())?;
            Ok(Some(Box::new(learned) as Box<dyn Linear>))
        })?;
        self.norms_mut().into_iter().try_for_each(|(_, norm)| norm.learn())
    }

    /// One step of the optimiser, given the gradients of [`Self::leaves`] in their order. No graph that used the leaves may be
    /// alive.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] for another number of gradients, or if the training has diverged; the matrix is the place.
    pub fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()> {
        let leaves = self.leaves().len();
        if grads.len() != leaves {
            let problem = format!("{} gradients for {leaves} parameters", grads.len());
            return Err(Error::new(ErrorKind::Train, problem));
        }
        let mut rest = grads;
        self.each_mut(&mut |name, linear| {
            let (own, others) = rest.split_at(linear.leaves().len());
            rest = others;
            linear.update(own, rates).map_err(|e| e.place(format!("matrix `{name}`")))
        })?;
        let mut rest = rest.iter();
        self.norms_mut().into_iter().try_for_each(|(_, norm)| norm.update(&mut rest, rates))?;
        // The kernels of a GPU cannot stop; they leave word, which is asked for once a step.
        if gradient_was_not_finite(self.device)? { Err(not_finite()) } else { Ok(()) }
    }

    /// Adds all that a training needs to go on with this decoder as if it had never stopped.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if a checkpoint cannot hold it.
    pub fn save_state(&self, to: &mut Checkpoint) -> Result<()> {
        for (name, linear) in self.linears() {
            linear.save_state(&name, to)?;
        }
        self.named_norms().into_iter().try_for_each(|(name, norm)| norm.save_state(&name, to))
    }

    /// Takes out again what [`Self::save_state`] added; the decoder is made as the other one was.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] naming what is missing or has another shape.
    pub fn load_state(&mut self, from: &Checkpoint) -> Result<()> {
        self.each_mut(&mut |name, linear| linear.load_state(name, from))?;
        self.norms_mut().into_iter().try_for_each(|(name, norm)| norm.load_state(&name, from))
    }

    /// Shows every matrix to be changed, in the order of [`Self::linears`].
    fn each_mut(&mut self, change: &mut dyn FnMut(&str, &mut dyn Linear) -> Result<()>) -> Result<()> {
        change(EMBEDDING, self.embedding.as_mut())?;
        for (i, block) in self.blocks.iter_mut().enumerate() {
            for (name, linear) in block.linears_mut() {
                change(&format!("{}.{name}", prefix(i)), linear.as_mut())?;
            }
        }
        self.head.as_mut().map_or(Ok(()), |head| change(HEAD, head.as_mut()))
    }

    /// The norms, in the order of [`Self::norms`].
    pub(super) fn named_norms(&self) -> Vec<(String, &Norm)> {
        let mut all = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            all.extend(block.norms().map(|(name, norm)| (format!("{}.{name}", prefix(i)), norm)));
        }
        all.push(("model.norm".into(), &self.norm));
        all
    }

    /// The same, to change.
    fn norms_mut(&mut self) -> Vec<(String, &mut Norm)> {
        let mut all = Vec::new();
        for (i, block) in self.blocks.iter_mut().enumerate() {
            all.extend(block.norms_mut().map(|(name, norm)| (format!("{}.{name}", prefix(i)), norm)));
        }
        all.push(("model.norm".into(), &mut self.norm));
        all
    }
}
