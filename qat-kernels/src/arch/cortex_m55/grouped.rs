//! Sums where every group of 16 or 32 columns has a factor of its own, 2-bit codes.
//!
//! The sums of a group come out of `VMLADAV` in eight registers, which one instruction stores. A second loop multiplies them
//! with the factors, four rows a vector: `U = Σ m_g·Σ code·x` and `V = Σ m_g·Σ x`, to become `Σ m_g·Σ level2·x`. The topmost
//! code of a byte needs a mask here, because nothing can be subtracted once the factors are in.

use super::Words;
use super::requantise::{ones, places};
use crate::arch::factors::BYTE_FACTORS;
use crate::artifact::cortex_m55::{QUAD, STEP};

#[cfg(core_family = "cortex-m55")]
use core::arch::naked_asm;

/// Bits of a code.
const BITS: u8 = 2;

/// The factors of all quads and groups, four bytes each, from their fields, a byte each. `None` unless the lengths agree.
#[inline(always)]
pub(crate) fn expand(divisors: &[u8], factors: &mut [u32]) -> Option<()> {
    if divisors.len() != factors.len() {
        return None;
    }
    #[cfg(core_family = "cortex-m55")]
    // SAFETY: there is a word for every byte, and the table has an entry for each value of a byte.
    unsafe {
        expand_asm(factors.as_mut_ptr(), divisors.as_ptr(), divisors.len(), &BYTE_FACTORS);
    }
    #[cfg(not(core_family = "cortex-m55"))]
    for (word, &fields) in factors.iter_mut().zip(divisors) {
        *word = u32::from_le_bytes(BYTE_FACTORS[usize::from(fields)]);
    }
    Some(())
}

/// # Safety
/// `len` words at `factors` and bytes at `divisors` must be valid.
#[cfg(core_family = "cortex-m55")]
#[unsafe(naked)]
unsafe extern "C" fn expand_asm(factors: *mut u32, divisors: *const u8, len: usize, table: &[[u8; 4]; 256]) {
    naked_asm!(
        helium!(),
        "push {{r7, lr}}",
        "wlstp.32 lr, r2, 3f",
        "2:",
        "vldrb.u32 q0, [r1], #4",
        "vldrw.u32 q1, [r3, q0, uxtw #2]",
        "vstrw.32 q1, [r0], #16",
        "letp lr, 2b",
        "3:",
        "pop {{r7, pc}}",
    )
}

/// The sums of every group of a row of activations go to `sums`, for pixel `pixel` of each pair. `None` if there is not one
/// pair for every group of `steps` steps.
#[inline(always)]
pub(crate) fn group_sums(x: &[i8], steps: usize, sums: &mut [[u32; 2]], pixel: usize) -> Option<()> {
    if pixel > 1 || steps == 0 || x.len() != sums.len().checked_mul(steps.checked_mul(STEP)?)? {
        return None;
    }
    if sums.is_empty() {
        return Some(());
    }
    #[cfg(core_family = "cortex-m55")]
    // SAFETY: the row has `steps` steps for every pair, and the second word of a pair follows its first.
    unsafe {
        group_sums_asm(x.as_ptr(), sums.as_mut_ptr().cast::<u32>().add(pixel), sums.len(), steps);
    }
    #[cfg(not(core_family = "cortex-m55"))]
    for (sums, x) in sums.iter_mut().zip(x.chunks_exact(steps * STEP)) {
        sums[pixel] = x.iter().map(|&x| i32::from(x)).sum::<i32>().cast_unsigned();
    }
    Some(())
}

/// # Safety
/// `x` must have `groups·steps` steps, and every other one of `2·groups` words at `sums` must be valid; neither is zero.
#[cfg(core_family = "cortex-m55")]
#[unsafe(naked)]
unsafe extern "C" fn group_sums_asm(x: *const i8, sums: *mut u32, groups: usize, steps: usize) {
    naked_asm!(
        helium!(),
        "push {{r4, lr}}",
        "2:",
        "mov r12, #0",
        "dls lr, r3",
        "3:",
        "vldrb.u8 q0, [r0], #16",
        "vaddva.s8 r12, q0",
        "le lr, 3b",
        "str r12, [r1], #8",
        "subs r2, r2, #1",
        "bne 2b",
        "pop {{r4, pc}}",
    )
}

/// What a layer's groups look like.
#[derive(Debug)]
pub(crate) struct Groups<'a> {
    /// Steps of a group, 1 or 2.
    pub(crate) steps: usize,
    /// Whether the codes are those of the mid-rise grid.
    pub(crate) mid_rise: bool,
    /// The sums of both rows' activations in every group, see [`group_sums`].
    pub(crate) activations: &'a mut [[u32; 2]],
    /// Eight words for every group, whatever they hold.
    pub(crate) room: &'a mut [[u32; 8]],
}

/// What one call computes; the loops read it in this order, a word a field, and move some of the pointers on.
#[cfg(core_family = "cortex-m55")]
#[repr(C)]
struct Task {
    weights: *const u8,
    sums: *mut u32,
    x: [*const i8; 2],
    groups: usize,
    /// The end of the weights.
    end: *const u8,
    factors: *const u32,
    activations: *const [u32; 2],
    room: *mut [u32; 8],
    places: Words,
    ones: Words,
}

/// `Σ m_g·Σ level2·x` of pairs of quads over `x`, four words for each quad; the number of quads is even. `factors`: those of every
/// group of the first quad, then of the next ones, see [`expand`]. `None` unless everything has its length.
pub(crate) fn linear_grouped(
    groups: &mut Groups<'_>,
    factors: &[u32],
    x: &[i8],
    weights: &[u8],
    sums: &mut [u32],
) -> Option<()> {
    let quads = sums.len() / QUAD;
    if !quads.is_multiple_of(2) {
        return None;
    }
    run::<1>(groups, factors, [x, x], weights, sums, quads)
}

/// The same of quads over two rows of activations: for each quad four words of the first row, then four of the second.
pub(crate) fn pixel_grouped(
    groups: &mut Groups<'_>,
    factors: &[u32],
    x: [&[i8]; 2],
    weights: &[u8],
    sums: &mut [u32],
) -> Option<()> {
    let quads = sums.len() / (2 * QUAD);
    run::<2>(groups, factors, x, weights, sums, quads)
}

#[inline(always)]
fn run<const PIXELS: usize>(
    groups: &mut Groups<'_>,
    factors: &[u32],
    x: [&[i8]; 2],
    weights: &[u8],
    sums: &mut [u32],
    quads: usize,
) -> Option<()> {
    let count = groups.activations.len();
    let row = count.checked_mul(groups.steps)?.checked_mul(STEP)?;
    if !(1..=2).contains(&groups.steps)
        || count == 0
        || groups.room.len() != count
        || factors.len() != quads.checked_mul(count)?
        || x.iter().any(|x| x.len() != row)
        || sums.len() != quads.checked_mul(PIXELS * QUAD)?
        || weights.len() != quads.checked_mul(row)?
    {
        return None;
    }
    if quads == 0 {
        return Some(());
    }
    let (places, ones) = (Words(places(BITS)), Words(ones(BITS, groups.mid_rise)));
    #[cfg(core_family = "cortex-m55")]
    {
        let kernel = match (PIXELS, groups.steps) {
            (1, 1) => linear_16,
            (1, _) => linear_32,
            (_, 1) => pixels_16,
            _ => pixels_32,
        };
        let mut task = Task {
            weights: weights.as_ptr(),
            sums: sums.as_mut_ptr(),
            x: x.map(<[i8]>::as_ptr),
            groups: count,
            end: weights.as_ptr_range().end,
            factors: factors.as_ptr(),
            activations: groups.activations.as_ptr(),
            room: groups.room.as_mut_ptr(),
            places,
            ones,
        };
        // SAFETY: rows, weights, factors, activations and sums have just been found to have the length that the number of
        // groups and quads implies, and so has the room; words are aligned.
        unsafe { kernel(&mut task) };
    }
    #[cfg(not(core_family = "cortex-m55"))]
    twin::<PIXELS>(groups, factors, x, weights, sums, (places, ones));
    Some(())
}

/// One step. `$add` is `vmladav` for the first step of a group and `vmladava` for others. r1 weights, r3 and r5 activations,
/// r0–r12 and lr (even ones) sums; q0 and q1 activations, q2 weights, q3 what the masks leave, q4–q7 masks.
#[cfg(core_family = "cortex-m55")]
macro_rules! step {
    (linear, $add:literal) => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n",
            step!(quad $add, "r0", "r2", "r4", "r6"),
            step!(quad $add, "r8", "r10", "r12", "lr"),
        )
    };
    (quad $add:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "vldrb.u8 q2, [r1], #16\n",
            "vand q3, q2, q5\n ", $add, ".s8 ", $a, ", q3, q0\n vand q3, q2, q6\n ", $add, ".s8 ", $b, ", q3, q0\n",
            "vand q3, q2, q7\n ", $add, ".s8 ", $c, ", q3, q0\n vand q3, q2, q4\n ", $add, ".s8 ", $d, ", q3, q0\n",
        )
    };
    (pixels, $add:literal) => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n vldrb.u8 q1, [r5], #16\n vldrb.u8 q2, [r1], #16\n",
            "vand q3, q2, q5\n ", $add, ".s8 r0, q3, q0\n ", $add, ".s8 r8, q3, q1\n",
            "vand q3, q2, q6\n ", $add, ".s8 r2, q3, q0\n ", $add, ".s8 r10, q3, q1\n",
            "vand q3, q2, q7\n ", $add, ".s8 r4, q3, q0\n ", $add, ".s8 r12, q3, q1\n",
            "vand q3, q2, q4\n ", $add, ".s8 r6, q3, q0\n ", $add, ".s8 lr, q3, q1\n",
        )
    };
}

/// One group with its factors. r1 sums, r3 and r5 factors, r6 and r8 activations, r7 their place; q0 sums, q1 factors, q2 and q4
/// U, q3 and q5 V. Then the place of the next quad's factors.
#[cfg(core_family = "cortex-m55")]
macro_rules! weigh {
    (linear) => {
        concat!(
            "ldr r6, [r7], #8\n",
            "vldrw.u32 q0, [r1], #16\n vldrb.u32 q1, [r3], #4\n vmul.i32 q0, q0, q1\n vmla.s32 q3, q1, r6\n vadd.i32 q2, q2, q0\n",
            "vldrw.u32 q0, [r1], #16\n vldrb.u32 q1, [r5], #4\n vmul.i32 q0, q0, q1\n vmla.s32 q5, q1, r6\n vadd.i32 q4, q4, q0\n",
        )
    };
    (pixels) => {
        concat!(
            "ldrd r6, r8, [r7], #8\n vldrb.u32 q1, [r3], #4\n",
            "vldrw.u32 q0, [r1], #16\n vmul.i32 q0, q0, q1\n vmla.s32 q3, q1, r6\n vadd.i32 q2, q2, q0\n",
            "vldrw.u32 q0, [r1], #16\n vmul.i32 q0, q0, q1\n vmla.s32 q5, q1, r8\n vadd.i32 q4, q4, q0\n",
        )
    };
    (next linear) => {
        "str r5, [r11, #24]"
    };
    (next pixels) => {
        "str r3, [r11, #24]"
    };
}

/// The loop over quads. r11 task; in the first loop r7 turns of two groups left and r9 where their sums go.
#[cfg(core_family = "cortex-m55")]
macro_rules! kernel {
    ($name:ident, $shape:tt, $($add:literal),*) => {
        /// # Safety
        /// All pointers of the task must be valid for what its weights and groups imply; there is one of both at least.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(task: &mut Task) {
            naked_asm!(
                helium!(),
                "push {{r4-r11, lr}}",
                "vpush {{d8-d15}}",
                "mov r11, r0",
                "2:",
                "ldr r1, [r11]",
                "ldrd r3, r5, [r11, #8]",
                "ldr r7, [r11, #16]",
                "ldr r9, [r11, #32]",
                "vmov.i8 q5, #0x03",
                "vmov.i8 q6, #0x0C",
                "vmov.i8 q7, #0x30",
                "vmov.i8 q4, #0xC0",
                // An odd number of groups begins with the second half of a turn.
                "lsrs r7, r7, #1",
                "bcc.w 3f",
                "add r7, r7, #1",
                "b.w 5f",
                "3:",
                $(step!($shape, $add),)*
                "stm r9!, {{r0, r2, r4, r6, r8, r10, r12, lr}}",
                "5:",
                $(step!($shape, $add),)*
                "stm r9!, {{r0, r2, r4, r6, r8, r10, r12, lr}}",
                "subs r7, r7, #1",
                "bne.w 3b",
                "str r1, [r11]",
                "ldr lr, [r11, #16]",
                "ldrd r3, r7, [r11, #24]",
                "ldr r1, [r11, #32]",
                "add r5, r3, lr, lsl #2",
                "vmov.i32 q2, #0",
                "vmov.i32 q3, #0",
                "vmov.i32 q4, #0",
                "vmov.i32 q5, #0",
                "dls lr, lr",
                "4:",
                weigh!($shape),
                "le lr, 4b",
                weigh!(next $shape),
                "vldrw.u32 q0, [r11, #36]",
                "vldrw.u32 q1, [r11, #52]",
                "ldr r9, [r11, #4]",
                "vshl.s32 q2, q2, q0",
                "vmul.i32 q3, q3, q1",
                "vadd.i32 q2, q2, q3",
                "vstrw.32 q2, [r9], #16",
                "vshl.s32 q4, q4, q0",
                "vmul.i32 q5, q5, q1",
                "vadd.i32 q4, q4, q5",
                "vstrw.32 q4, [r9], #16",
                "str r9, [r11, #4]",
                "ldr r1, [r11]",
                "ldr r7, [r11, #20]",
                "cmp r1, r7",
                "bne.w 2b",
                "vpop {{d8-d15}}",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

#[cfg(core_family = "cortex-m55")]
kernel!(linear_16, linear, "vmladav");
#[cfg(core_family = "cortex-m55")]
kernel!(linear_32, linear, "vmladav", "vmladava");
#[cfg(core_family = "cortex-m55")]
kernel!(pixels_16, pixels, "vmladav");
#[cfg(core_family = "cortex-m55")]
kernel!(pixels_32, pixels, "vmladav", "vmladava");

/// The same loops in Rust.
#[cfg(not(core_family = "cortex-m55"))]
fn twin<const PIXELS: usize>(
    groups: &mut Groups<'_>,
    factors: &[u32],
    x: [&[i8]; 2],
    weights: &[u8],
    sums: &mut [u32],
    (Words(places), Words(ones)): (Words, Words),
) {
    // Quads that lie side by side, and for each half of the room its quad and its row of activations.
    let together = 2 / PIXELS;
    let halves = if PIXELS == 1 { [(0, 0), (1, 0)] } else { [(0, 0), (0, 1)] };
    let count = groups.room.len();
    let of_quad = count * groups.steps;
    let vectors = weights.as_chunks::<STEP>().0;
    for (block, sums) in sums.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let vectors = &vectors[block * together * of_quad..];
        for (group, room) in groups.room.iter_mut().enumerate() {
            for (half, &(quad, row)) in halves.iter().enumerate() {
                for (place, mask) in [0x03u8, 0x0C, 0x30, 0xC0].into_iter().enumerate() {
                    let steps = group * groups.steps..(group + 1) * groups.steps;
                    let products = steps.flat_map(|step| {
                        let x = &x[row][step * STEP..];
                        vectors[step * together + quad]
                            .iter()
                            .zip(x)
                            .map(move |(&byte, &x)| i32::from((byte & mask).cast_signed()) * i32::from(x))
                    });
                    room[half * QUAD + place] = products.sum::<i32>().cast_unsigned();
                }
            }
        }
        for (half, &(quad, row)) in halves.iter().enumerate() {
            for place in 0..QUAD {
                let (mut u, mut v) = (0i32, 0i32);
                for (group, room) in groups.room.iter().enumerate() {
                    let factors = factors[(block * together + quad) * count + group];
                    let factor = i32::from(factors.to_le_bytes()[place]);
                    u = u.wrapping_add(room[half * QUAD + place].cast_signed().wrapping_mul(factor));
                    v = v.wrapping_add(groups.activations[group][row].cast_signed().wrapping_mul(factor));
                }
                let u = if places[place] < 0 { u >> -places[place] } else { u << places[place] };
                sums[half * QUAD + place] = u.wrapping_add(ones[place].wrapping_mul(v)).cast_unsigned();
            }
        }
    }
}
