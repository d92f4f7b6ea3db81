//! One pixel of a depthwise convolution: multiplied tap by tap.

use super::isa::{DEPTHWISE_CHANNELS, depthwise_pixel};
use crate::arch::window::place;
use crate::artifact::planes::TAPS;
use core::marker::PhantomData;

/// Where the activations and levels of a tap end that the loops read.
#[derive(Clone, Copy)]
#[repr(C)]
struct Tap {
    x: *const i8,
    levels: *const i16,
}

/// What the taps of a window read.
pub(crate) struct Taps<'a> {
    list: [Tap; TAPS],
    x: &'a [i8],
    /// Height, width and channels of the input.
    input: [usize; 3],
    kernel: [usize; 2],
    /// Whole turns of channels: the first ones, which the loops compute.
    channels: usize,
    /// Where padding ends that taps outside the input read.
    padding: *const i8,
    /// Padding and levels.
    read: PhantomData<(&'a [i8], &'a [i16])>,
}

impl<'a> Taps<'a> {
    /// `levels` has a row for each tap, of at least as many levels as there are channels. `None` unless `x` and `padding` have
    /// their lengths, and if the kernel has more than [`TAPS`] taps.
    pub(crate) fn new(
        x: &'a [i8],
        input: [usize; 3],
        kernel: [usize; 2],
        padding: &'a [i8],
        mut levels: impl Iterator<Item = &'a [i16]>,
    ) -> Option<Self> {
        let [height, width, channels] = input;
        let whole = height.checked_mul(width)?.checked_mul(channels)? == x.len() && channels == padding.len();
        let taps = kernel[0].checked_mul(kernel[1])?;
        let turns = channels / DEPTHWISE_CHANNELS * DEPTHWISE_CHANNELS;
        let padding = padding.get(..turns)?.as_ptr_range().end;
        let mut list = [Tap { x: padding, levels: core::ptr::null() }; TAPS];
        for tap in list.get_mut(..taps)? {
            tap.levels = levels.next()?.get(..turns)?.as_ptr_range().end;
        }
        whole.then_some(Self { list, x, input, kernel, channels: turns, padding, read: PhantomData })
    }

    /// Moves the window to begin at a row and a column of the input, which wrap below zero.
    #[inline]
    pub(crate) fn place(&mut self, top: usize, left: usize) {
        let x = self.x.as_ptr().wrapping_add(self.channels);
        let taps = self.list.iter_mut().map(|tap| &mut tap.x);
        place(x, self.input, self.kernel, [top, left], self.padding, taps);
    }

    /// Turns the biases of the first channels plus `Σ level·x` into `zero_point + (acc·M + 2^31 >> 32)`, within int8; returns
    /// how many channels there were. Multipliers are not negative.
    #[inline(always)]
    pub(crate) fn pixel(&self, params: &[[i32; 2]], zero_point: i32, out: &mut [i8]) -> usize {
        let channels = self.channels;
        if channels == 0 || params.len() < channels || out.len() < channels {
            return 0;
        }
        let task = Depthwise {
            taps: self.list.as_ptr(),
            count: self.kernel[0] * self.kernel[1],
            params: params.as_ptr(),
            out: out.as_mut_ptr(),
            minus_channels: channels.cast_signed().wrapping_neg(),
            zero_point,
        };
        // SAFETY: as many taps have levels, and activations of the input or the padding, before their ends as there are channels;
        // there are as many parameters and outputs.
        unsafe { depthwise_pixel(&task) };
        channels
    }
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
