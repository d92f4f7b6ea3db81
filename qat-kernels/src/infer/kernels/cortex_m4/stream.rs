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
    mut words: &mut [u32],
    lane: usize,
    mut x: &[i8],
    mid_rise: bool,
) -> Option<Correction> {
    let odd = x.len().div_ceil(STEP) % 2 == 1;
    let mut columns = if odd { STEP } else { WINDOW };
    let (mut total, mut taken, mut windows) = (0i32, 0i32, 0i32);
    while !x.is_empty() {
        let (head, rest) = words.split_at_mut_checked(HEAD)?;
        let (body, rest) = rest.split_at_mut_checked(columns / 2 * LANES)?;
        let body = body.get_mut(lane..)?;
        let (now, later) = x.split_at(if x.len() < columns { x.len() } else { columns });
        let (fours, tail) = now.as_chunks();
        total += widen::<LANES>(fours, body)?;
        if now.len() < columns {
            let (mut last, mut at) = ([0; 4], fours.len());
            last.iter_mut().zip(tail).for_each(|(l, &t)| *l = t);
            while at < columns / 4 {
                total += widen::<LANES>(&[last], body.get_mut(at * 2 * LANES..)?)?;
                (last, at) = ([0; 4], at + 1);
            }
        }
        let centre = (3 * total) >> 1;
        let start = ((1 << 13) - (centre - taken)).cast_unsigned();
        taken = centre;
        if LANES == 1 {
            head.fill(start);
        } else {
            *head.get_mut(lane)? = start;
        }
        windows += 1;
        (x, words, columns) = (later, rest, WINDOW);
    }
    *words.get_mut(lane)? = 0;
    // Twice the low sum is Σ 2A·x − 2⌊3/2·S⌋ + windows·2^14, to become Σ (2A − 3)·x on the mid-rise grid and Σ (2A − 4)·x on
    // the mid-tread grid; twice the high sum is Σ 2B·x, to become Σ (2B + 1)·x and Σ 2B·x.
    let low = 2 * taken - (windows << 14) - if mid_rise { 3 } else { 4 } * total;
    Some(Correction { low, high: if mid_rise { total } else { 0 } })
}
