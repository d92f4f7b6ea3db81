//! 2-bit weights, fixed k: two channels in a halfword.
//!
//! A stream is a sequence of windows of 32 columns, the first one shorter (16) if the number of steps of 16 columns is odd.
//! A window begins with a head, the value that every T starts from; then come the activations, two columns a word. A head
//! of zero ends the stream: no window starts from zero, because `2^13 − 6145 > 0`.

use super::bands::Loops;
#[cfg(core_family = "cortex-m4")]
use super::bands::{Task, quad_results, quad_shifted, round};
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

/// Bands of four channels of a linear layer.
///
/// In the loop: r0 stream, r1 weights, r2 mask, r3 scratch, r4–r5 T, r6–r9 weights, r10–lr activations. On the stack: sums of
/// T and of T >> 14 of either pair, the task.
///
/// # Safety
/// As [`Loops`] says.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn quads(task: &mut Task) {
    naked_asm!(
        "push {{r0, r4-r11, lr}}",
        "sub sp, sp, #16",
        "mov r12, r0",
        "ldr r1, [r12, #60]",
        "3:",
        "ldr r0, [r12, #56]",
        "ldr r3, [r12, #64]",
        "mov r6, #0",
        "mov r7, #0",
        "strd r6, r7, [sp]",
        "strd r6, r7, [sp, #8]",
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
        "add r6, r6, r4",
        "add r7, r7, r4, asr #14",
        "add r8, r8, r5",
        "add r9, r9, r5, asr #14",
        "stm sp, {{r6-r9}}",
        "ldrd r4, r5, [r0], #8",
        "cmp r4, #0",
        "bne.w 1b",
        "ldm sp, {{r4-r7}}",
        "ldr r12, [sp, #16]",
        "sub r4, r4, r5, lsl #14",
        "sub r6, r6, r7, lsl #14",
        quad_results!("r0", "lr", "r0", "lr"),
        "add sp, sp, #20",
        "pop {{r4-r11, pc}}",
        quad_shifted!(),
    )
}

/// Rounds the sums of two channels of four pixels and packs them: multipliers r2 and lr, zero point r11, shift r1.
#[cfg(core_family = "cortex-m4")]
macro_rules! pair_results {
    ($($left:literal)?) => {
        concat!(
            round!("r7", "r2", "r11" $(, $left)?),
            round!("r3", "lr", "r11" $(, $left)?),
            round!("r8", "r2", "r11" $(, $left)?),
            round!("r4", "lr", "r11" $(, $left)?),
            round!("r9", "r2", "r11" $(, $left)?),
            round!("r5", "lr", "r11" $(, $left)?),
            round!("r10", "r2", "r11" $(, $left)?),
            round!("r6", "lr", "r11" $(, $left)?),
        )
    };
}

/// Bands of two channels of four pixels.
///
/// In the loop: r0 stream, r1 weights, r2 mask, r3–r6 T, r7–r8 weights, r9 scratch, r10–lr activations. On the stack: sums of
/// T >> 14 and of 2·T of each pixel, the task.
///
/// # Safety
/// As [`Loops`] says.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn pairs(task: &mut Task) {
    naked_asm!(
        "push {{r0, r4-r11, lr}}",
        "sub sp, sp, #32",
        "mov r12, r0",
        "3:",
        "ldrd r0, r1, [r12, #56]",
        "ldr r11, [r12, #64]",
        "add r2, r12, #20",
        "ldm r2, {{r6-r9}}", // missing of the low sums
        "mov r2, #0",
        "mov r3, #0",
        "mov r4, #0",
        "mov r5, #0",
        "stm sp, {{r2-r9}}",
        "movw r2, #0xC003",
        "movt r2, #0xC003",
        "cmp r11, #1",
        "ldm r0!, {{r3-r6}}",
        "beq.w 2f",
        "1:",
        step!(pair),
        "2:",
        step!(pair),
        "ldm sp, {{r7-r10}}",
        "add r7, r7, r3, asr #14",
        "add r8, r8, r4, asr #14",
        "add r9, r9, r5, asr #14",
        "add r10, r10, r6, asr #14",
        "stm sp, {{r7-r10}}",
        "add r12, sp, #16",
        "ldm r12, {{r7-r10}}",
        "add r7, r7, r3, lsl #1",
        "add r8, r8, r4, lsl #1",
        "add r9, r9, r5, lsl #1",
        "add r10, r10, r6, lsl #1",
        "stm r12, {{r7-r10}}",
        "ldm r0!, {{r3-r6}}",
        "cmp r3, #0",
        "bne.w 1b",
        "ldr r12, [sp, #32]",
        "ldm sp, {{r3-r6}}",
        "str r1, [r12, #60]",
        "ldr r0, [r12, #4]",
        "ldm r0!, {{r1, r2, r11, lr}}", // biases and multipliers
        "str r0, [r12, #4]",
        "add r7, r7, r1",
        "add r8, r8, r1",
        "add r9, r9, r1",
        "add r10, r10, r1",
        "sub r7, r7, r3, lsl #15",
        "sub r8, r8, r4, lsl #15",
        "sub r9, r9, r5, lsl #15",
        "sub r10, r10, r6, lsl #15",
        "ldrd r0, r1, [r12, #36]", // missing of the high sums
        "add r3, r11, r3, lsl #1",
        "add r4, r11, r4, lsl #1",
        "add r3, r3, r0",
        "add r4, r4, r1",
        "ldrd r0, r1, [r12, #44]",
        "add r5, r11, r5, lsl #1",
        "add r6, r11, r6, lsl #1",
        "add r5, r5, r0",
        "add r6, r6, r1",
        "ldrd r1, r11, [r12, #12]",
        "cmp r1, #0",
        "bne.w 4f",
        pair_results!(),
        "5:",
        "bfi r7, r3, #8, #24",
        "bfi r8, r4, #8, #24",
        "bfi r9, r5, #8, #24",
        "bfi r10, r6, #8, #24",
        "ldr r0, [r12, #8]",
        "ldr r1, [r12, #52]",
        "ldr r3, [r12]",
        "add r2, r0, r1, lsl #1",
        "strh r8, [r0, r1]",
        "strh r7, [r0], #2",
        "strh r9, [r2]",
        "strh r10, [r2, r1]",
        "str r0, [r12, #8]",
        "subs r3, r3, #1",
        "str r3, [r12]",
        "bne.w 3b",
        "add sp, sp, #36",
        "pop {{r4-r11, pc}}",
        "4:",
        pair_results!("r1"),
        "b.w 5b",
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
