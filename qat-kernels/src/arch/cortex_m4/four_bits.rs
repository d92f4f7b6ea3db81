//! 4-bit weights: four channels in a halfword, three of them without a sign.
//!
//! A halfword is worth `n_0 + 2^4·n_1 + 2^8·n_2 + 2^12·n_3`. `SMLAD` with all of it, then with less and less of it, leaves
//! `P_3 = Σ (n_0 + … + 2^12·n_3)·x`, …, `P_0 = Σ n_0·x`, modulo 2^32: seven instructions for eight multiply-accumulates.
//! Then `Σ n_c·x = (P_c − P_(c−1)) >> 4c`, which is exact as long as it fits the `32 − 4c` bits that are left: 20 bits for
//! the top one, so 480 columns, because `8·128·480 < 2^19`.

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

/// Two columns of four channels: word of weights `$w`, activations `$x`; one pixel or two.
#[cfg(core_family = "cortex-m4")]
macro_rules! word {
    ($w:literal, $x:literal) => {
        concat!(
            "smlad r7, ",
            $w,
            ", ",
            $x,
            ", r7\n bic ",
            $w,
            ", ",
            $w,
            ", #0xF000F000\n",
            "smlad r6, ",
            $w,
            ", ",
            $x,
            ", r6\n uxtb16 ",
            $w,
            ", ",
            $w,
            "\n",
            "smlad r5, ",
            $w,
            ", ",
            $x,
            ", r5\n and ",
            $w,
            ", ",
            $w,
            ", #0x000F000F\n",
            "smlad r4, ",
            $w,
            ", ",
            $x,
            ", r4\n",
        )
    };
    () => {
        concat!(
            "ldr r12, [r1], #4\n ldrd r2, r3, [r0], #8\n",
            "smlad r7, r12, r2, r7\n smlad r11, r12, r3, r11\n bic r12, r12, #0xF000F000\n",
            "smlad r6, r12, r2, r6\n smlad r10, r12, r3, r10\n uxtb16 r12, r12\n",
            "smlad r5, r12, r2, r5\n smlad r9, r12, r3, r9\n and r12, r12, #0x000F000F\n",
            "smlad r4, r12, r2, r4\n smlad r8, r12, r3, r8\n",
        )
    };
}

/// Eight columns of a pixel.
#[cfg(core_family = "cortex-m4")]
macro_rules! half_step {
    () => {
        concat!(
            "ldm r1!, {{r8, r9, r10, r11}}\n ldrd r12, lr, [r0], #8\n",
            word!("r8", "r12"),
            word!("r9", "lr"),
            "ldrd r12, lr, [r0], #8\n",
            word!("r10", "r12"),
            word!("r11", "lr"),
        )
    };
}

/// From `P_0` to `P_3` in four registers to the four sums.
#[cfg(core_family = "cortex-m4")]
macro_rules! apart {
    ($p0:literal, $p1:literal, $p2:literal, $p3:literal) => {
        concat!(
            "sub ",
            $p3,
            ", ",
            $p3,
            ", ",
            $p2,
            "\n sub ",
            $p2,
            ", ",
            $p2,
            ", ",
            $p1,
            "\n",
            "sub ",
            $p1,
            ", ",
            $p1,
            ", ",
            $p0,
            "\n asr ",
            $p3,
            ", ",
            $p3,
            ", #12\n",
            "asr ",
            $p2,
            ", ",
            $p2,
            ", #8\n asr ",
            $p1,
            ", ",
            $p1,
            ", #4\n",
        )
    };
}

/// Bands of four channels of a linear layer.
///
/// In the loop: r0 stream, r1 weights, r2 steps, r4–r7 P, r8–r11 weights, r12, lr activations.
///
/// # Safety
/// As [`Loops`] says.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn quad(task: &mut Task) {
    naked_asm!(wide_quad!(
        concat!(half_step!(), half_step!(), "subs r2, r2, #1\n bne.w 1b\n"),
        apart!("r4", "r5", "r6", "r7"),
        quad_results!("r0", "r0", "r0", "lr")
    ))
}

/// Bands of four channels of two pixels.
///
/// In the loop: r0 stream, r1 weights, r2, r3 activations, r4–r11 P, r12 weights, lr steps.
///
/// # Safety
/// As [`Loops`] says.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn quads(task: &mut Task) {
    naked_asm!(wide_quads!(
        concat!(
            word!(),
            word!(),
            word!(),
            word!(),
            word!(),
            word!(),
            word!(),
            word!(),
            "subs lr, lr, #1\n bne.w 1b\n"
        ),
        concat!(apart!("r4", "r5", "r6", "r7"), apart!("r8", "r9", "r10", "r11")),
        quads_results!("r0", "r2", "r0", "r2", "r0", "r2", "r3", "lr")
    ))
}

/// The same loops in Rust.
#[cfg(not(core_family = "cortex-m4"))]
fn twin(band: &super::bands::Band<'_>, pixel: usize) -> [u32; 4] {
    const MASKS: [u32; 4] = [0x000F_000F, 0x00FF_00FF, 0x0FFF_0FFF, u32::MAX];
    super::wide::sums(
        (band, pixel),
        8,
        |words, x, p: &mut [u32; 4]| {
            for (p, mask) in p.iter_mut().zip(MASKS) {
                *p = super::instructions::smlad(words[0] & mask, x, *p);
            }
        },
        |p| {
            let apart = |c: usize| (p[c].wrapping_sub(p[c - 1]).cast_signed() >> (4 * c)).cast_unsigned();
            [p[0], apart(1), apart(2), apart(3)]
        },
    )
}
