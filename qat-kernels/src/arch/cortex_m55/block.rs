//! Convolutions whose groups have factors: a block of pixels for one quad.
//!
//! A factor times twice a level of 2 bits lies between −120 and 90, so it is a byte. A quad's codes are multiplied out once
//! for all pixels of a block, which then take the loop for weights of 8 bits: `Σ (m·level2)·x` needs no sums of groups, nor of
//! activations.

use crate::artifact::cortex_m55::{QUAD, STEP};
#[cfg(core_family = "cortex-m55")]
use {super::sums::steps, core::arch::naked_asm};

/// What the codes of a quad stand for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels {
    /// Steps of a group, 1 or 2.
    pub(crate) steps: usize,
    /// Whether the grid is mid-rise.
    pub(crate) mid_rise: bool,
}

/// Writes `m·level2` of a quad, a vector for each row of every step, as the layout of 8 bits has them. `factors`: those of each
/// group, see [`super::expand`]. `None` unless everything has its length.
#[inline(always)]
pub(crate) fn multiply_out(levels: Levels, factors: &[u32], codes: &[u8], to: &mut [i8]) -> Option<()> {
    let of_group = levels.steps.checked_mul(STEP)?;
    if !(1..=2).contains(&levels.steps)
        || codes.len() != factors.len().checked_mul(of_group)?
        || to.len() != codes.len().checked_mul(QUAD)?
    {
        return None;
    }
    if factors.is_empty() {
        return Some(());
    }
    #[cfg(core_family = "cortex-m55")]
    {
        let kernel = if levels.steps == 1 { multiply_16 } else { multiply_32 };
        let mid_rise = u32::from(levels.mid_rise);
        // SAFETY: codes have `steps` steps for every factor, of which there is one, and four times as many bytes to go to.
        unsafe { kernel(to.as_mut_ptr(), codes.as_ptr(), factors.as_ptr(), factors.len(), mid_rise) };
    }
    #[cfg(not(core_family = "cortex-m55"))]
    {
        let groups = codes.chunks_exact(of_group).zip(to.chunks_exact_mut(of_group * QUAD));
        for ((codes, to), factors) in groups.zip(factors) {
            let steps = codes.as_chunks::<STEP>().0.iter().zip(to.as_chunks_mut::<STEP>().0.chunks_mut(QUAD));
            for (codes, rows) in steps {
                for (row, (to, m)) in rows.iter_mut().zip(factors.to_le_bytes()).enumerate() {
                    for (to, code) in to.iter_mut().zip(codes) {
                        // Two's complement at the top of the byte, without sign elsewhere.
                        let twice = match row {
                            3 => code.cast_signed() >> 6 << 1,
                            row => (code >> (2 * row) & 3).cast_signed() * 2 - 4,
                        };
                        *to = (twice + i8::from(levels.mid_rise)) * m.cast_signed();
                    }
                }
            }
        }
    }
    Some(())
}

/// One step. r0 to, r1 codes, r4–r7 factors in their lowest bytes, r8 what twice an unsigned code lacks of a level; q0 codes, q2
/// masks, q3 keeps the lowest bit of levels.
#[cfg(core_family = "cortex-m55")]
macro_rules! multiply {
    () => {
        concat!(
            "vldrb.u8 q0, [r1], #16\n",
            "vshl.i8 q1, q0, #1\n vand q1, q1, q2\n vadd.i8 q1, q1, r8\n vmul.i8 q1, q1, r4\n vstrb.8 q1, [r0], #16\n",
            "vshr.u8 q1, q0, #1\n vand q1, q1, q2\n vadd.i8 q1, q1, r8\n vmul.i8 q1, q1, r5\n vstrb.8 q1, [r0], #16\n",
            "vshr.u8 q1, q0, #3\n vand q1, q1, q2\n vadd.i8 q1, q1, r8\n vmul.i8 q1, q1, r6\n vstrb.8 q1, [r0], #16\n",
            "vshr.s8 q1, q0, #6\n vsli.8 q3, q1, #1\n vmul.i8 q1, q3, r7\n vstrb.8 q1, [r0], #16\n",
        )
    };
    ($name:ident, $($step:expr),*) => {
        /// # Safety
        /// `groups` factors, which are not none, and the codes and bytes of as many groups must be valid.
        #[cfg(core_family = "cortex-m55")]
        #[unsafe(naked)]
        unsafe extern "C" fn $name(
            to: *mut i8,
            codes: *const u8,
            factors: *const u32,
            groups: usize,
            mid_rise: u32,
        ) {
            naked_asm!(
                helium!(),
                "push {{r4-r8, lr}}",
                "ldr r8, [sp, #24]",
                "vmov.i8 q2, #6",
                "vdup.8 q3, r8",
                "sub r8, r8, #4",
                "dls lr, r3",
                "2:",
                "ldr r4, [r2], #4",
                "lsr r5, r4, #8",
                "lsr r6, r4, #16",
                "lsr r7, r4, #24",
                $($step,)*
                "le lr, 2b",
                "pop {{r4-r8, pc}}",
            )
        }
    };
}

#[cfg(core_family = "cortex-m55")]
multiply!(multiply_16, multiply!());
#[cfg(core_family = "cortex-m55")]
multiply!(multiply_32, multiply!(), multiply!());

/// What one call computes; the loop reads it in this order, a word a field, and counts the pairs down.
#[cfg(core_family = "cortex-m55")]
#[repr(C)]
struct Task {
    weights: *const i8,
    sums: *mut u32,
    x: *const i8,
    row: usize,
    steps: usize,
    pairs: usize,
    stride: usize,
}

/// The sums of one quad over pairs of rows of activations, which lie side by side in `x`: `weights` as [`multiply_out`] writes
/// them. Of each of the pairs' parts of `sums` the first eight words are written, four for each row. `None` unless `pairs` and
/// the length of every row, which is that of the weights' rows, lead to the lengths of `x` and `sums`.
#[inline(always)]
pub(crate) fn block_sums(
    x: &[i8],
    weights: &[i8],
    pairs: usize,
    stride: usize,
    sums: &mut [u32],
) -> Option<()> {
    let row = weights.len() / QUAD;
    let needed = pairs.checked_sub(1)?.checked_mul(stride)?.checked_add(2 * QUAD)?;
    if row == 0
        || !weights.len().is_multiple_of(QUAD * STEP)
        || x.len() != pairs.checked_mul(2)?.checked_mul(row)?
        || sums.len() < needed
    {
        return None;
    }
    #[cfg(core_family = "cortex-m55")]
    {
        let mut task = Task {
            weights: weights.as_ptr(),
            sums: sums.as_mut_ptr(),
            x: x.as_ptr(),
            row,
            steps: row / STEP,
            pairs,
            stride: stride.wrapping_mul(4),
        };
        // SAFETY: there are two rows for every pair, of which there is one, four of the same length among the weights, and
        // room for eight words every `stride` ones.
        unsafe { block_asm(&mut task) };
    }
    #[cfg(not(core_family = "cortex-m55"))]
    for (rows, sums) in x.chunks_exact(2 * row).zip(sums.chunks_mut(stride.max(1))) {
        for (x, sums) in rows.chunks_exact(row).zip(sums.chunks_exact_mut(QUAD)) {
            for (quad_row, sum) in sums.iter_mut().enumerate() {
                let steps = weights.as_chunks::<STEP>().0.iter().skip(quad_row).step_by(QUAD);
                let products = steps.flatten().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x));
                *sum = products.sum::<i32>().cast_unsigned();
            }
        }
    }
    Some(())
}

/// The loop over pairs. r1 weights, r3 and r5 activations, r7 pairs of steps left, r9 sums, r11 task, the others (even ones)
/// accumulators; on the stack zeros for those.
///
/// # Safety
/// All pointers of the task must be valid for what its row, its pairs and its stride imply; there is one pair and one step at
/// least.
#[cfg(core_family = "cortex-m55")]
#[unsafe(naked)]
unsafe extern "C" fn block_asm(task: &mut Task) {
    naked_asm!(
        helium!(),
        "push {{r4-r11, lr}}",
        "sub sp, sp, #36",
        "vmov.i32 q0, #0",
        "vstrw.32 q0, [sp]",
        "vstrw.32 q0, [sp, #16]",
        "mov r11, r0",
        "ldrd r9, r3, [r11, #4]",
        "2:",
        "ldm sp, {{r0, r2, r4, r6, r8, r10, r12, lr}}",
        "ldr r1, [r11]",
        "ldrd r5, r7, [r11, #12]",
        "add r5, r3, r5",
        "lsrs r7, r7, #1",
        "bcc.w 3f",
        steps!(pixels, 8, first),
        // None of these instructions touches the flags of the shift.
        "beq.w 4f",
        "3:",
        steps!(pixels, 8, pair),
        "subs r7, r7, #1",
        "bne.w 3b",
        "4:",
        "stm r9, {{r0, r2, r4, r6, r8, r10, r12, lr}}",
        // The second row ends where the next pair begins.
        "mov r3, r5",
        "ldrd r5, r7, [r11, #20]",
        "add r9, r9, r7",
        "subs r5, r5, #1",
        "str r5, [r11, #20]",
        "bne.w 2b",
        "add sp, sp, #36",
        "pop {{r4-r11, pc}}",
    )
}
