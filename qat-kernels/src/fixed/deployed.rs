//! From the last layer of a `.piq` file to a layer in training, in integers.

use super::head::{Head, HeadBuffers};
use super::q::{Fixed, Q32};
use super::quantize::{FixedQuantizer, same_length};
use super::word::{Word, scale_i128};
use crate::error::{Error, Result, What};
use crate::grid::Levels;
use crate::infer::LastLinear;

impl<'a, W: Word, const F: u32> Head<'a, W, F> {
    /// The last layer of a deployed model: its steps `α·π/k` (which the file keeps in the multipliers), weights in the
    /// middle of their cells, and biases.
    ///
    /// # Errors
    /// As [`Self::new`]; [`Error::Range`] (of [`What::Steps`]) if the format is too narrow or too coarse for the layer's
    /// steps: the codes would not survive.
    ///
    /// ```
    /// # #[cfg(feature = "alloc")] {
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
    /// use qat_kernels::fixed::{Head, HeadBuffers, Q32};
    /// use qat_kernels::infer::Model;
    /// # let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 2], scale: 1.0 / 128.0, zero_point: 0 });
    /// # let levels = qat_kernels::Levels::new(2, qat_kernels::Grid::MidRise)?;
    /// # let layer = Weights { levels, codes: &[1, -2, -1, 0], steps: Steps::PerChannel(&[0.5, 0.25]) };
    /// # b.linear(b.input(), &layer, &[0.0, 0.75], Output::new(0.125, 0))?;
    /// # let file = b.finish(&Metadata::default(), &[])?;
    /// // A file with two classes of two features, whose codes are 1, −2 and −1, 0 and whose steps are ½ and ¼.
    /// let model = Model::parse(&file)?;
    /// let buffers = HeadBuffers {
    ///     steps: &mut [Q32::<20>::default(); 2],
    ///     // …
    /// #     weights: &mut [Q32::default(); 4], codes: &mut [0; 4], bias: &mut [Q32::default(); 2],
    /// #     logits: &mut [Q32::default(); 2], gradient: &mut [Q32::default(); 2],
    /// };
    /// let mut head = Head::from_layer(&model.last_linear()?, buffers)?;
    /// assert_eq!([0, 1, 2, 3].map(|i| head.weights()[i].to_f32()), [0.75, -0.75, -0.125, 0.125]);
    /// assert_eq!(head.bias()[1].to_f32(), 0.75);
    /// assert_eq!(head.predict(&[64, 0])?, 1); // ½·0.75 against ½·(−0.125) + 0.75
    /// # }
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn from_layer(layer: &LastLinear<'_>, buffers: HeadBuffers<'a, W, F>) -> Result<Self> {
        let (features, group) = (layer.features(), layer.group());
        same_length(What::Weights, layer.classes().saturating_mul(features), buffers.weights.len())?;
        same_length(What::Bias, layer.classes(), buffers.bias.len())?;
        let groups = features.checked_div(group).unwrap_or(0).max(1);
        same_length(What::Steps, layer.classes().saturating_mul(groups), buffers.steps.len())?;

        let missing = Error::Unsupported { what: What::Weights };
        let rows =
            buffers.weights.chunks_exact_mut(features.max(1)).zip(buffers.steps.chunks_exact_mut(groups));
        for (class, ((row, steps), bias)) in rows.zip(buffers.bias.iter_mut()).enumerate() {
            let unit = LogitUnit::of(layer, class).ok_or(missing)?;
            // Σ m_g·(2·level), which the bias of the file holds times −z.
            let mut sum = 0_i64;
            for (g, (weights, step)) in row.chunks_exact_mut(group.max(1)).zip(steps).enumerate() {
                let factor = layer.factor(class, g).ok_or(missing)?;
                // The file's unit is 2·level and x, ours level and x/128.
                *step = Fixed::saturating_from_raw(unit.times(i64::from(factor) * 256, F));
                let quantizer = FixedQuantizer::new(layer.levels(), *step)?;
                for (i, w) in weights.iter_mut().enumerate() {
                    let code = layer.code(class, g * group + i).ok_or(missing)?;
                    *w = quantizer.dequantize(code);
                    if quantizer.quantize(*w) != code {
                        return Err(step_out_of_range(*step, layer.levels()));
                    }
                    sum += i64::from(factor) * i64::from(layer.levels().twice_level(code.into()));
                }
            }
            let folded = i64::from(layer.bias(class).ok_or(missing)?);
            *bias = Q32::saturating_from_raw(unit.times(folded + i64::from(layer.zero_point()) * sum, 20));
        }
        Self::new(layer.levels(), group, layer.zero_point(), buffers)
    }
}

fn step_out_of_range<W: Word, const F: u32>(step: Fixed<W, F>, levels: Levels) -> Error {
    // The largest level, 2^(b−1), has to fit times the step; and half a step must not round away.
    let max = W::MAX.to_i64() >> (levels.bits() - 1);
    Error::Range {
        what: What::Steps,
        value: step.to_f32(),
        min: Fixed::<W, F>::saturating_from_raw(2).to_f32(),
        max: Fixed::<W, F>::saturating_from_raw(max).to_f32(),
    }
}

/// What one unit of an accumulator of the file is in logits: `s_y·M/2^n`, exactly, as `mantissa · 2^exponent`.
struct LogitUnit {
    mantissa: i128,
    exponent: i32,
}

impl LogitUnit {
    fn of(layer: &LastLinear<'_>, class: usize) -> Option<Self> {
        // The scale is a positive normal number; its parts are taken from its bits.
        let bits = layer.output_scale_bits();
        let significand = i128::from((bits & 0x7f_ffff) | 0x80_0000);
        let exponent = (bits >> 23 & 0xff) as i32 - 150 - i32::from(layer.shift());
        Some(Self { mantissa: significand * i128::from(layer.multiplier(class)?), exponent })
    }

    /// `factor` units as a raw word with `places` places, rounded once. The mantissa has 55 bits and the factor fewer than
    /// 42, so the product is exact.
    fn times(&self, factor: i64, places: u32) -> i64 {
        scale_i128(self.mantissa * i128::from(factor), self.exponent + places as i32)
    }
}

#[cfg(test)]
#[cfg(feature = "alloc")]
mod tests {
    use super::*;
    use crate::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
    use crate::fixed::head::Memory;
    use crate::grid::Grid;
    use crate::infer::Model;

    fn file(steps: Steps<'_>) -> Vec<u8> {
        let codes: Vec<i8> = (0..48).map(|i| (i * 5 % 4 - 2) as i8).collect();
        let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 16], scale: 0.05, zero_point: -100 });
        let weights = Weights { levels: Levels::new(2, Grid::MidRise).unwrap(), codes: &codes, steps };
        b.linear(b.input(), &weights, &[0.5, -2.0, 0.0], Output::new(0.125, 3)).unwrap();
        b.finish(&Metadata::default(), &[]).unwrap()
    }

    #[test]
    fn a_deployed_layer_gives_the_engines_logits() {
        let adaptive = Steps::PiAdaptive { alpha: &[0.3, 0.2, 0.4], divisors: &[2, 3, 4, 5, 2, 5], group: 8 };
        for (steps, groups) in [(adaptive, 2), (Steps::PerChannel(&[0.3, 0.11, 0.2]), 1)] {
            let file = file(steps);
            let model = Model::parse(&file).unwrap();
            let layer = model.last_linear().unwrap();
            let mut memory = Memory::<i32, 20>::new(3, 16, 16 / groups, Q32::MAX);
            let mut head = Head::from_layer(&layer, memory.buffers()).unwrap();
            for seed in 0..40_i32 {
                let x: Vec<i8> = (0..16).map(|i| ((seed * 37 + i * 91) % 256 - 128) as i8).collect();
                let (mut out, mut arena) = ([0; 3], vec![0; model.arena_len()]);
                assert_eq!(model.features(&x, &mut out, &mut arena).unwrap(), x);
                for (logit, y) in head.logits(&x).unwrap().iter().zip(out) {
                    // The engine rounds to 1/8; the steps' own rounding adds 16·1.5·2^−21 and the like.
                    let engine = (f32::from(y) - 3.0) * 0.125;
                    let ours = logit.to_f32().clamp(-131.0 * 0.125, 124.0 * 0.125);
                    assert!((ours - engine).abs() <= 0.0626, "{ours} {engine}");
                }
            }
            let codes: Vec<i8> = (0..48).map(|i| layer.code(i / 16, i % 16).unwrap()).collect();
            assert_eq!(head.codes(), codes);
        }
    }

    #[test]
    fn a_format_that_cannot_hold_the_steps_is_refused() {
        let file = file(Steps::PerChannel(&[0.3, 0.11, 0.2]));
        let model = Model::parse(&file).unwrap();
        let layer = model.last_linear().unwrap();
        let mut memory = Memory::<i16, 15>::new(3, 16, 16, Fixed::MAX);
        let e = Head::from_layer(&layer, memory.buffers()).err();
        assert!(matches!(e, Some(Error::Range { what: What::Steps, .. })), "{e:?}");
        let mut memory = Memory::<i16, 12>::new(3, 16, 8, Fixed::MAX);
        let e = Head::from_layer(&layer, memory.buffers()).err();
        assert_eq!(e, Some(Error::Length { what: What::Steps, expected: 3, got: 6 }));
    }
}
