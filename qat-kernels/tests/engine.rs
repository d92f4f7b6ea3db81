//! The portable engine against the definition, on every operator, width, grid and odd shape, from the real numbers that
//! went into the builder.
#![cfg(feature = "alloc")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what cannot be built or read must fail the test"
)]

use proptest::prelude::*;
use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights, Window};
use qat_kernels::infer::Model;
use qat_kernels::{Error, Grid, Levels, What};

/// A small generator, so that one seed describes a whole layer.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as i64
    }
    /// Extremes are frequent: they are where sums overflow and clamps bite.
    fn int8(&mut self) -> i8 {
        match self.below(8) {
            0 => i8::MIN,
            1 => i8::MAX,
            _ => (self.below(256) - 128) as i8,
        }
    }
    fn int8s(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| self.int8()).collect()
    }
    fn scale(&mut self) -> f32 {
        0.01 + self.below(1000) as f32 / 2000.0
    }
    fn tensor(&mut self, shape: [u16; 3]) -> TensorSpec {
        TensorSpec { shape, scale: self.scale(), zero_point: self.int8() }
    }
    fn output(&mut self, gain: f32, clamp: [i8; 2]) -> Output {
        Output { scale: gain * self.scale(), zero_point: self.int8(), clamp }
    }
}

/// A quantised layer, as real numbers and codes.
struct Layer {
    levels: Levels,
    codes: Vec<i8>,
    steps: Vec<f32>,
    divisors: Option<(Vec<u8>, usize)>,
    bias: Vec<f32>,
}

impl Layer {
    fn random(n: &mut Numbers, bits: u8, rise: bool, channels: usize, row: usize, group: usize) -> Self {
        let levels = Levels::new(bits, if rise { Grid::MidRise } else { Grid::MidTread }).unwrap();
        let code = |n: &mut Numbers| (n.below(levels.count() as i64) + i64::from(levels.lo())) as i8;
        let groups = (channels * row).checked_div(group).unwrap_or(0);
        Self {
            levels,
            codes: (0..channels * row).map(|_| code(n)).collect(),
            steps: (0..channels).map(|_| n.scale()).collect(),
            divisors: (group > 0).then(|| ((0..groups).map(|_| 2 + n.below(4) as u8).collect(), group)),
            bias: (0..channels).map(|_| n.below(2001) as f32 / 100.0 - 10.0).collect(),
        }
    }
    fn weights(&self) -> Weights<'_> {
        let steps = match &self.divisors {
            None => Steps::PerChannel(&self.steps),
            Some((divisors, group)) => Steps::PiAdaptive { alpha: &self.steps, divisors, group: *group },
        };
        Weights { levels: self.levels, codes: &self.codes, steps }
    }
    fn twice_level(&self, at: usize) -> i64 {
        self.levels.twice_level(self.codes[at].into()).into()
    }
    /// The step of the channel's accumulator.
    fn step(&self, channel: usize) -> f64 {
        let step = f64::from(self.steps[channel]);
        if self.divisors.is_some() { step * f64::from(core::f32::consts::PI) / 60.0 } else { step }
    }
    /// 60/k of the group of weight `at`.
    fn factor(&self, at: usize) -> i64 {
        self.divisors.as_ref().map_or(1, |(k, group)| 60 / i64::from(k[at / group]))
    }
    /// One rounding of the exact accumulator of activations without their zero point.
    fn output(&self, channel: usize, acc: i64, x: TensorSpec, y: Output) -> i8 {
        let ratio = |c: usize| f64::from(x.scale) * self.step(c) / 2.0 / f64::from(y.scale);
        let largest = (0..self.steps.len()).map(ratio).fold(0.0, f64::max);
        let bias = (f64::from(self.bias[channel]) / (f64::from(x.scale) * self.step(channel) / 2.0))
            .round_ties_even();
        requantise(i128::from(acc) + bias as i128, ratio(channel), largest, y)
    }
}

/// `clamp(z + ((acc·M + 2^(n−1)) >> n))` with `M = round(ratio·2^n)` and the largest n ≤ 32 at which `largest` fits.
fn requantise(acc: i128, ratio: f64, largest: f64, y: Output) -> i8 {
    let scaled = |ratio: f64, n: i32| (ratio * 2f64.powi(n)).round_ties_even();
    let n = (1..=32).rev().find(|&n| scaled(largest, n) <= f64::from(i32::MAX)).unwrap();
    let rounded = (acc * scaled(ratio, n) as i128 + (1 << (n - 1))) >> n;
    (rounded + i128::from(y.zero_point)).clamp(y.clamp[0].into(), y.clamp[1].into()) as i8
}

fn run(file: &[u8], input: &[i8]) -> Vec<i8> {
    let model = Model::parse(file).unwrap();
    // Canaries: whatever lies around the arena stays as it was.
    let mut memory = vec![0xA5; model.arena_len() + 32];
    let mut output = vec![0; model.output_len()];
    let end = 16 + model.arena_len();
    model.run(input, &mut output, &mut memory[16..end]).unwrap();
    assert!(memory[..16].iter().chain(&memory[end..]).all(|&b| b == 0xA5));
    output
}

fn build(b: ModelBuilder) -> Vec<u8> {
    b.finish(&Metadata::default(), &[]).unwrap()
}

/// The taps of every output pixel: (tap, row, column) of the input, which may lie outside.
fn taps(window: Window, columns: u16, px: usize) -> Vec<(usize, i64, i64)> {
    let [kh, kw] = window.kernel.map(i64::from);
    let [sh, sw] = window.stride.map(i64::from);
    let (row, column) = (px as i64 / i64::from(columns), px as i64 % i64::from(columns));
    let start = (row * sh - i64::from(window.pad[0]), column * sw - i64::from(window.pad[1]));
    (0..kh * kw).map(|tap| (tap as usize, start.0 + tap / kw, start.1 + tap % kw)).collect()
}

/// The value at a place of the input, `None` outside.
fn at(x: &[i8], [h, w, channels]: [u16; 3], (row, column): (i64, i64), c: usize) -> Option<i64> {
    let inside = (0..h.into()).contains(&row) && (0..w.into()).contains(&column);
    inside.then(|| x[(row * i64::from(w) + column) as usize * usize::from(channels) + c].into())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn linear_is_the_definition(
        seed: u64, bits in 2u8..=8, rise: bool, inputs in 1usize..70, channels in 1usize..9, adaptive in 0usize..4,
    ) {
        let n = &mut Numbers(seed);
        let group = [0, 8, 16, 32][adaptive];
        let inputs = if group > 0 { inputs.next_multiple_of(group) } else { inputs };
        let layer = Layer::random(n, bits, rise, channels, inputs, group);
        let (x, y) = (n.tensor([1, 1, inputs as u16]), n.output(20.0, [-100, 110]));
        let input = n.int8s(inputs);
        let mut b = ModelBuilder::new(x);
        b.linear(b.input(), &layer.weights(), &layer.bias, y).unwrap();
        let output = run(&b.finish(&Metadata::default(), &[&input]).unwrap(), &input);
        for (c, &got) in output.iter().enumerate() {
            let acc = (c * inputs..(c + 1) * inputs).zip(&input).map(|(at, &v)| {
                layer.factor(at) * layer.twice_level(at) * (i64::from(v) - i64::from(x.zero_point))
            });
            prop_assert_eq!(got, layer.output(c, acc.sum(), x, y));
        }
    }

    #[test]
    fn convolutions_are_the_definition(
        seed: u64, bits in 2u8..=8, rise: bool, depthwise: bool, size in (1u16..8, 1u16..8), channels in 1usize..7,
        out in 1usize..5, kernel in (1u16..5, 1u16..5), stride in (1u8..4, 1u8..4), pad in (0u8..3, 0u8..3, 0u8..3, 0u8..3),
    ) {
        let pad = [pad.0.min(kernel.0 as u8 - 1), pad.1.min(kernel.1 as u8 - 1), pad.2, pad.3];
        prop_assume!(size.0 + u16::from(pad[0] + pad[2]) >= kernel.0);
        prop_assume!(size.1 + u16::from(pad[1] + pad[3]) >= kernel.1);
        let window = Window { kernel: [kernel.0, kernel.1], stride: [stride.0, stride.1], pad };
        let n = &mut Numbers(seed);
        let taps_len = usize::from(kernel.0 * kernel.1);
        let (out, row) = if depthwise { (channels, taps_len) } else { (out, taps_len * channels) };
        let layer = Layer::random(n, bits, rise, out, row, 0);
        let (x, y) = (n.tensor([size.0, size.1, channels as u16]), n.output(10.0, [-128, 127]));
        let input = n.int8s(usize::from(size.0 * size.1) * channels);
        let mut b = ModelBuilder::new(x);
        let built = if depthwise {
            b.depthwise_conv2d(b.input(), window, &layer.weights(), &layer.bias, y)
        } else {
            b.conv2d(b.input(), window, &layer.weights(), &layer.bias, y)
        };
        let [rows, columns, _] = b.tensor(built.unwrap()).unwrap().shape;
        // Padding so wide that a window misses the input is refused, not computed.
        let misses = |steps: u16, axis: usize, size: u16| {
            (steps - 1) * u16::from(window.stride[axis]) >= size + u16::from(pad[axis])
        };
        if misses(rows, 0, size.0) || misses(columns, 1, size.1) {
            prop_assert!(b.finish(&Metadata::default(), &[]).is_err());
            return Ok(());
        }
        for (i, &got) in run(&build(b), &input).iter().enumerate() {
            let (c, px) = (i % out, i / out);
            let mut acc = 0;
            for (tap, iy, ix) in taps(window, columns, px) {
                let mut add = |code: usize, channel: usize| {
                    let v = at(&input, x.shape, (iy, ix), channel).map_or(0, |v| v - i64::from(x.zero_point));
                    acc += layer.twice_level(code) * v;
                };
                if depthwise {
                    add(tap * channels + c, c);
                } else {
                    (0..channels).for_each(|ch| add(c * row + tap * channels + ch, ch));
                }
            }
            prop_assert_eq!(got, layer.output(c, acc, x, y));
        }
    }

    #[test]
    fn pooling_is_the_definition(
        seed: u64, size in (1u16..9, 1u16..9), channels in 1u16..5, kernel in 1u16..5, stride in 1u8..4, pad in 0u8..2,
    ) {
        let pad = pad.min(kernel as u8 - 1);
        prop_assume!(size.0.min(size.1) + u16::from(2 * pad) >= kernel);
        let n = &mut Numbers(seed);
        let (x, y) = (n.tensor([size.0, size.1, channels]), n.output(1.0, [-90, 100]));
        let input = n.int8s(usize::from(size.0 * size.1 * channels));
        let window = Window::square(kernel, stride, pad);
        for average in [false, true] {
            let mut b = ModelBuilder::new(x);
            let pooled = if average { b.avg_pool(b.input(), window, y) } else { b.max_pool(b.input(), window, y.clamp) };
            let [_, columns, _] = b.tensor(pooled.unwrap()).unwrap().shape;
            for (i, &got) in run(&build(b), &input).iter().enumerate() {
                let (c, px) = (i % usize::from(channels), i / usize::from(channels));
                let taps = taps(window, columns, px);
                let values = taps.iter().filter_map(|&(_, iy, ix)| at(&input, x.shape, (iy, ix), c));
                let expected = if average {
                    let sum: i64 = values.map(|v| v - i64::from(x.zero_point)).sum();
                    let ratio = f64::from(x.scale) / f64::from(kernel * kernel) / f64::from(y.scale);
                    requantise(sum.into(), ratio, ratio, y)
                } else {
                    values.max().unwrap().clamp(-90, 100) as i8
                };
                // 2/area is rounded once more on its way through the step: at most one apart, next to a half.
                let slack = i32::from(average);
                prop_assert!((i32::from(got) - i32::from(expected)).abs() <= slack);
            }
        }
    }

    #[test]
    fn addition_is_the_definition(seed: u64, len in 1u16..20) {
        let n = &mut Numbers(seed);
        let x = n.tensor([1, 1, len]);
        let (second, y) = (n.output(1.0, [-128, 127]), n.output(1.0, [-128, 127]));
        let input = n.int8s(len.into());
        let rescaled = |b: &mut ModelBuilder| b.avg_pool(b.input(), Window::square(1, 1, 0), second).unwrap();
        let mut b = ModelBuilder::new(x);
        rescaled(&mut b);
        let other = run(&build(b), &input);
        let mut b = ModelBuilder::new(x);
        let operand = rescaled(&mut b);
        b.add(b.input(), operand, y).unwrap();
        let real = |q: i8, z: i8, scale: f32| (f64::from(q) - f64::from(z)) * f64::from(scale) / f64::from(y.scale);
        for (i, &got) in run(&build(b), &input).iter().enumerate() {
            let sum = real(input[i], x.zero_point, x.scale) + real(other[i], second.zero_point, second.scale);
            let exact = sum + f64::from(y.zero_point);
            // 21-bit multipliers: right but for a hair next to a half.
            let near_half = (exact.rem_euclid(1.0) - 0.5).abs() < 1e-3;
            let error = f64::from(got) - (exact + 0.5).floor().clamp(-128.0, 127.0);
            prop_assert!(error == 0.0 || (near_half && error.abs() == 1.0));
        }
    }
}

/// A sum takes the place of an operand that nobody reads any more, whichever it is, and comes out the same.
#[test]
fn sums_in_place_equal_sums_apart() {
    let n = &mut Numbers(3);
    let x = n.tensor([3, 5, 7]);
    let input = n.int8s(105);
    let [first, second, y] = [(); 3].map(|()| n.output(1.0, [-120, 125]));
    let one = Window::square(1, 1, 0);
    let start = || {
        let mut b = ModelBuilder::new(x);
        let [p, q] = [first, second].map(|o| b.avg_pool(b.input(), one, o).unwrap());
        (b, p, q)
    };
    let apart = |same: bool| {
        let (mut b, p, q) = start();
        b.add(p, if same { p } else { q }, y).unwrap();
        run(&build(b), &input)
    };
    // Which operands are read once more after the sum, and the buffers that are needed for that.
    for (keep_p, keep_q, same, buffers) in [
        (false, false, false, 2),
        (true, false, false, 2),
        (false, true, false, 2),
        (true, true, false, 3),
        (false, false, true, 2),
    ] {
        let (mut b, p, q) = start();
        let sum = b.add(p, if same { p } else { q }, y).unwrap();
        let mut last = b.max_pool(sum, one, [-128, 127]).unwrap();
        for (keep, operand) in [(keep_p, p), (keep_q, q)] {
            if keep {
                b.max_pool(operand, one, [-128, 127]).unwrap();
                last = b.max_pool(last, one, [-128, 127]).unwrap();
            }
        }
        b.max_pool(last, one, [-128, 127]).unwrap();
        let file = build(b);
        assert_eq!(run(&file, &input), apart(same), "{keep_p} {keep_q} {same}");
        let model = Model::parse(&file).unwrap();
        let sum_bytes = model.arena_use().live_bytes[2];
        assert_eq!(sum_bytes, buffers * 105, "{keep_p} {keep_q} {same}");
    }
}

/// What an observer sees after each operator is what a model that ends there gives.
#[test]
fn observed_results_are_those_of_shorter_models() {
    let n = &mut Numbers(9);
    let x = n.tensor([4, 6, 3]);
    let input = n.int8s(72);
    let outputs = [(); 3].map(|()| n.output(1.0, [-128, 127]));
    let build_until = |end: usize| {
        let mut b = ModelBuilder::new(x);
        let mut tensors = vec![b.input()];
        for step in 0..end {
            let last = tensors[tensors.len() - 1];
            tensors.push(match step {
                0 => b.avg_pool(last, Window::square(1, 1, 0), outputs[0]).unwrap(),
                1 => b.max_pool(last, Window::square(3, 1, 1), [-100, 100]).unwrap(),
                2 => b.add(tensors[1], last, outputs[1]).unwrap(),
                _ => b.avg_pool(last, Window::square(2, 2, 0), outputs[2]).unwrap(),
            });
        }
        build(b)
    };
    let file = build_until(4);
    let model = Model::parse(&file).unwrap();
    let (mut output, mut arena) = (vec![0; model.output_len()], vec![0; model.arena_len()]);
    let mut seen = Vec::new();
    model
        .run_observed(&input, &mut output, &mut arena, |op, result| seen.push((op, result.to_vec())))
        .unwrap();
    assert_eq!(seen.len(), 4);
    for (i, (op, result)) in seen.into_iter().enumerate() {
        assert_eq!((op, result), (i, run(&build_until(i + 1), &input)));
    }
    assert_eq!(output, run(&file, &input));
}

#[test]
fn argmax_writes_the_first_largest_index() {
    let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 300], scale: 1.0, zero_point: 0 });
    b.argmax(b.input()).unwrap();
    let file = build(b);
    let mut input = [i8::MIN; 300];
    assert_eq!(run(&file, &input), [0, 0]);
    (input[258], input[259]) = (5, 5);
    assert_eq!(run(&file, &input), [2, 1]); // 258 = 0x0102
}

#[test]
fn wrong_buffers_are_refused() {
    let mut b = ModelBuilder::new(TensorSpec { shape: [2, 2, 1], scale: 1.0, zero_point: 0 });
    let pooled = b.max_pool(b.input(), Window::square(1, 1, 0), [-128, 127]).unwrap();
    b.max_pool(pooled, Window::square(2, 2, 0), [-128, 127]).unwrap();
    let file = build(b);
    let model = Model::parse(&file).unwrap();
    let length = |what, expected, got| Err(Error::Length { what, expected, got });
    assert_eq!(model.run(&[0; 3], &mut [0], &mut [0; 4]), length(What::Input, 4, 3));
    assert_eq!(model.run(&[0; 4], &mut [0; 2], &mut [0; 4]), length(What::Output, 1, 2));
    assert_eq!(model.run(&[0; 4], &mut [0], &mut [0; 3]), length(What::Arena, 4, 3));
    assert_eq!(model.run(&[1, 9, 3, 4], &mut [0], &mut [0; 4]), Ok(()));
}
