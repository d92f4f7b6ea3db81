//! 8-bit weights: two channels in a halfword, one of them without a sign.
//!
//! A halfword is worth `u + 2^8·s`. `SMLAD` with all of it and with its low byte leaves `T = Σ (u + 2^8·s)·x` modulo 2^32
//! and `L = Σ u·x`: three instructions for four multiply-accumulates. Then `Σ s·x = (T − L) >> 8`, which is exact as long as
//! it fits 24 bits: 480 columns, because `128·128·480 < 2^23`.

use super::bands::Loops;
#[cfg(core_family = "cortex-m4")]
use super::bands::{Task, quad_results, quad_shifted, quads_results, quads_shifted, round};
#[cfg(core_family = "cortex-m4")]
use super::wide::{wide_quad, wide_quads};
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

/// Two columns of two channels: word of weights `$w`, activations `$x`, L in `$l`, T in `$t`.
#[cfg(core_family = "cortex-m4")]
macro_rules! word {
    ($w:literal, $x:literal, $l:literal, $t:literal) => {
        concat!(
            "smlad ",
            $t,
            ", ",
            $w,
            ", ",
            $x,
            ", ",
            $t,
            "\n uxtb16 ",
            $w,
            ", ",
            $w,
            "\n",
            "smlad ",
            $l,
            ", ",
            $w,
            ", ",
            $x,
            ", ",
            $l,
            "\n",
        )
    };
}

/// Four columns of a pixel.
#[cfg(core_family = "cortex-m4")]
macro_rules! quarter_step {
    () => {
        concat!(
            "ldm r1!, {{r8, r9, r10, r11}}\n ldrd r12, lr, [r0], #8\n",
            word!("r8", "r12", "r4", "r5"),
            word!("r9", "r12", "r6", "r7"),
            word!("r10", "lr", "r4", "r5"),
            word!("r11", "lr", "r6", "r7"),
        )
    };
}

/// Two columns of two pixels.
#[cfg(core_family = "cortex-m4")]
macro_rules! columns {
    () => {
        concat!(
            "ldrd r12, lr, [r1], #8\n ldrd r2, r3, [r0], #8\n",
            "smlad r5, r12, r2, r5\n smlad r9, r12, r3, r9\n uxtb16 r12, r12\n",
            "smlad r4, r12, r2, r4\n smlad r8, r12, r3, r8\n",
            "smlad r7, lr, r2, r7\n smlad r11, lr, r3, r11\n uxtb16 lr, lr\n",
            "smlad r6, lr, r2, r6\n smlad r10, lr, r3, r10\n",
        )
    };
}

/// From L and T to the sums of two channels.
#[cfg(core_family = "cortex-m4")]
macro_rules! apart {
    ($l:literal, $t:literal) => {
        concat!("sub ", $t, ", ", $t, ", ", $l, "\n asr ", $t, ", ", $t, ", #8\n")
    };
}

/// Bands of four channels of a linear layer.
///
/// In the loop: r0 stream, r1 weights, r2 steps, r4–r7 L and T of either pair, r8–r11 weights, r12, lr activations.
///
/// # Safety
/// As [`Loops`] says.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn quad(task: &mut Task) {
    naked_asm!(wide_quad!(
        concat!(
            quarter_step!(),
            quarter_step!(),
            quarter_step!(),
            quarter_step!(),
            "subs r2, r2, #1\n bne.w 1b\n"
        ),
        concat!(apart!("r4", "r5"), apart!("r6", "r7")),
        quad_results!("r0", "lr", "r0", "lr")
    ))
}

/// Bands of four channels of two pixels.
///
/// In the loop: r0 stream, r1 weights, r2, r3 activations, r4–r11 L and T of either pair and pixel, r12, lr weights. The
/// steps are on the stack.
///
/// # Safety
/// As [`Loops`] says.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn quads(task: &mut Task) {
    naked_asm!(wide_quads!(
        concat!(
            "str lr, [sp, #36]\n",
            columns!(),
            columns!(),
            columns!(),
            columns!(),
            columns!(),
            columns!(),
            columns!(),
            columns!(),
            "ldr lr, [sp, #36]\n subs lr, lr, #1\n bne.w 1b\n"
        ),
        concat!(apart!("r4", "r5"), apart!("r6", "r7"), apart!("r8", "r9"), apart!("r10", "r11")),
        quads_results!("r0", "r2", "r3", "lr", "r0", "r2", "r3", "lr")
    ))
}

/// The same loops in Rust.
#[cfg(not(core_family = "cortex-m4"))]
fn twin(band: &super::bands::Band<'_>, pixel: usize) -> [u32; 4] {
    use super::instructions::smlad;
    super::wide::sums(
        (band, pixel),
        16,
        |words, x, sums: &mut [u32; 4]| {
            for (pair, word) in sums.as_chunks_mut::<2>().0.iter_mut().zip(words) {
                *pair = [smlad(word & 0x00FF_00FF, x, pair[0]), smlad(*word, x, pair[1])];
            }
        },
        |[l0, t0, l1, t1]| {
            let apart = |t: u32, l: u32| (t.wrapping_sub(l).cast_signed() >> 8).cast_unsigned();
            [l0, apart(t0, l0), l1, apart(t1, l1)]
        },
    )
}
