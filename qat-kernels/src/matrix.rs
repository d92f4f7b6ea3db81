//! Packed matrices times int8 vectors, exactly, in place: the product inside linear layers, for those who bring their own
//! scales (language models, studies).
//!
//! A matrix of quantised weights stays packed, 2 to 8 bits a weight, as [`pack`](crate::pack) writes its rows. Its product
//! with int8 activations is a sum of integers,
//!
//! ```text
//! sum[n][row] = Σ_g m_g · Σ_i (2·level_i) · x[n][i]             m_g = 60/k of group g, 1 where k is fixed
//! ```
//!
//! the same on every backend; the caller multiplies it with half the row's step (α·π/120 where k varies) and the
//! activations' scale. Twice the level is an integer on both [grids](crate::Grid).
//!
//! Codes are taken apart in registers, and those of a row only once for up to eight vectors. On x86-64 with AVX2 or AVX-512
//! VNNI and on AArch64 with dot products this is faster than reading the same matrix in f32 from memory; elsewhere plain
//! loops do it. With `std` the processor is asked at run time.
//!
//! [`BlockMatrix`] is the same for language models, whose rows have a scale for every block of some 64 columns, and
//! activations one for every 32: integer sums over a few neighbouring columns, scaled and added up in f32, in an order that is
//! the same on every backend.

mod blocks;
mod formats;
mod kernel;
mod product;
mod rows;

pub use blocks::{ACTIVATION_BLOCK, Activations, BlockMatrix};
pub(crate) use product::Product;
#[cfg(not(target_os = "none"))]
pub(crate) use rows::Order;
pub(crate) use rows::Rows;

use crate::arch::Backend;
use crate::config::check_group;
use crate::error::{Error, Result, What};
use crate::grid::{Grid, Levels};
use crate::pack::packed_len;
use product::LANES;

/// The largest 60/k.
const MAX_FACTOR: usize = 30;

/// A matrix of packed weights, borrowed.
///
/// ```
/// use qat_kernels::{Grid, Levels, matrix::PackedMatrix, pack};
///
/// // Two rows of three weights: levels −½, ½, 1½ and 1½, −1½, ½.
/// let mut codes = [0; 2];
/// pack::pack(2, &[-1, 0, 1], &mut codes[..1])?;
/// pack::pack(2, &[1, -2, 0], &mut codes[1..])?;
/// let matrix = PackedMatrix::new(Levels::new(2, Grid::MidRise)?, 2, 3, &codes)?;
///
/// // Two vectors of activations.
/// let mut sums = [0; 4];
/// matrix.multiply(&[10, 20, 30, 0, 0, -1], &mut sums)?;
/// assert_eq!(sums, [100, 0, -3, -1]); // 2·(−5 + 10 + 45), 2·(15 − 30 + 15); −1·3, −1·1
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PackedMatrix<'a> {
    count: usize,
    rows: Rows<'a>,
    levels: Levels,
    backend: Backend,
}

impl<'a> PackedMatrix<'a> {
    /// A matrix of `rows` × `columns` weights with one factor for all columns. `codes`: the rows one after the other,
    /// [`packed_len`]`(columns, bits)` bytes each; the unused bits at the end of a row do not matter.
    ///
    /// # Errors
    /// [`Error::Range`] of [`What::Columns`] for no columns, or so many that a sum could overflow;
    /// [`Error::Length`] of [`What::Packed`].
    ///
    /// ```
    /// use qat_kernels::{Error, Grid, Levels, What, matrix::PackedMatrix};
    /// let three_bit = Levels::new(3, Grid::MidTread)?;
    /// // Every row starts on a byte: two rows of 9 bits take 4 bytes, not the 3 that 18 bits would fit into.
    /// assert!(PackedMatrix::new(three_bit, 2, 3, &[0; 4]).is_ok());
    /// let e = Error::Length { what: What::Packed, expected: 4, got: 3 };
    /// assert_eq!(PackedMatrix::new(three_bit, 2, 3, &[0; 3]).err(), Some(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(levels: Levels, rows: usize, columns: usize, codes: &'a [u8]) -> Result<Self> {
        check_columns(levels, columns, 1)?;
        check_length(What::Packed, rows.saturating_mul(packed_len(columns, levels.bits())), codes.len())?;
        let mid_rise = levels.grid() == Grid::MidRise;
        Ok(Self {
            count: rows,
            rows: Rows::packed(levels.bits(), mid_rise, columns, codes),
            levels,
            backend: Backend::best(),
        })
    }

    /// The same matrix with a divisor k for every `group` columns of a row (8, 16 or 32). `divisors`: k − 2 in two bits,
    /// packed like codes of two bits, [`packed_len`]`(columns / group, 2)` bytes a row.
    ///
    /// # Errors
    /// [`Error::Bits`] for weights of 8 bits; [`Error::Group`] if the group is none of those sizes;
    /// [`Error::NotDivisible`] of [`What::Columns`] by the group; [`Error::Range`] as [`Self::new`]; [`Error::Length`] of
    /// [`What::Divisors`].
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, matrix::PackedMatrix};
    /// let ones = [0b01_01_01_01; 4]; // a row of 16 codes, all 1
    /// let matrix = PackedMatrix::new(Levels::new(2, Grid::MidTread)?, 1, 16, &ones)?;
    /// let matrix = matrix.with_divisors(8, &[0b11_00])?; // k = 2 and 5: factors 30 and 12
    /// let mut sum = [0];
    /// matrix.multiply(&[1; 16], &mut sum)?;
    /// assert_eq!(sum, [30 * 16 + 12 * 16]); // twice the level, 2, eight times in each group
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn with_divisors(self, group: usize, divisors: &'a [u8]) -> Result<Self> {
        if self.levels.bits() > 7 {
            return Err(Error::Bits { bits: self.levels.bits() });
        }
        check_group(group)?;
        let columns = self.rows.columns;
        if !columns.is_multiple_of(group) {
            return Err(Error::NotDivisible { what: What::Columns, len: columns, by: group });
        }
        check_columns(self.levels, columns, MAX_FACTOR)?;
        check_length(
            What::Divisors,
            self.count.saturating_mul(packed_len(columns / group, 2)),
            divisors.len(),
        )?;
        let none = Error::Empty { what: What::Group };
        Ok(Self { rows: self.rows.with_divisors(group, divisors).ok_or(none)?, ..self })
    }

    /// The same matrix, multiplied on `backend` instead of [`Backend::best`].
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, arch::Backend, matrix::PackedMatrix};
    /// let matrix = PackedMatrix::new(Levels::new(4, Grid::MidRise)?, 1, 2, &[0x7F])?; // levels −½ and 7½
    /// for backend in Backend::available() {
    ///     let mut sum = [0];
    ///     matrix.on(backend).multiply(&[3, 2], &mut sum)?;
    ///     assert_eq!(sum, [-3 + 30]); // −1·3 + 15·2 on all of them
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
    /// use qat_kernels::{Grid, Levels, matrix::PackedMatrix};
    /// let matrix = PackedMatrix::new(Levels::new(8, Grid::MidTread)?, 3, 2, &[1, 2, 3, 4, 5, 6])?;
    /// let mut sums = vec![0; 4 * matrix.rows()]; // for four vectors
    /// matrix.multiply(&[1; 8], &mut sums)?;
    /// assert_eq!((matrix.rows(), &sums[9..]), (3, &[6, 14, 22][..])); // the sums of the last vector
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.count
    }

    /// Number of columns.
    ///
    /// ```
    /// use qat_kernels::{Grid, Levels, matrix::PackedMatrix};
    /// let matrix = PackedMatrix::new(Levels::new(2, Grid::MidRise)?, 1, 5, &[0; 2])?;
    /// assert_eq!(matrix.columns(), 5); // the other three places of the second byte are padding
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.rows.columns
    }

    /// Multiplies every row with every vector. `x`: any number of vectors of [`Self::columns`] activations, one after the
    /// other. `sums`: [`Self::rows`] sums for each of them, in the same order.
    ///
    /// Uses some 24 KiB of stack and no heap.
    ///
    /// # Errors
    /// [`Error::NotDivisible`] of [`What::Input`]; [`Error::Length`] of [`What::Output`].
    ///
    /// ```
    /// use qat_kernels::{Error, Grid, Levels, What, matrix::PackedMatrix};
    /// let rows = [0x21, 0x3F]; // codes 1, 2 and −1, 3
    /// let matrix = PackedMatrix::new(Levels::new(4, Grid::MidTread)?, 2, 2, &rows)?;
    /// let mut sums = [0; 4];
    /// matrix.multiply(&[10, 1, 0, -4], &mut sums)?;
    /// assert_eq!(sums, [24, -14, -16, -24]); // twice 1·10 + 2·1, −1·10 + 3·1; 2·−4, 3·−4
    /// let e = Error::NotDivisible { what: What::Input, len: 3, by: 2 };
    /// assert_eq!(matrix.multiply(&[1, 2, 3], &mut sums), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn multiply(&self, x: &[i8], sums: &mut [i32]) -> Result<()> {
        let (rows, columns) = (self.count, self.rows.columns);
        if !x.len().is_multiple_of(columns) {
            return Err(Error::NotDivisible { what: What::Input, len: x.len(), by: columns });
        }
        let batch = x.len().checked_div(columns).unwrap_or(0);
        check_length(What::Output, batch.saturating_mul(rows), sums.len())?;
        let mut product = Product::new(self.backend);
        let (mut x, mut sums) = (x, sums);
        // Every length has been compared: the product has no reason left to stop early.
        while !x.is_empty() && !sums.is_empty() {
            let lanes = match x.len().checked_div(columns) {
                Some(LANES..) => LANES,
                Some(4..) => 4,
                _ => 1,
            };
            let (now, later) = x.split_at_checked(lanes * columns).unwrap_or((x, &[]));
            let (to, sums_later) = sums.split_at_mut_checked(lanes * rows).unwrap_or_default();
            let done = match lanes {
                LANES => self.lanes::<LANES>(&mut product, now, to),
                4 => self.lanes::<4>(&mut product, now, to),
                _ => self.lanes::<1>(&mut product, now, to),
            };
            debug_assert!(done.is_some());
            (x, sums) = (later, sums_later);
        }
        Ok(())
    }

    /// `N` vectors.
    fn lanes<const N: usize>(&self, product: &mut Product, x: &[i8], sums: &mut [i32]) -> Option<()> {
        let mut vectors = x.chunks_exact(self.rows.columns.max(1));
        let x = core::array::from_fn(|_| vectors.next().unwrap_or(&[]));
        let count = self.count;
        product.each_long_row::<N>(&self.rows, count, x, |row, of_row| {
            for (to, &sum) in sums.iter_mut().skip(row).step_by(count.max(1)).zip(of_row) {
                *to = sum;
            }
            Some(())
        })
    }
}

/// Whether no sum over so many columns can overflow.
fn check_columns(levels: Levels, columns: usize, factor: usize) -> Result<()> {
    let largest = factor * 128 * levels.max_twice_level().unsigned_abs() as usize;
    let max = i32::MAX as usize / largest;
    if (1..=max).contains(&columns) {
        return Ok(());
    }
    Err(Error::Range { what: What::Columns, value: columns as f32, min: 1.0, max: max as f32 })
}

fn check_length(what: What, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}

#[cfg(test)]
mod tests;
