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
        "push {{r4-r11, lr}}",
        // r5 parameters, r6 outputs, r7 taps, r8 where a channel's taps begin, r11 zero point, r12 2^31.
        "ldr r11, [r0, #20]",
        "mov r12, #0x80000000",
        "ldm r0, {{r7, r8, r9, r10, lr}}",
        "mov r5, r9",
        "mov r6, r10",
        "mov r1, lr",
        "rsb r8, r8, #{taps}",
        "adr r4, 4f",
        "add r8, r4, r8, lsl #4",
        "orr r8, #1",
        "2:",
        "mov r0, r7",
        "ldr r2, [r5], #8",
        "bx r8",
        ".balign 4",
        // r0 taps, r1 channel, less than zero, r2 accumulator. Sixteen bytes a tap.
        "4:",
        ".rept {taps}",
        "ldrd r3, r4, [r0], #8",
        "ldrsb.w r3, [r3, r1]",
        "ldrsh.w r4, [r4, r1, lsl #1]",
        "mla r2, r3, r4, r2",
        ".endr",
        "ldr r3, [r5, #-4]",
        requantise!("r4", "r2", "r3", "r11", "r12", "r9"),
        "strb r4, [r6], #1",
        "adds r1, #1",
        "bne.w 2b",
        "pop {{r4-r11, pc}}",
        taps = const TAPS,
    )
}
