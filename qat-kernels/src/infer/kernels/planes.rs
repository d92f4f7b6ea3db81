//! Kernels for cores without a fast multiplier: Cortex-M0, M0+ and M3, RV32IMC.
//!
//! **Look up, do not multiply.** Bit `j` of the codes of eight weights is a byte `b`, and a table of 256 sums of the eight
//! activations tells what these bits contribute:
//!
//! ```text
//! mid-tread   level2 = 2q        T[b] = Σ_i 2·b_i·x_i          T[b_0] + 2·T[b_1] + … − 2^(n−1)·T[b_(n−1)] = Σ level2·x
//! mid-rise    level2 = 2q + 1    T[b] = Σ_i (2·b_i − 1)·x_i
//! ```
//!
//! because `q = −2^(n−1)·b_(n−1) + Σ 2^j·b_j` and the weights of the planes add up to −1. One lookup stands for eight
//! multiply-accumulates of a plane, and all channels share the tables.
//!
//! **Two sums in a word.** Each word of a table holds the sums of two sets of activations, so that one addition makes two
//! entries; a word is the integer `low + 2^16·high`, which additions keep exact whatever the signs. A linear layer puts
//! two blocks of eight columns there and reads the halves apart: the low one is kept from becoming negative by adding
//! 2^11, which the high one has too little, so that the sum of both is exact. A convolution puts two pixels there and adds
//! up whole words: two sums for one lookup.
//!
//! The loops over channels are safe Rust, free of bounds checks because a byte cannot leave a table. Where the compiler's
//! code is not the best, [`arch`](crate::arch) has the loop in assembly, and workstations test the Rust.

mod conv;
mod depthwise;
mod linear;
mod rows;
mod table;
mod wide;

#[cfg(all(test, feature = "alloc"))]
mod tests;

use super::{Requant, WeightView};
use crate::artifact::ChannelParams;
use crate::artifact::planes::{PAIR, QUAD};

pub(in crate::infer) use conv::conv2d;
pub(in crate::infer) use depthwise::depthwise_conv2d;
pub(in crate::infer) use linear::linear;

/// The rows of a step, `BYTES` for each of `BITS` planes.
fn step_rows<'a, const BYTES: usize, const BITS: usize>(
    weights: &WeightView<'a>,
    step: usize,
) -> Option<&'a [[[u8; BYTES]; BITS]]> {
    // `parse` has checked the whole; checked products are long-winded on the smallest cores.
    let len = weights.channels.wrapping_mul(BYTES * BITS);
    let rows = weights.codes.get(step.wrapping_mul(len)..)?.get(..len)?;
    Some(rows.as_chunks().0.as_chunks().0)
}

/// The divisors of all rows for a step of sixteen columns, four to a byte.
fn step_divisors<'a>(weights: &WeightView<'a>, step: usize) -> Option<&'a [u8]> {
    let group = if usize::from(weights.spec.group) == PAIR { step } else { step / 2 };
    let len = weights.channels.div_ceil(QUAD);
    weights.divisors.get(group.wrapping_mul(len)..)?.get(..len)
}

/// Turns accumulator `which` of every channel, the bias included, into a result.
#[inline(never)]
fn finish<const N: usize>(
    sums: &[[u32; N]],
    which: usize,
    weights: &WeightView<'_>,
    requant: &Requant,
    out: &mut [i8],
) -> Option<()> {
    // Narrower bounds are rare and not worth two registers here.
    let int8 = Requant { lo: i8::MIN.into(), hi: i8::MAX.into(), ..*requant };
    let params = params(weights)?;
    #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
    let done = match requant.shift {
        // As in all layers but those whose results have a larger scale than their accumulators.
        32 => crate::arch::planes::finish(sums, which, params, requant.zero_point, out),
        _ => 0,
    };
    #[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
    let done = 0;
    let rest = (out.get_mut(done..), sums.get(done..), params.get(done..));
    if let (Some(out @ [_, ..]), Some(sums), Some(params)) = rest {
        for ((y, sums), p) in out.iter_mut().zip(sums).zip(params) {
            *y = int8.apply(sums.get(which).map_or(0, |sum| sum.cast_signed()), read(p).multiplier);
        }
    }
    requant.clamp_all(out);
    Some(())
}

/// Lets the accumulators of every channel start from what `first` makes of its bias.
#[inline(always)]
fn begin<const N: usize>(
    weights: &WeightView<'_>,
    sums: &mut [[u32; N]],
    first: impl Fn(u32) -> [u32; N],
) -> Option<()> {
    let (params, params_rest) = params(weights)?.as_chunks::<QUAD>();
    let (quads, rest) = sums.as_chunks_mut::<QUAD>();
    for (sums, params) in quads.iter_mut().zip(params) {
        sums.iter_mut().zip(params).for_each(|(sums, p)| *sums = first(read(p).bias.cast_unsigned()));
    }
    rest.iter_mut().zip(params_rest).for_each(|(sums, p)| *sums = first(read(p).bias.cast_unsigned()));
    Some(())
}

/// Bias and multiplier of a channel. On these cores, words that lie where words should, as they do in every file that `parse`
/// accepts there, are read at once.
#[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
type Params = [i32; 2];
#[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
type Params = [u8; ChannelParams::LEN];

/// Those of all channels.
fn params<'a>(weights: &WeightView<'a>) -> Option<&'a [Params]> {
    #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
    return crate::arch::bytes::word_pairs(weights.params);
    #[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
    Some(weights.params)
}

#[inline(always)]
fn read(params: &Params) -> ChannelParams {
    #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
    return ChannelParams { bias: params[0], multiplier: params[1] };
    #[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
    ChannelParams::read(params)
}
