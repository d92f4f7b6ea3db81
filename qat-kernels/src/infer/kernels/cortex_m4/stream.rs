//! Activations as the inner loops read them.

use crate::arch::cortex_m4::widen;
use crate::artifact::WeightSpec;
use crate::artifact::cortex_m4::Stream;

/// What a pixel's accumulators lack after the loops.
#[derive(Clone, Copy, Default)]
pub(super) struct Missing {
    /// For channels whose codes are stored without a sign.
    pub(super) low: i32,
    /// For the others.
    pub(super) high: i32,
}

/// What the windows of a stream start from, with S the sum of the activations in one of them and S' in all up to its end.
#[derive(Clone, Copy)]
enum Start {
    /// `2^(bits−1) − ⌊times/2·S'⌋`, plus the `⌊…⌋` of the window before, so that the roundings do not add up.
    Centred { bits: u32, times: i32 },
    /// `2^15 + factor·S`.
    Exact { factor: i32 },
}

/// Fills one pixel's lane of a stream.
pub(super) type Fill = fn(&Stream, WeightSpec, &mut [u32], usize, &[i8]) -> Option<Missing>;

/// Columns that are widened at once.
const UNIT: usize = 16;

/// The one for a layer's stream.
pub(super) fn filler(stream: &Stream, group: u8) -> Fill {
    match (stream.pixels, group) {
        (1, 0) => fill::<1, UNIT, 4, false>,
        (1, 8) => fill::<1, 8, 2, true>,
        (1, _) => fill::<1, UNIT, 4, true>,
        (2, _) => fill::<2, UNIT, 4, false>,
        (_, 0) => fill::<4, UNIT, 4, false>,
        (_, 8) => fill::<4, 8, 2, true>,
        _ => fill::<4, UNIT, 4, true>,
    }
}

/// Widens `WIDTH` columns, that is `FOURS` times four, at once; `words` is the whole stream.
fn fill<const LANES: usize, const WIDTH: usize, const FOURS: usize, const SCALED: bool>(
    stream: &Stream,
    spec: WeightSpec,
    words: &mut [u32],
    lane: usize,
    x: &[i8],
) -> Option<Missing> {
    let (mid_rise, window) = (i32::from(spec.grid != 0), (stream.window / WIDTH).max(1));
    let start = match (SCALED, spec.bits) {
        (true, _) => Some(Start::Exact { factor: if mid_rise == 1 { (1 << 16) - 12 } else { -8 } }),
        (_, 2) => Some(Start::Centred { bits: 14, times: 3 }),
        (_, 3) => Some(Start::Centred { bits: 13, times: 1 }),
        _ => None,
    };
    let copies = match LANES {
        1 => stream.head,
        2 => stream.head / 2,
        _ => stream.head / 4,
    };
    // Steps of 16 columns are whole, and so are windows, but for the first one.
    let mut units = x.len().div_ceil(UNIT) * (UNIT / WIDTH);
    // Divisions by constants only.
    let mut in_window = match window {
        3 => units.wrapping_sub(1) % 3 + 1,
        2 => units.wrapping_sub(1) % 2 + 1,
        _ => 1,
    };
    let (mut chunks, tail) = (x.as_chunks::<WIDTH>().0.iter(), x.as_chunks::<WIDTH>().1);
    let mut tail = Some(tail);
    let (mut words, mut total, mut taken, mut windows) = (words, 0i32, 0i32, 0i32);
    while units > 0 {
        let (head, mut body) = core::mem::take(&mut words).split_at_mut_checked(stream.head)?;
        let before = total;
        let count = if start.is_some() { in_window } else { units };
        for _ in 0..count {
            let padded;
            let unit = match chunks.next() {
                Some(unit) => unit,
                None => {
                    padded = zeros_after::<WIDTH>(tail.take().unwrap_or(&[]));
                    &padded
                }
            };
            let (now, next) = body.split_at_mut_checked(WIDTH / 2 * LANES)?;
            total += widen::<LANES, FOURS, SCALED>(unit.as_chunks().0.first_chunk()?, now.get_mut(lane..)?)?;
            body = next;
        }
        words = body;
        units = units.saturating_sub(count);
        in_window = window;
        if let Some(start) = start {
            let value = match start {
                Start::Centred { bits, times } => {
                    let centre = (times * total) >> 1;
                    let value = (1i32 << (bits - 1)) - (centre - taken);
                    taken = centre;
                    value
                }
                Start::Exact { factor } => (1 << 15) + factor * (total - before),
            };
            head.get_mut(lane * copies..)?.get_mut(..copies)?.fill(value.cast_unsigned());
            windows += 1;
        }
    }
    if stream.has_end {
        words.fill(0);
    }
    // Sums of stored codes u become those of levels: 2·Σ u·x to Σ (2u − 2^b)·x, and one more S on the mid-rise grid.
    let high = mid_rise * total;
    let low = high.wrapping_sub(total.wrapping_mul(1 << spec.bits));
    Some(match start {
        None => Missing { low, high },
        Some(Start::Centred { bits, times }) => {
            // What the windows started from, in each of as many sums as there are bits that share a word.
            let starts = (windows << (bits - 1)).wrapping_sub(taken);
            let sums = if times == 3 { 1 } else { 7 };
            Missing { low: low.wrapping_sub(starts.wrapping_mul(2 * sums)), high }
        }
        Some(Start::Exact { .. }) => Missing::default(),
    })
}

/// The activations, then zeros.
fn zeros_after<const WIDTH: usize>(x: &[i8]) -> [i8; WIDTH] {
    let mut padded = [0; WIDTH];
    padded.iter_mut().zip(x).for_each(|(to, &from)| *to = from);
    padded
}
