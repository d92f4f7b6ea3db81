//! The region that is counted.
//!
//! `unsafe`: a marker has to be one certain instruction, and only `asm!` can ask for it.
#![allow(unsafe_code)]

use core::arch::asm;

/// The instruction that a region begins behind.
#[cfg(target_arch = "arm")]
macro_rules! begin {
    () => {
        "mov r10, r10"
    };
}
/// The instruction that a region ends before.
#[cfg(target_arch = "arm")]
macro_rules! end {
    () => {
        "mov r11, r11"
    };
}
#[cfg(target_arch = "riscv32")]
macro_rules! begin {
    () => {
        "slti x0, x0, 1"
    };
}
#[cfg(target_arch = "riscv32")]
macro_rules! end {
    () => {
        "slti x0, x0, 2"
    };
}

/// Ends one region and begins the next.
#[inline(always)]
pub fn boundary() {
    // SAFETY: as in [`counted`].
    unsafe { asm!(end!(), begin!(), options(nostack, preserves_flags)) };
}

/// Runs `work` between the two markers that the emulator's plugin looks for: instructions that do nothing.
#[inline(always)]
pub fn counted<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: copies a register onto itself or writes to the zero register, and changes no flag. Without `nomem` the compiler moves no access to
    // memory across it, so that the work stays inside.
    unsafe { asm!(begin!(), options(nostack, preserves_flags)) };
    let result = work();
    // SAFETY: as above.
    unsafe { asm!(end!(), options(nostack, preserves_flags)) };
    result
}
