//! One pixel of a depthwise convolution, channel by channel.

use super::requantise::requantise;
use crate::arch::planes::depthwise::Depthwise;
use crate::artifact::planes::TAPS;
use core::arch::naked_asm;

/// Channels of a turn.
pub(in crate::arch::planes) const DEPTHWISE_CHANNELS: usize = 1;

/// # Safety
/// Taps, parameters and outputs must be as the task says; at most [`TAPS`] taps.
#[unsafe(naked)]
pub(in crate::arch::planes) unsafe extern "C" fn depthwise_pixel(task: &Depthwise) {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "mov r4, r8",
        "mov r5, r9",
        "mov r6, r10",
        "mov r7, r11",
        "push {{r4-r7}}",
        // r8 zero point, r9 2^15, r10 taps, r11 where a channel's taps begin, r12 twice the channel, r7 and lr parameters.
        "ldmia r0!, {{r2, r3, r7}}",
        "mov r10, r2",
        "movs r2, #10",
        "muls r3, r2, r3",
        "adr r4, 4f",
        "ldr r2, ={taps} * 10 + 1",
        "adds r4, r4, r2",
        "subs r4, r4, r3",
        "mov r11, r4",
        "movs r3, #1",
        "lsls r3, r3, #15",
        "mov r9, r3",
        "ldmia r0!, {{r1, r2, r3}}",
        "mov r8, r3",
        // The end of the outputs.
        "subs r1, r1, r2",
        "push {{r1}}",
        "mov r1, r2",
        "b 3f",
        ".balign 4",
        // r0 taps, r1 channel, r2 twice as much, both less than zero; r3 accumulator.
        "4:",
        ".rept {taps}",
        "ldmia r0!, {{r4, r5}}",
        "ldrsb r4, [r4, r1]",
        "ldrsh r5, [r5, r2]",
        "muls r4, r5, r4",
        "adds r3, r3, r4",
        ".endr",
        "ldrh r5, [r7]",
        "ldrh r6, [r7, #2]",
        "adds r7, #4",
        "mov lr, r7",
        requantise!(),
        "mov r7, lr",
        "ldr r5, [sp]",
        "strb r4, [r5, r1]",
        "adds r1, #1",
        "beq 5f",
        "3:",
        "lsls r2, r1, #1",
        "mov r0, r10",
        "ldmia r7!, {{r3}}",
        "bx r11",
        "5:",
        "pop {{r0, r4-r7}}",
        "mov r8, r4",
        "mov r9, r5",
        "mov r10, r6",
        "mov r11, r7",
        "pop {{r4-r7, pc}}",
        ".balign 4",
        ".ltorg",
        taps = const TAPS,
    )
}
