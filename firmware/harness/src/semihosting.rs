//! Semihosting: a program asks the debugger, here the emulator, for a file of the host or for the end of the program
//! (Arm, "Semihosting for AArch32 and AArch64", §6: the numbers of the operations and their parameter blocks; RISC-V, "RISC-V
//! Semihosting", §2: the same operations behind another call).
//!
//! Written out here because a program that is to be free of panic paths cannot afford the assertions of a general
//! library.
//!
//! `unsafe`: the call is a breakpoint instruction with registers as arguments.
#![allow(unsafe_code)]

use core::arch::asm;
use core::ffi::CStr;

const SYS_OPEN: usize = 0x01;
const SYS_WRITE: usize = 0x05;
const SYS_READ: usize = 0x06;
const SYS_EXIT_EXTENDED: usize = 0x20;
/// `ADP_Stopped_ApplicationExit`: the program ended by itself.
const APPLICATION_EXIT: usize = 0x2_0026;

/// How a file is opened: the position of C's mode in the specification's table.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    /// `rb`
    Read = 1,
    /// `wb`
    Write = 5,
    /// `a`; the name `:tt` then means standard error.
    Append = 8,
}

/// What a byte of a file may be in memory: one byte, every pattern valid.
pub(crate) trait Byte {}
impl Byte for u8 {}
impl Byte for i8 {}

/// An open file of the host, or its standard error. The host closes it at the end of the program.
pub(crate) struct File {
    handle: usize,
}

impl File {
    /// `None` when the host refuses.
    pub(crate) fn open(name: &CStr, mode: Mode) -> Option<Self> {
        let block = [name.as_ptr().addr(), mode as usize, name.count_bytes()];
        // SAFETY: the name is a C string of that length and outlives the call.
        let handle = unsafe { call(SYS_OPEN, &block) };
        (handle != usize::MAX).then_some(Self { handle })
    }

    /// Standard error of the host.
    pub(crate) fn stderr() -> Option<Self> {
        Self::open(c":tt", Mode::Append)
    }

    /// Writes all of `bytes`; `None` when the host takes less.
    pub(crate) fn write<B: Byte>(&mut self, bytes: &[B]) -> Option<()> {
        let block = [self.handle, bytes.as_ptr().addr(), bytes.len()];
        // SAFETY: the host reads `bytes.len()` bytes from the slice, which outlives the call.
        let missing = unsafe { call(SYS_WRITE, &block) };
        (missing == 0).then_some(())
    }

    /// Fills all of `bytes`; `None` when the file ends before.
    pub(crate) fn read<B: Byte>(&mut self, bytes: &mut [B]) -> Option<()> {
        let block = [self.handle, bytes.as_mut_ptr().addr(), bytes.len()];
        // SAFETY: the host writes at most `bytes.len()` bytes to the slice, which is borrowed mutably.
        let missing = unsafe { call(SYS_READ, &block) };
        (missing == 0).then_some(())
    }
}

/// Ends the program with `status`.
pub(crate) fn exit(status: usize) -> ! {
    let block = [APPLICATION_EXIT, status, 0];
    loop {
        // SAFETY: the block holds no address.
        unsafe { call(SYS_EXIT_EXTENDED, &block) };
    }
}

/// Asks the host for `operation`.
///
/// # Safety
/// Addresses and lengths in `block` must describe memory that the operation may read or write.
unsafe fn call(operation: usize, block: &[usize; 3]) -> usize {
    let result;
    #[cfg(target_arch = "arm")]
    // SAFETY: the breakpoint number 0xAB is reserved for semihosting; the host reads the block, does what the caller
    // vouches for, and changes no register but r0. Without `nomem` the compiler knows that memory changes.
    unsafe {
        asm!("bkpt #0xAB", inlateout("r0") operation => result, in("r1") block.as_ptr(), options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "riscv32")]
    // SAFETY: as above, with `a0`. The two shifts into the zero register around the breakpoint say that semihosting is
    // meant; the three have to be uncompressed and within one page.
    unsafe {
        asm!(
            ".balign 16", ".option push", ".option norvc",
            "slli x0, x0, 0x1f", "ebreak", "srai x0, x0, 7",
            ".option pop",
            inlateout("a0") operation => result, in("a1") block.as_ptr(), options(nostack, preserves_flags)
        );
    }
    result
}
