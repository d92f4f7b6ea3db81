//! One pixel of a depthwise convolution, four channels at a time: each tap's activations are widened to two pairs of
//! halfwords, which `SMLABB` and `SMLATT` multiply with two words of levels.

use super::bands::Rounding;
#[cfg(not(core_family = "cortex-m4"))]
use super::instructions::{rounded_product, sxtb16, sxtb16_ror8};
use crate::arch::window::place;
use crate::artifact::cortex_m4::TAPS;
#[cfg(core_family = "cortex-m4")]
use core::arch::naked_asm;

/// Taps that the loop takes in one turn; lists of taps are filled up to whole turns.
pub(crate) const TURN: usize = 3;
/// Channels of a word of activations.
pub(crate) const QUAD: usize = 4;

/// Where the taps of a window read: the loops read the list.
pub(crate) struct Taps<'a> {
    list: [*const i8; TAPS],
    /// Taps of the list that the loops go through: whole turns.
    len: usize,
    x: &'a [i8],
    /// Height, width and channels of the input.
    input: [usize; 3],
    kernel: [usize; 2],
    /// What taps outside the input read.
    padding: &'a [i8],
}

impl<'a> Taps<'a> {
    /// `None` unless `x` and `padding` have their lengths and the kernel has no more than [`TAPS`] taps.
    pub(crate) fn new(x: &'a [i8], input: [usize; 3], kernel: [usize; 2], padding: &'a [i8]) -> Option<Self> {
        let [height, width, channels] = input;
        let taps = kernel[0].checked_mul(kernel[1])?;
        let whole = height.checked_mul(width)?.checked_mul(channels)? == x.len() && channels == padding.len();
        let list = [padding.as_ptr(); TAPS];
        let len = taps.next_multiple_of(TURN);
        (whole && taps > 0 && taps <= TAPS).then_some(Self { list, len, x, input, kernel, padding })
    }

    /// Moves the window to begin at a row and a column of the input, which wrap below zero.
    #[inline]
    pub(crate) fn place(&mut self, top: usize, left: usize) {
        let (x, outside) = (self.x.as_ptr(), self.padding.as_ptr());
        place(x, self.input, self.kernel, [top, left], outside, self.list.iter_mut());
    }

    #[cfg(not(core_family = "cortex-m4"))]
    fn iter(&self) -> impl Iterator<Item = &[i8]> {
        // SAFETY: every pointer of the list is that of a whole pixel of the input, or of the padding.
        self.list.iter().take(self.len).map(|&tap| unsafe { core::slice::from_raw_parts(tap, self.input[2]) })
    }
}

/// The loop reads it in this order, a word a field.
#[cfg(core_family = "cortex-m4")]
#[repr(C)]
struct Task {
    taps: *const *const i8,
    turns: usize,
    weights: *const u32,
    params: *const [u8; 8],
    out: *mut i8,
    /// Channels, a multiple of four, not zero.
    channels: usize,
    left: u32,
    zero_point: i32,
}

/// Computes the first `out.len()` channels, a multiple of four. `weights`: for each four channels and each tap, filled up to
/// whole turns, two words of twice the levels, channels (0, 2) and (1, 3). `None` unless everything has its length.
#[inline]
pub(crate) fn depthwise_pixel(
    taps: &Taps<'_>,
    weights: &[u32],
    params: &[[u8; 8]],
    rounding: Rounding,
    out: &mut [i8],
) -> Option<()> {
    let channels = out.len();
    if !channels.is_multiple_of(QUAD)
        || taps.input[2] < channels
        || weights.len() != (channels / 2).checked_mul(taps.len)?
        || params.len() < channels
    {
        return None;
    }
    if channels == 0 {
        return Some(());
    }
    #[cfg(core_family = "cortex-m4")]
    {
        let task = Task {
            taps: taps.list.as_ptr(),
            turns: taps.len / TURN,
            weights: weights.as_ptr(),
            params: params.as_ptr(),
            out: out.as_mut_ptr(),
            channels,
            left: rounding.left,
            zero_point: rounding.zero_point,
        };
        // SAFETY: the lengths that the loop relies on have just been compared, every tap is that of a whole pixel, and `u32`s
        // are aligned.
        unsafe { pixel_asm(&task) };
    }
    #[cfg(not(core_family = "cortex-m4"))]
    pixel_twin(taps, weights, params, rounding, out);
    Some(())
}

/// One tap. r0 taps, r1 weights, r2 channel, r4–r7 accumulators.
#[cfg(core_family = "cortex-m4")]
macro_rules! tap {
    () => {
        concat!(
            "ldr r8, [r0], #4\n ldr r8, [r8, r2]\n ldrd r10, r11, [r1], #8\n",
            "sxtb16 r9, r8\n sxtb16 r12, r8, ror #8\n",
            "smlabb r4, r9, r10, r4\n smlabb r5, r12, r11, r5\n smlatt r6, r9, r10, r6\n smlatt r7, r12, r11, r7\n",
        )
    };
}

/// # Safety
/// Every tap and `out` must have `channels` channels, `params` too, and `weights` two words for every four channels and tap.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn pixel_asm(task: &Task) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "mov lr, r0",
        "ldr r1, [lr, #8]",
        "mov r2, #0",
        "2:",
        "ldr r12, [lr, #12]",
        "add r12, r12, r2, lsl #3",
        "ldrd r0, r3, [lr]",
        "ldr r4, [r12]",
        "ldr r5, [r12, #8]",
        "ldr r6, [r12, #16]",
        "ldr r7, [r12, #24]",
        "3:",
        tap!(),
        tap!(),
        tap!(),
        "subs r3, r3, #1",
        "bne.w 3b",
        "ldr r12, [lr, #12]",
        "add r12, r12, r2, lsl #3",
        "ldrd r8, r9, [lr, #24]",
        "ldr r0, [r12, #4]",
        "ldr r3, [r12, #12]",
        "ldr r10, [r12, #20]",
        "ldr r11, [r12, #28]",
        "cmp r8, #0",
        "beq 4f",
        "lsl r4, r4, r8",
        "lsl r5, r5, r8",
        "lsl r6, r6, r8",
        "lsl r7, r7, r8",
        "4:",
        "smmlar r4, r4, r0, r9",
        "smmlar r5, r5, r3, r9",
        "smmlar r6, r6, r10, r9",
        "smmlar r7, r7, r11, r9",
        "ssat r4, #8, r4",
        "ssat r5, #8, r5",
        "ssat r6, #8, r6",
        "ssat r7, #8, r7",
        "bfi r4, r5, #8, #24",
        "bfi r4, r6, #16, #16",
        "bfi r4, r7, #24, #8",
        "ldrd r0, r3, [lr, #16]",
        "str r4, [r0, r2]",
        "add r2, r2, #4",
        "cmp r2, r3",
        "bne.w 2b",
        "pop {{r4-r11, pc}}",
    )
}

#[cfg(not(core_family = "cortex-m4"))]
fn pixel_twin(taps: &Taps<'_>, weights: &[u32], params: &[[u8; 8]], rounding: Rounding, out: &mut [i8]) {
    let half = |word: u32, high: bool| i32::from((if high { word >> 16 } else { word }) as u16 as i16);
    for (quad, out) in out.chunks_exact_mut(QUAD).enumerate() {
        let params = &params[quad * QUAD..][..QUAD];
        let word = |bytes: &[u8]| i32::from_le_bytes(bytes.try_into().unwrap_or_default());
        let mut accs = [0, 1, 2, 3].map(|c: usize| word(&params[c][..4]));
        for (tap, levels) in taps.iter().zip(weights[quad * 2 * taps.len..].as_chunks::<2>().0) {
            let x = &tap[quad * QUAD..][..QUAD];
            let x = u32::from_le_bytes([x[0], x[1], x[2], x[3]].map(i8::cast_unsigned));
            let words = [(sxtb16(x), levels[0]), (sxtb16_ror8(x), levels[1])];
            for (channel, acc) in accs.iter_mut().enumerate() {
                let (x, level) = words[channel % 2];
                *acc = acc.wrapping_add(half(x, channel >= 2) * half(level, channel >= 2));
            }
        }
        for ((y, acc), params) in out.iter_mut().zip(accs).zip(params) {
            let y32 = rounded_product(acc << rounding.left, word(&params[4..]), rounding.zero_point);
            *y = y32.clamp(-128, 127) as i8;
        }
    }
}
