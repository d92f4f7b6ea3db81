//! Products of any size, out of loops over as many activations as fit a buffer.

use super::kernel::{Load, Multiply};
use super::rows::Rows;
use crate::arch::Backend;

/// Vectors that are multiplied at once, at most.
pub(crate) const LANES: usize = 8;
/// Bytes of activations: a part of a first-level cache.
const ACTIVATIONS: usize = 16 << 10;
/// Accumulators of a block of rows.
const ACCUMULATORS: usize = 1 << 11;
/// Vectors of every backend have a whole fraction of so many bytes.
const STEP: usize = 64;

/// Rows and the vectors that they are multiplied by.
#[repr(align(64))]
pub(crate) struct Product {
    x: [u8; ACTIVATIONS],
    totals: [i32; LANES],
    acc: [i32; ACCUMULATORS],
    backend: Backend,
}

#[cfg_attr(target_os = "none", allow(dead_code, reason = "partly for the layers of workstations"))]
impl Product {
    pub(crate) const fn new(backend: Backend) -> Self {
        Self { x: [0; ACTIVATIONS], totals: [0; LANES], acc: [0; ACCUMULATORS], backend }
    }

    /// How many columns of `lanes` vectors the buffer holds.
    const fn capacity(rows: &Rows<'_>, lanes: usize) -> usize {
        let (planes, vectors) = rows.planes();
        match ACTIVATIONS.checked_div(STEP * vectors * lanes) {
            Some(steps) => steps * STEP * planes,
            None => 0,
        }
    }

    /// How many of `wanted` vectors can be multiplied at once, whole: 1, 4 or 8 lanes, some of them idle; 0 if not even one
    /// fits.
    pub(crate) fn lanes(rows: &Rows<'_>, wanted: usize) -> usize {
        let enough = match wanted {
            0 | 1 => 1,
            2..=4 => 4,
            _ => LANES,
        };
        let fits = |lanes: &usize| *lanes <= enough && Self::capacity(rows, *lanes) >= rows.columns;
        [LANES, 4, 1].into_iter().find(fits).unwrap_or(0)
    }

    /// Puts a vector into its lane. `None` if it does not fit.
    pub(crate) fn load(&mut self, rows: &Rows<'_>, x: &[i8], lane: usize, lanes: usize) -> Option<()> {
        let kernel = Load { rows: *rows, x, lane, lanes, to: &mut self.x };
        *self.totals.get_mut(lane)? = self.backend.run_ints(kernel)?;
        Some(())
    }

    /// Adds the products of the first `count` rows and all lanes to the accumulators.
    fn multiply<const N: usize>(&mut self, rows: &Rows<'_>, count: usize) -> Option<()> {
        let acc = self.acc.get_mut(..count.checked_mul(N)?)?;
        let kernel = Multiply { rows: *rows, x: &self.x, totals: &self.totals, lanes: N, acc };
        self.backend.run_ints(kernel)
    }

    /// The accumulators of `count` rows.
    fn accumulators<const N: usize>(&mut self, count: usize) -> Option<&mut [[i32; N]]> {
        self.acc.as_chunks_mut().0.get_mut(..count)
    }

    /// Hands the sums of each of `count` rows to `emit`: those of all lanes, as loaded.
    pub(crate) fn each_row<const N: usize>(
        &mut self,
        rows: &Rows<'_>,
        count: usize,
        mut emit: impl FnMut(usize, &[i32; N]) -> Option<()>,
    ) -> Option<()> {
        for first in (0..count).step_by(const { ACCUMULATORS / N }) {
            let here = count.wrapping_sub(first).min(ACCUMULATORS / N);
            self.accumulators::<N>(here)?.fill([0; N]);
            self.multiply::<N>(&rows.part(first, 0, rows.columns)?, here)?;
            (first..).zip(self.accumulators(here)?).try_for_each(|(row, sums)| emit(row, sums))?;
        }
        Some(())
    }

    /// As [`Self::each_row`] for vectors of any length, which are loaded here, piece by piece.
    pub(crate) fn each_long_row<const N: usize>(
        &mut self,
        rows: &Rows<'_>,
        count: usize,
        x: [&[i8]; N],
        mut emit: impl FnMut(usize, &[i32; N]) -> Option<()>,
    ) -> Option<()> {
        let panel = Self::capacity(rows, N);
        for first in (0..count).step_by(const { ACCUMULATORS / N }) {
            let here = count.wrapping_sub(first).min(ACCUMULATORS / N);
            self.accumulators::<N>(here)?.fill([0; N]);
            for column in (0..rows.columns).step_by(panel.max(1)) {
                let columns = rows.columns.wrapping_sub(column).min(panel);
                let part = rows.part(first, column, columns)?;
                // What fits as a whole stays in place.
                if first == 0 || columns < rows.columns {
                    for (lane, x) in x.iter().enumerate() {
                        self.load(&part, x.get(column..)?.get(..columns)?, lane, N)?;
                    }
                }
                self.multiply::<N>(&part, here)?;
            }
            (first..).zip(self.accumulators(here)?).try_for_each(|(row, sums)| emit(row, sums))?;
        }
        Some(())
    }
}
