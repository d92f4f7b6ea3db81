//! The sums of all channels over one or two rows of activations.
//!
//! Four accumulators of a quad (four channels) hold the sums of what the masks leave of each byte; see the table of
//! [`crate::artifact::cortex_m55`] for the fields. A linear layer computes two quads at once, a convolution one quad for two
//! pixels: `VMLADAVA` accumulates in even registers, and there are eight of those.

use crate::artifact::cortex_m55::{QUAD, STEP, vectors};

#[cfg(core_family = "cortex-m55")]
use core::arch::naked_asm;

/// What one call computes; the loops read it in this order, a word a field.
#[cfg(core_family = "cortex-m55")]
#[repr(C)]
struct Task {
    weights: *const u8,
    sums: *mut u32,
    x: [*const i8; 2],
    steps: usize,
    /// The end of the weights.
    end: *const u8,
}

/// Sums of pairs of quads over `x`, whose length is a multiple of [`STEP`]: four for each quad, those of row `r` times
/// `2^shift(r)` ([`super::requantise::shifts`]). `sums` has four words for each quad; the number of quads is even.
///
/// `None` unless everything has its length and `bits` is 2, 3, 4 or 8.
pub(crate) fn linear_sums(bits: u8, x: &[i8], weights: &[u8], sums: &mut [u32]) -> Option<()> {
    let quads = sums.len() / QUAD;
    if !quads.is_multiple_of(2) {
        return None;
    }
    run::<1>(bits, [x, x], weights, sums, quads)
}

/// Sums of quads over two rows of activations, as above: for each quad four of the first row, then four of the second.
pub(crate) fn pixel_sums(bits: u8, x: [&[i8]; 2], weights: &[u8], sums: &mut [u32]) -> Option<()> {
    let quads = sums.len() / (2 * QUAD);
    run::<2>(bits, x, weights, sums, quads)
}

#[inline(always)]
fn run<const PIXELS: usize>(
    bits: u8,
    x: [&[i8]; 2],
    weights: &[u8],
    sums: &mut [u32],
    quads: usize,
) -> Option<()> {
    let steps = x[0].len() / STEP;
    let whole = x[0].len().is_multiple_of(STEP) && x[1].len() == x[0].len() && steps > 0;
    if !whole
        || sums.len() != quads.checked_mul(PIXELS * QUAD)?
        || weights.len() != quads.checked_mul(vectors(bits, steps).checked_mul(STEP)?)?
    {
        return None;
    }
    if quads == 0 {
        return Some(());
    }
    #[cfg(core_family = "cortex-m55")]
    {
        let kernel = match (bits, PIXELS) {
            (2, 1) => linear_2bit,
            (3, 1) => linear_3bit,
            (4, 1) => linear_4bit,
            (8, 1) => linear_8bit,
            (2, _) => pixels_2bit,
            (3, _) => pixels_3bit,
            (4, _) => pixels_4bit,
            (8, _) => pixels_8bit,
            _ => return None,
        };
        let task = Task {
            weights: weights.as_ptr(),
            sums: sums.as_mut_ptr(),
            x: x.map(<[i8]>::as_ptr),
            steps,
            end: weights.as_ptr_range().end,
        };
        // SAFETY: both rows have `steps` steps; the weights have the vectors of as many steps for every quad, and `end` is
        // theirs; the sums have room for every quad, and they are aligned words.
        unsafe { kernel(&task) };
        Some(())
    }
    #[cfg(not(core_family = "cortex-m55"))]
    twin::run::<PIXELS>(bits, x, weights, sums)
}

/// One step, or two where they share a vector: loads of activations and weights, masks, products. `first` is what a lone step
/// at the beginning takes, `pair` two steps.
///
/// r1 weights, r3 and r5 activations, r0–r12 and lr (even ones) accumulators, q0 and q1 activations, q2 weights, q3 and q4 what
/// the masks leave, q5–q7 masks.
#[cfg(core_family = "cortex-m55")]
macro_rules! steps {
    (linear, 2, first) => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n vldrb.u8 q2, [r1], #16\n",
            steps!(masks linear, 2, "r0", "r2", "r4", "r6"),
            "vldrb.u8 q2, [r1], #16\n",
            steps!(masks linear, 2, "r8", "r10", "r12", "lr"),
        )
    };
    (masks linear, 2, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "vand q3, q2, q5\n vmladava.s8 ", $a, ", q3, q0\n vand q4, q2, q6\n vmladava.s8 ", $b, ", q4, q0\n",
            "vand q3, q2, q7\n vmladava.s8 ", $c, ", q3, q0\n vmladava.s8 ", $d, ", q2, q0\n",
        )
    };
    (pixels, 2, first) => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n vldrb.u8 q1, [r5], #16\n vldrb.u8 q2, [r1], #16\n",
            "vand q3, q2, q5\n vmladava.s8 r0, q3, q0\n vmladava.s8 r8, q3, q1\n",
            "vand q4, q2, q6\n vmladava.s8 r2, q4, q0\n vmladava.s8 r10, q4, q1\n",
            "vand q3, q2, q7\n vmladava.s8 r4, q3, q0\n vmladava.s8 r12, q3, q1\n",
            "vmladava.s8 r6, q2, q0\n vmladava.s8 lr, q2, q1\n",
        )
    };
    (linear, 4, first) => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n",
            steps!(masks linear, 4, "r0", "r2"),
            steps!(masks linear, 4, "r4", "r6"),
            steps!(masks linear, 4, "r8", "r10"),
            steps!(masks linear, 4, "r12", "lr"),
        )
    };
    (masks linear, 4, $a:literal, $b:literal) => {
        concat!(
            "vldrb.u8 q2, [r1], #16\n vand q3, q2, q5\n vmladava.s8 ", $b, ", q2, q0\n vmladava.s8 ", $a, ", q3, q0\n",
        )
    };
    (pixels, 4, first) => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n vldrb.u8 q1, [r5], #16\n",
            "vldrb.u8 q2, [r1], #16\n vand q3, q2, q5\n vmladava.s8 r2, q2, q0\n vmladava.s8 r10, q2, q1\n",
            "vmladava.s8 r0, q3, q0\n vmladava.s8 r8, q3, q1\n",
            "vldrb.u8 q2, [r1], #16\n vand q3, q2, q5\n vmladava.s8 r6, q2, q0\n vmladava.s8 lr, q2, q1\n",
            "vmladava.s8 r4, q3, q0\n vmladava.s8 r12, q3, q1\n",
        )
    };
    (linear, 8, first) => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n vldrb.u8 q2, [r1], #16\n vldrb.u8 q3, [r1], #16\n",
            "vmladava.s8 r0, q2, q0\n vldrb.u8 q2, [r1], #16\n vmladava.s8 r2, q3, q0\n vldrb.u8 q3, [r1], #16\n",
            "vmladava.s8 r4, q2, q0\n vldrb.u8 q2, [r1], #16\n vmladava.s8 r6, q3, q0\n vldrb.u8 q3, [r1], #16\n",
            "vmladava.s8 r8, q2, q0\n vldrb.u8 q2, [r1], #16\n vmladava.s8 r10, q3, q0\n vldrb.u8 q3, [r1], #16\n",
            "vmladava.s8 r12, q2, q0\n vmladava.s8 lr, q3, q0\n",
        )
    };
    (pixels, 8, first) => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n vldrb.u8 q1, [r5], #16\n",
            "vldrb.u8 q2, [r1], #16\n vmladava.s8 r0, q2, q0\n vmladava.s8 r8, q2, q1\n",
            "vldrb.u8 q3, [r1], #16\n vmladava.s8 r2, q3, q0\n vmladava.s8 r10, q3, q1\n",
            "vldrb.u8 q2, [r1], #16\n vmladava.s8 r4, q2, q0\n vmladava.s8 r12, q2, q1\n",
            "vldrb.u8 q3, [r1], #16\n vmladava.s8 r6, q3, q0\n vmladava.s8 lr, q3, q1\n",
        )
    };
    // The vector that two steps share is q4. `VSRI` puts its upper six bits under the two topmost ones of a step's own vector,
    // which completes the field at the top, whose sign `VSHR` extends.
    (linear, 3, first) => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n vldrb.u8 q4, [r1], #16\n",
            steps!(masks linear, 3, "q0", "r0", "r2", "r4", "r6"),
            "vldrb.u8 q4, [r1], #16\n",
            steps!(masks linear, 3, "q0", "r8", "r10", "r12", "lr"),
        )
    };
    (linear, 3, pair) => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n vldrb.u8 q1, [r3], #16\n vldrb.u8 q4, [r1], #16\n",
            steps!(masks linear, 3, "q0", "r0", "r2", "r4", "r6"),
            "vshl.i8 q4, q4, #4\n",
            steps!(masks linear, 3, "q1", "r0", "r2", "r4", "r6"),
            "vldrb.u8 q4, [r1], #16\n",
            steps!(masks linear, 3, "q0", "r8", "r10", "r12", "lr"),
            "vshl.i8 q4, q4, #4\n",
            steps!(masks linear, 3, "q1", "r8", "r10", "r12", "lr"),
        )
    };
    (masks linear, 3, $x:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "vldrb.u8 q2, [r1], #16\n vand q3, q2, q5\n vmladava.s8 ", $a, ", q3, ", $x, "\n",
            "vand q3, q2, q6\n vmladava.s8 ", $b, ", q3, ", $x, "\n vsri.8 q2, q4, #2\n",
            "vand q3, q2, q7\n vmladava.s8 ", $c, ", q3, ", $x, "\n",
            "vshr.s8 q3, q2, #5\n vmladava.s8 ", $d, ", q3, ", $x, "\n",
        )
    };
    (pixels, 3, first) => {
        concat!("vldrb.u8 q4, [r1], #16\n", steps!(masks pixels, 3))
    };
    (pixels, 3, pair) => {
        concat!(steps!(pixels, 3, first), "vshl.i8 q4, q4, #4\n", steps!(masks pixels, 3))
    };
    (masks pixels, 3) => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n vldrb.u8 q1, [r5], #16\n vldrb.u8 q2, [r1], #16\n",
            "vand q3, q2, q5\n vmladava.s8 r0, q3, q0\n vmladava.s8 r8, q3, q1\n",
            "vand q3, q2, q6\n vmladava.s8 r2, q3, q0\n vmladava.s8 r10, q3, q1\n vsri.8 q2, q4, #2\n",
            "vand q3, q2, q7\n vmladava.s8 r4, q3, q0\n vmladava.s8 r12, q3, q1\n",
            "vshr.s8 q3, q2, #5\n vmladava.s8 r6, q3, q0\n vmladava.s8 lr, q3, q1\n",
        )
    };
    ($shape:tt, $bits:tt, pair) => {
        concat!(steps!($shape, $bits, first), steps!($shape, $bits, first))
    };
}

#[cfg(core_family = "cortex-m55")]
pub(super) use steps;

/// Takes the sums of masked codes out of the sums of whole bytes.
#[cfg(core_family = "cortex-m55")]
macro_rules! untangle {
    (2) => {
        concat!(
            "sub r6, r6, r0\n sub lr, lr, r8\n sub r6, r6, r2\n sub lr, lr, r10\n sub r6, r6, r4\n sub lr, lr, r12\n",
        )
    };
    (4) => {
        "sub r2, r2, r0\n sub r6, r6, r4\n sub r10, r10, r8\n sub lr, lr, r12\n"
    };
    ($bits:literal) => {
        ""
    };
}

#[cfg(core_family = "cortex-m55")]
macro_rules! masks {
    (2) => {
        "vmov.i8 q5, #0x03\n vmov.i8 q6, #0x0C\n vmov.i8 q7, #0x30\n"
    };
    (3) => {
        "vmov.i8 q5, #0x07\n vmov.i8 q6, #0x38\n vmov.i8 q7, #0x1C\n"
    };
    (4) => {
        "vmov.i8 q5, #0x0F\n"
    };
    (8) => {
        ""
    };
}

/// The loop over quads. r1 weights, r7 pairs of steps left, r9 sums, r11 task; on the stack zeros for the accumulators.
macro_rules! kernel {
    ($name:ident, $shape:tt, $bits:tt) => {
        /// # Safety
        /// All pointers of the task must be valid for what its weights and steps imply; there is at least one quad and one step.
        #[cfg(core_family = "cortex-m55")]
        #[unsafe(naked)]
        unsafe extern "C" fn $name(task: &Task) {
            naked_asm!(
                helium!(),
                "push {{r4-r11, lr}}",
                "vpush {{d8-d15}}",
                "sub sp, sp, #32",
                "vmov.i32 q0, #0",
                "vstrw.32 q0, [sp]",
                "vstrw.32 q0, [sp, #16]",
                "mov r11, r0",
                masks!($bits),
                "ldrd r1, r9, [r11]",
                "2:",
                "ldm sp, {{r0, r2, r4, r6, r8, r10, r12, lr}}",
                "ldrd r3, r5, [r11, #8]",
                "ldr r7, [r11, #16]",
                "lsrs r7, r7, #1",
                "bcc.w 3f",
                steps!($shape, $bits, first),
                // None of these instructions touches the flags of the shift.
                "beq.w 4f",
                "3:",
                steps!($shape, $bits, pair),
                "subs r7, r7, #1",
                "bne.w 3b",
                "4:",
                untangle!($bits),
                "stm r9!, {{r0, r2, r4, r6, r8, r10, r12, lr}}",
                "ldr r7, [r11, #20]",
                "cmp r1, r7",
                "bne.w 2b",
                "add sp, sp, #32",
                "vpop {{d8-d15}}",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

kernel!(linear_2bit, linear, 2);
kernel!(linear_3bit, linear, 3);
kernel!(linear_4bit, linear, 4);
kernel!(linear_8bit, linear, 8);
kernel!(pixels_2bit, pixels, 2);
kernel!(pixels_3bit, pixels, 3);
kernel!(pixels_4bit, pixels, 4);
kernel!(pixels_8bit, pixels, 8);

/// The same loops in Rust.
#[cfg(not(core_family = "cortex-m55"))]
mod twin {
    use super::{QUAD, STEP};

    type Vector = [u8; STEP];

    pub(super) fn run<const PIXELS: usize>(
        bits: u8,
        x: [&[i8]; 2],
        weights: &[u8],
        sums: &mut [u32],
    ) -> Option<()> {
        let together = if PIXELS == 1 { 2 } else { 1 };
        let steps = x[0].len() / STEP;
        let mut weights = weights.as_chunks::<STEP>().0.iter();
        for sums in sums.chunks_exact_mut(together * PIXELS * QUAD) {
            let mut step = 0;
            sums.fill(0);
            while step < steps {
                let unit = if bits == 3 && (step > 0 || steps.is_multiple_of(2)) { 2 } else { 1 };
                for sums in sums.chunks_exact_mut(PIXELS * QUAD) {
                    let mut shared = if bits == 3 { *weights.next()? } else { [0; STEP] };
                    for step in step..step + unit {
                        let rows = rows(bits, &shared, &mut weights)?;
                        for (sums, x) in sums.chunks_exact_mut(QUAD).zip(x) {
                            for (sum, row) in sums.iter_mut().zip(rows) {
                                *sum = sum.wrapping_add(products(&row, x.get(step * STEP..)?));
                            }
                        }
                        shared = shared.map(|byte| byte << 4);
                    }
                }
                step += unit;
            }
            for sums in sums.as_chunks_mut::<QUAD>().0 {
                untangle(bits, sums);
            }
        }
        Some(())
    }

    /// What the masks leave.
    fn rows<'a>(
        bits: u8,
        shared: &Vector,
        weights: &mut impl Iterator<Item = &'a Vector>,
    ) -> Option<[Vector; QUAD]> {
        let w = *weights.next()?;
        let and = |w: Vector, mask: u8| w.map(|byte| byte & mask);
        Some(match bits {
            2 => [and(w, 0x03), and(w, 0x0C), and(w, 0x30), w],
            3 => {
                let mut complete = w;
                complete.iter_mut().zip(shared).for_each(|(byte, &under)| *byte = *byte & 0xC0 | under >> 2);
                let top = complete.map(|byte| (byte.cast_signed() >> 5).cast_unsigned());
                [and(w, 0x07), and(w, 0x38), and(complete, 0x1C), top]
            }
            4 => {
                let second = *weights.next()?;
                [and(w, 0x0F), w, and(second, 0x0F), second]
            }
            8 => [w, *weights.next()?, *weights.next()?, *weights.next()?],
            _ => return None,
        })
    }

    fn products(row: &Vector, x: &[i8]) -> u32 {
        let products = row.iter().zip(x).map(|(&w, &x)| i32::from(w.cast_signed()) * i32::from(x));
        products.sum::<i32>().cast_unsigned()
    }

    fn untangle(bits: u8, [a, b, c, d]: &mut [u32; QUAD]) {
        match bits {
            2 => *d = d.wrapping_sub(*a).wrapping_sub(*b).wrapping_sub(*c),
            4 => {
                *b = b.wrapping_sub(*a);
                *d = d.wrapping_sub(*c);
            }
            _ => {}
        }
    }
}
