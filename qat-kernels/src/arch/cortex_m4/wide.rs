//! What 4-bit and 8-bit weights share: no windows in the stream, but a limit on the columns after which the sums have to be
//! taken apart.

/// Steps of 16 columns after which sums are taken apart.
pub(super) const WIDE_STEPS: usize = 30;

/// Bands of four channels of a pixel: `$columns` is the loop over the steps in r2, from label 1 on, `$apart` makes sums of
/// what it leaves in r4–r7, `$results` makes results of them.
///
/// On the stack: sums of earlier turns, turns to come, the task.
#[cfg(core_family = "cortex-m4")]
macro_rules! wide_quad {
    ($columns:expr, $apart:expr, $results:expr) => {
        concat!(
            "push {{r0, r4-r11, lr}}\n sub sp, sp, #20\n mov r12, r0\n ldr r1, [r12, #60]\n",
            "3:\n ldr r0, [r12, #56]\n ldr r2, [r12, #64]\n ldr r3, [r12, #72]\n str r3, [sp, #16]\n",
            "5:\n mov r4, #0\n mov r5, #0\n mov r6, #0\n mov r7, #0\n",
            "1:\n",
            $columns,
            $apart,
            "ldrd r3, r12, [sp, #16]\n ldr r2, [r12, #72]\n cmp r2, #1\n bne.w 6f\n",
            "4:\n",
            $results,
            "add sp, sp, #24\n pop {{r4-r11, pc}}\n",
            quad_shifted!(),
            // More than one turn: add the sums of the earlier ones unless this is the first, go on unless it is the last.
            "6:\n cmp r3, r2\n beq 7f\n",
            "ldm sp, {{r8-r11}}\n add r4, r4, r8\n add r5, r5, r9\n add r6, r6, r10\n add r7, r7, r11\n",
            "7:\n subs r3, r3, #1\n beq.w 4b\n",
            "stm sp, {{r4-r7}}\n str r3, [sp, #16]\n mov r2, #30\n b.w 5b\n",
        )
    };
}

/// Bands of four channels of two pixels: `$columns` is the loop over the steps in lr, from label 1 on, `$apart` makes sums
/// of what it leaves in r4–r11, `$results` makes results of them.
///
/// On the stack: sums of earlier turns, turns to come, a word for the loop, the task.
#[cfg(core_family = "cortex-m4")]
macro_rules! wide_quads {
    ($columns:expr, $apart:expr, $results:expr) => {
        concat!(
            "push {{r0, r4-r11, lr}}\n sub sp, sp, #40\n mov r12, r0\n ldr r1, [r12, #60]\n",
            "3:\n ldr r0, [r12, #56]\n ldr lr, [r12, #64]\n ldr r3, [r12, #72]\n str r3, [sp, #32]\n",
            "5:\n mov r4, #0\n mov r5, #0\n mov r6, #0\n mov r7, #0\n",
            "mov r8, #0\n mov r9, #0\n mov r10, #0\n mov r11, #0\n",
            "1:\n",
            $columns,
            $apart,
            "ldr r12, [sp, #40]\n ldr r2, [r12, #72]\n cmp r2, #1\n bne.w 6f\n",
            "4:\n",
            $results,
            "add sp, sp, #44\n pop {{r4-r11, pc}}\n",
            quads_shifted!(),
            // As above.
            "6:\n ldr r3, [sp, #32]\n cmp r3, r2\n beq 7f\n mov lr, sp\n",
            "ldrd r2, r12, [lr], #8\n add r4, r4, r2\n add r5, r5, r12\n",
            "ldrd r2, r12, [lr], #8\n add r6, r6, r2\n add r7, r7, r12\n",
            "ldrd r2, r12, [lr], #8\n add r8, r8, r2\n add r9, r9, r12\n",
            "ldrd r2, r12, [lr], #8\n add r10, r10, r2\n add r11, r11, r12\n",
            "ldr r12, [sp, #40]\n",
            "7:\n subs r3, r3, #1\n beq.w 4b\n",
            "stm sp, {{r4-r11}}\n str r3, [sp, #32]\n mov lr, #30\n b.w 5b\n",
        )
    };
}

#[cfg(core_family = "cortex-m4")]
pub(super) use {wide_quad, wide_quads};

/// The sums in Rust: `columns` adds two columns, given their words of weights, of which a step has `step_words`; `apart` as
/// above. Twice the sums of codes, as [`Loops`](super::bands::Loops) says.
#[cfg(not(core_family = "cortex-m4"))]
pub(super) fn sums(
    (band, pixel): (&super::bands::Band<'_>, usize),
    step_words: usize,
    columns: impl Fn(&[u32], u32, &mut [u32; 4]),
    apart: impl Fn([u32; 4]) -> [u32; 4],
) -> [u32; 4] {
    let (mut sums, mut step) = ([0u32; 4], 0);
    for turn in 0..band.turns {
        let mut parts = [0; 4];
        for _ in 0..if turn == 0 { band.first } else { WIDE_STEPS } {
            let words = &band.weights[step * step_words..][..step_words];
            let x = &band.words[step * 8 * band.pixels..][..8 * band.pixels];
            for (words, x) in words.chunks(step_words / 8).zip(x.chunks(band.pixels)) {
                columns(words, x[pixel], &mut parts);
            }
            step += 1;
        }
        for (sum, part) in sums.iter_mut().zip(apart(parts)) {
            *sum = sum.wrapping_add(part << 1);
        }
    }
    sums
}
