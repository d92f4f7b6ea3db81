//! The two thin matrices.

use super::{Adapters, LoraSettings};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::qat::parameters::{Parameter, adamw};
use crate::nn::Rates;
use crate::random::{Purpose, Random};
use qat_kernels::lora::Rank;
use tch::{Device, Kind, Tensor};

/// `s·U·D`.
#[derive(Debug)]
pub(super) struct Adapter {
    /// D, `[r, in]`: PEFT's `lora_A`.
    down: Parameter,
    /// U, `[out, r]`: PEFT's `lora_B`.
    up: Parameter,
    pub(super) scale: Scale,
}

/// s, and where it is multiplied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    s: f64,
    /// To thin matrices, and not to wide ones as on the CPU. That spares a GPU passes over memory, of which it does little else
    /// here. With an s that is a power of two, as the usual ones are, what is multiplied becomes the same numbers.
    pub(super) thin: bool,
}

/// What a forward pass leaves for the backward pass: `D·x`, multiplied by s where that is done to thin matrices, and D and U in
/// the kind of x: to make them again would take two more kernels of hardly any work.
pub(super) struct Kept {
    thin: Tensor,
    down: Tensor,
    up: Tensor,
}

impl Kept {
    /// In the order of [`Scale::gradients`].
    pub(super) fn tensors(&self) -> [&Tensor; 3] {
        [&self.thin, &self.down, &self.up]
    }
}

impl Adapter {
    /// Of a matrix `name` of `out` by `inputs`, the one of this index.
    pub(super) fn new(
        name: &str,
        (out, inputs): (i64, i64),
        device: Device,
        settings: &LoraSettings,
        start: Option<&Adapters>,
        index: usize,
    ) -> Result<Self> {
        let rank = Rank::new(settings.rank, inputs as usize, out as usize).map_err(|e| {
            Error::new(ErrorKind::Spec, e.to_string()).remedy("choose a smaller rank, or other matrices")
        })?;
        let r = rank.get();
        let (down, up) = match start {
            Some(start) => start.of(name, [r, inputs as usize, out as usize])?,
            None => {
                // PEFT's start, Kaiming's for a leaky ReLU of slope √5: uniform up to 1/√in.
                let mut random = Random::new(settings.seed, Purpose::Weights(index));
                let bound = 1.0 / (inputs as f32).sqrt();
                let down = (0..r * inputs as usize).map(|_| bound * random.symmetric()).collect();
                (down, vec![0.0; r * out as usize])
            }
        };
        let tensor = |numbers: &[f32], shape: [i64; 2]| -> Result<Tensor> {
            Ok(Tensor::from_slice(numbers).f_reshape(shape)?.f_to_device(device)?)
        };
        Ok(Self {
            down: Parameter::new(&tensor(&down, [r as i64, inputs])?)?,
            up: Parameter::new(&tensor(&up, [out, r as i64])?)?,
            scale: Scale { s: f64::from(settings.alpha) / r as f64, thin: device != Device::Cpu },
        })
    }

    /// `s·U·D`, `[out, in]`.
    pub(super) fn matrix(&self) -> Result<Tensor> {
        Ok(self.up.leaf.f_matmul(&self.down.leaf)?.f_mul_scalar(self.scale.s)?)
    }

    /// Adds `s·U·D·x` over the last dimension to y, in the kind of both, and returns what [`Scale::gradients`] needs besides x. Without
    /// a history.
    pub(super) fn add_to(&self, y: &mut Tensor, x: &Tensor) -> Result<Kept> {
        let kind = x.kind();
        let (down, up) = (self.down.leaf.f_to_kind(kind)?, self.up.leaf.f_to_kind(kind)?);
        let mut thin = x.f_linear(&down, None::<&Tensor>)?;
        if self.scale.thin {
            thin = thin.f_mul_scalar(self.scale.s)?;
            add_product(y, &thin, &up.f_tr()?)?;
        } else {
            // Not in place: torch rounds a number to bf16 before it multiplies by it there.
            let _ = y.f_add_(&thin.f_linear(&up, None::<&Tensor>)?.f_mul_scalar(self.scale.s)?)?;
        }
        Ok(Kept { thin, down, up })
    }

    /// D and U.
    pub(super) fn leaves(&self) -> [&Tensor; 2] {
        [&self.down.leaf, &self.up.leaf]
    }

    pub(super) fn share(&self) -> Self {
        Self { down: self.down.share(), up: self.up.share(), scale: self.scale }
    }

    pub(super) fn update(&mut self, grads: [&Tensor; 2], rates: &Rates) -> Result<()> {
        let rule = adamw(rates)?;
        self.down.step(grads[0], rates.factor, &rule)?;
        self.up.step(grads[1], rates.factor, &rule)
    }

    pub(super) fn save(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        self.down.save(&format!("{name}.lora_A.weight"), to)?;
        self.up.save(&format!("{name}.lora_B.weight"), to)
    }

    pub(super) fn load(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        self.down.load(&format!("{name}.lora_A.weight"), from)?;
        self.up.load(&format!("{name}.lora_B.weight"), from)
    }
}

impl Scale {
    /// The gradients of `D·x`, D and U given that of what [`Adapter::add_to`] adds, of x and what it kept.
    pub(super) fn gradients(self, grad: &Tensor, [x, thin, up]: [&Tensor; 3]) -> Result<[Tensor; 3]> {
        let Self { s, thin: early } = self;
        let grad = if early { grad.shallow_clone() } else { grad.f_mul_scalar(s)? };
        let mut of_thin = grad.f_matmul(up)?;
        if early {
            of_thin = of_thin.f_mul_scalar(s)?;
        }
        let of_up = flat(&grad)?.f_tr()?.f_matmul(&flat(thin)?)?.f_to_kind(Kind::Float)?;
        let of_down = flat(&of_thin)?.f_tr()?.f_matmul(&flat(x)?)?.f_to_kind(Kind::Float)?;
        Ok([of_thin, of_down, of_up])
    }

    /// `W + s·U·D`, f32 `[out, in]`, of W in f32 or bf16, D and U; without a history.
    ///
    /// The product is one of f32 also where the decoder computes in bf16: with r columns it costs little more than writing it, and
    /// rounded to bf16 it would move W in jumps, and weights between two levels to another side than elsewhere.
    pub(super) fn sum(self, base: &Tensor, [down, up]: [&Tensor; 2]) -> Result<Tensor> {
        let mut sum = if self.thin {
            up.f_matmul(&down.f_mul_scalar(self.s)?)?
        } else {
            up.f_matmul(down)?.f_mul_scalar_(self.s)?
        };
        Ok(sum.f_add_(base)?)
    }

    /// The gradients of D and U given that of [`Self::sum`], which is used up.
    pub(super) fn gradients_of_sum(self, mut grad: Tensor, [down, up]: [&Tensor; 2]) -> Result<[Tensor; 2]> {
        if !self.thin {
            grad = grad.f_mul_scalar_(self.s)?;
        }
        let (of_down, of_up) = (up.f_tr()?.f_matmul(&grad)?, grad.f_matmul(&down.f_tr()?)?);
        Ok(if self.thin {
            [of_down.f_mul_scalar(self.s)?, of_up.f_mul_scalar(self.s)?]
        } else {
            [of_down, of_up]
        })
    }
}

/// Adds the product of a thin matrix and another one to y, in place and in one pass over y.
pub(super) fn add_product(y: &Tensor, thin: &Tensor, other: &Tensor) -> Result<()> {
    let _ = y.f_view([-1, other.size2()?.1])?.f_addmm_(&flat(thin)?, other)?;
    Ok(())
}

/// `[…, n]` as a matrix.
pub(super) fn flat(t: &Tensor) -> Result<Tensor> {
    Ok(t.f_reshape([-1, *t.size().last().unwrap_or(&1)])?)
}

/// A tensor on the CPU, in f32, of consecutive numbers.
pub(super) fn plain(t: &Tensor) -> Result<Tensor> {
    Ok(t.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?)
}
