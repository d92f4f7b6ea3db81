//! Accumulators to int8.

use crate::arch::planes::finish::Finish;
use core::arch::naked_asm;

/// `zp + (a·M + 2^31 >> 32)` within int8 into t0. The accumulator is in t0, M in t1, the zero point in a4, the limits of int8 in
/// a5 and a6; t1 and t2 are lost.
macro_rules! requantise {
    () => {
        concat!(
            "mul t2, t0, t1\n mulh t0, t0, t1\n srli t2, t2, 31\n add t0, t0, t2\n add t0, t0, a4\n",
            "bge t0, a5, 8f\n mv t0, a5\n 8:\n bge a6, t0, 9f\n mv t0, a6\n 9:\n"
        )
    };
}
pub(super) use requantise;

/// A channel: its accumulator, multiplier and output at these places.
macro_rules! channel {
    ($sum:literal $multiplier:literal $out:literal) => {
        concat!(
            "lw t0, ",
            $sum,
            "(a0)\n lw t1, ",
            $multiplier,
            "(a1)\n",
            requantise!(),
            "sb t0, ",
            $out,
            "(a2)\n"
        )
    };
}

/// A function over channels with `$len` bytes of accumulators for four of them.
macro_rules! channels {
    ($name:ident, $len:literal: $turn:expr) => {
        /// # Safety
        /// All pointers must be valid for as many channels as lie between out and end, a multiple of four and not none.
        #[unsafe(naked)]
        pub(in crate::arch::planes) unsafe extern "C" fn $name(task: &Finish) {
            naked_asm!(
                // Naked functions do not inherit the extension.
                ".option push",
                ".option arch, +m",
                "lw a1, 4(a0)",
                "lw a2, 8(a0)",
                "lw a3, 12(a0)",
                "lw a4, 16(a0)",
                "lw a0, 0(a0)",
                "li a5, -128",
                "li a6, 127",
                "2:",
                $turn,
                concat!("addi a0, a0, ", $len),
                "addi a1, a1, 32",
                "addi a2, a2, 4",
                "bne a2, a3, 2b",
                "ret",
                ".option pop",
            )
        }
    };
}

channels!(
    finish1,
    "16": concat!(channel!("0" "4" "0"), channel!("4" "12" "1"), channel!("8" "20" "2"), channel!("12" "28" "3"))
);
channels!(
    finish2,
    "32": concat!(channel!("0" "4" "0"), channel!("8" "12" "1"), channel!("16" "20" "2"), channel!("24" "28" "3"))
);
