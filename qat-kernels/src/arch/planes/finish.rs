//! Accumulators to int8.

use super::isa::{finish1, finish2};

/// What the loops read, a word a field.
#[repr(C)]
pub(super) struct Finish {
    /// The first channel's accumulator.
    sums: *const u32,
    params: *const [i32; 2],
    out: *mut i8,
    end: *const i8,
    zero_point: i32,
}

/// Turns accumulator `which` of the first channels into `zero_point + (acc·M + 2^31 >> 32)`, within int8, four channels a turn;
/// returns how many there were. Multipliers are not negative.
#[inline(always)]
pub(crate) fn finish<const N: usize>(
    sums: &[[u32; N]],
    which: usize,
    params: &[[i32; 2]],
    zero_point: i32,
    out: &mut [i8],
) -> usize {
    const { assert!(N == 1 || N == 2) };
    let count = sums.len().min(params.len()).min(out.len()) / 4 * 4;
    if count == 0 || which >= N {
        return 0;
    }
    let out = out.as_mut_ptr();
    // SAFETY: `count` is at most the number of outputs, and `which` less than that of a channel's accumulators.
    let (sums, end) = unsafe { (sums.as_ptr().cast::<u32>().add(which), out.add(count)) };
    let task = Finish { sums, params: params.as_ptr(), out, end, zero_point };
    // SAFETY: reads one of N accumulators and the parameters of `count` channels, and writes as many outputs.
    unsafe { if N == 1 { finish1(&task) } else { finish2(&task) } }
    count
}
