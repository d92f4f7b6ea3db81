//! The loops: activations into the order of the planes, then rows times up to eight vectors of them.
//!
//! Where groups have factors, a step's products are added up to numbers of which each belongs to one group, and those are
//! multiplied. Formats with several planes add up `Σ level2·x`, four bytes of every plane to an int32 that fits an int16: it
//! starts from what the vector's activations alone tell, and so comes out complete. For the others, and for groups of 8 of
//! four planes, it is two bytes to an int16, and a second sum of factors times activations is taken away in the end.

use super::formats::{Bytes, Codes, Eights, Fours, Threes, Twos, Wide};
use super::rows::{Order, Rows};
use crate::arch::ints::{IntKernel, Ints};

/// Calls a method that is generic over a format, its planes, and the vectors of activations to a step: one for each plane
/// and, where groups have factors, one with their sums.
macro_rules! with_format {
    ($rows:expr, $v:expr, $object:ident . $method:ident) => {
        match ($rows.order, $rows.bits, $rows.group) {
            (Order::Unpacked, _, 0) => $object.$method::<V, LEN, Bytes, 1, 1>($v),
            (Order::Unpacked, _, _) => $object.$method::<V, LEN, Bytes, 1, 2>($v),
            (Order::Packed, 2, 0) => $object.$method::<V, LEN, Twos, 4, 4>($v),
            (Order::Packed, 2, _) => $object.$method::<V, LEN, Twos, 4, 5>($v),
            (Order::Packed, 3, 0) => $object.$method::<V, LEN, Threes, 2, 2>($v),
            (Order::Packed, 3, _) => $object.$method::<V, LEN, Threes, 2, 3>($v),
            (Order::Packed, 4, 0) => $object.$method::<V, LEN, Fours, 2, 2>($v),
            (Order::Packed, 4, _) => $object.$method::<V, LEN, Fours, 2, 3>($v),
            (Order::Packed, 5, 0) => $object.$method::<V, LEN, Wide<5>, 1, 1>($v),
            (Order::Packed, 5, _) => $object.$method::<V, LEN, Wide<5>, 1, 2>($v),
            (Order::Packed, 6, 0) => $object.$method::<V, LEN, Wide<6>, 1, 1>($v),
            (Order::Packed, 6, _) => $object.$method::<V, LEN, Wide<6>, 1, 2>($v),
            (Order::Packed, 7, 0) => $object.$method::<V, LEN, Wide<7>, 1, 1>($v),
            (Order::Packed, 7, _) => $object.$method::<V, LEN, Wide<7>, 1, 2>($v),
            (Order::Packed, _, _) => $object.$method::<V, LEN, Eights, 1, 1>($v),
        }
    };
}

/// Calls `lanes` for as many rows at a time as go with the vectors: more where there are fewer vectors, enough sums to hide the
/// latency of the products, but one by one where backend or format have no use for that.
macro_rules! by_lanes {
    ($object:ident, $v:expr) => {
        // A constant in a block of its own: the loops that it rules out are not even compiled.
        if const { V::SIDE_BY_SIDE && C::SIDE_BY_SIDE } {
            match $object.lanes {
                1 => $object.lanes::<V, LEN, C, P, Q, 4, 1>($v),
                4 => $object.lanes::<V, LEN, C, P, Q, 2, 4>($v),
                8 => $object.lanes::<V, LEN, C, P, Q, 1, 8>($v),
                _ => None,
            }
        } else {
            match $object.lanes {
                1 => $object.lanes::<V, LEN, C, P, Q, 1, 1>($v),
                4 => $object.lanes::<V, LEN, C, P, Q, 1, 4>($v),
                8 => $object.lanes::<V, LEN, C, P, Q, 1, 8>($v),
                _ => None,
            }
        }
    };
}
pub(super) use by_lanes;

/// Writes a vector of activations into its lane; returns their sum.
pub(super) struct Load<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) x: &'a [i8],
    pub(super) lane: usize,
    pub(super) lanes: usize,
    pub(super) to: &'a mut [u8],
}

impl IntKernel for Load<'_> {
    type Output = Option<i32>;

    #[inline(always)]
    fn run<V: Ints<LEN>, const LEN: usize>(self, v: V) -> Option<i32> {
        with_format!(self.rows, v, self.load)
    }
}

impl Load<'_> {
    #[inline(always)]
    fn load<V: Ints<LEN>, const LEN: usize, C: Codes<P>, const P: usize, const Q: usize>(
        self,
        v: V,
    ) -> Option<i32> {
        let excess = excess::<V, LEN, C, P>(&self.rows);
        let by_sums = by_sums::<P>(&self.rows);
        let steps = self.to.as_chunks_mut::<LEN>().0.as_chunks_mut::<Q>().0;
        let mut steps = steps.chunks_exact_mut(self.lanes.max(1));
        let whole = self.x.as_chunks::<P>().0.as_chunks::<LEN>().0;
        let used = (whole.len() * LEN).checked_mul(P)?;
        for x in whole {
            one_step::<V, LEN, C, P, Q>(v, x, by_sums.then_some(excess), steps.next()?.get_mut(self.lane)?);
        }
        let rest = self.x.get(used..)?;
        if !rest.is_empty() {
            let mut x = [[0; P]; LEN];
            x.as_flattened_mut().iter_mut().zip(rest).for_each(|(to, &from)| *to = from);
            one_step::<V, LEN, C, P, Q>(v, &x, by_sums.then_some(excess), steps.next()?.get_mut(self.lane)?);
        }
        Some(self.x.iter().fold(0i32, |sum, &x| sum.wrapping_add(x.into())))
    }
}

#[inline(always)]
fn one_step<V: Ints<LEN>, const LEN: usize, C: Codes<P>, const P: usize, const Q: usize>(
    v: V,
    x: &[[i8; P]; LEN],
    start: Option<i32>,
    to: &mut [[u8; LEN]; Q],
) {
    let Some((planes, sums)) = to.split_first_chunk_mut::<P>() else { return };
    C::spread(x, planes);
    let [sums] = sums else { return };
    if let Some(excess) = start {
        // At most 16: twice the offset of four bits.
        let mut weights = [v.bytes(&[excess as u8; LEN]); P];
        let mut planes_of = [v.bytes(&planes[0]); P];
        for p in 1..P {
            (weights[p], planes_of[p]) = (weights[0], v.bytes(&planes[p]));
        }
        v.store_sums(v.dot_small(v.zero(), weights, planes_of), sums);
        for sum in sums.as_chunks_mut::<4>().0 {
            *sum = i32::from_le_bytes(*sum).wrapping_neg().to_le_bytes();
        }
    } else {
        let ones = v.bytes(&[1; LEN]);
        let mut words = v.pairs(ones, v.bytes(&planes[0]));
        for plane in planes.iter().skip(1) {
            words = v.add(words, v.pairs(ones, v.bytes(plane)));
        }
        v.store(words, sums);
    }
}

/// Twice the sum of unpacked codes is Σ (2q + 2·offset)·x; this times Σ x is what it exceeds Σ (2q + rise)·x by.
#[inline(always)]
pub(super) fn excess<V: Ints<LEN>, const LEN: usize, C: Codes<P>, const P: usize>(rows: &Rows<'_>) -> i32 {
    2 * C::offset::<V, LEN>(rows.bits) - i32::from(rows.mid_rise)
}

/// The fewest columns that have a factor of their own.
const SMALLEST_GROUP: usize = 8;

/// Whether groups consist of whole sums of four bytes of every plane.
#[inline(always)]
fn by_sums<const P: usize>(rows: &Rows<'_>) -> bool {
    P > 1 && rows.group >= 4 * P
}

/// Adds `Σ_g m_g Σ (2·level)·x` to the accumulators, those of a row side by side.
pub(super) struct Multiply<'a> {
    pub(super) rows: Rows<'a>,
    /// What [`Load`] has written.
    pub(super) x: &'a [u8],
    /// What it has returned.
    pub(super) totals: &'a [i32],
    pub(super) lanes: usize,
    pub(super) acc: &'a mut [i32],
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

    /// `N` vectors times all rows, `R` rows at a time.
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
        let x = self.x.as_chunks::<LEN>().0.as_chunks::<Q>().0.as_chunks::<N>().0;
        let x = x.get(..self.rows.columns.div_ceil(P * LEN))?;
        let totals: &[i32; N] = self.totals.first_chunk()?;
        let excess = excess::<V, LEN, C, P>(&self.rows);
        let acc = self.acc.as_chunks_mut::<N>().0;
        let (blocks, rest) = acc.as_chunks_mut::<R>();
        let first = blocks.len() * R;
        // Constants in blocks of their own, as in `by_lanes`.
        if const { Q > P && P > 1 } && by_sums::<P>(&self.rows) {
            let group = Group::<V, LEN, V::SumSpread>::by_sums::<P>(v, &self.rows)?;
            for (block, acc) in blocks.iter_mut().enumerate() {
                group.rows::<C, P, Q, R, N>(&self.rows, block * R, x, acc)?;
            }
            if const { R > 1 } {
                for (row, acc) in (first..).zip(rest) {
                    group.rows::<C, P, Q, 1, N>(&self.rows, row, x, core::array::from_mut(acc))?;
                }
            }
            return Some(());
        }
        if const { Q > P && 4 * P == SMALLEST_GROUP } {
            // Their groups, however small, are whole sums, which have been multiplied above.
            return None;
        }
        if const { Q > P } {
            let group = Group::<V, LEN, V::Spread>::by_words::<P>(v, &self.rows)?;
            for (row, acc) in blocks.as_flattened_mut().iter_mut().chain(rest).enumerate() {
                group.row::<C, P, Q, N>(&self.rows, row, x, excess, acc)?;
            }
            return Some(());
        }
        for (block, acc) in blocks.iter_mut().enumerate() {
            plain::<V, LEN, C, P, Q, R, N>(v, &self.rows, block * R, x, totals, excess, acc)?;
        }
        if const { R > 1 } {
            for (row, acc) in (first..).zip(rest) {
                let acc = core::array::from_mut(acc);
                plain::<V, LEN, C, P, Q, 1, N>(v, &self.rows, row, x, totals, excess, acc)?;
            }
        }
        Some(())
    }
}

/// The bytes from `at` on; what lies behind the last one counts as zero. A step may look beyond its row: activations are
/// zero there.
#[inline(always)]
pub(super) fn bytes_at<const LEN: usize>(bytes: &[u8], at: usize) -> [u8; LEN] {
    let bytes = bytes.get(at..).unwrap_or(&[]);
    match bytes.first_chunk() {
        Some(whole) => *whole,
        None => padded(bytes),
    }
}

#[cold]
fn padded<const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
    let mut whole = [0; LEN];
    whole.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
    whole
}

/// The first `P` of `Q` vectors. (A closure for `map` or `from_fn` would be compiled without the backend's instructions.)
#[inline(always)]
pub(super) fn vectors<V: Ints<LEN>, const LEN: usize, const P: usize, const Q: usize>(
    v: V,
    x: &[[u8; LEN]; Q],
) -> [V::Bytes; P] {
    let mut vectors = [v.bytes(&x[0]); P];
    for p in 1..P {
        vectors[p] = v.bytes(&x[p]);
    }
    vectors
}

/// Rows of which all columns have one factor.
#[inline(always)]
fn plain<
    V: Ints<LEN>,
    const LEN: usize,
    C: Codes<P>,
    const P: usize,
    const Q: usize,
    const R: usize,
    const N: usize,
>(
    v: V,
    rows: &Rows<'_>,
    first: usize,
    x: &[[[[u8; LEN]; Q]; N]],
    totals: &[i32; N],
    excess: i32,
    acc: &mut [[i32; N]; R],
) -> Option<()> {
    let mut packed = [[].as_slice(); R];
    for (r, packed) in packed.iter_mut().enumerate() {
        *packed = rows.codes.get((first + r).checked_mul(rows.code_stride)?..)?;
    }
    let ahead = rows.code_stride.wrapping_mul(R);
    let mut sums = [[v.zero(); N]; R];
    let mut at = 0;
    for x in x {
        for r in 0..R {
            // The same place of the rows that come next: no prefetcher follows several short rows side by side.
            v.prefetch(packed[r], at + ahead);
            let w = C::unpack(v, &bytes_at(packed[r], at));
            for n in 0..N {
                sums[r][n] = C::dot(v, sums[r][n], w, vectors::<V, LEN, P, Q>(v, &x[n]));
            }
        }
        at += C::step(LEN);
    }
    for r in 0..R {
        for n in 0..N {
            let offset = excess.wrapping_mul(totals[n]);
            let sum = v.total(sums[r][n]).wrapping_mul(2).wrapping_sub(offset);
            acc[r][n] = acc[r][n].wrapping_add(sum);
        }
    }
    Some(())
}

/// Rows whose groups of columns have factors, with what a backend knows of their size.
struct Group<V: Ints<LEN>, const LEN: usize, S> {
    v: V,
    spread: S,
    /// The binary logarithm of the columns of a group.
    log: u32,
}

/// By words of two bytes of every plane.
impl<V: Ints<LEN>, const LEN: usize> Group<V, LEN, V::Spread> {
    #[inline(always)]
    fn by_words<const P: usize>(v: V, rows: &Rows<'_>) -> Option<Self> {
        let [log, words] = rows.group_logs(2 * P)?;
        Some(Self { v, spread: v.spread(words), log })
    }

    #[inline(always)]
    fn row<C: Codes<P>, const P: usize, const Q: usize, const N: usize>(
        &self,
        rows: &Rows<'_>,
        row: usize,
        x: &[[[[u8; LEN]; Q]; N]],
        excess: i32,
        acc: &mut [i32; N],
    ) -> Option<()> {
        let v = self.v;
        let packed = rows.codes.get(row.checked_mul(rows.code_stride)?..)?;
        let divisors = rows.divisors.get(row.checked_mul(rows.divisor_stride)?..)?;
        let ahead = rows.code_stride.wrapping_mul(2);
        let mut sums = [[v.zero(); 2]; N];
        let (mut at, mut column) = (0, 0usize);
        for x in x {
            v.prefetch(packed, at + ahead);
            let w = C::unpack(v, &bytes_at(packed, at));
            // A step uses 64 bits at most, and begins within a byte only if it uses no more than four.
            let bit = column.wrapping_shr(self.log) * 2;
            let fields = u64::from_le_bytes(bytes_at(divisors, bit / 8)) >> (bit % 8);
            let factors = v.factors(self.spread, fields);
            for n in 0..N {
                let [products, total] = sums[n];
                let mut words = v.pairs(w[0], v.bytes(&x[n][0]));
                for p in 1..P {
                    words = v.add(words, v.pairs(w[p], v.bytes(&x[n][p])));
                }
                let all = v.words(&x[n][Q - 1]);
                sums[n] = [v.scaled(products, words, factors), v.scaled(total, all, factors)];
            }
            at += C::step(LEN);
            column += P * LEN;
        }
        for (acc, [products, total]) in acc.iter_mut().zip(sums) {
            let offset = excess.wrapping_mul(v.total(total));
            *acc = acc.wrapping_add(v.total(products).wrapping_mul(2).wrapping_sub(offset));
        }
        Some(())
    }
}

/// By sums of four bytes of every plane.
impl<V: Ints<LEN>, const LEN: usize> Group<V, LEN, V::SumSpread> {
    #[inline(always)]
    fn by_sums<const P: usize>(v: V, rows: &Rows<'_>) -> Option<Self> {
        let [log, sums] = rows.group_logs(4 * P)?;
        Some(Self { v, spread: v.sum_spread(sums), log })
    }

    #[inline(always)]
    fn rows<C: Codes<P>, const P: usize, const Q: usize, const R: usize, const N: usize>(
        &self,
        rows: &Rows<'_>,
        first: usize,
        x: &[[[[u8; LEN]; Q]; N]],
        acc: &mut [[i32; N]; R],
    ) -> Option<()> {
        let v = self.v;
        let (mut packed, mut divisors) = ([[].as_slice(); R], [[].as_slice(); R]);
        for r in 0..R {
            packed[r] = rows.codes.get((first + r).checked_mul(rows.code_stride)?..)?;
            divisors[r] = rows.divisors.get((first + r).checked_mul(rows.divisor_stride)?..)?;
        }
        let ahead = rows.code_stride.wrapping_mul(R);
        let mut sums = [[v.zero(); N]; R];
        let (mut at, mut column) = (0, 0usize);
        for x in x {
            // A step uses 32 bits at most, and begins within a byte only if it uses no more than four.
            let bit = column.wrapping_shr(self.log) * 2;
            for r in 0..R {
                v.prefetch(packed[r], at + ahead);
                let w = C::unpack_doubled(v, &bytes_at(packed[r], at));
                let fields = u32::from_le_bytes(bytes_at(divisors[r], bit / 8)) >> (bit % 8);
                let factors = v.sum_factors(self.spread, fields);
                for n in 0..N {
                    let levels = v.dot_small(v.sums(&x[n][Q - 1]), w, vectors::<V, LEN, P, Q>(v, &x[n]));
                    sums[r][n] = v.add_scaled(sums[r][n], levels, factors);
                }
            }
            at += C::step(LEN);
            column += P * LEN;
        }
        for r in 0..R {
            for n in 0..N {
                acc[r][n] = acc[r][n].wrapping_add(v.total(sums[r][n]));
            }
        }
        Some(())
    }
}
