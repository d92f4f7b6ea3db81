//! The loops over channels: sums of two channels at a time over a stream of activations, then their requantisation.
//!
//! A stream is a sequence of windows of 32 columns, the first one shorter (16) if the number of steps of 16 columns is odd.
//! A window begins with a head, the value that every T starts from; then come the activations, two columns a word. A head
//! of zero ends the stream: no window starts from zero, because `2^13 − 6145 > 0`.

#[cfg(core_family = "cortex-m4")]
use core::arch::naked_asm;

/// Words of a step of 16 columns of one pixel.
const STEP_WORDS: usize = 8;

/// Whether the stream has the length for `steps` steps and its end; then the loops stay inside it whatever it holds.
fn is_whole(words: &[u32], steps: usize, lanes: usize, head: usize) -> bool {
    let len = (steps.div_ceil(2) + 1).checked_mul(head);
    let len = len.and_then(|heads| steps.checked_mul(STEP_WORDS * lanes)?.checked_add(heads));
    let end = words.len().checked_sub(head).and_then(|at| words.get(at));
    steps > 0 && len == Some(words.len()) && end == Some(&0)
}

#[inline(always)]
fn is_aligned(weights: &[u8]) -> bool {
    cfg!(not(core_family = "cortex-m4")) || weights.as_ptr().addr().is_multiple_of(4)
}

/// What one call computes: the loops read it in this order, a word a field.
#[cfg(core_family = "cortex-m4")]
#[repr(C)]
struct Task {
    stream: *const u32,
    weights: *const u8,
    params: *const [u8; 8],
    /// Bands of channels.
    bands: usize,
    out: *mut i8,
    /// Bytes from one pixel's results to the next one's.
    stride: usize,
    /// Left shift before the multiplication.
    left: u32,
    zero_point: i32,
    /// 1 if the first window has one step.
    short: u32,
    /// Corrections of the low sums and of the high sums; those of a linear layer twice.
    low: [i32; 4],
    high: [i32; 4],
}

/// How accumulators become results: `sat8(zero_point + ((acc << left)·M + 2^31 >> 32))`.
#[derive(Clone, Copy)]
pub(crate) struct Rounding {
    pub(crate) left: u32,
    pub(crate) zero_point: i32,
}

/// Activations of one pixel, for a linear layer; heads are two words.
#[derive(Clone, Copy)]
pub(crate) struct LinearStream<'a> {
    words: &'a [u32],
    steps: usize,
}

/// Activations of four pixels side by side, for a convolution; heads are four words.
#[derive(Clone, Copy)]
pub(crate) struct PixelStream<'a> {
    words: &'a [u32],
    steps: usize,
}

/// Results of a band of channels at once, for those that fill no band; as many as there can be.
const BAND_RESULTS: usize = 8;

impl<'a> LinearStream<'a> {
    /// `None` unless `words` is a whole stream of `steps` steps.
    pub(crate) fn new(words: &'a [u32], steps: usize) -> Option<Self> {
        is_whole(words, steps, 1, 2).then_some(Self { words, steps })
    }

    /// All channels. `weights`: for every four channels, four words for every step, two pairs side by side; `params`: bias
    /// and multiplier of every channel; `missing`: what twice a low and twice a high sum lack.
    pub(crate) fn run(
        self,
        weights: &[u8],
        params: &[[u8; 8]],
        missing: [i32; 2],
        rounding: Rounding,
        out: &mut [i8],
    ) -> Option<()> {
        let (low, high) = ([missing[0]; 4], [missing[1]; 4]);
        let loops = Loops::<4, 1> { words: self.words, steps: self.steps, low, high, rounding };
        loops.run(weights, params, out, params.len(), 1)
    }
}

impl<'a> PixelStream<'a> {
    /// `None` unless `words` is a whole stream of `steps` steps.
    pub(crate) fn new(words: &'a [u32], steps: usize) -> Option<Self> {
        is_whole(words, steps, 4, 4).then_some(Self { words, steps })
    }

    /// All channels of up to four pixels, one after the other in `out`. `weights`: for every pair of channels, two words for
    /// every step; `low` and `high`: what twice a low and twice a high sum of each pixel lack.
    pub(crate) fn run(
        self,
        weights: &[u8],
        params: &[[u8; 8]],
        [low, high]: [[i32; 4]; 2],
        rounding: Rounding,
        out: &mut [i8],
    ) -> Option<()> {
        let loops = Loops::<2, 4> { words: self.words, steps: self.steps, low, high, rounding };
        let pixels = out.len().checked_div(params.len())?;
        loops.run(weights, params, out, params.len(), pixels)
    }
}

/// One of the two loops with its arguments. `CHANNELS` of a band and `PIXELS` are computed together: 4 and 1 for a linear
/// layer, 2 and 4 for a convolution.
struct Loops<'a, const CHANNELS: usize, const PIXELS: usize> {
    words: &'a [u32],
    steps: usize,
    low: [i32; 4],
    high: [i32; 4],
    rounding: Rounding,
}

impl<const CHANNELS: usize, const PIXELS: usize> Loops<'_, CHANNELS, PIXELS> {
    /// `out` holds `pixels` rows of `stride` channels.
    fn run(
        &self,
        weights: &[u8],
        params: &[[u8; 8]],
        out: &mut [i8],
        stride: usize,
        pixels: usize,
    ) -> Option<()> {
        let band_bytes = self.steps * 4 * CHANNELS;
        let bands = params.len().div_ceil(CHANNELS);
        let whole = params.len() / CHANNELS;
        if weights.len() != bands.checked_mul(band_bytes)?
            || !is_aligned(weights)
            || out.len() != pixels.checked_mul(stride)?
            || stride != params.len()
        {
            return None;
        }
        let mut first = 0;
        if pixels == PIXELS && whole > 0 {
            let (weights, params) = (weights.get(..whole * band_bytes)?, params.get(..whole * CHANNELS)?);
            self.bands(weights, params, whole, out, stride);
            first = whole;
        }
        // Bands of less channels, and groups of less pixels, through a place where all of them have room.
        for band in first..bands {
            let (mut band_params, mut results) = ([[0; 8]; 4], [0; BAND_RESULTS]);
            let channel = band * CHANNELS;
            let from = params.get(channel..)?;
            band_params.iter_mut().zip(from).take(CHANNELS).for_each(|(to, &from)| *to = from);
            let weights = weights.get(band * band_bytes..)?.get(..band_bytes)?;
            let room = results.get_mut(..PIXELS * CHANNELS)?;
            self.bands(weights, &band_params, 1, room, CHANNELS);
            let rows = out.chunks_exact_mut(stride).zip(room.chunks_exact(CHANNELS));
            for (to, from) in rows.take(pixels) {
                to.get_mut(channel..)?.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
            }
        }
        Some(())
    }

    /// Whole bands and all pixels. The caller has compared all lengths.
    #[inline(always)]
    fn bands(&self, weights: &[u8], params: &[[u8; 8]], bands: usize, out: &mut [i8], stride: usize) {
        debug_assert_eq!(weights.len(), bands * self.steps * 4 * CHANNELS);
        debug_assert!(params.len() >= bands * CHANNELS);
        debug_assert!(out.len() >= (PIXELS - 1) * stride + bands * CHANNELS);
        #[cfg(core_family = "cortex-m4")]
        {
            let mut task = Task {
                stream: self.words.as_ptr(),
                weights: weights.as_ptr(),
                params: params.as_ptr(),
                bands,
                out: out.as_mut_ptr(),
                stride,
                left: self.rounding.left,
                zero_point: self.rounding.zero_point,
                short: (self.steps & 1) as u32,
                low: self.low,
                high: self.high,
            };
            // SAFETY: the stream was found whole, so the loops read it up to its end and no further; weights, parameters
            // and results have the lengths that the assertions above state, and weights are aligned.
            unsafe { if PIXELS == 1 { quads_asm(&mut task) } else { pairs_asm(&mut task) } }
        }
        #[cfg(not(core_family = "cortex-m4"))]
        twin::bands(self, weights, params, bands, out, stride);
    }
}

/// Eight columns of one word of weights: four turns, an activation word each.
#[cfg(core_family = "cortex-m4")]
macro_rules! turn {
    (quad, $n:literal, $x:literal, $w0:literal, $w1:literal) => {
        concat!(
            "and r3, r2, ",
            $w0,
            ", ror #",
            $n,
            "\n smlad r4, r3, ",
            $x,
            ", r4\n",
            "and r3, r2, ",
            $w1,
            ", ror #",
            $n,
            "\n smlad r5, r3, ",
            $x,
            ", r5\n",
        )
    };
    (pair, $n:literal, $w:literal) => {
        concat!(
            "ldm r0!, {{r10, r11, r12, lr}}\n and r9, r2, ",
            $w,
            ", ror #",
            $n,
            "\n",
            "smlad r3, r9, r10, r3\n smlad r4, r9, r11, r4\n smlad r5, r9, r12, r5\n smlad r6, r9, lr, r6\n",
        )
    };
}

/// Sixteen columns.
#[cfg(core_family = "cortex-m4")]
macro_rules! step {
    (quad) => {
        concat!(
            "ldm r1!, {{r6, r7, r8, r9}}\n ldm r0!, {{r10, r11, r12, lr}}\n",
            turn!(quad, "0", "r10", "r6", "r7"),
            turn!(quad, "4", "r11", "r6", "r7"),
            turn!(quad, "8", "r12", "r6", "r7"),
            turn!(quad, "12", "lr", "r6", "r7"),
            "ldm r0!, {{r10, r11, r12, lr}}\n",
            turn!(quad, "0", "r10", "r8", "r9"),
            turn!(quad, "4", "r11", "r8", "r9"),
            turn!(quad, "8", "r12", "r8", "r9"),
            turn!(quad, "12", "lr", "r8", "r9"),
        )
    };
    (pair) => {
        concat!(
            "ldrd r7, r8, [r1], #8\n",
            turn!(pair, "0", "r7"),
            turn!(pair, "4", "r7"),
            turn!(pair, "8", "r7"),
            turn!(pair, "12", "r7"),
            turn!(pair, "0", "r8"),
            turn!(pair, "4", "r8"),
            turn!(pair, "8", "r8"),
            turn!(pair, "12", "r8"),
        )
    };
}

/// Two results: `$a` and `$b` are accumulators without bias, `$n` is `left` or `straight`.
#[cfg(core_family = "cortex-m4")]
macro_rules! round {
    (left, $acc:literal, $m:literal) => {
        concat!("lsl ", $acc, ", ", $acc, ", r8\n", round!(straight, $acc, $m))
    };
    (straight, $acc:literal, $m:literal) => {
        concat!("smmlar ", $acc, ", ", $acc, ", ", $m, ", r9\n ssat ", $acc, ", #8, ", $acc, "\n")
    };
}

/// Results of a quad. In: r0, r1 sums of 2·T, r2, r3 of T >> 14, r8 left shift, r9 zero point, r10 parameters, r11 results,
/// r12 task.
#[cfg(core_family = "cortex-m4")]
macro_rules! quad_results {
    ($shift:ident) => {
        concat!(
            "sub r0, r0, r2, lsl #15\n sub r1, r1, r3, lsl #15\n ldr lr, [r12, #52]\n",
            "add r2, lr, r2, lsl #1\n add r3, lr, r3, lsl #1\n",
            "ldm r10!, {{r4-r7}}\n add r0, r0, r4\n add r2, r2, r6\n",
            round!($shift, "r0", "r5"),
            round!($shift, "r2", "r7"),
            "ldm r10!, {{r4-r7}}\n add r1, r1, r4\n add r3, r3, r6\n",
            round!($shift, "r1", "r5"),
            round!($shift, "r3", "r7"),
            "strb r0, [r11], #1\n strb r2, [r11], #1\n strb r1, [r11], #1\n strb r3, [r11], #1\n",
        )
    };
}

/// Results of a pair for two pixels. In: r0, r1 sums of 2·T, r2, r3 of T >> 14, r4, r5 bias and multiplier of the first
/// channel, r6, r7 of the second, r8 left shift, r9 zero point, r10 stride, r11 results, r12 task.
#[cfg(core_family = "cortex-m4")]
macro_rules! pair_results {
    ($shift:ident, $sums:literal, $high:literal, $missing:literal) => {
        concat!(
            "ldrd r0, r1, [sp, #",
            $sums,
            "]\n ldrd r2, r3, [sp, #",
            $high,
            "]\n",
            "sub r0, r0, r2, lsl #15\n sub r1, r1, r3, lsl #15\n add r0, r0, r4\n add r1, r1, r4\n",
            "add r2, r6, r2, lsl #1\n add r3, r6, r3, lsl #1\n",
            "ldr lr, [r12, #",
            $missing,
            "]\n add r2, r2, lr\n ldr lr, [r12, #",
            $missing,
            " + 4]\n add r3, r3, lr\n",
            round!($shift, "r0", "r5"),
            round!($shift, "r2", "r7"),
            round!($shift, "r1", "r5"),
            round!($shift, "r3", "r7"),
            "bfi r0, r2, #8, #24\n bfi r1, r3, #8, #24\n",
            "strh r0, [r11]\n strh r1, [r11, r10]\n add r11, r11, r10, lsl #1\n",
        )
    };
}

/// Bands of four channels of a linear layer.
///
/// In the loop: r0 stream, r1 weights, r2 mask, r3 scratch, r4–r5 T, r6–r9 weights, r10–lr activations. On the stack: sums of
/// 2·T and of T >> 14, the task.
///
/// # Safety
/// All pointers of the task must be valid for the lengths that its stream, its bands and its stride imply.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn quads_asm(task: &mut Task) {
    naked_asm!(
        "push {{r0, r4-r11, lr}}",
        "sub sp, sp, #16",
        "mov r12, r0",
        "3:",
        "ldrd r0, r1, [r12]",
        "ldrd r3, r4, [r12, #32]", // short, missing
        "mov r5, r4",
        "mov r6, #0",
        "mov r7, #0",
        "stm sp, {{r4-r7}}",
        "movw r2, #0xC003",
        "movt r2, #0xC003",
        "cmp r3, #0",
        "ldrd r4, r5, [r0], #8",
        "bne.w 2f",
        "1:",
        step!(quad),
        "2:",
        step!(quad),
        "ldm sp, {{r6-r9}}",
        "add r6, r6, r4, lsl #1",
        "add r7, r7, r5, lsl #1",
        "add r8, r8, r4, asr #14",
        "add r9, r9, r5, asr #14",
        "stm sp, {{r6-r9}}",
        "ldrd r4, r5, [r0], #8",
        "cmp r4, #0",
        "bne.w 1b",
        "ldr r12, [sp, #16]",
        "mov r0, r6",
        "mov r2, r8",
        "mov r3, r9",
        "str r1, [r12, #4]",
        "mov r1, r7",
        "ldrd r8, r9, [r12, #24]",
        "ldr r10, [r12, #8]",
        "ldr r11, [r12, #16]",
        "cmp r8, #0",
        "bne.w 4f",
        quad_results!(straight),
        "b.w 5f",
        "4:",
        quad_results!(left),
        "5:",
        "str r10, [r12, #8]",
        "str r11, [r12, #16]",
        "ldr r0, [r12, #12]",
        "subs r0, r0, #1",
        "str r0, [r12, #12]",
        "bne.w 3b",
        "add sp, sp, #20",
        "pop {{r4-r11, pc}}",
    )
}

/// Bands of two channels of four pixels.
///
/// In the loop: r0 stream, r1 weights, r2 mask, r3–r6 T, r7–r8 weights, r9 scratch, r10–lr activations. On the stack: sums of
/// 2·T and of T >> 14, the task.
///
/// # Safety
/// All pointers of the task must be valid for the lengths that its stream, its bands and its stride imply.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn pairs_asm(task: &mut Task) {
    naked_asm!(
        "push {{r0, r4-r11, lr}}",
        "sub sp, sp, #32",
        "mov r12, r0",
        "3:",
        "ldrd r0, r1, [r12]",
        "mov r10, #0",
        "mov r11, #0",
        "add r3, r12, #36",
        "ldm r3, {{r6-r9}}",
        "stm sp, {{r6-r11}}",
        "strd r10, r11, [sp, #24]",
        "movw r2, #0xC003",
        "movt r2, #0xC003",
        "ldr r3, [r12, #32]",
        "cmp r3, #0",
        "ldm r0!, {{r3-r6}}",
        "bne.w 2f",
        "1:",
        step!(pair),
        "2:",
        step!(pair),
        "ldm sp, {{r7-r10}}",
        "add r7, r7, r3, lsl #1",
        "add r8, r8, r4, lsl #1",
        "add r9, r9, r5, lsl #1",
        "add r10, r10, r6, lsl #1",
        "stm sp, {{r7-r10}}",
        "ldrd r7, r8, [sp, #16]",
        "ldrd r9, r10, [sp, #24]",
        "add r7, r7, r3, asr #14",
        "add r8, r8, r4, asr #14",
        "add r9, r9, r5, asr #14",
        "add r10, r10, r6, asr #14",
        "strd r7, r8, [sp, #16]",
        "strd r9, r10, [sp, #24]",
        "ldm r0!, {{r3-r6}}",
        "cmp r3, #0",
        "bne.w 1b",
        "ldr r12, [sp, #32]",
        "str r1, [r12, #4]",
        "ldr r0, [r12, #8]",
        "ldm r0!, {{r4-r7}}",
        "str r0, [r12, #8]",
        "ldrd r8, r9, [r12, #24]",
        "ldrd r11, r10, [r12, #16]",
        "add r0, r11, #2",
        "str r0, [r12, #16]",
        "cmp r8, #0",
        "bne.w 4f",
        pair_results!(straight, "0", "16", "52"),
        pair_results!(straight, "8", "24", "60"),
        "b.w 5f",
        "4:",
        pair_results!(left, "0", "16", "52"),
        pair_results!(left, "8", "24", "60"),
        "5:",
        "ldr r0, [r12, #12]",
        "subs r0, r0, #1",
        "str r0, [r12, #12]",
        "bne.w 3b",
        "add sp, sp, #36",
        "pop {{r4-r11, pc}}",
    )
}

/// The same loops in Rust.
#[cfg(not(core_family = "cortex-m4"))]
mod twin {
    use super::super::instructions::{rounded_product, smlad};
    use super::{Loops, STEP_WORDS};

    const MASK: u32 = 0xC003_C003;

    pub(super) fn bands<const CHANNELS: usize, const PIXELS: usize>(
        loops: &Loops<'_, CHANNELS, PIXELS>,
        weights: &[u8],
        params: &[[u8; 8]],
        bands: usize,
        out: &mut [i8],
        stride: usize,
    ) {
        let band_bytes = loops.steps * 4 * CHANNELS;
        let pairs = CHANNELS / 2;
        for band in 0..bands {
            let words: Vec<u32> = weights[band * band_bytes..][..band_bytes]
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| u32::from_le_bytes(bytes))
                .collect();
            for (pair, pixel) in (0..pairs).flat_map(|p| (0..PIXELS).map(move |x| (p, x))) {
                let (mut low, mut high) = (loops.low[pixel].cast_unsigned(), 0);
                sums(loops, &words, pair, pixel, &mut low, &mut high);
                let low = low.wrapping_sub(high << 15);
                let high = (high << 1).wrapping_add(loops.high[pixel].cast_unsigned());
                for (row, acc) in [low, high].into_iter().enumerate() {
                    let channel = band * CHANNELS + pair * 2 + row;
                    let [b0, b1, b2, b3, m0, m1, m2, m3] = params[channel];
                    let bias = i32::from_le_bytes([b0, b1, b2, b3]);
                    let acc = acc.cast_signed().wrapping_add(bias) << loops.rounding.left;
                    let multiplier = i32::from_le_bytes([m0, m1, m2, m3]);
                    let y = rounded_product(acc, multiplier, loops.rounding.zero_point);
                    out[pixel * stride + channel] = y.clamp(-128, 127) as i8;
                }
            }
        }
    }

    /// Adds up 2·T and T >> 14 of one pair and pixel over all windows.
    fn sums<const CHANNELS: usize, const PIXELS: usize>(
        loops: &Loops<'_, CHANNELS, PIXELS>,
        weights: &[u32],
        pair: usize,
        pixel: usize,
        low: &mut u32,
        high: &mut u32,
    ) {
        let (stream, pixels, pairs) = (loops.words, PIXELS, CHANNELS / 2);
        let head = if pixels == 1 { 2 } else { pixels };
        let (mut at, mut step) = (0, 0);
        while stream[at] != 0 {
            let mut t = stream[at + pixel];
            at += head;
            let in_window = if step == 0 && loops.steps % 2 == 1 { 1 } else { 2 };
            for _ in 0..in_window {
                for turn in 0..STEP_WORDS {
                    let word = weights[step * CHANNELS + turn / 4 * pairs + pair];
                    let x = stream[at + turn * pixels + pixel];
                    t = smlad(word.rotate_right(4 * (turn as u32 % 4)) & MASK, x, t);
                }
                at += STEP_WORDS * pixels;
                step += 1;
            }
            *low = low.wrapping_add(t << 1);
            *high = high.wrapping_add((t.cast_signed() >> 14).cast_unsigned());
        }
    }
}
