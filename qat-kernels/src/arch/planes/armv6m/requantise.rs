//! Accumulators to int8: there is no multiplication wider than 32 bits.

use crate::arch::planes::finish::Finish;
use core::arch::naked_asm;

/// `zp + (a·M + 2^31 >> 32)` within int8 into r4. The accumulator is in r3, the halves of M, which is not negative, in r5 and
/// r6, the zero point in r8 and 2^15 in r9; r3 and r5–r7 are lost.
///
/// Of the products of halves, upper ones are signed. `a_high·M_low + (a_low·M_low >> 16) + 2^15` is within 32 bits, and so is,
/// without a sign, the lower half of that plus `a_low·M_high`.
macro_rules! requantise {
    () => {
        concat!(
            "asrs r4, r3, #16\n uxth r3, r3\n",
            "movs r7, r3\n muls r7, r5, r7\n lsrs r7, r7, #16\n",
            "muls r5, r4, r5\n adds r5, r5, r7\n add r5, r9\n",
            "muls r3, r6, r3\n muls r4, r6, r4\n",
            "uxth r6, r5\n adds r3, r3, r6\n lsrs r3, r3, #16\n asrs r5, r5, #16\n",
            "adds r4, r4, r5\n adds r3, r3, r4\n add r3, r8\n",
            "sxtb r4, r3\n cmp r4, r3\n beq 9f\n asrs r4, r3, #31\n movs r5, #127\n eors r4, r5\n 9:\n",
        )
    };
}
pub(super) use requantise;

/// A channel: its accumulator, multiplier and output at these places.
macro_rules! channel {
    ($sum:literal $multiplier:literal $out:literal) => {
        concat!(
            "ldr r3, [r0, #",
            $sum,
            "]\n ldrh r5, [r1, #",
            $multiplier,
            "]\n",
            "ldrh r6, [r1, #",
            $multiplier,
            " + 2]\n",
            requantise!(),
            "strb r4, [r2, #",
            $out,
            "]\n",
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
                "push {{r4-r7, lr}}",
                "mov r4, r8",
                "mov r5, r9",
                "push {{r4, r5}}",
                "ldr r1, [r0, #16]",
                "movs r2, #1",
                "lsls r2, r2, #15",
                "mov r8, r1",
                "mov r9, r2",
                "ldmia r0!, {{r3}}",
                "ldmia r0!, {{r1, r2, r4}}",
                "mov r12, r4",
                "mov r0, r3",
                "2:",
                $turn,
                concat!("adds r0, #", $len),
                "adds r1, #32",
                "adds r2, #4",
                "cmp r2, r12",
                "bne 2b",
                "pop {{r4, r5}}",
                "mov r8, r4",
                "mov r9, r5",
                "pop {{r4-r7, pc}}",
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
