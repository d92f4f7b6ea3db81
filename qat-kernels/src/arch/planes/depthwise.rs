//! One pixel of a depthwise convolution: multiplied tap by tap.

use super::isa::{DEPTHWISE_CHANNELS, depthwise_pixel};
use crate::artifact::planes::TAPS;
use core::mem::MaybeUninit;

/// Where a tap's activations and levels end.
#[derive(Clone, Copy)]
#[repr(C)]
struct Tap {
    x: *const i8,
    levels: *const i16,
}

/// What the loops read, a word a field.
#[repr(C)]
pub(super) struct Depthwise {
    taps: *const Tap,
    /// How many.
    count: usize,
    params: *const [i32; 2],
    out: *mut i8,
    /// Less than zero.
    minus_channels: isize,
    zero_point: i32,
}

/// Turns the biases of the first channels plus `Σ level·x`, over taps of activations and levels, into
/// `zero_point + (acc·M + 2^31 >> 32)`, within int8; returns how many channels there were. `taps` are [`TAPS`] at most;
/// multipliers are not negative.
#[inline(always)]
pub(crate) fn depthwise<'a>(
    taps: impl Iterator<Item = (&'a [i8], &'a [i16])>,
    params: &[[i32; 2]],
    zero_point: i32,
    out: &mut [i8],
) -> usize {
    let channels = params.len().min(out.len()) / DEPTHWISE_CHANNELS * DEPTHWISE_CHANNELS;
    let mut list = [const { MaybeUninit::<Tap>::uninit() }; TAPS];
    let mut count = 0;
    for (place, (x, levels)) in list.iter_mut().zip(taps) {
        if x.len() < channels || levels.len() < channels {
            return 0;
        }
        let (x, levels) = (x.as_ptr().wrapping_add(channels), levels.as_ptr().wrapping_add(channels));
        place.write(Tap { x, levels });
        count += 1;
    }
    if channels > 0 {
        let task = Depthwise {
            taps: list.as_ptr().cast(),
            count,
            params: params.as_ptr(),
            out: out.as_mut_ptr(),
            minus_channels: channels.cast_signed().wrapping_neg(),
            zero_point,
        };
        // SAFETY: the first `count` taps have been written, each with as many activations and levels before its ends as there are
        // channels; there are as many parameters and outputs.
        unsafe { depthwise_pixel(&task) };
    }
    channels
}
