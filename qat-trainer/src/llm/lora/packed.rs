//! Matrices that exist as packed codes, with adapters beside them or scales that learn.

use super::adapter::{Adapter, Kept, add_product, flat, plain};
use crate::autograd::fused::packed::{Packed as Codes, dequantise};
use crate::autograd::{closure_node, slice, slice_mut};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::linear::Linear;
use crate::llm::qat::node::{Backend, fused_steps, steps_of};
use crate::llm::qat::parameters::{Parameter, put};
use crate::llm::qat::{Blocks, MatrixQuant};
use crate::llm::quantised::QuantisedMatrix;
use crate::nn::Rates;
use crate::nn::weights::steps as block_steps;
use qat_kernels::pack::{pack, packed_len, unpack};
use qat_kernels::quantizer::F16;
use qat_kernels::ste_simd;
use std::sync::{Arc, Mutex};
use tch::{Device, Kind, Tensor};

/// A quantised matrix: codes in `bits` bits each, every row on a whole number of bytes (see [`qat_kernels::pack`]), α of each
/// block and k of each group.
#[derive(Debug)]
pub struct PackedMatrix {
    quant: MatrixQuant,
    backend: Backend,
    shape: [i64; 2],
    /// `[out, bytes of a row]`.
    codes: Tensor,
    /// `[blocks]`.
    pub(super) alpha: Tensor,
    /// `[groups]`, f32; empty without groups.
    divisors: Tensor,
}

impl PackedMatrix {
    /// Rounds W, `[out, in]`, on fitted steps.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for blocks or groups that do not divide the row; [`ErrorKind::Model`] for weights that are not finite.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// use qat_trainer::llm::PackedMatrix;
    /// use tch::{Kind, Tensor};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let w = Tensor::from_slice(&[0.25f32, -0.75, 0.75, -0.25]).view([1, 4]); // ±½ and ±1½ steps of ½
    /// let matrix = PackedMatrix::fitted(&w, quant)?;
    /// assert!(matrix.weights(Kind::Float)?.equal(&w));
    /// assert!(PackedMatrix::fitted(&w.log(), quant).is_err()); // the logarithms of two are no numbers
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn fitted(weight: &Tensor, quant: MatrixQuant) -> Result<Self> {
        let plain = plain(weight)?;
        let (rows, row) = plain.size2()?;
        let blocks = Blocks::fitted(quant, slice(&plain)?, row as usize, None)?;
        let mut codes = vec![0; plain.numel()];
        ste_simd::quantize(quant.quant.levels, &blocks.steps, slice(&plain)?, &mut codes)?;
        Self::new(quant, [rows, row], &codes, blocks.alpha, blocks.divisors, weight.device())
    }

    /// Packs a quantised form of W, `[out, in]`.
    pub(super) fn of(matrix: &QuantisedMatrix, weight: &Tensor, quant: MatrixQuant) -> Result<Self> {
        let (how, shape) = (matrix.how(), [matrix.rows() as i64, matrix.columns() as i64]);
        if weight.size() != shape {
            let problem = format!("codes of {shape:?} for a matrix of {:?}", weight.size());
            return Err(Error::new(ErrorKind::Model, problem));
        }
        let quant = MatrixQuant { quant: how.quant, block: how.block, ..quant };
        let alpha = matrix.scales().iter().map(|scale| scale.to_f32()).collect();
        Self::new(quant, shape, matrix.codes(), alpha, matrix.divisors().to_vec(), weight.device())
    }

    /// Packs the codes of a matrix of `shape`, row by row, with α of each block and k of each group.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] for numbers of them that do not fit the shape, or a code outside of the grid.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// use qat_trainer::llm::PackedMatrix;
    /// use tch::{Device, Kind};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let new = |codes: &[i8]| PackedMatrix::new(quant, [2, 2], codes, vec![1.0, 4.0], vec![], Device::Cpu);
    /// let weights = new(&[0, 1, -1, -2])?.weights(Kind::Float)?;
    /// assert_eq!(Vec::<f32>::try_from(weights.reshape(-1))?, [0.5, 1.5, -2.0, -6.0]); // α is 1, then 4
    /// assert!(new(&[0, 1, -1]).is_err()); // three codes for four weights
    /// assert!(new(&[0, 1, -1, 2]).is_err()); // 2 bits end at 1
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn new(
        quant: MatrixQuant,
        shape: [i64; 2],
        codes: &[i8],
        alpha: Vec<f32>,
        divisors: Vec<u8>,
        device: Device,
    ) -> Result<Self> {
        let row = shape[1].max(1) as usize;
        let blocks = Blocks::with(quant, row, alpha, divisors)?;
        if codes.len() != blocks.alpha.len() * blocks.len || codes.len() != shape[0] as usize * row {
            let problem =
                format!("{} codes for a matrix of {shape:?} in blocks of {}", codes.len(), blocks.len);
            return Err(Error::new(ErrorKind::Model, problem));
        }
        let bits = quant.quant.levels.bits();
        let bytes = packed_len(row, bits);
        let mut packed = vec![0; bytes * shape[0] as usize];
        for (codes, packed) in codes.chunks(row).zip(packed.chunks_mut(bytes)) {
            pack(bits, codes, packed)?;
        }
        let k: Vec<f32> = blocks.divisors.iter().map(|&k| k.into()).collect();
        Ok(Self {
            quant,
            backend: Backend::on(device),
            shape,
            codes: Tensor::from_slice(&packed).f_reshape([shape[0], bytes as i64])?.f_to_device(device)?,
            alpha: Tensor::from_slice(&blocks.alpha).f_to_device(device)?,
            divisors: Tensor::from_slice(&k).f_to_device(device)?,
        })
    }

    /// The same, unpacked by a backend to compare with others.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// # use tch::{Device, Kind};
    /// use qat_trainer::llm::{Backend, PackedMatrix};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// let new = || PackedMatrix::new(quant, [1, 4], &[-2, -1, 0, 1], vec![0.3], vec![], Device::Cpu);
    /// let by = |backend| new()?.on(backend).weights(Kind::Float);
    /// assert!(by(Backend::Operators)?.equal(&by(Backend::Kernels)?));
    /// let e = by(Backend::Fused).unwrap_err(); // on the CPU
    /// assert!(e.to_string().starts_with("no fused kernels"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn on(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// The weights, `level·Δ`, `[out, in]`: f32, rounded to `kind`.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch refuses, as for a backend that does not compute on the matrix's device.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// # use qat_trainer::llm::PackedMatrix;
    /// # use tch::{Device, Kind};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let quant = MatrixQuant::new(quant);
    /// // The levels ½ and −½ of the step ⅓.
    /// let matrix = PackedMatrix::new(quant, [1, 2], &[0, -1], vec![1.0 / 3.0], vec![], Device::Cpu)?;
    /// let exact = matrix.weights(Kind::Float)?.double_value(&[0, 0]);
    /// assert_eq!(exact, f64::from(0.5 * (1f32 / 3.0)));
    /// let rounded = matrix.weights(Kind::BFloat16)?.double_value(&[0, 0]);
    /// assert_eq!(rounded, 171.0 / 1024.0); // eight significant bits
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn weights(&self, kind: Kind) -> Result<Tensor> {
        self.dequantised(&self.alpha, kind)
    }

    /// Bytes of the codes, of α (4 each) and k (2 bits each).
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::MatrixQuant, spec::WeightQuant};
    /// # use qat_trainer::llm::PackedMatrix;
    /// # use tch::Device;
    /// # let step = StepRule::PiAdaptive { group: 16 };
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step };
    /// let quant = MatrixQuant::new(quant); // an α a row, a k for each 16 weights
    /// let matrix = PackedMatrix::new(quant, [2, 64], &[0; 128], vec![1.0; 2], vec![2; 8], Device::Cpu)?;
    /// assert_eq!(matrix.bytes(), 128 / 4 + 2 * 4 + 8 / 4);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.codes.numel() + 4 * self.alpha.numel() + self.divisors.numel().div_ceil(4)
    }

    /// The codes, with these α rounded to binary16.
    fn quantised(&self, alpha: &Tensor) -> Result<QuantisedMatrix> {
        let [rows, row] = self.shape.map(|size| size as usize);
        let (codes, k) = (self.codes.f_to_device(Device::Cpu)?, plain(&self.divisors)?);
        let mut packed = vec![0u8; codes.numel()];
        codes.f_copy_data_u8(&mut packed, codes.numel())?;
        let mut unpacked = vec![0; rows * row];
        for (codes, packed) in unpacked.chunks_mut(row).zip(packed.chunks(codes.size()[1] as usize)) {
            unpack(self.quant.quant.levels.bits(), packed, codes)?;
        }
        let scales = slice(&plain(alpha)?)?.iter().map(|&alpha| F16::from_scale(alpha)).collect();
        let divisors = slice(&k)?.iter().map(|&k| k as u8).collect();
        QuantisedMatrix::new(self.quant.blocks(), row, unpacked, scales, divisors)
    }

    /// As [`Self::weights`], with these α.
    pub(super) fn dequantised(&self, alpha: &Tensor, kind: Kind) -> Result<Tensor> {
        let weights = tch::no_grad(|| match self.backend {
            Backend::Kernels => self.by_kernels(alpha),
            Backend::Operators => self.by_operators(alpha),
            Backend::Fused => self.by_fused_kernels(alpha, kind),
        })?;
        Ok(weights.f_to_kind(kind)?)
    }

    /// In one pass, to bf16 or f32.
    fn by_fused_kernels(&self, alpha: &Tensor, kind: Kind) -> Result<Tensor> {
        let (row, blocks) = (self.shape[1] as usize, alpha.numel());
        let how = fused_steps(self.quant, self.shape[0] as usize * row / blocks.max(1), blocks)?;
        let (bits, Self { codes, divisors, .. }) = (self.quant.quant.levels.bits(), self);
        let kind = if kind == Kind::BFloat16 { kind } else { Kind::Float };
        dequantise(&how, Codes { bits, row, codes, alpha, divisors }, kind)
    }

    fn by_kernels(&self, alpha: &Tensor) -> Result<Tensor> {
        let (levels, rule) = (self.quant.quant.levels, self.quant.quant.step);
        let [rows, row] = self.shape;
        let mut packed = vec![0u8; self.codes.numel()];
        self.codes.f_copy_data_u8(&mut packed, self.codes.numel())?;
        let (alpha, k) = (slice(alpha)?, slice(&self.divisors)?);
        let blocks = alpha.len() / rows.max(1) as usize;
        let per_block = (k.len() / alpha.len().max(1)).max(1);
        let mut out = Tensor::f_empty([rows, row], (Kind::Float, Device::Cpu))?;
        let (mut codes, mut steps) = (vec![0; row as usize], vec![0.0; blocks * per_block]);
        let rows =
            slice_mut(&mut out)?.chunks_mut(row as usize).zip(packed.chunks(self.codes.size()[1] as usize));
        for (r, (out, packed)) in rows.enumerate() {
            unpack(levels.bits(), packed, &mut codes)?;
            for (b, steps) in steps.chunks_mut(per_block).enumerate() {
                let block = r * blocks + b;
                let k = k.get(block * per_block..(block + 1) * per_block).unwrap_or(&[]);
                let k: Vec<u8> = k.iter().map(|&k| k as u8).collect();
                block_steps(rule, alpha[block], &k, steps)?;
            }
            ste_simd::dequantize(levels, &steps, &codes, out)?;
        }
        Ok(out)
    }

    /// Eight codes lie in as many bytes as a code has bits: they are put together to one integer and cut again.
    fn by_operators(&self, alpha: &Tensor) -> Result<Tensor> {
        let (levels, [rows, row]) = (self.quant.quant.levels, self.shape);
        let (bits, device) = (i64::from(levels.bits()), self.codes.device());
        let short = (-self.codes.size()[1]).rem_euclid(bits);
        let bytes =
            self.codes.f_constant_pad_nd([0, short])?.f_to_kind(Kind::Int64)?.f_reshape([rows, -1, bits])?;
        let places = |count: i64, by: i64| Tensor::f_arange(count, (Kind::Int64, device))?.f_mul_scalar(by);
        let sums = bytes.f_bitwise_left_shift(&places(bits, 8)?)?;
        // The places of different bytes are apart: adding them is putting them side by side, also through the sign.
        let eights = sums.f_sum_dim_intlist([-1i64].as_slice(), true, Kind::Int64)?;
        let fields = eights.f_bitwise_right_shift(&places(8, bits)?)?.f_bitwise_and((1i64 << bits) - 1)?;
        // Two's complement: the upper half of the fields is negative.
        let half = 1i64 << (bits - 1);
        let codes = fields.f_add_scalar(half)?.f_bitwise_and((1i64 << bits) - 1)?.f_sub_scalar(half)?;
        let codes = codes.f_reshape([rows, -1])?.f_narrow(1, 0, row)?.f_to_kind(Kind::Float)?;
        let steps = steps_of(self.quant.quant.step, alpha, &self.divisors)?;
        let level =
            codes.f_add_scalar(f64::from(levels.grid().offset()))?.f_reshape([steps.size()[0], -1])?;
        Ok(level.f_mul(&steps)?.f_reshape([rows, row])?)
    }
}

/// A packed matrix in use: perhaps with adapters, perhaps with scales that learn.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) matrix: Arc<Mutex<PackedMatrix>>,
    adapter: Option<Adapter>,
    scales: Option<Parameter>,
    /// The scales, if they do not learn.
    alpha: Tensor,
    bias: Option<Tensor>,
    compute: Option<Kind>,
    kind: Kind,
    blocks: i64,
}

impl Packed {
    pub(super) fn new(
        matrix: PackedMatrix,
        bias: Option<&Tensor>,
        kind: Kind,
        adapter: Option<Adapter>,
        learns_scales: bool,
    ) -> Result<Self> {
        Ok(Self {
            adapter,
            scales: if learns_scales { Some(Parameter::new(&matrix.alpha)?) } else { None },
            alpha: matrix.alpha.shallow_clone(),
            blocks: matrix.alpha.numel() as i64,
            bias: bias.map(Tensor::shallow_clone),
            compute: matrix.quant.compute,
            kind,
            matrix: Arc::new(Mutex::new(matrix)),
        })
    }

    pub(super) fn alpha(&self) -> &Tensor {
        self.scales.as_ref().map_or(&self.alpha, |scales| &scales.leaf)
    }

    fn dequantised(&self, kind: Kind) -> Result<Tensor> {
        locked(&self.matrix)?.dequantised(&self.alpha().f_detach()?, kind)
    }

    /// y of x, and of the same in the kind that products are computed in; and what the adapter keeps. Without a history; what
    /// is added is added in place, since y of a wide layer is the largest tensor here.
    fn output(&self, x: &Tensor, wide: &Tensor) -> Result<(Tensor, Option<Kept>)> {
        let mut y = wide.f_linear(&self.dequantised(wide.kind())?, None::<&Tensor>)?.f_to_kind(x.kind())?;
        let kept = self.adapter.as_ref().map(|adapter| adapter.add_to(&mut y, x)).transpose()?;
        if let Some(bias) = &self.bias {
            y = y.f_add_(bias)?;
        }
        Ok((y, kept))
    }
}

pub(super) fn locked(matrix: &Mutex<PackedMatrix>) -> Result<std::sync::MutexGuard<'_, PackedMatrix>> {
    matrix.lock().map_err(|_| Error::new(ErrorKind::Train, "an earlier pass failed"))
}

/// The gradient of log α of each block given that of the matrix: `∂(level·Δ)/∂ log α = level·Δ`.
fn of_log_alpha(of_matrix: &Tensor, matrix: &Tensor, blocks: i64) -> Result<Tensor> {
    let terms = of_matrix.f_to_kind(Kind::Float)?.f_mul(matrix)?.f_reshape([blocks, -1])?;
    Ok(terms.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?)
}

impl Linear for Packed {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let compute = self.compute.unwrap_or(x.kind());
        let wide = x.f_to_kind(compute)?;
        let (y, kept) = tch::no_grad(|| self.output(x, &wide))?;
        let (matrix, blocks, alpha) = (self.matrix.clone(), self.blocks, self.alpha());
        let (learns, needed) = (self.scales.is_some(), x.requires_grad());
        let scale = self.adapter.as_ref().map(|adapter| adapter.scale);
        let thin_first = scale.is_some_and(|scale| scale.thin);
        // The node keeps its input, for what learns here, and the codes, and never the matrix.
        let (input, wide_input) = (x.f_detach()?, wide.f_detach()?);
        let (mut inputs, mut saved) = (vec![&wide, alpha], vec![alpha]);
        saved.extend(Some(&wide_input).filter(|_| learns));
        if let (Some(adapter), Some(kept)) = (&self.adapter, &kept) {
            let [down, up] = adapter.leaves();
            inputs.splice(..0, [x, down, up]);
            saved.push(&input);
            saved.extend(kept.tensors());
        }
        closure_node(y, &inputs, &saved, move |grad, saved| {
            let lost = || Error::new(ErrorKind::Train, "what the layer kept is lost");
            let (alpha, rest) = saved.split_first().ok_or_else(lost)?;
            let (wide, rest) = rest.split_at_checked(usize::from(learns)).ok_or_else(lost)?;
            let (mut grads, mut through) = (Vec::new(), None);
            if let (Some(scale), [x, thin, down, up]) = (scale, rest) {
                let [of_thin, of_down, of_up] = scale.gradients(grad, [x, thin, up])?;
                grads.extend([None, Some(of_down), Some(of_up)]);
                through = Some((of_thin, down)).filter(|_| needed);
            }
            let same_kind = grad.f_kind()? == compute;
            let grad = grad.f_to_kind(compute)?;
            let kind = if learns { Kind::Float } else { compute };
            let w_hat = locked(&matrix)?.dequantised(&alpha.f_detach()?, kind)?;
            let of_x = if needed { Some(grad.f_matmul(&w_hat.f_to_kind(compute)?)?) } else { None };
            match (&of_x, through) {
                // One tensor of the size of x in place of two.
                (Some(of_x), Some((of_thin, down))) if thin_first && same_kind => {
                    add_product(of_x, &of_thin, down)?;
                }
                (_, Some((of_thin, down))) => grads[0] = Some(of_thin.f_matmul(down)?),
                _ => {}
            }
            grads.push(of_x);
            grads.push(match wide {
                [x] => Some(of_log_alpha(&flat(&grad)?.f_tr()?.f_matmul(&flat(x)?)?, &w_hat, blocks)?),
                _ => None,
            });
            Ok(grads)
        })
    }

    fn weight(&self) -> Result<Tensor> {
        let mut w = self.dequantised(Kind::Float)?;
        if let Some(scales) = &self.scales {
            let (kept, blocks) = (w.shallow_clone(), self.blocks);
            w = closure_node(w.copy(), &[&scales.leaf], &[&kept], move |grad, saved| {
                Ok(vec![Some(of_log_alpha(grad, &saved[0], blocks)?)])
            })?;
        }
        let w = match &self.adapter {
            Some(adapter) => w.f_add(&adapter.matrix()?)?,
            None => w,
        };
        Ok(w.f_to_kind(self.kind)?)
    }

    fn quantised(&self) -> Result<Option<QuantisedMatrix>> {
        locked(&self.matrix)?.quantised(self.alpha()).map(Some)
    }

    fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    fn leaves(&self) -> Vec<&Tensor> {
        let adapter = self.adapter.iter().flat_map(Adapter::leaves);
        adapter.chain(self.scales.as_ref().map(|scales| &scales.leaf)).collect()
    }

    fn share(&self) -> Box<dyn Linear> {
        Box::new(Self {
            matrix: self.matrix.clone(),
            adapter: self.adapter.as_ref().map(Adapter::share),
            scales: self.scales.as_ref().map(Parameter::share),
            alpha: self.alpha.shallow_clone(),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            ..*self
        })
    }

    fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()> {
        if grads.len() != self.leaves().len() {
            let problem = format!("{} gradients for {} parameters", grads.len(), self.leaves().len());
            return Err(Error::new(ErrorKind::Train, problem));
        }
        let mut rest = grads;
        if let (Some(adapter), [down, up, others @ ..]) = (&mut self.adapter, grads) {
            adapter.update([down, up], rates)?;
            rest = others;
        }
        match (&mut self.scales, rest) {
            (Some(scales), [grad]) => scales.step_scale(grad, rates.factor, &rates.scales),
            _ => Ok(()),
        }
    }

    fn save_state(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        if let Some(adapter) = &self.adapter {
            adapter.save(name, to)?;
        }
        if let Some(scales) = &self.scales {
            scales.save(&format!("{name}.alpha"), to)?;
            put(&format!("{name}.divisors"), &locked(&self.matrix)?.divisors, to)?;
        }
        Ok(())
    }

    fn load_state(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        if let Some(adapter) = &mut self.adapter {
            adapter.load(name, from)?;
        }
        self.scales.as_mut().map_or(Ok(()), |scales| scales.load(&format!("{name}.alpha"), from))
    }
}
