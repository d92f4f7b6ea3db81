//! The kernels of other Rust libraries on the layers that our own are counted on, between the same markers, built with the
//! same options. `cargo xtask mcu-bench --peers` runs it.
//!
//! A sample is the name of a case, filled up with zeros. The answer is the largest distance of its output from the exact
//! value, in steps, and the number of different values in it: a count of instructions that compute something else would be
//! worth nothing.
#![no_std]
#![no_main]

mod answer;
mod embedded_nn;
mod layer;
mod microflow;

use cortex_m_rt::entry;
use harness::{Buffers, Failure, finish, for_each_sample};

use crate::answer::Answer;
use crate::layer::Layer;

/// Bytes of a sample: more than any name has.
const NAME: usize = 64;

/// A name, and what runs under it.
type Case = (&'static str, fn() -> Answer);

const CASES: [Case; 14] = [
    ("fc_256x128_int8_microflow", microflow::linear::<256, 128>),
    ("fc_640x128_int8_microflow", microflow::linear::<640, 128>),
    ("conv3x3_16x32_int8_microflow", microflow::conv::<16, 16, 16, 3, 32>),
    ("conv1x1_64x64_int8_microflow", microflow::conv::<25, 5, 64, 1, 64>),
    ("dw3x3_64_int8_microflow", microflow::depthwise::<25, 5, 64>),
    ("fc_256x128_int8_embedded_nn", || embedded_nn::run(Layer::linear(256, 128))),
    ("fc_640x128_int8_embedded_nn", || embedded_nn::run(Layer::linear(640, 128))),
    ("conv3x3_16x32_int8_embedded_nn", || embedded_nn::run(Layer::conv(3, [16, 16, 16], 32))),
    ("conv1x1_64x64_int8_embedded_nn", || embedded_nn::run(Layer::conv(1, [25, 5, 64], 64))),
    ("dw3x3_64_int8_embedded_nn", || embedded_nn::run(Layer::depthwise([25, 5, 64]))),
    ("fc_256x128_int4_embedded_nn", || embedded_nn::run(Layer::linear(256, 128).int4())),
    ("fc_640x128_int4_embedded_nn", || embedded_nn::run(Layer::linear(640, 128).int4())),
    ("conv3x3_16x32_int4_embedded_nn", || embedded_nn::run(Layer::conv(3, [16, 16, 16], 32).int4())),
    ("conv1x1_64x64_int4_embedded_nn", || embedded_nn::run(Layer::conv(1, [25, 5, 64], 64).int4())),
];

#[entry]
fn main() -> ! {
    let (mut input, mut output) = ([0; NAME], [0; 2]);
    let buffers = Buffers { input: &mut input, output: &mut output };
    finish(for_each_sample(NAME, 2, buffers, |name, answer| {
        let named = |case: &&Case| {
            let bytes = case.0.bytes().chain(core::iter::repeat(0));
            name.iter().zip(bytes).all(|(a, b)| a.cast_unsigned() == b)
        };
        let (_, run) = CASES.iter().find(named).ok_or(Failure::new("there is no case of this name"))?;
        answer.copy_from_slice(&run().report());
        Ok(())
    }))
}
