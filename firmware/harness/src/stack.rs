//! How deep the stack gets: the free part is painted, and afterwards one sees how far down the paint is gone.
//!
//! `unsafe`: the memory between the statics and the stack belongs to nobody, and the linker's script alone knows where it is.
#![allow(unsafe_code)]

use core::arch::asm;

/// Painted at most, in bytes: engines that need more than that are not for microcontrollers.
const DEPTH: usize = 8 << 10;
const PAINT: u32 = 0xC5C5_C5C5;
/// Left unpainted below the stack pointer, for the frame of the function that paints: the compiler may read the pointer
/// before it makes room for the frame.
const OWN_FRAME: usize = 64;
/// Bytes of a word.
const WORD: usize = 4;

unsafe extern "C" {
    /// The end of all statics, of the scripts of `cortex-m-rt` and `riscv-rt`; its address is what counts.
    static __sheap: u32;
}

/// Runs `work` and returns with its result the bytes of stack that it has used, its caller's frame not counted; 64 at least.
///
/// A word that happens to be written with the paint's own value may make it one word less. Interrupts are to be off.
pub fn stack_used<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let (top, bottom) = paint();
    let result = work();
    let untouched =
        (bottom..top.saturating_sub(OWN_FRAME)).step_by(WORD).take_while(|&at| peek(at) == PAINT).count();
    (result, top.saturating_sub(bottom).saturating_sub(untouched * WORD))
}

/// Paints downwards from the stack pointer; returns where it began and where it ended.
#[inline(never)]
fn paint() -> (usize, usize) {
    let top: usize;
    // SAFETY: copies a register.
    #[cfg(target_arch = "arm")]
    unsafe {
        asm!("mov {}, sp", out(reg) top, options(nomem, nostack, preserves_flags));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "riscv32")]
    unsafe {
        asm!("mv {}, sp", out(reg) top, options(nomem, nostack, preserves_flags));
    }
    let end_of_statics = (&raw const __sheap).addr();
    let bottom = top.saturating_sub(DEPTH).max(end_of_statics).next_multiple_of(WORD);
    for at in (bottom..top.saturating_sub(OWN_FRAME)).step_by(WORD) {
        // SAFETY: the word lies in RAM above all statics and below the stack pointer and this function's frame, where
        // nothing lives: neither instruction set has a red zone, this function calls nothing, and no interrupt handler is
        // running.
        unsafe { core::ptr::with_exposed_provenance_mut::<u32>(at).write_volatile(PAINT) };
    }
    (top, bottom)
}

fn peek(at: usize) -> u32 {
    // SAFETY: an aligned word of RAM that `paint` has written; reading it disturbs nobody.
    unsafe { core::ptr::with_exposed_provenance::<u32>(at).read_volatile() }
}
