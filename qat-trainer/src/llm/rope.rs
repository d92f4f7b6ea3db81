//! Rotary position embedding (Su et al. 2021, equation 34), in the order of Hugging Face's models: number i of the first half
//! of a head is rotated together with number i of the second half.

use super::config::LlmConfig;
use crate::autograd::closure_node;
use crate::autograd::fused::decoder as fused;
use crate::error::{Error, ErrorKind, Result};
use tch::{Device, Kind, Tensor};

/// Cosines and sines of all angles, `[context, head_dim]`, f32.
#[derive(Debug)]
pub(super) struct Rope {
    cos: Tensor,
    sin: Tensor,
    half: i64,
}

impl Rope {
    /// The tables for every position of a model's context.
    pub(super) fn new(config: &LlmConfig, device: Device) -> Result<Self> {
        // In f64, since positions times frequencies lose what f32 has left behind the comma.
        let frequencies = Tensor::from_slice(&config.frequencies()).f_to_device(device)?;
        let positions = Tensor::f_arange(config.context as i64, (Kind::Double, device))?;
        let angles = positions.f_outer(&frequencies)?;
        let angles = Tensor::f_cat(&[&angles, &angles], -1)?;
        Ok(Self {
            cos: angles.f_cos()?.f_to_kind(Kind::Float)?,
            sin: angles.f_sin()?.f_to_kind(Kind::Float)?,
            half: frequencies.size1()?,
        })
    }

    /// Rotates heads `[batch, heads, time, head_dim]` of tokens from position `start` on.
    pub(super) fn rotate(&self, x: &Tensor, start: i64) -> Result<Tensor> {
        let (time, kind) = (x.size4()?.2, x.f_kind()?);
        if fused::takes(x.device(), kind) {
            return self.fused(x, start, time);
        }
        let part = |table: &Tensor| table.f_narrow(0, start, time)?.f_to_kind(kind);
        let (first, second) = (x.f_narrow(-1, 0, self.half)?, x.f_narrow(-1, self.half, self.half)?);
        let turned = Tensor::f_cat(&[&second.f_neg()?, &first], -1)?;
        Ok(x.f_mul(&part(&self.cos)?)?.f_add(&turned.f_mul(&part(&self.sin)?)?)?)
    }

    /// Cosines and sines for `time` positions from `start` on, f32 `[time, head_dim]`.
    pub(super) fn angles(&self, start: i64, time: i64) -> Result<[Tensor; 2]> {
        Ok([self.cos.f_narrow(0, start, time)?, self.sin.f_narrow(0, start, time)?])
    }

    /// The same in one pass, with the angles of bf16 in f32.
    fn fused(&self, x: &Tensor, start: i64, time: i64) -> Result<Tensor> {
        let [cos, sin] = self.angles(start, time)?;
        // In the order in which a projection leaves them: nothing is copied.
        let heads = x.f_transpose(1, 2)?.f_contiguous()?;
        let turned = tch::no_grad(|| fused::rotate(&heads, [&cos, &sin], false))?;
        let turned = closure_node(turned, &[&heads], &[&cos, &sin], |grad, saved| {
            let [cos, sin] = saved else {
                return Err(Error::new(ErrorKind::Train, "the angles are lost"));
            };
            Ok(vec![Some(fused::rotate(&grad.f_contiguous()?, [cos, sin], true)?)])
        })?;
        Ok(turned.f_transpose(1, 2)?)
    }

    /// Handles on the same tables.
    pub(super) fn share(&self) -> Self {
        Self { cos: self.cos.shallow_clone(), sin: self.sin.shallow_clone(), half: self.half }
    }
}
