//! The loops of the bit-plane kernels that the compiler does not write as short as they can be: Armv6-M, Armv7-M, RV32.
//!
//! Each is the assembly of a function in safe Rust beside the kernels, which workstations test; the emulated boards compare
//! whole models.
//!
//! `unsafe`: assembly, and its raw pointers.
#![allow(unsafe_code)]

/// 60/k of the four divisors that share a byte, the first one in the lowest bits.
pub(crate) type Factors = [[u8; 4]; 256];

/// The turns over all numbers of so many places, for tables of sums.
///
/// Registers hold the first sums, over all values of the lowest places. Counting up, the places above change from `…0111` to
/// `…1000`: the next sums are the last ones plus `term_j − Σ_(i<j) term_i` over these places, a difference for each of them,
/// which the arguments name from the highest place down. A `turn!` adds one to all registers and stores them.
macro_rules! count {
    ($d:literal) => { turn!($d) };
    ($d:literal $($below:literal)+) => { concat!(count!($($below)+), turn!($d), count!($($below)+)) };
}

#[cfg(thumb1)]
mod armv6m;
#[cfg(thumb2)]
mod armv7m;
mod depthwise;
mod fill;
mod finish;
mod grouped;
mod pixels;
#[cfg(core_family = "riscv32")]
mod riscv32;

#[cfg(thumb1)]
use armv6m as isa;
#[cfg(thumb2)]
use armv7m as isa;
#[cfg(core_family = "riscv32")]
use riscv32 as isa;

pub(crate) use depthwise::Taps;
pub(crate) use fill::fill;
pub(crate) use finish::finish;
pub(crate) use grouped::grouped;
#[cfg(any(thumb1, core_family = "riscv32"))]
pub(crate) use isa::fill_linear;
pub(crate) use isa::{GROUPED_STEPS, linear};
pub(crate) use pixels::{grouped_pixels, pixels};
