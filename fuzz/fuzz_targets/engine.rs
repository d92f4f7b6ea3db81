//! Layers of arbitrary shape, width, grid and grouping, packed for every core family, with arbitrary codes and inputs: one
//! answer, from the portable order and from all others. On a workstation, the portable order goes through its own kernels.
#![no_main]

use fuzz::levels;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use qat_kernels::artifact::{
    Metadata, ModelBuilder, Output, Steps, Target, TensorId, TensorSpec, Weights, Window,
};
use qat_kernels::infer::Model;
use qat_kernels::{Error, Levels};

fuzz_target!(|bytes: &[u8]| {
    // What runs out of bytes says nothing.
    let _ = check(&mut Unstructured::new(bytes));
});

/// A layer, before it is packed.
struct Layer {
    kind: u8,
    window: Window,
    levels: Levels,
    codes: Vec<i8>,
    steps: Vec<f32>,
    divisors: Vec<u8>,
    group: usize,
    bias: Vec<f32>,
    output: Output,
}

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let shape = [u.int_in_range(1..=5)?, u.int_in_range(1..=5)?, u.int_in_range(1..=20)?];
    let spec = TensorSpec { shape, scale: 0.05, zero_point: u.arbitrary()? };
    let layers = (0..u.int_in_range(1..=2u8)?).map(|_| layer(u)).collect::<Result<Vec<_>>>()?;
    let files = Target::ALL.map(|target| build(spec, &layers, target));
    let Ok(portable) = &files[0] else {
        assert!(files.iter().all(|file| file.is_err()));
        return Ok(());
    };
    let len = shape.iter().map(|&n| usize::from(n)).product();
    let input: Vec<i8> = (0..len).map(|_| u.arbitrary()).collect::<Result<_>>()?;
    let expected = run(portable, &input);
    for (file, target) in files.iter().zip(Target::ALL) {
        let file = file.as_ref().expect("what can be packed for one family can be packed for all");
        assert_eq!(run(file, &input), expected, "{target}");
    }
    Ok(())
}

type Result_ = std::result::Result<Vec<u8>, Error>;

fn run(file: &[u8], input: &[i8]) -> Vec<i8> {
    let model = Model::parse(file).expect("the builder has parsed it");
    let (mut output, mut arena) = (vec![0; model.output_len()], vec![0xA5; model.arena_len()]);
    model.run(input, &mut output, &mut arena).expect("buffers of its own sizes");
    output
}

fn layer(u: &mut Unstructured<'_>) -> Result<Layer> {
    let levels = levels(u)?;
    let side = |u: &mut Unstructured<'_>| u.int_in_range(1..=3u16);
    let channels = u.int_in_range(1..=9usize)?;
    Ok(Layer {
        kind: u.int_in_range(0..=2)?,
        window: Window {
            kernel: [side(u)?, side(u)?],
            stride: [u.int_in_range(1..=2)?, u.int_in_range(1..=3)?],
            pad: [
                u.int_in_range(0..=2)?,
                u.int_in_range(0..=2)?,
                u.int_in_range(0..=2)?,
                u.int_in_range(0..=2)?,
            ],
        },
        levels,
        // Filled up and cut off to what the shape asks for.
        codes: (0..64).map(|_| u.arbitrary::<i8>()).collect::<Result<_>>()?,
        steps: (0..channels)
            .map(|_| Ok(0.01 + f32::from(u.arbitrary::<u8>()?) / 512.0))
            .collect::<Result<_>>()?,
        divisors: (0..16).map(|_| u.int_in_range(2..=5)).collect::<Result<_>>()?,
        group: *u.choose(&[0, 0, 8, 16, 32])?,
        bias: (0..channels).map(|_| Ok(f32::from(u.arbitrary::<i8>()?) / 8.0)).collect::<Result<_>>()?,
        output: Output { scale: 0.5, zero_point: u.arbitrary()?, clamp: [-120, 110] },
    })
}

fn build(spec: TensorSpec, layers: &[Layer], target: Target) -> Result_ {
    let mut b = ModelBuilder::new(spec).with_target(target);
    let mut x = b.input();
    for layer in layers {
        x = add(&mut b, x, layer)?;
    }
    b.finish(&Metadata::default(), &[])
}

fn add(b: &mut ModelBuilder, x: TensorId, layer: &Layer) -> std::result::Result<TensorId, Error> {
    let shape = b.tensor(x)?.shape.map(usize::from);
    let taps: usize = layer.window.kernel.iter().map(|&k| usize::from(k)).product();
    let depthwise = layer.kind == 2;
    let channels = if depthwise { shape[2] } else { layer.steps.len() };
    let row = match layer.kind {
        0 => shape.iter().product(),
        1 => taps * shape[2],
        _ => taps,
    };
    let count = i32::from(layer.levels.count() as u16);
    let fit = |q: &i8| (i32::from(*q).rem_euclid(count) + layer.levels.lo()) as i8;
    let codes: Vec<i8> = layer.codes.iter().cycle().map(fit).take(channels * row).collect();
    let steps: Vec<f32> = layer.steps.iter().cycle().copied().take(channels).collect();
    let bias: Vec<f32> = layer.bias.iter().cycle().copied().take(channels).collect();
    let grouped = layer.group > 0 && !depthwise && row.is_multiple_of(layer.group);
    let groups = channels * row.checked_div(layer.group).unwrap_or(0);
    let divisors: Vec<u8> = layer.divisors.iter().cycle().copied().take(groups).collect();
    let steps = match grouped {
        true => Steps::PiAdaptive { alpha: &steps, divisors: &divisors, group: layer.group },
        false => Steps::PerChannel(&steps),
    };
    let weights = Weights { levels: layer.levels, codes: &codes, steps };
    match layer.kind {
        0 => b.linear(x, &weights, &bias, layer.output),
        1 => b.conv2d(x, layer.window, &weights, &bias, layer.output),
        _ => b.depthwise_conv2d(x, layer.window, &weights, &bias, layer.output),
    }
}
