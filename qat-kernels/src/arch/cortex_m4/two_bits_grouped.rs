//! 2-bit weights with a divisor for each group of 8, 16 or 32: two channels in a halfword, sums taken apart after every 8 or
//! 16 columns.
//!
//! A halfword is worth `A + 2^14·B` as without groups, but the first channel's codes are stored as `A = 1 − q` and activations
//! are multiplied by 8. A window starts from `2^15 + (2^16 − 12)·Σx` on the mid-rise grid and from `2^15 − 8·Σx` on the
//! mid-tread grid. At its end the high halfword is then exactly `Σ level2(q_B)·x` and the low one, after an `EOR` with 2^15 a
//! signed halfword, is `−4·Σ level2(q_A)·x`: its magnitude is at most `4·3·128·16` on the one grid, and on the other it lies
//! between `−8·2·128·16 = −2^15` and `8·2·127·16`. `SMLATT` and `SMLABB` multiply both with their groups' 60/k. The first
//! channel's sum stays four times as large as it has to be until the end.
//!
//! A convolution takes two windows apart at once, while it has the accumulators in registers: the T of the first one wait in
//! memory, and `SMLAD` multiplies the low halves of both, which share the `EOR`, with their two factors.

use super::bands::Loops;
#[cfg(core_family = "cortex-m4")]
use super::bands::{Task, round};
use crate::arch::factors::GROUP_FACTORS;
#[cfg(core_family = "cortex-m4")]
use core::arch::naked_asm;

/// Two factors in the halves of a word: those of fields, or the same with the other sign.
const fn factors([low, high]: [usize; 2], sign: i16) -> u32 {
    let low = (sign * GROUP_FACTORS[low & 3] as i16).cast_unsigned();
    let high = (sign * GROUP_FACTORS[high & 3] as i16).cast_unsigned();
    low as u32 | (high as u32) << 16
}

/// For every byte of divisors `−m` of fields 0 and 2 and `m` of fields 1 and 3: those of four channels, or of two channels in
/// two groups.
pub(super) static FACTORS: [[u32; 2]; 256] = {
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [factors([byte, byte >> 4], -1), factors([byte >> 2, byte >> 6], 1)];
        byte += 1;
    }
    table
};

/// The same of two fields, as of two channels in a group of two windows.
pub(super) static FACTORS_32: [[u32; 2]; 16] = {
    let mut table = [[0; 2]; 16];
    let mut nibble = 0;
    while nibble < 16 {
        table[nibble] = [factors([nibble; 2], -1), factors([nibble >> 2; 2], 1)];
        nibble += 1;
    }
    table
};

#[cfg(core_family = "cortex-m4")]
pub(super) const LOOPS_8: [Loops; 2] = [quads_8, pairs_8];
#[cfg(core_family = "cortex-m4")]
pub(super) const LOOPS_16: [Loops; 2] = [quads_16, pairs_16];
#[cfg(core_family = "cortex-m4")]
pub(super) const LOOPS_32: [Loops; 2] = [quads_32, pairs_16];
#[cfg(not(core_family = "cortex-m4"))]
pub(super) const LOOPS_8: [Loops; 2] = [twin::quads, twin::pairs];
#[cfg(not(core_family = "cortex-m4"))]
pub(super) const LOOPS_16: [Loops; 2] = [twin::quads, twin::pairs];
#[cfg(not(core_family = "cortex-m4"))]
pub(super) const LOOPS_32: [Loops; 2] = [twin::quads, twin::pairs];

/// Two columns of four channels: words `$w0` and `$w1`, rotated by `$n`, activations `$x`; T in r4 and r5, which start from
/// `$t0` and `$t1`. Of four pixels: word `$w`.
#[cfg(core_family = "cortex-m4")]
macro_rules! turn {
    ($n:literal, $x:literal, $w0:literal, $w1:literal) => {
        concat!(
            "and r3, r2, ",
            $w1,
            ", ror #",
            $n,
            "\n smlad r5, r3, ",
            $x,
            ", r5\n",
            "and r3, r2, ",
            $w0,
            ", ror #",
            $n,
            "\n smlad r4, r3, ",
            $x,
            ", r4\n",
        )
    };
    // The head is in r4.
    (first, $x:literal, $w0:literal, $w1:literal) => {
        concat!(
            "and r3, r2, ",
            $w1,
            "\n smlad r5, r3, ",
            $x,
            ", r4\n",
            "and r3, r2, ",
            $w0,
            "\n smlad r4, r3, ",
            $x,
            ", r4\n",
        )
    };
    ($n:literal, $w:literal) => {
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

/// A window of one pixel.
#[cfg(core_family = "cortex-m4")]
macro_rules! quad_window {
    (8) => {
        concat!(
            "ldrd r6, r7, [r1], #8\n ldm r0!, {{r4, r10, r11, r12, lr}}\n",
            turn!(first, "r10", "r6", "r7"),
            turn!("4", "r11", "r6", "r7"),
            turn!("8", "r12", "r6", "r7"),
            turn!("12", "lr", "r6", "r7"),
        )
    };
    (16) => {
        concat!(
            "ldm r1!, {{r6, r7, r8, r9}}\n ldm r0!, {{r4, r10, r11, r12, lr}}\n",
            turn!(first, "r10", "r6", "r7"),
            turn!("4", "r11", "r6", "r7"),
            turn!("8", "r12", "r6", "r7"),
            turn!("12", "lr", "r6", "r7"),
            "ldm r0!, {{r10, r11, r12, lr}}\n",
            turn!("0", "r10", "r8", "r9"),
            turn!("4", "r11", "r8", "r9"),
            turn!("8", "r12", "r8", "r9"),
            turn!("12", "lr", "r8", "r9"),
        )
    };
}

/// Multiplies the sums of a window with their factors and adds them up; `$next` is how far to go on among the divisors.
#[cfg(core_family = "cortex-m4")]
macro_rules! quad_group {
    ($next:literal) => {
        concat!(
            "ldm sp, {{r6-r12}}\n ldrb r3, [r10]",
            $next,
            "\n",
            "eor r4, r4, #0x8000\n eor r5, r5, #0x8000\n",
            "add r3, r12, r3, lsl #3\n ldrd r3, lr, [r3]\n",
            "smlabb r6, r4, r3, r6\n smlatb r7, r4, lr, r7\n smlabt r8, r5, r3, r8\n smlatt r9, r5, lr, r9\n",
        )
    };
}

/// Bands of four channels of a linear layer, windows of `$window` columns; `$next` is how far to go on among the divisors
/// after the first window of a turn.
///
/// In the loop: r0 stream, r1 weights, r2 mask, r3 scratch, r4, r5 T, r6–r9 weights, r10–lr activations. On the stack: the
/// sums, divisors, turns to come, table of factors, the task.
#[cfg(core_family = "cortex-m4")]
macro_rules! quads {
    ($name:ident, $window:tt, $next:literal) => {
        /// # Safety
        /// As [`Loops`] says.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(task: &mut Task) {
            naked_asm!(
                "push {{r0, r4-r11, lr}}",
                "sub sp, sp, #28",
                "mov r12, r0",
                "ldr r1, [r12, #60]",
                "3:",
                "ldr r0, [r12, #56]",
                "ldr r3, [r12, #64]",
                "movw r2, #0xC003",
                "movt r2, #0xC003",
                "mov r6, #0",
                "mov r7, #0",
                "mov r8, #0",
                "mov r9, #0",
                "ldrd r10, r11, [r12, #68]",
                "ldr r12, [r12, #76]",
                "stm sp, {{r6-r12}}",
                "cmp r3, #1",
                // A turn of one window, unless a turn is one step of two windows.
                concat!("beq.w ", quads!(first $window), "f"),
                "1:",
                quad_window!($window),
                quad_group!($next),
                "stm sp, {{r6-r10}}",
                "2:",
                quad_window!($window),
                quad_group!(", #1"),
                "subs r11, r11, #1",
                "stm sp, {{r6-r11}}",
                "bne.w 1b",
                "ldr r12, [sp, #28]",
                "str r10, [r12, #68]",
                "ldm r12, {{r2, r3, r4, r5, r11}}",
                "cmp r5, #0",
                "bne.w 4f",
                "ldm r3!, {{r0, r5, r10, lr}}",
                "add r6, r0, r6, asr #2",
                "add r7, r10, r7",
                round!("r6", "r5", "r11"),
                round!("r7", "lr", "r11"),
                "ldm r3!, {{r0, r5, r10, lr}}",
                "add r8, r0, r8, asr #2",
                "add r9, r10, r9",
                round!("r8", "r5", "r11"),
                round!("r9", "lr", "r11"),
                "5:",
                "strb r6, [r4], #1",
                "strb r7, [r4], #1",
                "strb r8, [r4], #1",
                "strb r9, [r4], #1",
                "subs r2, r2, #1",
                "stm r12, {{r2, r3, r4}}",
                "bne.w 3b",
                "add sp, sp, #32",
                "pop {{r4-r11, pc}}",
                "4:",
                "ldrd r0, r10, [r3], #8",
                "add r6, r0, r6, asr #2",
                round!("r6", "r10", "r11", "r5"),
                "ldrd r0, r10, [r3], #8",
                "add r7, r0, r7",
                round!("r7", "r10", "r11", "r5"),
                "ldrd r0, r10, [r3], #8",
                "add r8, r0, r8, asr #2",
                round!("r8", "r10", "r11", "r5"),
                "ldrd r0, r10, [r3], #8",
                "add r9, r0, r9",
                round!("r9", "r10", "r11", "r5"),
                "b.w 5b",
            )
        }
    };
    (first 8) => { "1" };
    (first 16) => { "2" };
}

#[cfg(core_family = "cortex-m4")]
quads!(quads_8, 8, ", #1");
#[cfg(core_family = "cortex-m4")]
quads!(quads_16, 16, ", #1");
#[cfg(core_family = "cortex-m4")]
quads!(quads_32, 16, "");

/// A window of four pixels.
#[cfg(core_family = "cortex-m4")]
macro_rules! pair_window {
    (8) => {
        concat!(
            "ldr r7, [r1], #4\n ldm r0!, {{r3-r6}}\n",
            turn!("0", "r7"),
            turn!("4", "r7"),
            turn!("8", "r7"),
            turn!("12", "r7"),
        )
    };
    (16) => {
        concat!(
            "ldrd r7, r8, [r1], #8\n ldm r0!, {{r3-r6}}\n",
            turn!("0", "r7"),
            turn!("4", "r7"),
            turn!("8", "r7"),
            turn!("12", "r7"),
            turn!("0", "r8"),
            turn!("4", "r8"),
            turn!("8", "r8"),
            turn!("12", "r8"),
        )
    };
}

/// Adds the sums of two windows of a pixel, `$t` and `$next`, times their factors in r2 and lr, to `$a` and `$b`.
#[cfg(core_family = "cortex-m4")]
macro_rules! pair_apart {
    ($t:literal, $next:literal, $a:literal, $b:literal) => {
        concat!(
            "smlatb ",
            $b,
            ", ",
            $t,
            ", lr, ",
            $b,
            "\n smlatt ",
            $b,
            ", ",
            $next,
            ", lr, ",
            $b,
            "\n",
            "pkhbt ",
            $next,
            ", ",
            $t,
            ", ",
            $next,
            ", lsl #16\n eor ",
            $next,
            ", ",
            $next,
            ", #0x80008000\n",
            "smlad ",
            $a,
            ", ",
            $next,
            ", r2, ",
            $a,
            "\n",
        )
    };
}

/// The first window where their number is odd: its factors are those of the second window of a turn.
#[cfg(core_family = "cortex-m4")]
macro_rules! pair_odd {
    (8) => {
        ""
    };
    (16) => {
        concat!(
            "6:\n",
            pair_window!(16),
            "ldrd r11, r12, [sp, #24]\n ldrb lr, [r11], #1\n str r11, [sp, #24]\n",
            "add lr, r12, lr, lsl #3\n ldrd r11, r12, [lr]\n",
            "eor r3, r3, #0x8000\n eor r4, r4, #0x8000\n eor r5, r5, #0x8000\n eor r6, r6, #0x8000\n",
            "smulbt r7, r3, r11\n smultt r8, r3, r12\n smulbt r9, r4, r11\n smultt r10, r4, r12\n",
            "stm sp, {{r7-r10}}\n",
            "smulbt r7, r5, r11\n smultt r8, r5, r12\n smulbt r9, r6, r11\n smultt r10, r6, r12\n",
            "add r4, sp, #32\n stm r4, {{r7-r10}}\n",
            "ldr r3, [sp, #60]\n cmp r0, r3\n bne.w 1b\n b.w 7b\n",
        )
    };
}

/// Bands of two channels of four pixels, windows of `$window` columns.
///
/// In the loop: r0 stream, r1 weights, r2 mask, r3–r6 T, r7, r8 weights, r9 scratch, r10–lr activations. On the stack: the
/// sums of two pixels and their T of the first window, divisors, table of factors; the sums of the other two pixels and their
/// T, mask, end of the stream; the task.
#[cfg(core_family = "cortex-m4")]
macro_rules! pairs {
    ($name:ident, $window:tt) => {
        /// # Safety
        /// As [`Loops`] says.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(task: &mut Task) {
            naked_asm!(
                "push {{r0, r4-r11, lr}}",
                "sub sp, sp, #64",
                "mov r12, r0",
                "movw r2, #0xC003",
                "movt r2, #0xC003",
                "ldr r3, [r12, #68]",
                "ldrd r4, r5, [r12, #76]",
                "strd r3, r4, [sp, #24]",
                "strd r2, r5, [sp, #56]",
                "3:",
                "ldrd r0, r1, [r12, #56]",
                "ldr r5, [r12, #64]",
                "mov r6, #0",
                "strd r6, r6, [sp]",
                "strd r6, r6, [sp, #8]",
                "strd r6, r6, [sp, #32]",
                "strd r6, r6, [sp, #40]",
                "ldr r2, [sp, #56]",
                pairs!(first $window),
                "1:",
                pair_window!($window),
                "strd r3, r4, [sp, #16]",
                "strd r5, r6, [sp, #48]",
                pair_window!($window),
                "ldm sp, {{r7, r8, r9, r10, r11, r12, lr}}",
                "ldrb r2, [lr], #1",
                "str lr, [sp, #24]",
                "ldr lr, [sp, #28]",
                "add r2, lr, r2, lsl #3",
                "ldrd r2, lr, [r2]",
                pair_apart!("r11", "r3", "r7", "r8"),
                pair_apart!("r12", "r4", "r9", "r10"),
                "stm sp, {{r7-r10}}",
                "add r4, sp, #32",
                "ldm r4, {{r7-r12}}",
                pair_apart!("r11", "r5", "r7", "r8"),
                pair_apart!("r12", "r6", "r9", "r10"),
                "stm r4, {{r7-r10}}",
                "ldrd r2, r3, [sp, #56]",
                "cmp r0, r3",
                "bne.w 1b",
                "7:",
                "ldr r12, [sp, #64]",
                "str r1, [r12, #60]",
                "ldm sp, {{r3-r6}}",
                "ldr r0, [r12, #4]",
                "ldm r0!, {{r1, r2, r11, lr}}",
                "str r0, [r12, #4]",
                "add r3, r1, r3, asr #2",
                "add r5, r1, r5, asr #2",
                "add r7, r1, r7, asr #2",
                "add r9, r1, r9, asr #2",
                "add r4, r11, r4",
                "add r6, r11, r6",
                "add r8, r11, r8",
                "add r10, r11, r10",
                "ldrd r1, r11, [r12, #12]",
                "cmp r1, #0",
                "bne.w 4f",
                pair_sums!(),
                "5:",
                "bfi r3, r4, #8, #24",
                "bfi r5, r6, #8, #24",
                "bfi r7, r8, #8, #24",
                "bfi r9, r10, #8, #24",
                "ldr r0, [r12, #8]",
                "ldr r1, [r12, #52]",
                "ldr r4, [r12]",
                "add r2, r0, r1, lsl #1",
                "strh r5, [r0, r1]",
                "strh r3, [r0], #2",
                "strh r7, [r2]",
                "strh r9, [r2, r1]",
                "str r0, [r12, #8]",
                "subs r4, r4, #1",
                "str r4, [r12]",
                "bne.w 3b",
                "add sp, sp, #68",
                "pop {{r4-r11, pc}}",
                "4:",
                pair_sums!("r1"),
                "b.w 5b",
                pair_odd!($window),
            )
        }
    };
    (first 8) => { "" };
    (first 16) => { "cmp r5, #1\n beq.w 6f" };
}

/// Rounds the sums of two channels of four pixels: multipliers r2 and lr, zero point r11, shift r1.
#[cfg(core_family = "cortex-m4")]
macro_rules! pair_sums {
    ($($left:literal)?) => {
        concat!(
            round!("r3", "r2", "r11" $(, $left)?),
            round!("r4", "lr", "r11" $(, $left)?),
            round!("r5", "r2", "r11" $(, $left)?),
            round!("r6", "lr", "r11" $(, $left)?),
            round!("r7", "r2", "r11" $(, $left)?),
            round!("r8", "lr", "r11" $(, $left)?),
            round!("r9", "r2", "r11" $(, $left)?),
            round!("r10", "lr", "r11" $(, $left)?),
        )
    };
}

#[cfg(core_family = "cortex-m4")]
pairs!(pairs_8, 8);
#[cfg(core_family = "cortex-m4")]
pairs!(pairs_16, 16);

/// The same loops in Rust.
#[cfg(not(core_family = "cortex-m4"))]
mod twin {
    use super::super::bands::Band;
    use super::super::instructions::smlad;
    use super::{FACTORS, FACTORS_32};

    /// The factors of a pair: the first or the second halves of the words.
    fn pair([low, high]: [u32; 2], half: usize) -> [u32; 2] {
        [low, high].map(|word| word >> (16 * half))
    }

    /// Four channels of a pixel: a byte of divisors for each group.
    pub(super) fn quads(band: &Band<'_>, pixel: usize) -> [u32; 4] {
        let sums = |half| {
            let factors = |group| pair(FACTORS[usize::from(band.divisors[group])], half);
            pair_sums(band, [2, half], pixel, factors)
        };
        let ([a, b], [c, d]) = (sums(0), sums(1));
        [a, b, c, d]
    }

    /// Two channels of four pixels: a nibble of divisors for each group, or a byte for each group of 32.
    pub(super) fn pairs(band: &Band<'_>, pixel: usize) -> [u32; 4] {
        // An odd row of groups of 16 begins with the second nibble.
        let odd = usize::from(band.group == 16 && band.first == 1);
        let [a, b] = pair_sums(band, [1, 0], pixel, |group| match band.group {
            32 => pair(FACTORS_32[usize::from(band.divisors[group])], 0),
            _ => pair(FACTORS[usize::from(band.divisors[(group + odd) / 2])], (group + odd) % 2),
        });
        [a, b, 0, 0]
    }

    /// One of `pairs` pairs of channels, one pixel.
    fn pair_sums(
        band: &Band<'_>,
        [pairs, pair]: [usize; 2],
        pixel: usize,
        factors: impl Fn(usize) -> [u32; 2],
    ) -> [u32; 2] {
        let window = if band.group == 8 { 8 } else { 16 };
        let windows = band.weights.len() / pairs * 8 / window;
        let (mut acc, half) = ([0u32; 2], |x: u32| u32::from(x as u16).cast_signed() << 16 >> 16);
        for at in 0..windows {
            let words = &band.words[at * (1 + window / 2) * band.pixels..];
            let mut t = words[pixel];
            for turn in 0..window / 2 {
                let word = band.weights[(at * window / 8 + turn / 4) * pairs + pair];
                let word = word.rotate_right(4 * (turn as u32 % 4)) & 0xC003_C003;
                t = smlad(word, words[(1 + turn) * band.pixels + pixel], t);
            }
            t ^= 0x8000;
            let factors = factors(at * window / usize::from(band.group));
            for (acc, (t, factor)) in acc.iter_mut().zip([t, t >> 16].into_iter().zip(factors)) {
                *acc = acc.wrapping_add(half(t).wrapping_mul(half(factor)).cast_unsigned());
            }
        }
        [(acc[0].cast_signed() >> 2).cast_unsigned(), acc[1]]
    }
}
