//! On-device adaptation: the last linear layer of a deployed classifier, trained in integers on the caller's slices.

use super::q::{Fixed, Q32};
use super::quantize::{FixedQuantizer, same_length};
use super::sgd::Sgd;
use super::softmax::cross_entropy_gradient;
use super::ste::FixedSte;
use super::word::{Wide, Word, scale};
use crate::crc32::Crc32;
use crate::error::{Error, Result, What};
use crate::grid::Levels;
use crate::ste::LsqMask;

/// The most features a layer can have, so that sums of 8-bit levels times activations stay in 32 bits.
pub const MAX_FEATURES: usize = 1 << 15;

/// Memory of a [`Head`], for `classes × features` weights in rows.
///
/// ```
/// use qat_kernels::{Grid, Levels, fixed::{Head, HeadBuffers, Q16, Q32}};
/// const CLASSES: usize = 10;
/// const WEIGHTS: usize = CLASSES * 64; // of 64 features
/// let buffers = HeadBuffers::<i16, 12> {
///     steps: &mut [Q16::from_ratio(1, 8); WEIGHTS / 16], // sixteen weights share one
///     weights: &mut [Q16::default(); WEIGHTS],
///     codes: &mut [0; WEIGHTS],
///     bias: &mut [Q32::default(); CLASSES],
///     logits: &mut [Q32::default(); CLASSES],
///     gradient: &mut [Q32::default(); CLASSES],
/// };
/// let head = Head::new(Levels::new(4, Grid::MidTread)?, 16, -128, buffers)?;
/// assert!(head.codes().iter().all(|&code| code == 0)); // the weights' so far
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct HeadBuffers<'a, W: Word, const F: u32> {
    /// Steps, `classes × features/group`, in logits per 128 feature steps.
    pub steps: &'a mut [Fixed<W, F>],
    /// Shadow weights, `classes × features`, in the unit of the steps.
    pub weights: &'a mut [Fixed<W, F>],
    /// Their codes, `classes × features`.
    pub codes: &'a mut [i8],
    /// Biases, `classes`, in logits.
    pub bias: &'a mut [Q32<20>],
    /// Scratch: logits, `classes`.
    pub logits: &'a mut [Q32<16>],
    /// Scratch: gradients of the logits, `classes`.
    pub gradient: &'a mut [Q32<30>],
}

/// How a [`Head`] learns.
///
/// ```
/// use qat_kernels::fixed::{Adaptation, FixedSte, Q32};
/// let careful = Adaptation::<i32, 24> { rate: Q32::from_ratio(1, 64), ..Adaptation::default() };
/// assert_eq!((careful.bias_rate.to_f32(), careful.floor.to_f32()), (1.0 / 4.0, 1.0 / 128.0));
/// assert_eq!(careful.ste, FixedSte::LearnedStepSize);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptation<W: Word, const F: u32> {
    /// η_w, relative to the square of U; in (0, 2).
    pub rate: Q32<30>,
    /// η_b, in (0, 2).
    pub bias_rate: Q32<30>,
    /// Classes whose probability is off by less are left alone: most of them, most of the time.
    pub floor: Q32<30>,
    /// The estimator that carries gradients from codes to weights.
    pub ste: FixedSte<W, F>,
}

impl<W: Word, const F: u32> Default for Adaptation<W, F> {
    /// η_w = ⅛, η_b = ¼, floor 1/128, LSQ.
    fn default() -> Self {
        Self {
            rate: Q32::from_raw(1 << 27),
            bias_rate: Q32::from_raw(1 << 28),
            floor: Q32::from_raw(1 << 23),
            ste: FixedSte::LearnedStepSize,
        }
    }
}

impl<W: Word, const F: u32> Adaptation<W, F> {
    /// The same with rates that have fallen linearly, `η·(total − done)/total`, but not to zero.
    ///
    /// ```
    /// use qat_kernels::fixed::Adaptation;
    /// let how = Adaptation::<i16, 12>::default(); // η_w = ⅛
    /// assert_eq!([0, 10, 20, 30].map(|done| how.decayed(done, 40).rate.to_f32() * 32.0), [4.0, 3.0, 2.0, 1.0]);
    /// assert_eq!(how.decayed(40, 40).rate.raw(), 1); // a rate of 0 would be refused
    /// ```
    #[must_use]
    pub fn decayed(self, done: u32, total: u32) -> Self {
        let left = i64::from(total.saturating_sub(done));
        let fallen = |rate: Q32<30>| {
            Q32::saturating_from_raw((i64::from(rate.raw()) * left).divide(i64::from(total.max(1))).max(1))
        };
        Self { rate: fallen(self.rate), bias_rate: fallen(self.bias_rate), ..self }
    }
}

/// A linear layer in training.
///
/// The layer keeps shadow weights in a Q-format; inference sees their codes. One labelled sample at a time:
///
/// ```text
/// l_c = Σ_i level(q_ci)·Δ_cg·f_i + b_c        f_i = (x_i − z)/128, the engine's int8 activation
/// e   = softmax(l) − onehot(label)            classes with |e_c| < floor are left alone
/// w_ci ← w_ci − η_w·U_cg²·STE(e_c·f_i)        b_c ← b_c − η_b·e_c        q_ci ← quantise(w_ci)
/// ```
///
/// U is a quarter of the weights' range, `2^(bits−2)·Δ`, the step of a two-bit layer: measured in U, every weight moves
/// equally fast, whatever the scale and the bits of the model.
///
/// Both choices below were measured on Letter features under four generated shifts (two-bit layer of 26 × 64, 2,000
/// samples, one pass): cross-entropy ended one to five points of accuracy above the perceptron rule, each at its best
/// rates, and rates that fall to zero ([`Adaptation::decayed`]) up to ten points above constant ones, with which the last
/// few samples decide on which side of a boundary a weight ends.
///
/// ```
/// use qat_kernels::fixed::{Adaptation, Head, HeadBuffers, Q16, Q32};
/// use qat_kernels::{Grid, Levels};
/// // Two classes, two features: class 0 where the first feature is larger.
/// let (mut steps, mut weights, mut codes) = ([Q16::<12>::from_ratio(1, 1); 2], [Q16::from_raw(1); 4], [0; 4]);
/// let (mut bias, mut logits, mut gradient) = ([Q32::default(); 2], [Q32::default(); 2], [Q32::default(); 2]);
/// let mut head = Head::new(Levels::new(2, Grid::MidRise)?, 2, 0, HeadBuffers {
///     steps: &mut steps,
///     weights: &mut weights,
///     codes: &mut codes,
///     bias: &mut bias,
///     logits: &mut logits,
///     gradient: &mut gradient,
/// })?;
/// let samples = [([100, 20], 0), ([10, 90], 1), ([80, 30], 0), ([40, 120], 1)];
/// for round in 0..20 {
///     for (features, label) in samples {
///         head.learn(&Adaptation::default().decayed(round, 20), &features, label)?;
///     }
/// }
/// assert_eq!([head.predict(&[120, 5])?, head.predict(&[5, 120])?], [0, 1]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Head<'a, W: Word, const F: u32> {
    levels: Levels,
    features: usize,
    group: usize,
    zero_point: i8,
    buffers: HeadBuffers<'a, W, F>,
}

impl<'a, W: Word, const F: u32> Head<'a, W, F> {
    /// A layer whose steps, weights and biases are in the buffers; the codes are filled in. `group` weights of a row share
    /// a step (all of them: `features`), `zero_point` is the feature that stands for 0.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::NotDivisible`] or [`Error::Length`] for buffers that do not fit each other;
    /// [`Error::Capacity`] beyond [`MAX_FEATURES`]; [`Error::NotPositive`] for the first step that is not positive.
    ///
    /// ```
    /// use qat_kernels::{Error, Grid, Levels, What, fixed::{Head, HeadBuffers, Q16, Q32}};
    /// let buffers = HeadBuffers::<i16, 12> {
    ///     steps: &mut [Q16::from_ratio(1, 1), Q16::default()],
    ///     // …
    /// #     weights: &mut [Q16::default(); 4], codes: &mut [0; 4], bias: &mut [Q32::default(); 2],
    /// #     logits: &mut [Q32::default(); 2], gradient: &mut [Q32::default(); 2],
    /// };
    /// let e = Error::NotPositive { what: What::Steps, index: 1, value: 0.0 };
    /// assert_eq!(Head::new(Levels::new(2, Grid::MidRise)?, 2, 0, buffers).err(), Some(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(levels: Levels, group: usize, zero_point: i8, buffers: HeadBuffers<'a, W, F>) -> Result<Self> {
        let (weights, classes) = (buffers.weights.len(), buffers.bias.len());
        for (what, len, by) in [(What::Bias, weights, classes), (What::Group, weights, group)] {
            if by == 0 {
                return Err(Error::Empty { what });
            }
            if !len.is_multiple_of(by) {
                return Err(Error::NotDivisible { what: What::Weights, len, by });
            }
        }
        let features = weights.checked_div(classes).unwrap_or(0);
        if features == 0 {
            return Err(Error::Empty { what: What::Weights });
        }
        if features > MAX_FEATURES {
            return Err(Error::Capacity { what: What::Weights, capacity: MAX_FEATURES });
        }
        if !features.is_multiple_of(group) {
            return Err(Error::NotDivisible { what: What::Group, len: features, by: group });
        }
        same_length(What::Steps, weights.checked_div(group).unwrap_or(0), buffers.steps.len())?;
        same_length(What::Codes, weights, buffers.codes.len())?;
        same_length(What::Output, classes, buffers.logits.len())?;
        same_length(What::Gradient, classes, buffers.gradient.len())?;
        if let Some((index, step)) = buffers.steps.iter().enumerate().find(|(_, s)| **s <= Fixed::default()) {
            return Err(Error::NotPositive { what: What::Steps, index, value: step.to_f32() });
        }
        let mut head = Self { levels, features, group, zero_point, buffers };
        head.requantize()?;
        Ok(head)
    }

    fn requantize(&mut self) -> Result<()> {
        let rows = self.buffers.weights.chunks_exact(self.group.max(1));
        let codes = self.buffers.codes.chunks_exact_mut(self.group.max(1));
        for ((weights, codes), &step) in rows.zip(codes).zip(&*self.buffers.steps) {
            FixedQuantizer::new(self.levels, step)?.quantize_slice(weights, codes)?;
        }
        Ok(())
    }

    /// The logits of a sample. Error: 2^−17 + 2^−17 for the sum and the bias.
    ///
    /// # Errors
    /// [`Error::Length`] unless there is one feature per input of the layer.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{Head, HeadBuffers, Q16, Q32}};
    /// # let buffers = HeadBuffers::<i16, 12> {
    /// #     steps: &mut [Q16::from_ratio(1, 1); 2], weights: &mut [3, -3, -1, 1].map(|w| Q16::from_ratio(w, 2)),
    /// #     codes: &mut [0; 4], bias: &mut [Q32::default(); 2],
    /// #     logits: &mut [Q32::default(); 2], gradient: &mut [Q32::default(); 2],
    /// # };
    /// # let mut head = Head::new(Levels::new(2, Grid::MidRise)?, 2, 0, buffers)?;
    /// // Levels 1½, −1½ and −½, ½ at a step of 1; features of 64/128 and −64/128.
    /// let logits = head.logits(&[64, -64])?;
    /// assert_eq!([logits[0], logits[1]].map(Q32::to_f32), [1.5, -0.5]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn logits(&mut self, features: &[i8]) -> Result<&[Q32<16>]> {
        same_length(What::Input, self.features, features.len())?;
        let groups = (self.features / self.group.max(1)).max(1);
        let rows = self.buffers.codes.chunks_exact(self.features.max(1));
        let rows = rows.zip(self.buffers.steps.chunks_exact(groups)).zip(&*self.buffers.bias);
        for (logit, ((codes, steps), bias)) in self.buffers.logits.iter_mut().zip(rows) {
            // |Σ 2·level·x| ≤ 2^8·255·2^15 < 2^31 over the whole row, times a step below 2^31.
            let mut sum = 0_i64;
            let parts = codes.chunks_exact(self.group.max(1)).zip(features.chunks_exact(self.group.max(1)));
            for ((codes, features), step) in parts.zip(steps) {
                let dot = codes.iter().zip(features).fold(0_i32, |dot, (&q, &x)| {
                    dot + self.levels.twice_level(q.into()) * (i32::from(x) - i32::from(self.zero_point))
                });
                sum += i64::from(dot) * step.raw().to_i64();
            }
            // Twice the level, and features over 128: F + 8 places.
            let sum = scale(sum, 16 - 8 - F as i32);
            *logit = Q32::saturating_from_raw(sum.saturating_add(bias.convert::<i32, 16>().raw().into()));
        }
        Ok(self.buffers.logits)
    }

    /// The class with the largest logit, the first among equals.
    ///
    /// # Errors
    /// As [`Self::logits`].
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{Head, HeadBuffers, Q16, Q32}};
    /// # let buffers = HeadBuffers::<i16, 12> {
    /// #     steps: &mut [Q16::from_ratio(1, 1); 2], weights: &mut [3, -3, -1, 1].map(|w| Q16::from_ratio(w, 2)),
    /// #     codes: &mut [0; 4], bias: &mut [Q32::default(); 2],
    /// #     logits: &mut [Q32::default(); 2], gradient: &mut [Q32::default(); 2],
    /// # };
    /// # let mut head = Head::new(Levels::new(2, Grid::MidRise)?, 2, 0, buffers)?;
    /// // Levels 1½, −1½ and −½, ½: the first class where the first feature is larger.
    /// assert_eq!([head.predict(&[9, 5])?, head.predict(&[5, 9])?], [0, 1]);
    /// assert_eq!(head.predict(&[7, 7])?, 0); // both logits are 0
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn predict(&mut self, features: &[i8]) -> Result<usize> {
        let mut best = (0, Q32::MIN);
        for (class, &logit) in self.logits(features)?.iter().enumerate() {
            if logit > best.1 {
                best = (class, logit);
            }
        }
        Ok(best.0)
    }

    /// Learns from one labelled sample. Returns what the layer took it for before.
    ///
    /// # Errors
    /// [`Error::Length`] as [`Self::logits`]; [`Error::Code`] for a label that is no class; [`Error::NotPositive`] or
    /// [`Error::Range`] for settings that [`Sgd::new`] or [`FixedSte::validate`] refuse. Nothing has changed then.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{Adaptation, Head, HeadBuffers, Q16, Q32}};
    /// # let buffers = HeadBuffers::<i16, 12> {
    /// #     steps: &mut [Q16::from_ratio(1, 1); 2], weights: &mut [3, -3, -1, 1].map(|w| Q16::from_ratio(w, 2)),
    /// #     codes: &mut [0; 4], bias: &mut [Q32::default(); 2],
    /// #     logits: &mut [Q32::default(); 2], gradient: &mut [Q32::default(); 2],
    /// # };
    /// # let mut head = Head::new(Levels::new(2, Grid::MidRise)?, 2, 0, buffers)?;
    /// // Features of 0: the biases decide, which are both 0.
    /// assert_eq!(head.learn(&Adaptation::default(), &[0, 0], 1)?, 0); // not yet
    /// assert_eq!([head.bias()[0], head.bias()[1]].map(Q32::to_f32), [-0.125, 0.125]); // ¼ of ½
    /// assert_eq!(head.predict(&[0, 0])?, 1);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn learn(&mut self, how: &Adaptation<W, F>, features: &[i8], label: usize) -> Result<usize> {
        let sgd = |rate| Sgd::new(rate, Q32::default());
        let bias_sgd = sgd(how.bias_rate)?;
        sgd(how.rate)?;
        how.ste.validate()?;
        let guess = self.predict(features)?;
        let b = &mut self.buffers;
        cross_entropy_gradient(b.logits, label, b.gradient)?;

        let (width, group) = (self.features.max(1), self.group.max(1));
        let groups = (width / group).max(1);
        let rows = b.weights.chunks_exact_mut(width).zip(b.codes.chunks_exact_mut(width));
        let rows = rows.zip(b.steps.chunks_exact(groups)).zip(b.bias.iter_mut()).zip(&*b.gradient);
        for ((((weights, codes), steps), bias), &error) in rows {
            if error.saturating_abs() < how.floor {
                continue;
            }
            *bias = bias_sgd.updated(*bias, error);
            let parts = weights.chunks_exact_mut(group).zip(codes.chunks_exact_mut(group));
            for (((weights, codes), features), &step) in parts.zip(features.chunks_exact(group)).zip(steps) {
                let quantizer = FixedQuantizer::new(self.levels, step)?;
                let unit = quarter_range(step, self.levels);
                let rate = how.rate.saturating_mul(unit).saturating_mul(unit);
                let sgd = sgd(rate.max(Q32::from_raw(1)))?;
                for ((w, q), &x) in weights.iter_mut().zip(codes).zip(features) {
                    // In (−2, 2): |e| ≤ 1 and |x − z| ≤ 255.
                    let feature = i64::from(x) - i64::from(self.zero_point);
                    let g = Q32::<30>::saturating_from_raw((i64::from(error.raw()) * feature).shift_right(7));
                    *w = sgd.updated(*w, how.ste.backward(&quantizer, LsqMask::Exact, *w, g));
                    *q = quantizer.quantize(*w);
                }
            }
        }
        Ok(guess)
    }

    /// The shadow weights, in rows of one class.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{Adaptation, Head, HeadBuffers, Q16, Q32}};
    /// # let buffers = HeadBuffers::<i16, 12> {
    /// #     steps: &mut [Q16::from_ratio(1, 1); 2], weights: &mut [3, -3, -1, 1].map(|w| Q16::from_ratio(w, 2)),
    /// #     codes: &mut [0; 4], bias: &mut [Q32::default(); 2],
    /// #     logits: &mut [Q32::default(); 2], gradient: &mut [Q32::default(); 2],
    /// # };
    /// # let mut head = Head::new(Levels::new(2, Grid::MidRise)?, 2, 0, buffers)?;
    /// // Level 1½ made class 0 too likely. A step of ⅛·e·½ with e < 1 lowers it, but not to another code.
    /// head.learn(&Adaptation::default(), &[64, 0], 1)?;
    /// let w = head.weights()[0];
    /// assert!(w < Q16::from_ratio(3, 2) && w > Q16::from_ratio(23, 16));
    /// assert_eq!(head.codes()[0], 1);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn weights(&self) -> &[Fixed<W, F>] {
        self.buffers.weights
    }

    /// The codes of the weights: what a model file would hold.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{Head, HeadBuffers, Q16, Q32}};
    /// # let buffers = HeadBuffers::<i16, 12> {
    /// #     steps: &mut [Q16::from_ratio(1, 1); 2], weights: &mut [3, -3, -1, 1].map(|w| Q16::from_ratio(w, 2)),
    /// #     codes: &mut [0; 4], bias: &mut [Q32::default(); 2],
    /// #     logits: &mut [Q32::default(); 2], gradient: &mut [Q32::default(); 2],
    /// # };
    /// # let mut head = Head::new(Levels::new(2, Grid::MidRise)?, 2, 0, buffers)?;
    /// let mut row = [0; 1];
    /// qat_kernels::pack::pack(2, &head.codes()[..2], &mut row)?;
    /// assert_eq!(row, [0b10_01]); // levels 1½ and −1½ are codes 1 and −2
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn codes(&self) -> &[i8] {
        self.buffers.codes
    }

    /// CRC-32 of all that was learned, the words of the shadow weights and then the biases, little-endian: equal on two
    /// machines exactly if they learned the same.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{Adaptation, Head, HeadBuffers, Q16, Q32}};
    /// # let buffers = HeadBuffers::<i16, 12> {
    /// #     steps: &mut [Q16::from_ratio(1, 1); 2], weights: &mut [3, -3, -1, 1].map(|w| Q16::from_ratio(w, 2)),
    /// #     codes: &mut [0; 4], bias: &mut [Q32::default(); 2],
    /// #     logits: &mut [Q32::default(); 2], gradient: &mut [Q32::default(); 2],
    /// # };
    /// # let mut head = Head::new(Levels::new(2, Grid::MidRise)?, 2, 0, buffers)?;
    /// let before = head.digest();
    /// head.predict(&[64, 0])?;
    /// assert_eq!(head.digest(), before);
    /// head.learn(&Adaptation::default(), &[64, 0], 1)?;
    /// assert_ne!(head.digest(), before); // although no code has changed
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn digest(&self) -> u32 {
        let mut crc = Crc32::new();
        for w in &*self.buffers.weights {
            let bytes = w.raw().to_i64().to_le_bytes();
            crc.update(bytes.get(..(W::BITS / 8) as usize).unwrap_or(&bytes));
        }
        for b in &*self.buffers.bias {
            crc.update(&b.raw().to_le_bytes());
        }
        crc.finish()
    }

    /// The biases.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, fixed::{Adaptation, Head, HeadBuffers, Q16, Q32}};
    /// # let buffers = HeadBuffers::<i16, 12> {
    /// #     steps: &mut [Q16::from_ratio(1, 1); 2], weights: &mut [3, -3, -1, 1].map(|w| Q16::from_ratio(w, 2)),
    /// #     codes: &mut [0; 4], bias: &mut [Q32::default(); 2],
    /// #     logits: &mut [Q32::default(); 2], gradient: &mut [Q32::default(); 2],
    /// # };
    /// # let mut head = Head::new(Levels::new(2, Grid::MidRise)?, 2, 0, buffers)?;
    /// head.learn(&Adaptation::default(), &[0, 0], 0)?;
    /// // What one class gains, the others lose: the gradients add up to 0.
    /// assert_eq!(head.bias()[0], head.bias()[1].saturating_neg());
    /// assert!(head.bias()[0] > Q32::default());
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn bias(&self) -> &[Q32<20>] {
        self.buffers.bias
    }
}

/// U, a quarter of the range of a step's weights.
fn quarter_range<W: Word, const F: u32>(step: Fixed<W, F>, levels: Levels) -> Q32<20> {
    Q32::saturating_from_raw(scale(step.raw().to_i64(), 20 - F as i32 + i32::from(levels.bits()) - 2))
}

/// The memory of a head, owned.
#[cfg(test)]
pub(super) struct Memory<W: Word, const F: u32> {
    pub(super) steps: Vec<Fixed<W, F>>,
    pub(super) weights: Vec<Fixed<W, F>>,
    pub(super) codes: Vec<i8>,
    pub(super) bias: Vec<Q32<20>>,
    pub(super) logits: Vec<Q32<16>>,
    pub(super) gradient: Vec<Q32<30>>,
}

#[cfg(test)]
impl<W: Word, const F: u32> Memory<W, F> {
    pub(super) fn new(classes: usize, features: usize, group: usize, step: Fixed<W, F>) -> Self {
        Self {
            steps: vec![step; classes * features / group],
            weights: vec![Fixed::default(); classes * features],
            codes: vec![0; classes * features],
            bias: vec![Q32::default(); classes],
            logits: vec![Q32::default(); classes],
            gradient: vec![Q32::default(); classes],
        }
    }

    pub(super) fn buffers(&mut self) -> HeadBuffers<'_, W, F> {
        HeadBuffers {
            steps: &mut self.steps,
            weights: &mut self.weights,
            codes: &mut self.codes,
            bias: &mut self.bias,
            logits: &mut self.logits,
            gradient: &mut self.gradient,
        }
    }
}

#[cfg(test)]
mod tests;
