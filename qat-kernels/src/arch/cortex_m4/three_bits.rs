//! 3-bit weights: each of three channels shares a halfword with one bit of a fourth one.
//!
//! `AND mask, word ROR #n` leaves one bit A of the fourth channel at bit 0 and the code B of channel j at bits 13–15, as two's
//! complement, so that `SMLAD` adds `A·x + 2^13·B·x`: with j = 0, 1, 2 for bits 0, 1, 2 of the fourth channel, six instructions
//! for eight multiply-accumulates.
//!
//! The low sum has 13 bits. A is 0 or 1, so `Σ (A − 1/2)·x` is at most 64 a column in magnitude; a window of 48 columns that
//! starts at `2^12 − ⌊Σx/2⌋` keeps it within `2^12 ± (3072 + 1)`. At the end of a window `T_j >> 13` is exactly `Σ B_j·x`;
//! `T_0 + 2·T_1 + 4·T_2`, less `2^13` times the same of the high sums, is the fourth channel's sum.
//!
//! The first window is shorter if the number of steps of 16 columns is no multiple of three. A head of zeros ends the stream:
//! no window starts from zero.

use super::bands::Loops;
#[cfg(core_family = "cortex-m4")]
use super::bands::{Task, quad_results, quad_shifted, quads_results, quads_shifted, round};
#[cfg(core_family = "cortex-m4")]
use core::arch::naked_asm;

/// For linear layers and for convolutions.
pub(super) const LOOPS: [Loops; 2] = {
    #[cfg(core_family = "cortex-m4")]
    {
        [quad, quads]
    }
    #[cfg(not(core_family = "cortex-m4"))]
    {
        [twin, twin]
    }
};

/// One of three products of two columns: word `$w`, rotated by `$n`, T in `$t`, activations `$x`; the second pixel's in
/// `$u` and `$y`.
#[cfg(core_family = "cortex-m4")]
macro_rules! product {
    ($w:literal, $n:literal, $t:literal, $x:literal) => {
        concat!("and r3, r2, ", $w, ", ror #", $n, "\n smlad ", $t, ", r3, ", $x, ", ", $t, "\n")
    };
    ($w:literal, $n:literal, $t:literal, $x:literal, $u:literal, $y:literal) => {
        concat!(product!($w, $n, $t, $x), "smlad ", $u, ", r3, ", $y, ", ", $u, "\n")
    };
}

/// Eight columns of one pixel.
#[cfg(core_family = "cortex-m4")]
macro_rules! half_step {
    () => {
        concat!(
            "ldm r1!, {{r7, r8, r9}}\n ldm r0!, {{r10, r11, r12, lr}}\n",
            product!("r7", "0", "r4", "r10"),
            product!("r7", "4", "r5", "r10"),
            product!("r7", "8", "r6", "r10"),
            product!("r7", "12", "r4", "r11"),
            product!("r8", "0", "r5", "r11"),
            product!("r8", "4", "r6", "r11"),
            product!("r8", "8", "r4", "r12"),
            product!("r8", "12", "r5", "r12"),
            product!("r9", "0", "r6", "r12"),
            product!("r9", "4", "r4", "lr"),
            product!("r9", "8", "r5", "lr"),
            product!("r9", "12", "r6", "lr"),
        )
    };
}

/// Two columns of two pixels: the words and rotations of their three products; `$load` comes before the word that it loads is
/// used.
#[cfg(core_family = "cortex-m4")]
macro_rules! columns {
    ($w0:literal, $n0:literal, $w1:literal, $n1:literal, $w2:literal, $n2:literal) => {
        concat!(
            "ldrd r10, r11, [r0], #8\n",
            product!($w0, $n0, "r4", "r10", "r7", "r11"),
            product!($w1, $n1, "r5", "r10", "r8", "r11"),
            product!($w2, $n2, "r6", "r10", "r9", "r11"),
        )
    };
}

/// Sixteen columns of two pixels: six words of weights, two at a time.
#[cfg(core_family = "cortex-m4")]
macro_rules! pair_step {
    () => {
        concat!(
            "ldrd r12, lr, [r1], #8\n",
            columns!("r12", "0", "r12", "4", "r12", "8"),
            columns!("r12", "12", "lr", "0", "lr", "4"),
            "ldrd r10, r11, [r0], #8\n",
            product!("lr", "8", "r4", "r10", "r7", "r11"),
            product!("lr", "12", "r5", "r10", "r8", "r11"),
            "ldrd r12, lr, [r1], #8\n",
            product!("r12", "0", "r6", "r10", "r9", "r11"),
            columns!("r12", "4", "r12", "8", "r12", "12"),
            columns!("lr", "0", "lr", "4", "lr", "8"),
            "ldrd r10, r11, [r0], #8\n",
            product!("lr", "12", "r4", "r10", "r7", "r11"),
            "ldrd r12, lr, [r1], #8\n",
            product!("r12", "0", "r5", "r10", "r8", "r11"),
            product!("r12", "4", "r6", "r10", "r9", "r11"),
            "ldrd r10, r11, [r0], #8\n",
            product!("r12", "8", "r4", "r10", "r7", "r11"),
            product!("r12", "12", "r5", "r10", "r8", "r11"),
            product!("lr", "0", "r6", "r10", "r9", "r11"),
            columns!("lr", "4", "lr", "8", "lr", "12"),
        )
    };
}

/// Adds the T of a window in the first three registers to the sums in the last four.
#[cfg(core_family = "cortex-m4")]
macro_rules! add {
    ($t0:literal, $t1:literal, $t2:literal, $h0:literal, $h1:literal, $h2:literal, $low:literal) => {
        concat!(
            "add ",
            $h0,
            ", ",
            $h0,
            ", ",
            $t0,
            ", asr #13\n add ",
            $h1,
            ", ",
            $h1,
            ", ",
            $t1,
            ", asr #13\n",
            "add ",
            $h2,
            ", ",
            $h2,
            ", ",
            $t2,
            ", asr #13\n add ",
            $low,
            ", ",
            $low,
            ", ",
            $t0,
            "\n",
            "add ",
            $low,
            ", ",
            $low,
            ", ",
            $t1,
            ", lsl #1\n add ",
            $low,
            ", ",
            $low,
            ", ",
            $t2,
            ", lsl #2\n",
        )
    };
}

/// Takes the high sums out of the low one.
#[cfg(core_family = "cortex-m4")]
macro_rules! apart {
    ($h0:literal, $h1:literal, $h2:literal, $low:literal) => {
        concat!(
            "sub ",
            $low,
            ", ",
            $low,
            ", ",
            $h0,
            ", lsl #13\n sub ",
            $low,
            ", ",
            $low,
            ", ",
            $h1,
            ", lsl #14\n",
            "sub ",
            $low,
            ", ",
            $low,
            ", ",
            $h2,
            ", lsl #15\n",
        )
    };
}

/// Bands of four channels of a linear layer.
///
/// In the loop: r0 stream, r1 weights, r2 mask, r3 scratch, r4–r6 T, r7–r9 weights, r10–lr activations. On the stack: the
/// sums, the task.
///
/// # Safety
/// As [`Loops`] says.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn quad(task: &mut Task) {
    naked_asm!(
        "push {{r0, r4-r11, lr}}",
        "sub sp, sp, #16",
        "mov r12, r0",
        "ldr r1, [r12, #60]",
        "3:",
        "ldr r0, [r12, #56]",
        "ldr r3, [r12, #64]",
        "movw r2, #0xE001",
        "movt r2, #0xE001",
        "mov r4, #0",
        "mov r5, #0",
        "strd r4, r5, [sp]",
        "strd r4, r5, [sp, #8]",
        "ldm r0!, {{r4, r5, r6}}",
        "cmp r3, #2",
        "beq.w 5f",
        "blo.w 6f",
        "1:",
        half_step!(),
        half_step!(),
        "5:",
        half_step!(),
        half_step!(),
        "6:",
        half_step!(),
        half_step!(),
        "ldm sp, {{r7-r10}}",
        add!("r4", "r5", "r6", "r7", "r8", "r9", "r10"),
        "stm sp, {{r7-r10}}",
        "ldm r0!, {{r4, r5, r6}}",
        "cmp r4, #0",
        "bne.w 1b",
        "ldr r12, [sp, #16]",
        "ldm sp, {{r4-r7}}",
        apart!("r4", "r5", "r6", "r7"),
        quad_results!("lr", "lr", "lr", "r0"),
        "add sp, sp, #20",
        "pop {{r4-r11, pc}}",
        quad_shifted!(),
    )
}

/// Bands of four channels of two pixels.
///
/// In the loop: r0 stream, r1 weights, r2 mask, r3 scratch, r4–r6 and r7–r9 T of either pixel, r10, r11 activations, r12, lr
/// weights. On the stack: the sums of either pixel, the task.
///
/// # Safety
/// As [`Loops`] says.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn quads(task: &mut Task) {
    naked_asm!(
        "push {{r0, r4-r11, lr}}",
        "sub sp, sp, #32",
        "mov r12, r0",
        "ldr r1, [r12, #60]",
        "3:",
        "ldr r0, [r12, #56]",
        "ldr r3, [r12, #64]",
        "mov r4, #0",
        "mov r5, #0",
        "mov r6, #0",
        "mov r7, #0",
        "stm sp, {{r4-r7}}",
        "strd r4, r5, [sp, #16]",
        "strd r4, r5, [sp, #24]",
        "movw r2, #0xE001",
        "movt r2, #0xE001",
        "ldm r0!, {{r4-r9}}",
        "cmp r3, #2",
        "beq.w 5f",
        "blo.w 6f",
        "1:",
        pair_step!(),
        "5:",
        pair_step!(),
        "6:",
        pair_step!(),
        "ldm sp, {{r10, r11, r12, lr}}",
        add!("r4", "r5", "r6", "r10", "r11", "r12", "lr"),
        "stm sp, {{r10, r11, r12, lr}}",
        "add r3, sp, #16",
        "ldm r3, {{r10, r11, r12, lr}}",
        add!("r7", "r8", "r9", "r10", "r11", "r12", "lr"),
        "stm r3, {{r10, r11, r12, lr}}",
        "ldm r0!, {{r4-r9}}",
        "cmp r4, #0",
        "bne.w 1b",
        "ldr r12, [sp, #32]",
        "ldm sp, {{r4-r11}}",
        apart!("r4", "r5", "r6", "r7"),
        apart!("r8", "r9", "r10", "r11"),
        quads_results!("r3", "lr", "r3", "lr", "r3", "lr", "r0", "r2"),
        "add sp, sp, #36",
        "pop {{r4-r11, pc}}",
        quads_shifted!(),
    )
}

/// The same loops in Rust.
#[cfg(not(core_family = "cortex-m4"))]
fn twin(band: &super::bands::Band<'_>, pixel: usize) -> [u32; 4] {
    let (pixels, mut at, mut step, mut in_window) = (band.pixels, 0, 0, band.first);
    let (mut high, mut low) = ([0u32; 3], 0u32);
    while band.words[at] != 0 {
        let mut t = [0, 1, 2].map(|j| band.words[at + 3 * pixel + j]);
        at += 3 * pixels;
        for _ in 0..in_window {
            for set in 0..24 {
                let word = band.weights[step * 6 + set / 4].rotate_right(4 * (set as u32 % 4)) & 0xE001_E001;
                let x = band.words[at + set / 3 * pixels + pixel];
                t[set % 3] = super::instructions::smlad(word, x, t[set % 3]);
            }
            at += 8 * pixels;
            step += 1;
        }
        in_window = 3;
        for ((j, t), high) in t.into_iter().enumerate().zip(&mut high) {
            *high = high.wrapping_add((t.cast_signed() >> 13).cast_unsigned());
            low = low.wrapping_add(t << j);
        }
    }
    let [h0, h1, h2] = high;
    let low = low.wrapping_sub(h0 << 13).wrapping_sub(h1 << 14).wrapping_sub(h2 << 15);
    [h0, h1, h2, low].map(|sum| sum << 1)
}
