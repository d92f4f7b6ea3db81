//! Armv8.1-M with Helium (MVE): Cortex-M55.
//!
//! **Four channels in a byte.** A vector of 2-bit weights holds, for sixteen columns, one code of four channels in every
//! byte. `VAND` with `03`, `0C` and `30` leaves one channel's codes, 1, 4 and 16 times too large, and `VMLADAVA` adds sixteen
//! products with activations to that channel's sum. The fourth channel needs no mask: its codes are two's complement at the top
//! of the byte, so that the whole byte, signed, is worth `c₀ + 4·c₁ + 16·c₂ + 64·c₃`, and its sum with the other three
//! subtracted is 64 times the fourth's, exact modulo 2^32. Nothing is shifted in the loop: three `VAND` and four `VMLADAVA` for
//! 64 multiply-accumulates. Two codes of four bits share a byte in the same way, codes of eight bits fill it; three bits borrow
//! from a byte that two steps share.
//!
//! **Requantisation** takes four channels a vector: `VRMULH` computes `a·b + 2^31 >> 32`, which is the engine's one rounding.
//!
//! The instructions need assembly, because their intrinsics are not stable. Elsewhere the same functions are computed in
//! Rust, step by step, so that every test of the workstation also tests the algorithm.
//!
//! `unsafe`: assembly, and its raw pointers.
#![allow(unsafe_code)]

/// The first line of every function: what makes an object file of the others' bitcode does not know the core otherwise.
#[cfg(core_family = "cortex-m55")]
macro_rules! helium {
    () => {
        ".cpu cortex-m55"
    };
}

mod block;
mod depthwise;
mod gather;
mod grouped;
mod requantise;
mod sums;

pub(crate) use block::{Levels, block_sums, multiply_out};
pub(crate) use depthwise::{BlockLevels, depthwise_sums};
pub(crate) use gather::gather;
pub(crate) use grouped::{Groups, expand, group_sums, linear_grouped, pixel_grouped};
pub(crate) use requantise::{Scaling, requantise};
pub(crate) use sums::{linear_sums, pixel_sums};

/// Four words of a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Words(pub(crate) [i32; 4]);
