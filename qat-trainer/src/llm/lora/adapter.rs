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
    /// s.
    scale: f64,
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
            scale: f64::from(settings.alpha) / r as f64,
        })
    }

    /// `s·U·D`, `[out, in]`.
    pub(super) fn matrix(&self) -> Result<Tensor> {
        Ok(self.up.leaf.f_matmul(&self.down.leaf)?.f_mul_scalar(self.scale)?)
    }

    /// `s·U·D·x` over the last dimension, in the kind of x.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let kind = x.kind();
        let [down, up] = [&self.down.leaf, &self.up.leaf].map(|t| t.f_to_kind(kind));
        let thin = x.f_linear(&down?, None::<&Tensor>)?;
        Ok(thin.f_linear(&up?, None::<&Tensor>)?.f_mul_scalar(self.scale)?)
    }

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

/// A tensor on the CPU, in f32, of consecutive numbers.
pub(super) fn plain(t: &Tensor) -> Result<Tensor> {
    Ok(t.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?)
}
