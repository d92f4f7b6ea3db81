//! embedded-nn 0.2.1: int8 activations, int8 or int4 weights, requantised in integers. Has no depthwise convolution of int4
//! weights.

use core::hint::black_box;

use embedded_nn::convolution::{convolve_per_channel_s8, depthwise_conv_per_channel_s8};
use embedded_nn::fully_connected::fully_connected_s8;
use embedded_nn::{
    Activation, ConvParams, Dims, DwConvParams, FcParams, PerChannelQuantParams, PerTensorQuantParams, Tile,
    convolve_s4, fully_connected_s4, pack_s4_pair,
};
use harness::counted;

use crate::answer::Answer;
use crate::layer::{INPUT_ZERO, Layer, OUTPUT_ZERO};

/// Room for the largest tensor of weights, input or output, and for the channels.
const WEIGHTS: usize = 640 * 128;
const VALUES: usize = 16 * 16 * 32;
const CHANNELS: usize = 128;

/// A layer's numbers in the order that the library wants them in.
struct Numbers {
    input: [i8; VALUES],
    weights: [i8; WEIGHTS],
    bias: [i32; CHANNELS],
    multipliers: [i32; CHANNELS],
    shifts: [i32; CHANNELS],
}

/// Runs `layer` and compares.
pub(crate) fn run(layer: Layer) -> Answer {
    let mut numbers = numbers(&layer);
    let mut output = [0; VALUES];
    let n = |n: usize| n as i32;
    let [height, width] = [layer.height, layer.width].map(n);
    let [kernel, inputs, outputs] = [layer.kernel, layer.inputs, layer.outputs].map(n);
    let values = layer.height * layer.width * layer.inputs;
    let results = layer.height * layer.width * layer.outputs;
    let weights = layer.outputs * layer.fan_in() * layer.bits as usize / 8;
    black_box(&mut numbers);
    let input = &numbers.input[..values];
    let weights = &numbers.weights[..weights];
    let bias = Some(&numbers.bias[..layer.outputs]);
    let multipliers = &numbers.multipliers[..layer.outputs];
    let shifts = &numbers.shifts[..layer.outputs];
    let one = PerTensorQuantParams::new(multipliers[0], shifts[0]);
    let each = PerChannelQuantParams::new(multipliers, shifts);
    let from = Dims::new(1, height, width, inputs);
    let to = Dims::new(1, height, width, outputs);
    let window = Dims::new(outputs, kernel, kernel, inputs);
    let (input_offset, output_offset) = (-i32::from(INPUT_ZERO), i32::from(OUTPUT_ZERO));
    let activation = Activation::int8_unconstrained();
    let (stride, dilation) = (Tile::new(1, 1), Tile::new(1, 1));
    let padding = Tile::new(kernel / 2, kernel / 2);
    let flat = FcParams { input_offset, filter_offset: 0, output_offset, activation };
    let spatial = ConvParams { input_offset, output_offset, stride, padding, dilation, activation };
    let out = &mut output[..results];
    // What a caller hands over is known at run time only, as in a program that reads it from a file.
    let (from, to, window) = black_box((from, to, window));
    let done = if layer.depthwise {
        let params =
            DwConvParams { input_offset, output_offset, ch_mult: 1, stride, padding, dilation, activation };
        let params = black_box(params);
        counted(|| {
            depthwise_conv_per_channel_s8(&params, &each, &from, input, &window, weights, bias, &to, out)
        })
    } else if layer.height * layer.width == 1 {
        let flat = black_box(flat);
        let matrix = black_box(Dims::new(inputs, 1, 1, outputs));
        if layer.bits == 4 {
            counted(|| fully_connected_s4(&flat, &one, &from, input, &matrix, weights, bias, &to, out))
        } else {
            counted(|| fully_connected_s8(&flat, &one, &from, input, &matrix, weights, bias, &to, out))
        }
    } else {
        let spatial = black_box(spatial);
        if layer.bits == 4 {
            counted(|| convolve_s4(&spatial, &one, &from, input, &window, weights, bias, &to, out))
        } else {
            counted(|| {
                convolve_per_channel_s8(&spatial, &each, &from, input, &window, weights, bias, &to, out)
            })
        }
    };
    black_box(&mut output);
    match done {
        Ok(()) => layer.check(&output[..results]),
        Err(_) => Answer::default(),
    }
}

fn numbers(layer: &Layer) -> Numbers {
    let fan_in = layer.fan_in();
    let mut numbers = Numbers {
        input: [0; VALUES],
        weights: [0; WEIGHTS],
        bias: [0; CHANNELS],
        multipliers: [0; CHANNELS],
        shifts: [0; CHANNELS],
    };
    for (i, x) in numbers.input.iter_mut().take(layer.height * layer.width * layer.inputs).enumerate() {
        *x = layer.input(i);
    }
    for output in 0..layer.outputs {
        numbers.bias[output] = layer.bias(output);
        (numbers.multipliers[output], numbers.shifts[output]) = fixed_point(layer.weight_scale(output));
        for i in 0..fan_in {
            // The window's taps are outermost in a depthwise layer, the output channels elsewhere.
            let at = if layer.depthwise { i * layer.outputs + output } else { output * fan_in + i };
            let weight = layer.weight(output, i);
            match (layer.bits, at % 2) {
                (8, _) => numbers.weights[at] = weight,
                (_, 0) => numbers.weights[at / 2] = pack_s4_pair(weight, 0),
                _ => numbers.weights[at / 2] |= pack_s4_pair(0, weight),
            }
        }
    }
    numbers
}

/// Multiplier and shift with `scale = multiplier · 2^(shift − 31)`, the multiplier in 2^30..2^31; `scale` in 0..1.
fn fixed_point(scale: f32) -> (i32, i32) {
    let (mut scale, mut shift) = (f64::from(scale), 0);
    while scale < 0.5 {
        scale *= 2.0;
        shift -= 1;
    }
    ((scale * f64::from(1u32 << 31)) as i32, shift)
}
