//! Activation checkpointing (Chen et al. 2016): a block keeps its input alone, and computes what its backward pass needs a
//! second time when that is needed. The gradients are the same to the last bit, since the same operators run on the same
//! numbers.

use super::block::Block;
use crate::autograd::closure_node;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::rope::Rope;
use std::sync::Mutex;
use tch::{Kind, Tensor};

/// The block's output, with a history that holds the input and nothing from within the block.
pub(super) fn forward(block: &Block, x: &Tensor, rope: &Rope) -> Result<Tensor> {
    let output = tch::no_grad(|| block.forward(x, rope, None))?;
    let inputs: Vec<&Tensor> = [x].into_iter().chain(block.leaves()).collect();
    let needed = x.requires_grad();
    // Tensors may go to another thread, but not be used from two; torch runs the closure on a thread of its own choice.
    let again = Mutex::new((block.share(), rope.share()));
    closure_node(output, &inputs, &[x], move |grad, saved| {
        let again =
            again.lock().map_err(|_| Error::new(ErrorKind::Train, "an earlier backward pass failed"))?;
        let (block, rope) = &*again;
        let input = saved.first().ok_or_else(|| Error::new(ErrorKind::Train, "the block's input is lost"))?;
        tch::with_grad(|| {
            let x = input.f_detach()?.f_set_requires_grad(needed)?;
            let y = block.forward(&x, rope, None)?;
            let leaves = block.leaves();
            let wanted: Vec<&Tensor> = needed.then_some(&x).into_iter().chain(leaves).collect();
            // The gradient of Σ y·grad with respect to y is grad itself, exactly.
            let sum = y.f_mul(grad)?.f_sum(None::<Kind>)?;
            let grads = Tensor::f_run_backward(&[&sum], &wanted, false, false)?;
            let frozen = if needed { None } else { Some(None) };
            Ok(frozen.into_iter().chain(grads.into_iter().map(Some)).collect())
        })
    })
}
