//! Activations as the inner loops read them.

use crate::arch::cortex_m4::widen;
use crate::artifact::cortex_m4::STEP;
use crate::infer::cortex_m4::WINDOW;

/// What a pixel's accumulators lack after the loops.
#[derive(Clone, Copy, Default)]
pub(super) struct Correction {
    /// For channels whose codes are stored unsigned.
    pub(super) low: i32,
    /// For channels whose codes are stored as two's complement.
    pub(super) high: i32,
}

/// Writes one pixel's windows into its lane of a stream with `LANES` pixels and heads of `HEAD` words; the end of the stream
/// too.
///
/// The windows start from `2^13 − (⌊3/2·S⌋ − ⌊3/2·S'⌋)` with S and S' the sums of all activations up to their end and up
/// to their beginning, so that the roundings do not add up.
pub(super) fn fill<const LANES: usize, const HEAD: usize>(
    words: &mut [u32],
    lane: usize,
    x: &[i8],
    mid_rise: bool,
) -> Option<Correction> {
    let mut lane = Lane::<LANES, HEAD> { words: words.get_mut(lane..)?, total: 0, taken: 0, windows: 0 };
    let odd = x.len().div_ceil(STEP) % 2 == 1;
    let (first, x) = x.split_at(if !odd { 0 } else { x.len().min(STEP) });
    if odd {
        let short;
        lane.window::<{ STEP / 4 }>(match first.as_chunks().0.first_chunk() {
            Some(whole) => whole,
            None => {
                short = padded(first);
                &short
            }
        })?;
    }
    let (windows, tail) = x.as_chunks::<WINDOW>();
    for window in windows {
        lane.window::<{ WINDOW / 4 }>(window.as_chunks().0.first_chunk()?)?;
    }
    if !tail.is_empty() {
        lane.window(&padded::<{ WINDOW / 4 }>(tail))?;
    }
    // Twice the low sum is Σ 2A·x − 2⌊3/2·S⌋ + windows·2^14, to become Σ (2A − 3)·x on the mid-rise grid and Σ (2A − 4)·x on
    // the mid-tread grid; twice the high sum is Σ 2B·x, to become Σ (2B + 1)·x and Σ 2B·x.
    let low = 2 * lane.taken - (lane.windows << 14) - if mid_rise { 3 } else { 4 } * lane.total;
    let high = if mid_rise { lane.total } else { 0 };
    lane.words.get_mut(..if LANES == 1 { HEAD } else { 1 })?.fill(0);
    Some(Correction { low, high })
}

/// The activations, then zeros.
fn padded<const FOURS: usize>(x: &[i8]) -> [[i8; 4]; FOURS] {
    let mut fours = [[0; 4]; FOURS];
    fours.as_flattened_mut().iter_mut().zip(x).for_each(|(to, &from)| *to = from);
    fours
}

/// The part of a stream that is not written yet, from this pixel's first word on.
struct Lane<'a, const LANES: usize, const HEAD: usize> {
    words: &'a mut [u32],
    /// Sum of all activations so far, and ⌊3/2⌋ of it.
    total: i32,
    taken: i32,
    windows: i32,
}

impl<const LANES: usize, const HEAD: usize> Lane<'_, LANES, HEAD> {
    #[inline(always)]
    fn window<const FOURS: usize>(&mut self, x: &[[i8; 4]; FOURS]) -> Option<()> {
        let words = core::mem::take(&mut self.words);
        let (head, body) = words.split_at_mut_checked(HEAD)?;
        self.total += widen::<LANES, FOURS>(x, body)?;
        let centre = (3 * self.total) >> 1;
        let start = ((1 << 13) - (centre - self.taken)).cast_unsigned();
        // A linear layer computes two pairs of channels at once, each from a word of its own.
        head.get_mut(..if LANES == 1 { HEAD } else { 1 })?.fill(start);
        self.taken = centre;
        self.windows += 1;
        self.words = body.get_mut(2 * FOURS * LANES..)?;
        Some(())
    }
}
