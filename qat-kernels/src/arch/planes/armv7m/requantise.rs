//! Accumulators to int8.

use crate::arch::planes::finish::Finish;
use core::arch::naked_asm;

/// `zp + (a·M + 2^31 >> 32)` within int8 into `$y`: the accumulator is in `$acc`, M in `$m`, the zero point in `$zero_point`, 2^31
/// in `$half`; `$low` is lost.
macro_rules! requantise {
    ($y:literal, $acc:literal, $m:literal, $zero_point:literal, $half:literal, $low:literal) => {
        concat!(
            "mov ",
            $low,
            ", ",
            $half,
            "\n mov ",
            $y,
            ", ",
            $zero_point,
            "\n",
            "smlal ",
            $low,
            ", ",
            $y,
            ", ",
            $acc,
            ", ",
            $m,
            "\n ssat ",
            $y,
            ", #8, ",
            $y,
            "\n"
        )
    };
}
pub(super) use requantise;

/// A function over channels, whose accumulators are `$len` bytes apart, four a turn.
macro_rules! channels {
    ($name:ident, $len:literal) => {
        /// # Safety
        /// All pointers must be valid for as many channels as lie between out and end, a multiple of four and not none.
        #[unsafe(naked)]
        pub(in crate::arch::planes) unsafe extern "C" fn $name(task: &Finish) {
            naked_asm!(
                "push {{r4-r8, lr}}",
                "ldr r12, [r0, #16]",
                "ldm r0, {{r0, r1, r2, r3}}",
                "add r1, #4",
                "mov lr, #0x80000000",
                "2:",
                channels!(one $len),
                channels!(one $len),
                channels!(one $len),
                channels!(one $len),
                "cmp r2, r3",
                "bne 2b",
                "pop {{r4-r8, pc}}",
            )
        }
    };
    (one $len:literal) => {
        concat!(
            "ldr r4, [r0], #", $len, "\n ldr r5, [r1], #8\n",
            requantise!("r6", "r4", "r5", "r12", "lr", "r7"), "strb r6, [r2], #1\n"
        )
    };
}

channels!(finish1, "4");
channels!(finish2, "8");
