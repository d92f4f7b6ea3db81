//! Regions whose instructions can be counted by hand, and samples that come back negated. `cargo xtask test` compares
//! both with what the emulator reports; the expected counts are in `xtask/src/mcu.rs`.
//!
//! `unsafe`: `asm!`, because a compiler is free to choose how many instructions a loop of Rust takes.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

use core::arch::asm;

#[cfg(target_arch = "arm")]
use cortex_m_rt::entry;
use harness::{Buffers, Failure, finish, for_each_sample};
#[cfg(target_arch = "riscv32")]
use riscv_rt::entry;

/// Values in a sample of the self-test.
const LEN: usize = 8;

#[entry]
fn main() -> ! {
    finish(selftest())
}

/// Markers and work share one `asm!`: between two of them a compiler may place instructions of its own.
#[cfg(target_arch = "arm")]
fn regions() {
    // Nothing between the markers: 0 instructions.
    // SAFETY: two copies of a register onto itself.
    unsafe { asm!("mov r10, r10", "mov r11, r11", options(nomem, nostack)) };
    // 1 + 3 · 1000 instructions, in a loop that is translated once and entered a thousand times.
    // SAFETY: writes the registers it declares and the flags; no memory, no stack.
    unsafe {
        asm!(
            "mov r10, r10",
            "ldr {n}, =1000", "2:", "nop", "subs {n}, {n}, #1", "bne 2b",
            "mov r11, r11",
            n = out(reg) _, options(nomem, nostack)
        );
    }
    // 5 instructions: a comparison, an IT block of which one instruction is skipped, and a wide (32-bit) addition.
    // SAFETY: writes the registers it declares and the flags; no memory, no stack.
    unsafe {
        asm!(
            "mov r10, r10",
            "cmp {a}, {a}", "ite eq", "moveq {b}, #1", "movne {b}, #2", "add.w {b}, {b}, #4000",
            "mov r11, r11",
            a = in(reg) 0, b = out(reg) _, options(nomem, nostack)
        );
    }
}

/// The same counts as above: nothing, 1 + 3 · 1000, and 5, of which three are compressed.
#[cfg(target_arch = "riscv32")]
fn regions() {
    // SAFETY: writes to the zero register only.
    unsafe { asm!("slti x0, x0, 1", "slti x0, x0, 2", options(nomem, nostack)) };
    // SAFETY: writes the register it declares; no memory, no stack.
    unsafe {
        asm!(
            "slti x0, x0, 1",
            "li {n}, 1000", "2: nop", "addi {n}, {n}, -1", "bnez {n}, 2b",
            "slti x0, x0, 2",
            n = out(reg) _, options(nomem, nostack)
        );
    }
    // SAFETY: writes the register it declares; no memory, no stack.
    unsafe {
        asm!(
            "slti x0, x0, 1",
            "c.li {a}, 3", "c.slli {a}, 4", "mul {a}, {a}, {a}", "lui {a}, 74565", "c.nop",
            "slti x0, x0, 2",
            a = out(reg) _, options(nomem, nostack)
        );
    }
}

fn selftest() -> Result<(), Failure> {
    regions();
    let (mut input, mut output) = ([0; LEN], [0; LEN]);
    let buffers = Buffers { input: &mut input, output: &mut output };
    for_each_sample(LEN, LEN, buffers, |input, output| {
        for (y, x) in output.iter_mut().zip(input) {
            *y = x.saturating_neg();
        }
        #[cfg(feature = "panic-path")]
        panic_if_long(output);
        Ok(())
    })
}

/// Indexes with a number that only the file knows.
#[cfg(feature = "panic-path")]
#[allow(clippy::indexing_slicing, reason = "the panic path is what this is for")]
fn panic_if_long(values: &mut [i8]) {
    let at = values.first().map_or(0, |&v| usize::from(v.cast_unsigned()));
    values[at] = 0;
}
