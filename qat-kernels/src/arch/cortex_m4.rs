//! Armv7E-M with DSP instructions: Cortex-M4 and Cortex-M7.
//!
//! All loops multiply weights with activations that were widened to halfwords, two columns at a time, and gain from letting
//! several channels share a halfword of weights. How depends on the width: two channels of 2 bits, see below; with a divisor
//! for each group, see `two_bits_grouped`; three channels of 3 bits and bits of a fourth, `three_bits`; four channels of 4
//! bits, `four_bits`; two channels of 8 bits, `eight_bits`. Layers of 5 to 7 bits are in the portable order.
//!
//! **Two channels in a halfword.** `AND mask, word ROR #n` leaves, in both halfwords of a register, one 2-bit code A of a
//! first channel at bits 0–1 and one code B of a second channel at bits 14–15. A halfword is then worth `A + 2^14·B`, with
//! A stored as 0..=3 and B as two's complement, so that `SMLAD` with two activations does four multiply-accumulates:
//!
//! ```text
//! T += (A_0 + 2^14·B_0)·x_0 + (A_1 + 2^14·B_1)·x_1 = Σ A·x + 2^14·Σ B·x
//! ```
//!
//! **Taking the sums apart.** T gives both sums back as long as the low one fits 14 bits. A is 0..=3, so `Σ (A − 3/2)·x` is
//! at most 3/2·128 a column in magnitude. Each window of 32 columns therefore starts at `T = 2^13 − ⌊3/2·Σx⌋`, which is the
//! same for all channels and computed once: the low part then lies within `2^13 ± (6144 + 1)`, inside 0..2^14, whatever
//! the activations. At the end of a window `T >> 14` is exactly `Σ B·x`, and `Σ T − 2^14·Σ (T >> 14)` over all windows is
//! the low sum, exact modulo 2^32: two additions for each T.
//!
//! The instructions need assembly, because their intrinsics are not stable. Elsewhere the same functions are computed in
//! Rust, step by step, so that every test of the workstation also tests the algorithm.
//!
//! `unsafe`: assembly, and its raw pointers.
#![allow(unsafe_code)]

mod add;
mod bands;
mod copy;
mod depthwise;
mod eight_bits;
mod fill;
mod four_bits;
mod instructions;
#[cfg_attr(not(core_family = "cortex-m4"), allow(dead_code, reason = "compiled to be tested"))]
mod quads;
mod three_bits;
mod two_bits;
mod two_bits_grouped;
mod wide;

pub(crate) use add::Sum;
pub(crate) use bands::{Bands, Rounding};
pub(crate) use copy::copy_rectangle;
pub(crate) use depthwise::{QUAD as DEPTHWISE_QUAD, TURN as DEPTHWISE_TURN, Taps, depthwise_pixel};
pub(crate) use fill::{Filled, Filler, Lanes, Start};
pub(crate) use quads::clamp;
#[cfg(core_family = "cortex-m4")]
pub(crate) use {copy::copy, instructions::rounded_product, quads::raise};
