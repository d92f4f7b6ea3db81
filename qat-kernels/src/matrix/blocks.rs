//! Packed matrices with a scale for every block of a row, times vectors of f32.

mod loops;
#[cfg(test)]
mod tests;

use super::rows::Rows;
use super::{check_length, formats};
use crate::arch::Backend;
use crate::config::{StepRule, check_group};
use crate::error::{Error, Result, What};
use crate::grid::{Grid, Levels};
use crate::pack::packed_len;
use core::f32::consts::PI;
use core::ops::Range;
use loops::{Load, Multiply};

/// Activations that share a scale.
pub const ACTIVATION_BLOCK: usize = 32;
/// Bytes of a step of 16 numbers in f32, the most that a backend takes at once.
const STEP: usize = 64;
/// Vectors that are multiplied at once, at most.
const LANES: usize = 8;

/// A matrix of packed weights `level·Δ`, borrowed, Δ from a binary16 of each block of a row and, where k varies, the divisor
/// of each group: what [`pack`](crate::pack), [`F16`](crate::quantizer::F16) and
/// [`pack_divisors`](crate::quantizer::pack_divisors) write.
///
/// # Arithmetic
///
/// The activations of a vector are rounded to int8, each run of [`ACTIVATION_BLOCK`] with the scale `a = max|x|/127` in f32:
/// `x̂ = round(x·(127/max|x|))`, ties to even, within ±127; 0 where the quotient is not finite, all being 0 or next to it. Then, for each
/// *unit* u of 16 (2 bits), 8 (3 and 4 bits) or 4 neighbouring columns (5 to 8 bits),
///
/// ```text
/// n_u = Σ_i 2·level_i·x̂_i                                an integer, exact
/// t_u = (n_u·a)·(α·m)                                     α of u's block, m = 60/k of its group or 1; α·m is exact
/// s_j = t_j + t_(j+16) + t_(j+32) + …                     one after the other, j = 0 … 15
/// y   = (((s_0+s_8)+(s_4+s_12)) + ((s_2+s_10)+(s_6+s_14)) + (((s_1+s_9)+(s_5+s_13)) + ((s_3+s_11)+(s_7+s_15))))·c
/// ```
///
/// in f32, every operation rounded by itself; c is ½ of uniform steps, π/(2k) of a fixed k and π/120 where k varies. So the
/// result is the same on every backend, and does not depend on how rows and vectors are shared out.
///
/// ```
/// use qat_kernels::StepRule;
/// use qat_kernels::quantizer::F16;
/// use qat_kernels::{Grid, Levels, matrix::BlockMatrix, pack};
///
/// // One row of 32 weights ½, in two blocks of 16 with the steps 1 and 2.
/// let mut codes = [0; 8];
/// pack::pack(2, &[0; 32], &mut codes)?;
/// let scales = [1.0, 2.0].map(|s| F16::from_f32(s).to_bits().to_le_bytes());
/// let levels = Levels::new(2, Grid::MidRise)?;
/// let matrix = BlockMatrix::new(levels, StepRule::Uniform, 32, 16, &codes, scales.as_flattened(), &[])?;
///
/// let mut buffer = [0; 2048];
/// let x = matrix.load(&[127.0; 32], buffer.get_mut(..matrix.loaded_len(1)).unwrap_or_default())?;
/// let mut y = [0.0];
/// matrix.multiply(&x, 0..1, &mut y)?;
/// assert_eq!(y, [127.0 * (16.0 * 0.5 + 16.0 * 1.0)]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BlockMatrix<'a> {
    count: usize,
    rows: Rows<'a>,
    levels: Levels,
    scales: &'a [u8],
    /// Bytes from a row's scales to those of the next one.
    scale_stride: usize,
    /// The binary logarithm of the units of a block; one that no row reaches where a block is a row.
    log: u32,
    factor: f32,
    backend: Backend,
}

/// Vectors of activations, rounded and in the order of a matrix' codes: made by [`BlockMatrix::load`], for every matrix with the
/// same levels and columns.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    bytes: &'a [u8],
    levels: Levels,
    columns: usize,
    vectors: usize,
    backend: Backend,
}

impl Activations<'_> {
    /// Number of vectors.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, StepRule, matrix::BlockMatrix, quantizer::F16};
    /// # let scales = [F16::from_f32(1.0).to_bits().to_le_bytes(); 1];
    /// # let (levels, scales) = (Levels::new(4, Grid::MidTread)?, scales.as_flattened());
    /// let codes = [0x11; 4]; // a row of eight weights 1
    /// let matrix = BlockMatrix::new(levels, StepRule::Uniform, 8, 8, &codes, scales, &[])?;
    /// let mut buffer = vec![0; matrix.loaded_len(3)];
    /// let x = matrix.load(&[0.0; 3 * 8], &mut buffer)?;
    /// let mut y = vec![f32::NAN; matrix.rows() * x.vectors()];
    /// matrix.multiply(&x, 0..1, &mut y)?;
    /// assert_eq!(y, [0.0; 3]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn vectors(&self) -> usize {
        self.vectors
    }
}

/// Neighbouring columns of a unit.
const fn unit(bits: u8) -> usize {
    4 * formats::planes(bits)
}

impl<'a> BlockMatrix<'a> {
    /// A matrix of rows of `columns` weights, in blocks of `block` that share a scale. `codes`:
    /// [`packed_len`]`(columns, bits)` bytes a row; `scales`: α (s of uniform steps) of each block, a little-endian binary16,
    /// positive and finite (which is not looked at: others give numbers without meaning); `divisors`: k − 2 of each group
    /// in 2 bits, [`packed_len`]`(columns / group, 2)` bytes a row, empty where k is fixed.
    ///
    /// # Errors
    /// [`Error::NotDivisible`] of [`What::Columns`] by the block, of [`What::Steps`] (the block) by the unit or the group,
    /// and of [`What::Group`] if it is no whole number of units; [`Error::Group`] if it is not 8, 16 or 32; [`Error::Range`] of [`What::Steps`] for a
    /// block that is neither the row nor a power of two; [`Error::Divisor`]; [`Error::Length`] of [`What::Packed`],
    /// [`What::Steps`] and [`What::Divisors`]; [`Error::Empty`] without columns.
    ///
    /// ```
    /// use core::f32::consts::PI;
    /// # use qat_kernels::{Error, Grid, Levels, StepRule, What, matrix::BlockMatrix, quantizer::F16};
    /// // A row of 16 codes 1 in one block with α = 1, k = 2 for the first eight and 5 for the others.
    /// let (levels, adaptive) = (Levels::new(4, Grid::MidTread)?, StepRule::PiAdaptive { group: 8 });
    /// let (codes, alpha, divisors) = ([0x11; 8], F16::ONE.to_bits().to_le_bytes(), [0b11_00]);
    /// let matrix = BlockMatrix::new(levels, adaptive, 16, 16, &codes, &alpha, &divisors)?;
    /// let (mut buffer, mut y) = (vec![0; matrix.loaded_len(1)], [0.0]);
    /// matrix.multiply(&matrix.load(&[1.0; 16], &mut buffer)?, 0..1, &mut y)?;
    /// assert!((y[0] - 8.0 * (PI / 2.0 + PI / 5.0)).abs() < 1e-4);
    ///
    /// let fours = BlockMatrix::new(levels, StepRule::Uniform, 16, 4, &codes, &alpha, &[]);
    /// let e = Error::NotDivisible { what: What::Steps, len: 4, by: 8 }; // no whole unit
    /// assert_eq!(fours.err(), Some(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(
        levels: Levels,
        step: StepRule,
        columns: usize,
        block: usize,
        codes: &'a [u8],
        scales: &'a [u8],
        divisors: &'a [u8],
    ) -> Result<Self> {
        if columns == 0 || block == 0 {
            return Err(Error::Empty { what: What::Columns });
        }
        let unit = unit(levels.bits());
        whole(What::Columns, columns, block)?;
        whole(What::Steps, block, unit)?;
        let log = match block.checked_div(unit).unwrap_or(0) {
            _ if block == columns => u32::BITS - 1,
            units if units.is_power_of_two() => units.ilog2(),
            _ => {
                let (value, max) = (block as f32, columns as f32);
                return Err(Error::Range { what: What::Steps, value, min: unit as f32, max });
            }
        };
        let stride = packed_len(columns, levels.bits());
        whole(What::Packed, codes.len(), stride)?;
        let count = codes.len().checked_div(stride).unwrap_or(0);
        let scale_stride = columns.checked_div(block).unwrap_or(0).saturating_mul(2);
        check_length(What::Steps, count.saturating_mul(scale_stride), scales.len())?;
        let mut rows = Rows::packed(levels.bits(), levels.grid() == Grid::MidRise, columns, codes);
        let mut of_divisors = 0;
        let factor = match step {
            StepRule::Uniform => 0.5,
            StepRule::Pi { k: k @ 2..=5 } => PI / f32::from(2 * k),
            StepRule::Pi { k } => return Err(Error::Divisor { k }),
            StepRule::PiAdaptive { group } => {
                check_group(group)?;
                whole(What::Group, group, unit)?;
                whole(What::Steps, block, group)?;
                of_divisors = packed_len(columns / group, 2).saturating_mul(count);
                let none = Error::Empty { what: What::Group };
                rows = rows.with_divisors(group, divisors).ok_or(none)?;
                PI / 120.0
            }
        };
        check_length(What::Divisors, of_divisors, divisors.len())?;
        let backend = Backend::best();
        Ok(Self { count, rows, levels, scales, scale_stride, log, factor, backend })
    }

    /// The same matrix, multiplied on `backend` instead of [`Backend::best`].
    ///
    /// ```
    /// # use qat_kernels::arch::Backend;
    /// # use qat_kernels::{Grid, Levels, StepRule, matrix::BlockMatrix, quantizer::F16};
    /// # let scales = [F16::from_f32(0.5).to_bits().to_le_bytes(); 1];
    /// # let (levels, scales) = (Levels::new(4, Grid::MidTread)?, scales.as_flattened());
    /// let codes = [0x22; 4]; // a row of eight codes 2, in steps of ½
    /// let matrix = BlockMatrix::new(levels, StepRule::Uniform, 8, 8, &codes, scales, &[])?;
    /// for backend in Backend::available() {
    ///     let matrix = matrix.on(backend);
    ///     let (mut buffer, mut y) = (vec![0; matrix.loaded_len(1)], [0.0]);
    ///     let x = matrix.load(&[127.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], &mut buffer)?; // for this backend
    ///     matrix.multiply(&x, 0..1, &mut y)?;
    ///     assert_eq!(y, [126.0]);
    /// }
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn on(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// Number of rows.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, StepRule, matrix::BlockMatrix, quantizer::F16};
    /// # let scales = [F16::from_f32(1.0).to_bits().to_le_bytes(); 2];
    /// # let (levels, scales) = (Levels::new(4, Grid::MidTread)?, scales.as_flattened());
    /// let codes = [0x11, 0x11, 0x11, 0x11, 0xFF, 0xFF, 0xFF, 0xFF]; // a row of 1, a row of −1
    /// let matrix = BlockMatrix::new(levels, StepRule::Uniform, 8, 8, &codes, scales, &[])?;
    /// let (mut buffer, mut y) = (vec![0; matrix.loaded_len(1)], vec![0.0; matrix.rows()]);
    /// let x = matrix.load(&[127.0; 8], &mut buffer)?;
    /// // Rows may be shared out, to threads for example.
    /// let (first, second) = y.split_at_mut(1);
    /// matrix.multiply(&x, 0..1, first)?;
    /// matrix.multiply(&x, 1..matrix.rows(), second)?;
    /// assert_eq!(y, [8.0 * 127.0, -8.0 * 127.0]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.count
    }

    /// Number of columns.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, StepRule, matrix::BlockMatrix, quantizer::F16};
    /// # let scales = [F16::from_f32(1.0).to_bits().to_le_bytes(); 1];
    /// # let (levels, scales) = (Levels::new(4, Grid::MidTread)?, scales.as_flattened());
    /// let codes = [0x21, 0x43, 0x65, 0xF7]; // 1, 2, 3, 4, 5, 6, 7, −1
    /// let matrix = BlockMatrix::new(levels, StepRule::Uniform, 8, 8, &codes, scales, &[])?;
    /// let (mut buffer, mut y) = (vec![0; matrix.loaded_len(1)], [0.0]);
    /// let mut x = vec![0.0; matrix.columns()];
    /// x[7] = 127.0; // reads the last column
    /// matrix.multiply(&matrix.load(&x, &mut buffer)?, 0..1, &mut y)?;
    /// assert_eq!(y, [-127.0]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.rows.columns
    }

    /// Bytes that one vector takes: a step of every plane, of the starts and of the scales for every 16 units.
    fn vector_len(&self) -> usize {
        let planes = formats::planes(self.levels.bits());
        self.rows.columns.div_ceil(planes * STEP).saturating_mul((planes + 2) * STEP)
    }

    /// Bytes of the buffer for `vectors` vectors; faster on a multiple of 64.
    ///
    /// ```
    /// # use qat_kernels::{Error, Grid, Levels, StepRule, What, matrix::BlockMatrix, quantizer::F16};
    /// # let scales = [F16::from_f32(1.0).to_bits().to_le_bytes(); 1];
    /// # let (levels, scales) = (Levels::new(4, Grid::MidTread)?, scales.as_flattened());
    /// let codes = [0x11; 4]; // of eight columns
    /// let matrix = BlockMatrix::new(levels, StepRule::Uniform, 8, 8, &codes, scales, &[])?;
    /// let mut buffer = vec![0; matrix.loaded_len(2)];
    /// assert!(matrix.load(&[1.0; 2 * 8], &mut buffer).is_ok());
    /// let three = matrix.load(&[1.0; 3 * 8], &mut buffer);
    /// assert!(matches!(three, Err(Error::Length { what: What::Arena, .. })));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn loaded_len(&self, vectors: usize) -> usize {
        self.vector_len().saturating_mul(vectors)
    }

    /// Rounds vectors of [`Self::columns`] numbers, one after the other, into `buffer` of [`Self::loaded_len`] bytes.
    ///
    /// # Errors
    /// [`Error::NotDivisible`] of [`What::Input`]; [`Error::Length`] of [`What::Arena`]; [`Error::NotFinite`] of
    /// [`What::Input`].
    ///
    /// ```
    /// # use qat_kernels::{Error, Grid, Levels, StepRule, What, matrix::BlockMatrix, quantizer::F16};
    /// # let scales = [F16::from_f32(1.0).to_bits().to_le_bytes(); 1];
    /// # let (levels, scales) = (Levels::new(4, Grid::MidTread)?, scales.as_flattened());
    /// let codes = [0x10, 0, 0, 0]; // a row that reads column 1
    /// let matrix = BlockMatrix::new(levels, StepRule::Uniform, 8, 8, &codes, scales, &[])?;
    /// let (mut buffer, mut y) = (vec![0; matrix.loaded_len(1)], [0.0]);
    /// let mut x = [127.0, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    /// matrix.multiply(&matrix.load(&x, &mut buffer)?, 0..1, &mut y)?;
    /// assert_eq!(y, [1.0]); // 0.6, rounded to the 127th part of the largest
    /// x[3] = f32::NAN;
    /// let e = Error::NotFinite { what: What::Input, index: 3 };
    /// assert_eq!(matrix.load(&x, &mut buffer).err(), Some(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn load<'b>(&self, x: &[f32], buffer: &'b mut [u8]) -> Result<Activations<'b>> {
        let columns = self.rows.columns;
        whole(What::Input, x.len(), columns)?;
        let vectors = x.len().checked_div(columns).unwrap_or(0);
        check_length(What::Arena, self.loaded_len(vectors), buffer.len())?;
        if let Some(index) = x.iter().position(|x| !x.is_finite()) {
            return Err(Error::NotFinite { what: What::Input, index });
        }
        for (first, lanes) in batches(vectors) {
            let x = x.chunks_exact(columns).skip(first).take(lanes);
            let to = buffer.get_mut(first * self.vector_len()..).unwrap_or_default();
            for (lane, x) in x.enumerate() {
                let done = self.backend.run_ints(Load { rows: self.rows, x, lane, lanes, to });
                debug_assert!(done.is_some());
            }
        }
        let Self { levels, backend, .. } = *self;
        Ok(Activations { bytes: buffer, levels, columns, vectors, backend })
    }

    /// Multiplies the rows of a range with every vector. `y`: for each row, one number for each vector.
    ///
    /// # Errors
    /// [`Error::Length`] of [`What::Input`] for activations of another matrix' levels, columns or backend, of [`What::Output`],
    /// and of [`What::Weights`] for rows that are not there.
    ///
    /// ```
    /// # use qat_kernels::{Error, Grid, Levels, StepRule, What, matrix::BlockMatrix, quantizer::F16};
    /// # let scales = [F16::from_f32(1.0).to_bits().to_le_bytes(); 2];
    /// # let (levels, scales) = (Levels::new(4, Grid::MidTread)?, scales.as_flattened());
    /// let codes = [0x21, 0, 0, 0, 0xC3, 0, 0, 0]; // rows that begin with 1, 2 and with 3, −4
    /// let matrix = BlockMatrix::new(levels, StepRule::Uniform, 8, 8, &codes, scales, &[])?;
    /// let (mut buffer, mut y) = (vec![0; matrix.loaded_len(2)], [0.0; 4]);
    /// let mut vectors = [0.0; 2 * 8];
    /// (vectors[0], vectors[8 + 1]) = (127.0, 127.0); // one reads column 0, the other one column 1
    /// let x = matrix.load(&vectors, &mut buffer)?;
    /// matrix.multiply(&x, 0..2, &mut y)?;
    /// assert_eq!(y.map(|y| y / 127.0), [1.0, 2.0, 3.0, -4.0]); // row after row
    /// let e = Error::Length { what: What::Weights, expected: 2, got: 3 };
    /// assert_eq!(matrix.multiply(&x, 1..3, &mut y), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn multiply(&self, x: &Activations<'_>, rows: Range<usize>, y: &mut [f32]) -> Result<()> {
        let columns = self.rows.columns;
        if x.columns != columns || x.levels != self.levels || x.backend != self.backend {
            return Err(Error::Length { what: What::Input, expected: columns, got: x.columns });
        }
        if rows.end > self.count {
            return Err(Error::Length { what: What::Weights, expected: self.count, got: rows.end });
        }
        check_length(What::Output, rows.len().saturating_mul(x.vectors), y.len())?;
        for (first, lanes) in batches(x.vectors) {
            let from = first * self.vector_len();
            let done = x.bytes.get(from..from + lanes * self.vector_len()).and_then(|x_bytes| {
                self.backend.run_ints(Multiply {
                    rows: self.rows.part(rows.start, 0, columns)?,
                    scales: self.scales.get(rows.start.checked_mul(self.scale_stride)?..)?,
                    scale_stride: self.scale_stride,
                    log: self.log,
                    factor: self.factor,
                    x: x_bytes,
                    lanes,
                    y: y.get_mut(first..)?,
                    stride: x.vectors,
                    count: rows.len(),
                })
            });
            debug_assert!(done.is_some() || rows.is_empty());
        }
        Ok(())
    }
}

/// Vectors that are multiplied together: the first one, and how many.
fn batches(vectors: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    core::iter::from_fn(move || {
        let lanes = match vectors.checked_sub(first)? {
            0 => return None,
            LANES.. => LANES,
            4.. => 4,
            _ => 1,
        };
        first += lanes;
        Some((first - lanes, lanes))
    })
}

fn whole(what: What, len: usize, by: usize) -> Result<()> {
    if by > 0 && len.is_multiple_of(by) { Ok(()) } else { Err(Error::NotDivisible { what, len, by }) }
}
