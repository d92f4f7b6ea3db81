//! One pixel of a depthwise convolution, four channels at a time.

use super::requantise::requantise;
use crate::arch::planes::depthwise::Depthwise;
use core::arch::naked_asm;

/// Channels of a turn.
pub(in crate::arch::planes) const DEPTHWISE_CHANNELS: usize = 4;

/// The tap at `$at` behind a0; a7 channel, t4 twice as much, both less than zero, s0–s3 accumulators.
macro_rules! tap {
    ($at:literal) => {
        concat!(
            "lw t0, ",
            $at,
            "(a0)\n lw t1, 4 + ",
            $at,
            "(a0)\n add t0, t0, a7\n add t1, t1, t4\n",
            tap!("s0", "0"),
            tap!("s1", "1"),
            tap!("s2", "2"),
            tap!("s3", "3"),
        )
    };
    ($sum:literal, $channel:literal) => {
        concat!(
            "lb t2, ",
            $channel,
            "(t0)\n lh t3, 2 * ",
            $channel,
            "(t1)\n mul t2, t2, t3\n",
            "add ",
            $sum,
            ", ",
            $sum,
            ", t2\n"
        )
    };
}

/// A channel of the turn.
macro_rules! channel {
    ($sum:literal, $channel:literal) => {
        concat!(
            "mv t0, ",
            $sum,
            "\n lw t1, 8 * ",
            $channel,
            " + 4(a2)\n",
            requantise!(),
            "sb t0, ",
            $channel,
            "(a3)\n"
        )
    };
}

/// # Safety
/// Taps, parameters and outputs must be as the task says; whole turns of channels.
#[unsafe(naked)]
pub(in crate::arch::planes) unsafe extern "C" fn depthwise_pixel(task: &Depthwise) {
    naked_asm!(
        // Naked functions do not inherit the extension.
        ".option push",
        ".option arch, +m",
        "addi sp, sp, -16",
        "sw s0, 0(sp)",
        "sw s1, 4(sp)",
        "sw s2, 8(sp)",
        "sw s3, 12(sp)",
        // a1 taps, t5 the end of those that fill turns of three, t6 the end of all.
        "lw a1, 0(a0)",
        "lw t0, 4(a0)",
        "lw a2, 8(a0)",
        "lw a3, 12(a0)",
        "lw a7, 16(a0)",
        "lw a4, 20(a0)",
        "li a5, -128",
        "li a6, 127",
        "slli t4, a7, 1",
        "slli t6, t0, 3",
        "add t6, t6, a1",
        "mv t5, a1",
        "li t1, 24",
        "2:",
        "sub t2, t6, t5",
        "blt t2, t1, 3f",
        "add t5, t5, t1",
        "j 2b",
        "3:",
        "lw s0, 0(a2)",
        "lw s1, 8(a2)",
        "lw s2, 16(a2)",
        "lw s3, 24(a2)",
        "mv a0, a1",
        "beq a0, t5, 5f",
        "4:",
        tap!("0"),
        tap!("8"),
        tap!("16"),
        "addi a0, a0, 24",
        "bne a0, t5, 4b",
        "5:",
        "beq a0, t6, 6f",
        tap!("0"),
        "addi a0, a0, 8",
        "j 5b",
        "6:",
        channel!("s0", "0"),
        channel!("s1", "1"),
        channel!("s2", "2"),
        channel!("s3", "3"),
        "addi a2, a2, 32",
        "addi a3, a3, 4",
        "addi t4, t4, 8",
        "addi a7, a7, 4",
        "beqz a7, 7f",
        // Too far for a conditional branch, maybe.
        "j 3b",
        "7:",
        "lw s0, 0(sp)",
        "lw s1, 4(sp)",
        "lw s2, 8(sp)",
        "lw s3, 12(sp)",
        "addi sp, sp, 16",
        "ret",
        ".option pop",
    )
}
