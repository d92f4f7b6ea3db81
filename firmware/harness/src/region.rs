//! The region that is counted.
//!
//! `unsafe`: a marker has to be one certain instruction, and only `asm!` can ask for it.
#![allow(unsafe_code)]

use core::arch::asm;

/// Runs `work` between the two markers (`mov r10, r10` and `mov r11, r11`) that the emulator's plugin looks for.
#[inline(always)]
pub fn counted<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: copies a register onto itself and changes no flag. Without `nomem` the compiler moves no access to
    // memory across it, so that the work stays inside.
    unsafe { asm!("mov r10, r10", options(nostack, preserves_flags)) };
    let result = work();
    // SAFETY: as above.
    unsafe { asm!("mov r11, r11", options(nostack, preserves_flags)) };
    result
}
