//! A matrix as codes, with the steps that make weights of them: what quantisation leaves, training starts from and files hold.

mod file;

pub use file::{read_codes, write_codes};

use crate::error::{Error, ErrorKind, Result};
use crate::spec::WeightQuant;
use qat_kernels::config::StepRule;
use qat_kernels::pi_step;
use qat_kernels::quantizer::{
    AdaptivePiQuantizer, DifferentiableQuantizer, F16, GroupQuantizer, PiQuantDifferentiable,
    QuantizerSettings, fit_adaptive, fit_step,
};
use rayon::prelude::*;
use std::f32::consts::PI;

/// Bits of an α or step beside the codes: binary16.
const SCALE_BITS: f64 = 16.0;
/// Bits of the divisor of a group.
const DIVISOR_BITS: f64 = 2.0;

/// How a matrix is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockQuant {
    /// Bits, grid and step rule.
    pub quant: WeightQuant,
    /// Consecutive weights of a row that share one α (s of uniform steps). `None`: the whole row.
    pub block: Option<usize>,
}

impl BlockQuant {
    /// The length of a block in rows of `columns`.
    ///
    /// # Errors
    /// [`ErrorKind::Spec`] for blocks that do not divide the row, or groups that are not 8, 16 or 32 or do not divide a block.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// use qat_trainer::{llm::BlockQuant, spec::WeightQuant};
    /// let step = StepRule::PiAdaptive { group: 16 };
    /// let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step };
    /// let rows = BlockQuant { quant, block: None };
    /// assert_eq!(rows.block(576), Ok(576)); // one α for the whole row
    /// let e = BlockQuant { block: Some(100), ..rows }.block(576).unwrap_err();
    /// assert!(e.to_string().starts_with("blocks of 100 do not divide rows of 576; "), "{e}");
    /// let e = BlockQuant { block: Some(24), ..rows }.block(576).unwrap_err();
    /// assert!(e.to_string().starts_with("groups of 16 do not divide blocks of 24; "), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn block(&self, columns: usize) -> Result<usize> {
        let refuse = |problem| {
            Err(Error::new(ErrorKind::Spec, problem)
                .remedy("use groups of 8, 16 or 32 and blocks that hold whole groups and divide the rows"))
        };
        let block = self.block.unwrap_or(columns);
        if block == 0 || columns == 0 || !columns.is_multiple_of(block) {
            return refuse(format!("blocks of {block} do not divide rows of {columns}"));
        }
        match self.group() {
            Some(group) if !matches!(group, 8 | 16 | 32) => refuse(format!("no groups of {group}")),
            Some(group) if !block.is_multiple_of(group) => {
                refuse(format!("groups of {group} do not divide blocks of {block}"))
            }
            _ => Ok(block),
        }
    }

    /// Weights that share a divisor, where divisors vary.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::BlockQuant, spec::WeightQuant};
    /// # let levels = Levels::new(2, Grid::MidRise)?;
    /// let with = |step| BlockQuant { quant: WeightQuant { levels, step }, block: Some(64) };
    /// let divisors = |how: BlockQuant| how.group().map(|group| 64 / group); // in a block
    /// assert_eq!(divisors(with(StepRule::PiAdaptive { group: 16 })), Some(4));
    /// assert_eq!(divisors(with(StepRule::Pi { k: 4 })), None); // one k for all
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub const fn group(&self) -> Option<usize> {
        match self.quant.step {
            StepRule::PiAdaptive { group } => Some(group),
            StepRule::Uniform | StepRule::Pi { .. } => None,
        }
    }

    /// Mean bits of a weight in rows of `columns`: the code, its share of a binary16 α or step, and of the 2 bits of a divisor.
    ///
    /// # Errors
    /// As [`Self::block`].
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::BlockQuant, spec::WeightQuant};
    /// # let levels = Levels::new(2, Grid::MidRise)?;
    /// let quant = WeightQuant { levels, step: StepRule::PiAdaptive { group: 16 } };
    /// let how = BlockQuant { quant, block: Some(64) };
    /// assert_eq!(how.bits(576), Ok(2.0 + 2.0 / 16.0 + 16.0 / 64.0));
    /// // An α for a whole row costs next to nothing.
    /// assert_eq!(BlockQuant { block: None, ..how }.bits(576), Ok(2.0 + 2.0 / 16.0 + 16.0 / 576.0));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn bits(&self, columns: usize) -> Result<f64> {
        let divisors = self.group().map_or(0.0, |group| DIVISOR_BITS / group as f64);
        Ok(f64::from(self.quant.levels.bits()) + divisors + SCALE_BITS / self.block(columns)? as f64)
    }

    /// Finds α (or s), in binary16, and the divisors of a block with the least `Σ hᵢ·(wᵢ − ŵᵢ)²`; h = 1 without an importance.
    /// `divisors`: one for each group, none where they do not vary.
    ///
    /// # Errors
    /// Those of [`fit_step`] and [`fit_adaptive`].
    pub(super) fn fit(
        &self,
        weights: &[f32],
        importance: Option<&[f32]>,
        divisors: &mut [u8],
    ) -> Result<F16> {
        let levels = self.quant.levels;
        Ok(F16::from_scale(match self.quant.step {
            StepRule::Uniform => fit_step(levels, weights, importance)?,
            StepRule::Pi { k } => fit_step(levels, weights, importance)? * f32::from(k) / PI,
            StepRule::PiAdaptive { group } => fit_adaptive(levels, group, weights, importance, divisors)?,
        }))
    }

    /// The step of the weights that `scale` and, where divisors vary, `divisor` belong to.
    ///
    /// # Errors
    /// Those of [`pi_step`].
    pub(super) fn step(&self, scale: F16, divisor: Option<u8>) -> Result<f32> {
        let scale = scale.to_f32();
        Ok(match (self.quant.step, divisor) {
            (StepRule::Uniform, _) => scale,
            (StepRule::Pi { k }, _) => pi_step(scale, k)?,
            (StepRule::PiAdaptive { .. }, k) => pi_step(scale, k.unwrap_or(0))?,
        })
    }
}

/// A quantised matrix: every weight is `level(code)·Δ`, Δ from the α (or s) of its block and the divisor of its group.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantisedMatrix {
    how: BlockQuant,
    columns: usize,
    codes: Vec<i8>,
    scales: Vec<F16>,
    divisors: Vec<u8>,
}

impl QuantisedMatrix {
    /// A matrix of rows of `columns` codes, row by row, with an α (or s) for each block and, where they vary, a divisor
    /// for each group, in the same order.
    ///
    /// # Errors
    /// As [`BlockQuant::block`]; [`ErrorKind::Model`] for slices that do not fit each other, codes outside the grid, steps that are
    /// not positive and finite, and divisors other than 2 to 5.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::spec::WeightQuant;
    /// use qat_kernels::quantizer::F16;
    /// use qat_trainer::llm::{BlockQuant, QuantisedMatrix};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// let how = BlockQuant { quant, block: Some(2) }; // levels ±½ and ±1½, a step for each two weights
    /// let steps = [0.5, 0.5, 1.0, 2.0].map(F16::from_f32).to_vec();
    /// let matrix = QuantisedMatrix::new(how, 4, vec![1, 0, -1, -2, 0, 0, -1, 1], steps, vec![])?;
    /// assert_eq!(matrix.dequantise()?, [0.75, 0.25, -0.25, -0.75, 0.5, 0.5, -1.0, 3.0]);
    /// let e = QuantisedMatrix::new(how, 2, vec![0, 2], vec![F16::ONE], vec![]).unwrap_err();
    /// assert!(e.to_string().starts_with("code 1 is 2, outside of the grid"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn new(
        how: BlockQuant,
        columns: usize,
        codes: Vec<i8>,
        scales: Vec<F16>,
        divisors: Vec<u8>,
    ) -> Result<Self> {
        let block = how.block(columns)?;
        let groups = how.group().map_or(0, |group| codes.len() / group);
        let wrong = |problem: String| Err(Error::new(ErrorKind::Model, problem));
        if codes.is_empty() || !codes.len().is_multiple_of(columns) {
            return wrong(format!("{} codes are no rows of {columns}", codes.len()));
        }
        if scales.len() != codes.len() / block || divisors.len() != groups {
            return wrong(format!(
                "{} codes in blocks of {block} with {} scales and {} divisors",
                codes.len(),
                scales.len(),
                divisors.len()
            ));
        }
        let levels = how.quant.levels;
        if let Some(i) = codes.iter().position(|&q| !(levels.lo()..=levels.hi()).contains(&q.into())) {
            return wrong(format!("code {i} is {}, outside of the grid", codes[i]));
        }
        let this = Self { how, columns, codes, scales, divisors };
        let _checked = this.quantiser().map_err(|e| Error::new(ErrorKind::Model, e.to_string()))?;
        Ok(this)
    }

    /// Quantises rows of `columns` weights to the nearest levels, each block with the step of the least squared error;
    /// `importance`, if given, weighs the columns, see [`fit_step`].
    ///
    /// # Errors
    /// As [`BlockQuant::block`]; [`ErrorKind::Model`] for weights that are not finite or no whole rows.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::spec::WeightQuant;
    /// use qat_trainer::llm::{BlockQuant, QuantisedMatrix};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = BlockQuant { quant, block: None };
    /// // The rows lie on the levels of the steps ½ and 2.
    /// let mut weights = [0.25, -0.75, 0.75, -0.25, 1.0, 3.0, -3.0, -1.0];
    /// let matrix = QuantisedMatrix::fit(how, &weights, 4, None)?;
    /// assert_eq!(matrix.codes(), [0, -2, 1, -1, 0, 1, -2, -1]);
    /// assert_eq!(matrix.dequantise()?, weights);
    /// weights[6] = f32::NAN;
    /// let e = QuantisedMatrix::fit(how, &weights, 4, None).unwrap_err();
    /// assert_eq!(e.to_string(), "weight 6 is NaN");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn fit(how: BlockQuant, weights: &[f32], columns: usize, importance: Option<&[f32]>) -> Result<Self> {
        check_finite(weights)?;
        let block = how.block(columns)?;
        let groups = how.group().map_or(0, |group| block / group);
        let fitted = weights
            .par_chunks(block)
            .enumerate()
            .map(|(i, weights)| {
                let start = i % (columns / block) * block;
                let importance = importance.and_then(|h| h.get(start..start + block));
                let mut divisors = vec![0; groups];
                Ok((how.fit(weights, importance, &mut divisors)?, divisors))
            })
            .collect::<Result<Vec<_>>>()?;
        let (scales, divisors): (Vec<F16>, Vec<Vec<u8>>) = fitted.into_iter().unzip();
        let codes = vec![0; weights.len()];
        let mut this = Self::new(how, columns, codes, scales, divisors.concat())?;
        let mut codes = std::mem::take(&mut this.codes);
        this.quantiser()?.quantize(weights, &mut codes)?;
        Ok(Self { codes, ..this })
    }

    /// How it is quantised.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{BlockQuant, QuantisedMatrix}, spec::WeightQuant};
    /// # let quant = WeightQuant { levels: Levels::new(3, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = BlockQuant { quant, block: Some(32) };
    /// # let matrix = QuantisedMatrix::fit(how, &[0.5; 64], 64, None)?;
    /// // A matrix of 3-bit codes, with a step for each 32 of them.
    /// let bits = matrix.how().bits(matrix.columns())?;
    /// assert_eq!(bits * matrix.codes().len() as f64 / 8.0, 24.0 + 2.0 * 2.0); // bytes: codes and two steps
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub const fn how(&self) -> BlockQuant {
        self.how
    }

    /// Rows.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{BlockQuant, QuantisedMatrix}, spec::WeightQuant};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = BlockQuant { quant, block: None };
    /// # let weights = [0.1; 12];
    /// let matrix = QuantisedMatrix::fit(how, &weights, 4, None)?; // of 12 weights, four a row
    /// assert_eq!(matrix.rows(), 3);
    /// assert_eq!(matrix.scales().len(), matrix.rows()); // a step for each row here
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn rows(&self) -> usize {
        self.codes.len() / self.columns
    }

    /// Weights of a row.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{BlockQuant, QuantisedMatrix}, spec::WeightQuant};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = BlockQuant { quant, block: None };
    /// let weights = [-3.0, -1.0, 1.0, 3.0, 1.0, 1.0, 3.0, -3.0];
    /// let matrix = QuantisedMatrix::fit(how, &weights, 4, None)?;
    /// let last = matrix.codes().chunks(matrix.columns()).last(); // the last row
    /// assert_eq!(last, Some(&[0, 0, 1, -2][..]));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// The codes, row by row.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{BlockQuant, QuantisedMatrix}, spec::WeightQuant};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = BlockQuant { quant, block: None };
    /// let matrix = QuantisedMatrix::fit(how, &[-3.0, -1.0, 1.0, 3.0], 4, None)?;
    /// assert_eq!(matrix.codes(), [-2, -1, 0, 1]); // the step is 2
    /// let mut packed = [0];
    /// qat_kernels::pack::pack(2, matrix.codes(), &mut packed)?;
    /// assert_eq!(packed, [0b01_00_11_10]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// α (or s) of each block, row by row.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::spec::WeightQuant;
    /// use qat_kernels::quantizer::F16;
    /// use qat_trainer::llm::{BlockQuant, QuantisedMatrix};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// let how = BlockQuant { quant, block: Some(2) };
    /// let matrix = QuantisedMatrix::fit(how, &[0.25, -0.75, 1.0, 3.0], 4, None)?; // ½ and 1½ steps twice
    /// assert_eq!(matrix.scales(), [0.5, 2.0].map(F16::from_f32));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn scales(&self) -> &[F16] {
        &self.scales
    }

    /// k of each group, row by row; empty where it does not vary.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::spec::WeightQuant;
    /// # use qat_kernels::{pi_step, quantizer::F16};
    /// use qat_trainer::llm::{BlockQuant, QuantisedMatrix};
    /// # let levels = Levels::new(2, Grid::MidRise)?;
    /// # let mut row = [0.0; 16];
    /// # for (i, w) in row.iter_mut().enumerate() {
    /// #     *w = levels.dequantize(i as i32 % 4 - 2, pi_step(1.0, if i < 8 { 2 } else { 5 })?);
    /// # }
    /// let quant = WeightQuant { levels, step: StepRule::PiAdaptive { group: 8 } };
    /// // A row of eight weights on the levels of the step π/2, and eight on those of π/5.
    /// let matrix = QuantisedMatrix::fit(BlockQuant { quant, block: None }, &row, 16, None)?;
    /// assert_eq!((matrix.divisors(), matrix.scales()), (&[2, 5][..], &[F16::ONE][..]));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn divisors(&self) -> &[u8] {
        &self.divisors
    }

    /// The quantiser of qat-kernels with these steps; it covers the matrix row by row.
    ///
    /// # Errors
    /// Those of its constructor, which [`Self::new`] has ruled out.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_kernels::quantizer::F16;
    /// # use qat_trainer::{llm::{BlockQuant, QuantisedMatrix}, spec::WeightQuant};
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = BlockQuant { quant, block: None };
    /// // Other weights on the same step, ½.
    /// let matrix = QuantisedMatrix::new(how, 4, vec![0; 4], vec![F16::from_f32(0.5)], vec![])?;
    /// let mut codes = [0; 4];
    /// matrix.quantiser()?.quantize(&[0.3, 0.9, -9.0, -0.1], &mut codes)?;
    /// assert_eq!(codes, [0, 1, -2, -1]); // level − ½; −9 is clamped to −1½ steps
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn quantiser(&self) -> Result<Box<dyn DifferentiableQuantizer>> {
        let settings = QuantizerSettings::new(self.how.quant.levels);
        let alphas = || self.scales.iter().map(|scale| scale.to_f32()).collect::<Vec<f32>>();
        Ok(match self.how.quant.step {
            StepRule::Uniform => Box::new(GroupQuantizer::new(settings, self.scales.clone())?),
            StepRule::Pi { k } => Box::new(PiQuantDifferentiable::new(settings, k, alphas())?),
            StepRule::PiAdaptive { group } => {
                Box::new(AdaptivePiQuantizer::new(settings, group, alphas(), self.divisors.clone())?)
            }
        })
    }

    /// The weights, row by row: qat-kernels' arithmetic, bit for bit.
    ///
    /// # Errors
    /// As [`Self::quantiser`].
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_kernels::{pi_step, quantizer::F16};
    /// # use qat_trainer::{llm::{BlockQuant, QuantisedMatrix}, spec::WeightQuant};
    /// let quant = WeightQuant { levels: Levels::new(2, Grid::MidTread)?, step: StepRule::Pi { k: 4 } };
    /// let how = BlockQuant { quant, block: None };
    /// let matrix = QuantisedMatrix::new(how, 4, vec![-2, -1, 0, 1], vec![F16::ONE], vec![])?;
    /// let step = pi_step(1.0, 4)?; // α is 1: the step is π/4
    /// assert_eq!(matrix.dequantise()?, [-2.0 * step, -step, 0.0, step]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn dequantise(&self) -> Result<Vec<f32>> {
        let mut weights = vec![0.0; self.codes.len()];
        self.quantiser()?.dequantize(&self.codes, &mut weights)?;
        Ok(weights)
    }

    /// The weights as a model in bf16 holds them: each the nearest there is, ties to even.
    ///
    /// # Errors
    /// As [`Self::quantiser`].
    pub(crate) fn dequantise_bf16(&self) -> Result<Vec<f32>> {
        let mut weights = self.dequantise()?;
        for weight in &mut weights {
            let bits = weight.to_bits();
            let up = 0x7fff + (bits >> 16 & 1);
            *weight = f32::from_bits(bits.wrapping_add(up) & 0xffff_0000);
        }
        Ok(weights)
    }
}

/// Refuses the first weight that is NaN or infinite.
pub(super) fn check_finite(weights: &[f32]) -> Result<()> {
    match weights.iter().position(|w| !w.is_finite()) {
        Some(i) => Err(Error::new(ErrorKind::Model, format!("weight {i} is {}", weights[i]))),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::random::{Purpose, Random};
    use qat_kernels::{Grid, Levels};

    pub(in crate::llm) fn how(bits: u8, grid: Grid, step: StepRule, block: usize) -> BlockQuant {
        BlockQuant {
            quant: WeightQuant { levels: Levels::new(bits, grid).unwrap(), step },
            block: Some(block),
        }
    }

    /// Generated weights.
    pub(in crate::llm) fn weights(count: usize) -> Vec<f32> {
        let mut random = Random::new(7, Purpose::Weights(0));
        (0..count).map(|_| 0.1 * random.normal()).collect()
    }

    pub(in crate::llm) const RULES: [StepRule; 3] =
        [StepRule::Uniform, StepRule::Pi { k: 4 }, StepRule::PiAdaptive { group: 16 }];

    #[test]
    fn weights_are_those_of_the_kernels_quantisers() {
        let weights = weights(5 * 64);
        for step in RULES {
            for (bits, grid) in [(2, Grid::MidRise), (3, Grid::MidTread), (4, Grid::MidRise)] {
                let matrix = QuantisedMatrix::fit(how(bits, grid, step, 32), &weights, 64, None).unwrap();
                assert_eq!((matrix.rows(), matrix.columns(), matrix.scales().len()), (5, 64, 10));
                let nearest = matrix.quantiser().unwrap().forward_vec(&weights).unwrap();
                assert_eq!(matrix.dequantise().unwrap(), nearest);
                // As an engine would have it, weight by weight.
                for (i, &w) in nearest.iter().enumerate() {
                    let divisor = matrix.divisors().get(i / 16).copied();
                    let step = matrix.how().step(matrix.scales()[i / 32], divisor).unwrap();
                    assert_eq!(w, matrix.how().quant.levels.dequantize(matrix.codes()[i].into(), step));
                }
            }
        }
    }

    #[test]
    fn the_importance_of_a_column_draws_levels_to_its_weights() {
        let weights = weights(8 * 32);
        let mut importance = vec![1.0; 32];
        importance[5] = 1e4;
        for step in RULES {
            let error = |importance| -> f32 {
                let how = how(2, Grid::MidRise, step, 32);
                let w = QuantisedMatrix::fit(how, &weights, 32, importance).unwrap().dequantise().unwrap();
                w.chunks(32).zip(weights.chunks(32)).map(|(a, b)| (a[5] - b[5]).powi(2)).sum()
            };
            assert!(error(Some(&importance)) < 0.05 * error(None), "{step:?}");
        }
    }

    #[test]
    fn bits_count_everything_beside_the_codes() {
        let adaptive = how(3, Grid::MidRise, StepRule::PiAdaptive { group: 16 }, 64);
        assert_eq!(adaptive.bits(128), Ok(3.0 + 2.0 / 16.0 + 16.0 / 64.0));
        assert_eq!(BlockQuant { block: None, ..adaptive }.bits(128), Ok(3.0 + 2.0 / 16.0 + 16.0 / 128.0));
        assert_eq!(how(2, Grid::MidRise, StepRule::Uniform, 32).bits(64), Ok(2.5));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let adaptive = how(2, Grid::MidRise, StepRule::PiAdaptive { group: 16 }, 32);
        let new = |codes: Vec<i8>, scales, divisors| {
            QuantisedMatrix::new(adaptive, 32, codes, vec![F16::ONE; scales], divisors)
                .map_err(|e| e.to_string())
        };
        assert!(new(vec![0; 64], 2, vec![2; 4]).is_ok());
        for (bad, why) in [
            (new(vec![0; 40], 2, vec![2; 4]), "no rows of 32"),
            (new(vec![], 0, vec![]), "no rows of 32"),
            (new(vec![0; 64], 1, vec![2; 4]), "with 1 scales"),
            (new(vec![0; 64], 2, vec![2; 3]), "and 3 divisors"),
            (new(vec![2; 64], 2, vec![2; 4]), "code 0 is 2"),
            (new(vec![0; 64], 2, vec![2, 6, 2, 2]), "6"),
        ] {
            let e = bad.unwrap_err();
            assert!(e.contains(why), "{e}");
        }
        let refused = |how: BlockQuant| how.block(64).unwrap_err().to_string();
        assert!(refused(BlockQuant { block: Some(48), ..adaptive }).contains("blocks of 48"));
        assert!(refused(BlockQuant { block: Some(0), ..adaptive }).contains("blocks of 0"));
        assert!(
            refused(how(2, Grid::MidRise, StepRule::PiAdaptive { group: 16 }, 8)).contains("groups of 16")
        );
        assert!(
            refused(how(2, Grid::MidRise, StepRule::PiAdaptive { group: 12 }, 64)).contains("groups of 12")
        );
        let mut weights = weights(64);
        weights[40] = f32::NAN;
        let e = QuantisedMatrix::fit(adaptive, &weights, 32, None).unwrap_err();
        assert!(e.to_string().contains("weight 40 is NaN"), "{e}");
    }
}
