//! Small models that together use every operator, width and grid, with samples for them: what a device has to get right
//! before anything trained runs on it. Everything is computed from the seed, so the files never change by themselves.

use anyhow::{Context as _, Result};
use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, Target, TensorSpec, Weights, Window};
use qat_kernels::hadamard::Rotation;
use qat_kernels::{Grid, Levels};

use crate::samples::Samples;

/// A model and inputs for it.
pub(crate) struct Probe {
    pub(crate) name: String,
    /// The family it is packed for.
    pub(crate) target: Target,
    /// The `.piq` file.
    pub(crate) file: Vec<u8>,
    pub(crate) samples: Samples,
}

/// Height, width and channels of every probe's input.
const INPUT: [u16; 3] = [9, 7, 16];
const SAMPLES: usize = 3;
const CLASSES: usize = 10;
const CHANNELS: usize = 16;

/// The families that have boards.
pub(crate) const FAMILIES: [Target; 4] =
    [Target::CortexM4, Target::CortexM0, Target::CortexM55, Target::RiscV32];

/// One model for each width on each grid, packed portably; every other one with a divisor for each group of weights. For
/// every family the widths that kernels are made for, with and without divisors, and shapes that no kernel likes.
pub(crate) fn probes() -> Result<Vec<Probe>> {
    let kinds =
        [2, 3, 4, 5, 6, 7, 8].into_iter().flat_map(|bits| [(bits, Grid::MidTread), (bits, Grid::MidRise)]);
    let mut probes = vec![functions()?];
    for (index, (bits, grid)) in kinds.enumerate() {
        let group = if index % 2 == 1 { GROUP } else { 0 };
        probes.push(probe(bits, grid, group, Target::Portable)?);
        if [2, 3, 4, 8].contains(&bits) {
            for family in FAMILIES {
                for group in [0, 16] {
                    probes.push(probe(bits, grid, group, family)?);
                }
                probes.push(odd_shapes(bits, grid, family)?);
                if family == Target::CortexM4 || (bits == 2 && family != Target::CortexM55) {
                    probes.push(shifted(bits, grid, family)?);
                }
            }
        }
    }
    for (group, grid) in [(8, Grid::MidTread), (16, Grid::MidRise), (32, Grid::MidTread), (32, Grid::MidRise)]
    {
        probes.push(groups(grid, group, Target::CortexM4)?);
        // The others have no order for groups of 8.
        if group > 8 {
            probes.push(groups(grid, group, Target::CortexM0)?);
            probes.push(groups(grid, group, Target::RiscV32)?);
        }
    }
    Ok(probes)
}

fn probe(bits: u8, grid: Grid, group: usize, target: Target) -> Result<Probe> {
    let adaptive = if group > 0 { format!("_adaptive{group}") } else { String::new() };
    let name = format!("{target}_{bits}bit_{grid:?}{adaptive}").to_lowercase();
    let context = || format!("probe {name}");
    let mut layers =
        Layers { numbers: Numbers(u64::from(bits) * 2 + 1), levels: Levels::new(bits, grid)?, group };
    let mut model =
        ModelBuilder::new(TensorSpec { shape: INPUT, scale: 0.02, zero_point: layers.numbers.int8() })
            .with_target(target);
    let pointwise = Window::square(1, 1, 0);
    let padded = Window::square(3, 1, 1);
    let strided = Window { kernel: [3, 2], stride: [2, 1], pad: [1, 0, 1, 1] };
    let channels = usize::from(INPUT[2]);
    let x = model.input();

    // 3×3 over 8 channels, then 1×1, their sum, depthwise, both poolings, fully connected.
    let layer = layers.next(CHANNELS, 9 * channels, model.tensor(x)?);
    let a = model.conv2d(x, padded, &layer.weights(), &layer.bias, layer.output.relu())?;
    let layer = layers.next(CHANNELS, CHANNELS, model.tensor(a)?);
    let b = model.conv2d(a, pointwise, &layer.weights(), &layer.bias, layer.output)?;
    let c = model.add(a, b, Output { clamp: [5, 100], ..Output::new(model.tensor(a)?.scale, 5) })?;
    let layer = layers.without_divisors().next(CHANNELS, 6, model.tensor(c)?);
    let d = model.depthwise_conv2d(c, strided, &layer.weights(), &layer.bias, layer.output)?;
    let e = model.max_pool(d, Window::square(2, 1, 0), [i8::MIN, i8::MAX])?;
    let f = model.avg_pool(e, Window::square(2, 2, 0), Output::new(model.tensor(e)?.scale / 2.0, -9))?;
    layers.group = group;
    let input = model.tensor(f)?;
    let layer = layers.next(CLASSES, input.shape.iter().map(|&n| usize::from(n)).product(), input);
    let g = model.linear(f, &layer.weights(), &layer.bias, layer.output)?;
    if bits == 2 {
        model.argmax(g)?;
    }

    let metadata = Metadata { name: &name, tool: "xtask", ..Metadata::default() };
    let len = INPUT.iter().map(|&n| usize::from(n)).product();
    let known: Vec<i8> = (0..len).map(|_| layers.numbers.int8()).collect();
    let file = model.finish(&metadata, &[&known]).with_context(context)?;
    let values = (0..SAMPLES * len).map(|_| layers.numbers.int8().cast_unsigned()).collect();
    Ok(Probe { samples: Samples::new(len, values)?, file, target, name })
}

/// Operators that have the same kernel on all cores: a rotation before a layer, a sigmoid behind it, a softmax.
fn functions() -> Result<Probe> {
    let (name, target) = ("functions".to_owned(), Target::Portable);
    let mut layers = Layers { numbers: Numbers(7), levels: Levels::new(3, Grid::MidRise)?, group: 0 };
    let shape = [2, 3, 32];
    let spec = TensorSpec { shape, scale: 0.02, zero_point: layers.numbers.int8() };
    let mut model = ModelBuilder::new(spec);
    let len = shape.iter().map(|&n| usize::from(n)).product();
    let a = model.hadamard(model.input(), Rotation::even(5, len)?, Output::new(0.025, 3))?;
    let layer = layers.next(40, len, model.tensor(a)?);
    let b = model.linear(a, &layer.weights(), &layer.bias, layer.output)?;
    let c = model.sigmoid(b)?;
    let layer = layers.next(CLASSES, 40, model.tensor(c)?);
    let d = model.linear(c, &layer.weights(), &layer.bias, layer.output)?;
    model.softmax(d)?;
    let metadata = Metadata { name: &name, tool: "xtask", ..Metadata::default() };
    let file = model.finish(&metadata, &[]).with_context(|| format!("probe {name}"))?;
    let mut values = vec![i8::MIN.cast_unsigned(); len];
    values.resize_with(SAMPLES * len, || layers.numbers.int8().cast_unsigned());
    Ok(Probe { samples: Samples::new(len, values)?, file, target, name })
}

/// Odd channels, strides, padding on one side, windows that fill no step of a kernel, tails of every loop.
fn odd_shapes(bits: u8, grid: Grid, target: Target) -> Result<Probe> {
    let name = format!("{target}_{bits}bit_{grid:?}_odd").to_lowercase();
    let mut layers = Layers { numbers: Numbers(u64::from(bits)), levels: Levels::new(bits, grid)?, group: 0 };
    let shape = [7, 5, 3];
    let spec = TensorSpec { shape, scale: 0.02, zero_point: layers.numbers.int8() };
    let mut model = ModelBuilder::new(spec).with_target(target);
    let x = model.input();
    let window = Window { kernel: [3, 2], stride: [2, 1], pad: [1, 1, 0, 0] };
    let layer = layers.next(5, 18, spec);
    let a = model.conv2d(x, window, &layer.weights(), &layer.bias, layer.output)?;
    let layer = layers.next(5, 4, model.tensor(a)?);
    let window = Window { kernel: [2, 2], stride: [1, 2], pad: [0, 1, 1, 0] };
    let b = model.depthwise_conv2d(a, window, &layer.weights(), &layer.bias, layer.output.relu())?;
    let layer = layers.next(7, 5, model.tensor(b)?);
    let c = model.conv2d(b, Window::square(1, 1, 0), &layer.weights(), &layer.bias, layer.output)?;
    let layer = layers.next(3, 7 * 25, model.tensor(c)?);
    let d = model.conv2d(c, Window::square(5, 1, 2), &layer.weights(), &layer.bias, layer.output)?;
    let input = model.tensor(d)?;
    let layer = layers.next(CLASSES, input.shape.iter().map(|&n| usize::from(n)).product(), input);
    model.linear(d, &layer.weights(), &layer.bias, layer.output)?;
    let metadata = Metadata { name: &name, tool: "xtask", ..Metadata::default() };
    let file = model.finish(&metadata, &[]).with_context(|| format!("probe {name}"))?;
    let len = shape.iter().map(|&n| usize::from(n)).product();
    // All minimal, all maximal, random.
    let mut values = vec![i8::MIN.cast_unsigned(); len];
    values.resize(2 * len, i8::MAX.cast_unsigned());
    values.resize_with((2 + SAMPLES) * len, || layers.numbers.int8().cast_unsigned());
    Ok(Probe { samples: Samples::new(len, values)?, file, target, name })
}

/// Results that are so large that their multipliers need a shift below 32, and mostly saturate.
fn shifted(bits: u8, grid: Grid, target: Target) -> Result<Probe> {
    let name = format!("{target}_{bits}bit_{grid:?}_shifted").to_lowercase();
    let mut layers = Layers { numbers: Numbers(u64::from(bits)), levels: Levels::new(bits, grid)?, group: 0 };
    let spec = TensorSpec { shape: [6, 5, 1], scale: 0.02, zero_point: layers.numbers.int8() };
    let mut model = ModelBuilder::new(spec).with_target(target);
    // A unit of an accumulator is worth about 0.6 of the result's.
    let large = |input: TensorSpec| Output::new(input.scale * STEP / 2.0 / 0.6, -3);
    let layer = layers.next(7, 9, spec);
    let x =
        model.conv2d(model.input(), Window::square(3, 1, 1), &layer.weights(), &layer.bias, large(spec))?;
    let input = model.tensor(x)?;
    let layer = layers.next(7, 9, input);
    let x = model.depthwise_conv2d(x, Window::square(3, 2, 1), &layer.weights(), &[], large(input))?;
    let input = model.tensor(x)?;
    let layer = layers.next(CLASSES, input.shape.iter().map(|&n| usize::from(n)).product(), input);
    let x = model.linear(x, &layer.weights(), &[], large(input))?;
    let layer = layers.next(CLASSES, CLASSES, model.tensor(x)?);
    // Extremes spread further than what fills int8 evenly.
    model.linear(x, &layer.weights(), &layer.bias, Output::new(2.5 * layer.output.scale, -3))?;
    finish(name, target, model, &mut layers.numbers)
}

/// Two bits with a divisor for each group of weights: an odd number of groups, channels that fill no band.
fn groups(grid: Grid, group: usize, target: Target) -> Result<Probe> {
    let name = format!("{target}_2bit_{grid:?}_groups{group}").to_lowercase();
    let mut layers = Layers { numbers: Numbers(group as u64), levels: Levels::new(2, grid)?, group };
    let spec = TensorSpec { shape: [5, 3, 32], scale: 0.02, zero_point: layers.numbers.int8() };
    let mut model = ModelBuilder::new(spec).with_target(target);
    let layer = layers.next(32, 9 * 32, spec);
    let x = model.input();
    let x = model.conv2d(x, Window::square(3, 1, 1), &layer.weights(), &layer.bias, layer.output.relu())?;
    let layer = layers.next(5, 32, model.tensor(x)?);
    model.conv2d(x, Window::square(1, 1, 0), &layer.weights(), &layer.bias, layer.output)?;
    let x = model.avg_pool(x, Window { kernel: [5, 1], stride: [1, 1], pad: [0; 4] }, layer.output)?;
    let layer = layers.next(CLASSES, 3 * 32, model.tensor(x)?);
    model.linear(x, &layer.weights(), &layer.bias, layer.output)?;
    finish(name, target, model, &mut layers.numbers)
}

/// The model and random samples for it.
fn finish(name: String, target: Target, model: ModelBuilder, numbers: &mut Numbers) -> Result<Probe> {
    let len = model.tensor(model.input())?.shape.iter().map(|&n| usize::from(n)).product();
    let metadata = Metadata { name: &name, tool: "xtask", ..Metadata::default() };
    let file = model.finish(&metadata, &[]).with_context(|| format!("probe {name}"))?;
    let values = (0..SAMPLES * len).map(|_| numbers.int8().cast_unsigned()).collect();
    Ok(Probe { samples: Samples::new(len, values)?, file, target, name })
}

/// Makes layers one after the other.
pub(crate) struct Layers {
    pub(crate) numbers: Numbers,
    pub(crate) levels: Levels,
    /// Weights for each divisor k, 0 where k is fixed.
    pub(crate) group: usize,
}

/// The numbers of one layer.
pub(crate) struct Layer {
    levels: Levels,
    codes: Vec<i8>,
    steps: Vec<f32>,
    divisors: Vec<u8>,
    group: usize,
    pub(crate) bias: Vec<f32>,
    pub(crate) output: Output,
}

/// Weights per divisor.
const GROUP: usize = 8;
/// Step, or α, of all weights.
const STEP: f32 = 0.01;

impl Layers {
    pub(crate) fn next(&mut self, channels: usize, fan_in: usize, input: TensorSpec) -> Layer {
        let (levels, count) = (self.levels, channels * fan_in);
        let divisors = count.checked_div(self.group).unwrap_or(0);
        // The weights are uniform over their levels, so a result spreads as √fan-in times the spread of a weight. At this
        // scale it fills int8 about as well as the input does.
        let spread = STEP * levels.count() as f32 / 12f32.sqrt();
        let scale = input.scale * spread * (fan_in as f32).sqrt();
        let numbers = &mut self.numbers;
        let mut code = || i64::from(levels.lo()) + numbers.below(levels.count() as u64);
        Layer {
            levels,
            codes: (0..count).map(|_| code() as i8).collect(),
            steps: vec![STEP; channels],
            group: self.group,
            divisors: (0..divisors).map(|_| 2 + numbers.below(4) as u8).collect(),
            bias: (0..channels).map(|_| f32::from(numbers.int8()) * scale / 8.0).collect(),
            output: Output::new(scale, -3),
        }
    }

    /// Depthwise layers take none.
    fn without_divisors(&mut self) -> &mut Self {
        self.group = 0;
        self
    }
}

impl Layer {
    pub(crate) fn weights(&self) -> Weights<'_> {
        let steps = match &*self.divisors {
            [] => Steps::PerChannel(&self.steps),
            divisors => Steps::PiAdaptive { alpha: &self.steps, divisors, group: self.group },
        };
        Weights { levels: self.levels, codes: &self.codes, steps }
    }
}

/// A linear congruential generator (Knuth's constants).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    fn below(&mut self, n: u64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n).cast_signed()
    }

    pub(crate) fn int8(&mut self) -> i8 {
        (self.below(256) - 128) as i8
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::mcu::host_logits;

    #[test]
    fn probes_tell_samples_apart() {
        for probe in probes().unwrap() {
            let logits = host_logits(&probe.file, probe.name.as_ref(), &probe.samples).unwrap();
            if probe.name == "functions" {
                let sums = logits
                    .chunks(CLASSES)
                    .map(|row| row.iter().map(|y| i32::from(y.cast_signed()) + 128).sum());
                assert!(
                    sums.into_iter().all(|sum: i32| (250..=262).contains(&sum)),
                    "shares add up to 1: {logits:?}"
                );
            } else if !probe.name.contains("_2bit") {
                assert_eq!(logits.len(), probe.samples.count() * CLASSES);
                let distinct: HashSet<_> = logits.iter().collect();
                assert!(distinct.len() > logits.len() / 2, "{}: {logits:?}", probe.name);
            }
        }
    }
}
