//! The loops of [`super::BlockMatrix`].
//!
//! A step takes as many units as a backend has sums, and 16 units make a *turn*: one step of the widest backend, four of the
//! narrowest. Whatever the backend, unit u is added to number u mod 16 of the row's sums. Activations lie turn by turn, those
//! of a turn lane by lane, step by step: the planes of codes, what each sum starts from, and the scale of each.

use super::super::formats::{Codes, Eights, Fours, Threes, Twos, Wide};
use super::super::kernel::{by_lanes, bytes_at, excess, vectors};
use super::super::rows::{Order, Rows};
use super::{ACTIVATION_BLOCK, STEP};
use crate::arch::ints::{IntKernel, Ints};

/// 1.5·2²³: added and taken away, it rounds what is smaller than 2²² to integers, ties to even.
const MAGIC: f32 = 12_582_912.0;

/// Calls a method that is generic over a format, its planes, and the vectors of activations to a step.
macro_rules! with_format {
    ($rows:expr, $v:expr, $object:ident . $method:ident) => {
        match ($rows.order, $rows.bits) {
            // Language models have no such rows.
            (Order::Unpacked, _) => None,
            (Order::Packed, 2) => $object.$method::<V, LEN, Twos, 4, 6>($v),
            (Order::Packed, 3) => $object.$method::<V, LEN, Threes, 2, 4>($v),
            (Order::Packed, 4) => $object.$method::<V, LEN, Fours, 2, 4>($v),
            (Order::Packed, 5) => $object.$method::<V, LEN, Wide<5>, 1, 3>($v),
            (Order::Packed, 6) => $object.$method::<V, LEN, Wide<6>, 1, 3>($v),
            (Order::Packed, 7) => $object.$method::<V, LEN, Wide<7>, 1, 3>($v),
            (Order::Packed, _) => $object.$method::<V, LEN, Eights, 1, 3>($v),
        }
    };
}

/// Rounds a vector of activations into its lane.
pub(super) struct Load<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) x: &'a [f32],
    pub(super) lane: usize,
    pub(super) lanes: usize,
    pub(super) to: &'a mut [u8],
}

impl IntKernel for Load<'_> {
    type Output = Option<()>;

    #[inline(always)]
    fn run<V: Ints<LEN>, const LEN: usize>(self, v: V) -> Option<()> {
        with_format!(self.rows, v, self.load)
    }
}

impl Load<'_> {
    #[inline(always)]
    fn load<V: Ints<LEN>, const LEN: usize, C: Codes<P>, const P: usize, const Q: usize>(
        self,
        _: V,
    ) -> Option<()> {
        let Self { rows, x, lane, lanes, to } = self;
        let excess = excess::<V, LEN, C, P>(&rows);
        let steps = to.as_chunks_mut::<LEN>().0.as_chunks_mut::<Q>().0;
        // The steps of a turn lie behind each other, lane after lane in each.
        let mut steps = steps.chunks_exact_mut(lanes);
        let mut turns = x.chunks(P * STEP);
        for _ in 0..rows.columns.div_ceil(P * STEP) {
            let mut rounded = [[0i8; ACTIVATION_BLOCK]; 8];
            let mut scales = [0f32; 8];
            let blocks = turns.next()?.chunks(ACTIVATION_BLOCK).zip(&mut rounded).zip(&mut scales);
            for ((x, to), scale) in blocks {
                *scale = round(x, to);
            }
            let codes = rounded.as_flattened().as_chunks::<P>().0.as_chunks::<LEN>().0;
            for (i, codes) in codes.iter().take(STEP / LEN).enumerate() {
                let to = steps.next()?.get_mut(lane)?;
                let (planes, behind) = to.split_first_chunk_mut::<P>()?;
                let [starts, of_units] = behind else { return None };
                C::spread(codes, planes);
                let units = codes.as_flattened().chunks_exact(4 * P);
                let to = starts.as_chunks_mut::<4>().0.iter_mut().zip(of_units.as_chunks_mut::<4>().0);
                for ((u, unit), (start, scale)) in units.enumerate().zip(to) {
                    let sum = unit.iter().fold(0i32, |sum, &x| sum + i32::from(x));
                    *start = excess.wrapping_mul(sum).wrapping_neg().to_le_bytes();
                    let column = i * P * LEN + u * 4 * P;
                    *scale = scales.get(column / ACTIVATION_BLOCK)?.to_le_bytes();
                }
            }
        }
        Some(())
    }
}

/// Rounds activations, which are finite and share a scale, and returns it.
#[inline(always)]
fn round(x: &[f32], to: &mut [i8; ACTIVATION_BLOCK]) -> f32 {
    let mut largest = 0f32;
    for x in x {
        largest = if x.abs() > largest { x.abs() } else { largest };
    }
    let inverse = 127.0 / largest;
    if !inverse.is_finite() {
        return 0.0;
    }
    for (to, x) in to.iter_mut().zip(x) {
        // Within ±127 but for roundings far below ½.
        *to = ((x * inverse + MAGIC).to_bits() as u8).cast_signed();
    }
    largest / 127.0
}

/// Multiplies rows with the vectors of all lanes.
pub(super) struct Multiply<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) scales: &'a [u8],
    pub(super) scale_stride: usize,
    /// The binary logarithm of the units of a block.
    pub(super) log: u32,
    pub(super) factor: f32,
    /// What [`Load`] has written.
    pub(super) x: &'a [u8],
    pub(super) lanes: usize,
    /// The lanes' results of each row, rows `stride` apart.
    pub(super) y: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl IntKernel for Multiply<'_> {
    type Output = Option<()>;

    #[inline(always)]
    fn run<V: Ints<LEN>, const LEN: usize>(self, v: V) -> Option<()> {
        with_format!(self.rows, v, self.multiply)
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn multiply<V: Ints<LEN>, const LEN: usize, C: Codes<P>, const P: usize, const Q: usize>(
        self,
        v: V,
    ) -> Option<()> {
        by_lanes!(self, v)
    }

    #[inline(always)]
    fn lanes<
        V: Ints<LEN>,
        const LEN: usize,
        C: Codes<P>,
        const P: usize,
        const Q: usize,
        const R: usize,
        const N: usize,
    >(
        self,
        v: V,
    ) -> Option<()> {
        let Self { rows, scales, scale_stride, log, factor, x, y, stride, count, .. } = self;
        let x = x.as_chunks::<LEN>().0.as_chunks::<Q>().0.as_chunks::<N>().0;
        let group = match rows.group {
            0 => None,
            _ => {
                let [log, units] = rows.group_logs(4 * P)?;
                Some((log, v.sum_spread(units)))
            }
        };
        let halves = v.half_spread(log.min(4));
        let tile = Tile { v, rows, scales, scale_stride, log, halves, group, factor, x };
        let mut to = y.chunks_mut(stride.max(1));
        let mut row = 0;
        while count.wrapping_sub(row) >= R {
            for sums in tile.rows::<C, P, R>(row)? {
                to.next()?.get_mut(..N)?.copy_from_slice(&sums);
            }
            row += R;
        }
        if const { R > 1 } {
            for row in row..count {
                for sums in tile.rows::<C, P, 1>(row)? {
                    to.next()?.get_mut(..N)?.copy_from_slice(&sums);
                }
            }
        }
        Some(())
    }
}

/// What all rows of a product share.
struct Tile<'a, V: Ints<LEN>, const LEN: usize, const Q: usize, const N: usize> {
    v: V,
    rows: Rows<'a>,
    scales: &'a [u8],
    scale_stride: usize,
    log: u32,
    halves: V::HalfSpread,
    /// The binary logarithm of a group's columns, and how its factor is spread over its units.
    group: Option<(u32, V::SumSpread)>,
    factor: f32,
    x: &'a [[[[u8; LEN]; Q]; N]],
}

impl<V: Ints<LEN>, const LEN: usize, const Q: usize, const N: usize> Tile<'_, V, LEN, Q, N> {
    /// `R` rows from `first` on, times all lanes.
    #[inline(always)]
    fn rows<C: Codes<P>, const P: usize, const R: usize>(&self, first: usize) -> Option<[[f32; N]; R]> {
        let v = self.v;
        let (mut packed, mut scales, mut divisors) =
            ([[].as_slice(); R], [[].as_slice(); R], [[].as_slice(); R]);
        for r in 0..R {
            packed[r] = self.rows.codes.get((first + r).checked_mul(self.rows.code_stride)?..)?;
            scales[r] = self.scales.get((first + r).checked_mul(self.scale_stride)?..)?;
            divisors[r] = self.rows.divisors.get((first + r).checked_mul(self.rows.divisor_stride)?..)?;
        }
        let ahead = self.rows.code_stride.wrapping_mul(R);
        // Sixteen sums, in as many vectors as a backend needs for them, of which there are four at most.
        let mut sums = [[[v.reals(&[0; LEN]); 4]; N]; R];
        let (mut at, mut unit) = (0, 0usize);
        for turn in self.x.chunks_exact(const { STEP / LEN }) {
            for t in 0..const { STEP / LEN } {
                let x = &turn[t];
                for r in 0..R {
                    v.prefetch(packed[r], at + ahead);
                    let codes = bytes_at(packed[r], at);
                    let mut scale =
                        v.halves(self.halves, &bytes_at(scales[r], unit.wrapping_shr(self.log) * 2));
                    if let Some((log, spread)) = self.group {
                        // A step uses 32 bits at most, and begins within a byte only if it uses no more than four.
                        let bit = (unit * 4 * P).wrapping_shr(log) * 2;
                        let fields = u32::from_le_bytes(bytes_at(divisors[r], bit / 8)) >> (bit % 8);
                        scale = v.times(scale, v.to_reals(v.sum_factors(spread, fields)));
                    }
                    for n in 0..N {
                        let planes = vectors::<V, LEN, P, Q>(v, &x[n]);
                        let units = C::dot_doubled(v, v.sums(&x[n][P]), &codes, planes);
                        let term = v.times(v.to_reals(units), v.reals(&x[n][P + 1]));
                        sums[r][n][t] = v.plus(sums[r][n][t], v.times(term, scale));
                    }
                }
                at += C::step(LEN);
                unit += LEN / 4;
            }
        }
        let mut results = [[0.0; N]; R];
        for r in 0..R {
            for n in 0..N {
                results[r][n] = self.total(sums[r][n]) * self.factor;
            }
        }
        Some(results)
    }

    /// Sixteen numbers, the first half added to the second until one is left.
    #[inline(always)]
    fn total(&self, sums: [V::Reals; 4]) -> f32 {
        let mut bytes = [0; STEP];
        for (to, sums) in bytes.as_chunks_mut::<LEN>().0.iter_mut().zip(sums) {
            self.v.store_reals(sums, to);
        }
        let mut all = [0.0; 16];
        for (to, from) in all.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *to = f32::from_le_bytes(*from);
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                all[i] += all[i + half];
            }
        }
        all[0]
    }
}
