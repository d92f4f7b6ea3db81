//! 2-bit weights, fixed k: two channels in a halfword.
//!
//! A stream is a sequence of windows of 32 columns, the first one shorter (16) if the number of steps of 16 columns is odd.
//! A window begins with a head, the value that every T starts from; then come the activations, two columns a word. A head
//! of zero ends the stream: no window starts from zero, because `2^13 − 6145 > 0`.

use super::bands::Loops;
#[cfg(core_family = "cortex-m4")]
use super::bands::{Task, next_band, round};
#[cfg(core_family = "cortex-m4")]
use core::arch::naked_asm;

/// For linear layers and for convolutions.
pub(super) const LOOPS: [Loops; 2] = {
    #[cfg(core_family = "cortex-m4")]
    {
        [quads, pairs]
    }
    #[cfg(not(core_family = "cortex-m4"))]
    {
        [twin::sums::<2>, twin::sums::<1>]
    }
};

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

/// Results of a quad. In: r0, r1 sums of 2·T, r2, r3 of T >> 14, r8 left shift, r9 zero point, r10 parameters, r11 results,
/// r12 task.
#[cfg(core_family = "cortex-m4")]
macro_rules! quad_results {
    ($shift:ident) => {
        concat!(
            "sub r0, r0, r2, lsl #15\n sub r1, r1, r3, lsl #15\n ldr lr, [r12, #52]\n",
            "add r2, lr, r2, lsl #1\n add r3, lr, r3, lsl #1\n",
            "ldm r10!, {{r4-r7}}\n add r0, r0, r4\n add r2, r2, r6\n",
            round!($shift, "r0", "r5", "r9", "r8"),
            round!($shift, "r2", "r7", "r9", "r8"),
            "ldm r10!, {{r4-r7}}\n add r1, r1, r4\n add r3, r3, r6\n",
            round!($shift, "r1", "r5", "r9", "r8"),
            round!($shift, "r3", "r7", "r9", "r8"),
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
            round!($shift, "r0", "r5", "r9", "r8"),
            round!($shift, "r2", "r7", "r9", "r8"),
            round!($shift, "r1", "r5", "r9", "r8"),
            round!($shift, "r3", "r7", "r9", "r8"),
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
unsafe extern "C" fn quads(task: &mut Task) {
    naked_asm!(
        "push {{r0, r4-r11, lr}}",
        "sub sp, sp, #16",
        "mov r12, r0",
        "3:",
        "ldrd r0, r1, [r12]",
        "ldrd r3, r4, [r12, #32]", // first, missing
        "mov r5, r4",
        "mov r6, #0",
        "mov r7, #0",
        "stm sp, {{r4-r7}}",
        "movw r2, #0xC003",
        "movt r2, #0xC003",
        "cmp r3, #1",
        "ldrd r4, r5, [r0], #8",
        "beq.w 2f",
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
        next_band!(),
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
unsafe extern "C" fn pairs(task: &mut Task) {
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
        "cmp r3, #1",
        "ldm r0!, {{r3-r6}}",
        "beq.w 2f",
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
        next_band!(),
        "add sp, sp, #36",
        "pop {{r4-r11, pc}}",
    )
}

/// The same loops in Rust.
#[cfg(not(core_family = "cortex-m4"))]
mod twin {
    use super::super::bands::Band;
    use super::super::instructions::smlad;

    const MASK: u32 = 0xC003_C003;
    /// Words of a step of 16 columns of one pixel.
    const STEP_WORDS: usize = 8;

    /// `PAIRS` of channels.
    pub(super) fn sums<const PAIRS: usize>(band: &Band<'_>, pixel: usize) -> [u32; 4] {
        let pair = |pair| if pair < PAIRS { pair_sums::<PAIRS>(band, pair, pixel) } else { [0; 2] };
        let ([a, b], [c, d]) = (pair(0), pair(1));
        [a, b, c, d]
    }

    /// Adds up T and T >> 14 of one pair and pixel over all windows.
    fn pair_sums<const PAIRS: usize>(band: &Band<'_>, pair: usize, pixel: usize) -> [u32; 2] {
        let (stream, pixels) = (band.words, band.pixels);
        let head = if pixels == 1 { 2 } else { pixels };
        let (mut at, mut step, mut in_window) = (0, 0, band.first);
        let (mut sum, mut high) = (0u32, 0u32);
        while stream[at] != 0 {
            let mut t = stream[at + pixel];
            at += head;
            for _ in 0..in_window {
                for turn in 0..STEP_WORDS {
                    let word = band.weights[step * 2 * PAIRS + turn / 4 * PAIRS + pair];
                    let x = stream[at + turn * pixels + pixel];
                    t = smlad(word.rotate_right(4 * (turn as u32 % 4)) & MASK, x, t);
                }
                at += STEP_WORDS * pixels;
                step += 1;
            }
            in_window = 2;
            sum = sum.wrapping_add(t);
            high = high.wrapping_add((t.cast_signed() >> 14).cast_unsigned());
        }
        [sum.wrapping_sub(high << 14) << 1, high << 1]
    }
}
