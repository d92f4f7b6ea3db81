//! From real numbers to a `.piq` file: multipliers, folded biases, the arena plan, the overflow proof.
#![cfg(feature = "alloc")]

mod parts;
mod weightless;

pub use parts::{Output, Steps, TensorId, TensorSpec, Weights, Window};

use super::layout::Layout;
use super::metadata::Metadata;
use super::plan::{Buffers, plan};
use super::record::{ChannelParams, IN_OUTPUT, ModelHeader, OpKind, OpRecord, TensorInfo, WeightSpec};
use super::sections::{Section, assemble};
use super::target::Target;
use crate::config::check_group;
use crate::error::{Error, FileFault, OpFault, Result, What};
use crate::grid::pi_step;
use crate::infer::Model;
use alloc::vec::Vec;

/// Puts a model together, operator by operator; [`Self::finish`] plans the arena and writes the file.
///
/// The last operator's result is the model's output. See [`Model`] for an example.
#[derive(Clone, Debug)]
pub struct ModelBuilder {
    input: TensorInfo,
    records: Vec<OpRecord>,
    parameters: Vec<u8>,
    target: Target,
}

fn op_fault(op: usize, fault: OpFault) -> Error {
    Error::Op { op, fault }
}

impl ModelBuilder {
    /// A model with this input.
    ///
    /// ```
    /// use qat_kernels::artifact::{Metadata, ModelBuilder, TensorSpec};
    /// use qat_kernels::{Error, FileFault};
    /// let spec = TensorSpec { shape: [32, 32, 3], scale: 0.02, zero_point: -5 };
    /// let b = ModelBuilder::new(spec);
    /// assert_eq!(b.tensor(b.input())?, spec);
    /// let e = Error::File { at: 0, fault: FileFault::ModelHeader }; // no operator yet
    /// assert_eq!(b.finish(&Metadata::default(), &[]), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn new(input: TensorSpec) -> Self {
        Self {
            input: info(input.shape, input.scale, input.zero_point),
            records: Vec::new(),
            parameters: Vec::new(),
            target: Target::Portable,
        }
    }

    /// Packs the layers that follow for a core family. Layers that the family has no kernel for stay portable.
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, Target, TensorSpec, Weights};
    /// # use qat_kernels::{Grid, Levels, Result, infer::Model};
    /// # let spec = TensorSpec { shape: [1, 1, 8], scale: 0.5, zero_point: 0 };
    /// # let (levels, codes) = (Levels::new(4, Grid::MidTread)?, [1, 2, 3, 4, -5, 6, 7, -8]);
    /// # let weights = Weights { levels, codes: &codes, steps: Steps::PerChannel(&[0.25]) };
    /// let file = |target| -> Result<Vec<u8>> {
    ///     let mut b = ModelBuilder::new(spec).with_target(target);
    ///     b.linear(b.input(), &weights, &[], Output::new(0.5, 0))?;
    ///     b.finish(&Metadata::default(), &[&[9, -9, 1, 2, 3, 4, 5, 6]])
    /// };
    /// let (portable, cortex_m4) = (file(Target::Portable)?, file(Target::CortexM4)?);
    /// assert_ne!(portable, cortex_m4); // the codes are in another order, the answers are the same
    /// assert!(Model::parse(&portable)?.known_answers().eq(Model::parse(&cortex_m4)?.known_answers()));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn with_target(self, target: Target) -> Self {
        Self { target, ..self }
    }

    /// The model's input.
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, TensorSpec};
    /// # use qat_kernels::infer::Model;
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 2], scale: 0.5, zero_point: 0 });
    /// let x = b.input();
    /// b.add(x, x, Output::new(0.25, 0))?; // 2x; the input's steps are ½
    /// let file = b.finish(&Metadata::default(), &[&[10, -3]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[40, -12]]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn input(&self) -> TensorId {
        TensorId(0)
    }

    /// What a tensor of this model is.
    ///
    /// # Errors
    /// [`Error::Op`] if the model has no such tensor, an id of another one for example.
    ///
    /// ```
    /// use qat_kernels::artifact::{ModelBuilder, Output, TensorSpec, Window};
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [8, 8, 3], scale: 1.0, zero_point: 0 });
    /// let y = b.avg_pool(b.input(), Window::square(4, 4, 0), Output::new(0.5, -1))?;
    /// assert_eq!(b.tensor(y)?, TensorSpec { shape: [2, 2, 3], scale: 0.5, zero_point: -1 });
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn tensor(&self, id: TensorId) -> Result<TensorSpec> {
        let t = self.info(id)?;
        Ok(TensorSpec { shape: t.shape, scale: t.scale, zero_point: t.zero_point })
    }

    fn info(&self, id: TensorId) -> Result<TensorInfo> {
        match usize::from(id.0).checked_sub(1) {
            None => Ok(self.input),
            Some(op) => {
                let here = op_fault(self.records.len(), OpFault::Input);
                self.records.get(op).map(|r| r.output).ok_or(here)
            }
        }
    }

    /// Fully connected layer over the whole input, read as one vector of height × width × channels values.
    ///
    /// `bias`: one real number per output, or empty for none.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Code`], [`Error::NotPositive`], [`Error::NotFinite`], [`Error::Divisor`],
    /// [`Error::Group`] for the arguments; [`Error::Op`] if the layer cannot be represented (scales, or an accumulator that could overflow).
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
    /// # use qat_kernels::{Error, Grid, Levels, What, infer::Model};
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [2, 2, 1], scale: 1.0, zero_point: 0 });
    /// # let levels = Levels::new(2, Grid::MidTread)?;
    /// // The sum of four pixels, less 5, and a ReLU.
    /// let weights = Weights { levels, codes: &[1; 4], steps: Steps::PerChannel(&[1.0]) };
    /// let e = Error::Length { what: What::Bias, expected: 1, got: 2 };
    /// assert_eq!(b.linear(b.input(), &weights, &[-5.0; 2], Output::new(1.0, 0)), Err(e));
    /// b.linear(b.input(), &weights, &[-5.0], Output::new(1.0, 0).relu())?;
    /// let file = b.finish(&Metadata::default(), &[&[1, 2, 3, 4], &[0; 4]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[5], [0]]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn linear(
        &mut self,
        x: TensorId,
        weights: &Weights<'_>,
        bias: &[f32],
        output: Output,
    ) -> Result<TensorId> {
        let input = self.info(x)?;
        let fan_in = input.len().ok_or(op_fault(self.records.len(), OpFault::Shape))?;
        let channels = weights.channels();
        self.layer(
            OpKind::Linear,
            x,
            Rows { count: channels, len: fan_in },
            [1, 1],
            None,
            weights,
            bias,
            output,
        )
    }

    /// Convolution over all channels.
    ///
    /// # Errors
    /// As [`Self::linear`]; [`OpFault::Window`] if kernel, stride and padding do not fit the input.
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights, Window};
    /// # use qat_kernels::{Grid, Levels, infer::Model};
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 4, 1], scale: 1.0, zero_point: 0 });
    /// # let levels = Levels::new(2, Grid::MidTread)?;
    /// // Differences of horizontal neighbours.
    /// let weights = Weights { levels, codes: &[-1, 1], steps: Steps::PerChannel(&[1.0]) };
    /// let window = Window { kernel: [1, 2], stride: [1, 1], pad: [0; 4] };
    /// b.conv2d(b.input(), window, &weights, &[], Output::new(1.0, 0))?;
    /// let file = b.finish(&Metadata::default(), &[&[1, 4, 9, 16]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[3, 5, 7]]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn conv2d(
        &mut self,
        x: TensorId,
        window: Window,
        weights: &Weights<'_>,
        bias: &[f32],
        output: Output,
    ) -> Result<TensorId> {
        let [height, width, channels] = self.info(x)?.shape;
        let size = window.output([height, width]).ok_or(op_fault(self.records.len(), OpFault::Window))?;
        let fan_in = window.kernel.iter().fold(usize::from(channels), |n, &k| n.saturating_mul(k.into()));
        let rows = Rows { count: weights.channels(), len: fan_in };
        self.layer(OpKind::Conv2d, x, rows, size, Some(window), weights, bias, output)
    }

    /// Convolution of every channel with a kernel of its own.
    ///
    /// # Errors
    /// As [`Self::conv2d`]; steps must be [`Steps::PerChannel`].
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights, Window};
    /// # use qat_kernels::{Grid, Levels, infer::Model};
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 3, 2], scale: 1.0, zero_point: 0 });
    /// # let levels = Levels::new(2, Grid::MidTread)?;
    /// // Three taps of two channels: the sum of the first one, the slope of the second one.
    /// let codes = [1, -1, 1, 0, 1, 1];
    /// let weights = Weights { levels, codes: &codes, steps: Steps::PerChannel(&[1.0; 2]) };
    /// let window = Window { kernel: [1, 3], stride: [1, 1], pad: [0; 4] };
    /// b.depthwise_conv2d(b.input(), window, &weights, &[], Output::new(1.0, 0))?;
    /// let file = b.finish(&Metadata::default(), &[&[1, 10, 2, 20, 3, 40]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[6, 30]]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn depthwise_conv2d(
        &mut self,
        x: TensorId,
        window: Window,
        weights: &Weights<'_>,
        bias: &[f32],
        output: Output,
    ) -> Result<TensorId> {
        let [height, width, channels] = self.info(x)?.shape;
        let size = window.output([height, width]).ok_or(op_fault(self.records.len(), OpFault::Window))?;
        if weights.channels() != usize::from(channels) {
            let (expected, got) = (channels.into(), weights.channels());
            return Err(Error::Length { what: What::Steps, expected, got });
        }
        let taps = window.kernel.iter().fold(1usize, |n, &k| n.saturating_mul(k.into()));
        let rows = Rows { count: taps, len: channels.into() };
        self.layer(OpKind::DepthwiseConv2d, x, rows, size, Some(window), weights, bias, output)
    }

    #[expect(clippy::too_many_arguments, reason = "one private place where all layers meet")]
    fn layer(
        &mut self,
        kind: OpKind,
        x: TensorId,
        rows: Rows,
        size: [u16; 2],
        window: Option<Window>,
        weights: &Weights<'_>,
        bias: &[f32],
        output: Output,
    ) -> Result<TensorId> {
        let op = self.records.len();
        let input = self.info(x)?;
        let channels = weights.channels();
        if channels == 0 || rows.len == 0 {
            return Err(Error::Empty { what: What::Weights });
        }
        expect_len(What::Codes, rows.count.saturating_mul(rows.len), weights.codes.len())?;
        if !bias.is_empty() {
            expect_len(What::Bias, channels, bias.len())?;
        }
        let steps = weights.base_steps(&rows)?;
        let (multipliers, shift) =
            multipliers(&steps, input.scale, output.scale).map_err(|f| op_fault(op, f))?;

        // Everything is aligned to four bytes: kernels read codes and parameters by the word.
        let bits = weights.levels.bits();
        let codes_at = self.align()?;
        let mut spec = WeightSpec {
            bits,
            grid: WeightSpec::grid_code(weights.levels.grid()),
            layout: self.target.id(),
            group: weights.group(),
        };
        let layout = match Layout::new(self.target, kind, spec, rows.count, rows.len) {
            Some(layout) => layout,
            None => {
                spec.layout = Target::Portable.id();
                let portable = Layout::new(Target::Portable, kind, spec, rows.count, rows.len);
                portable.ok_or(op_fault(op, OpFault::Quantiser))?
            }
        };
        let codes = self.reserve(layout.code_bytes(), op)?;
        let (lo, hi) = (weights.levels.lo(), weights.levels.hi());
        for (index, &code) in weights.codes.iter().enumerate() {
            if !(lo..=hi).contains(&i32::from(code)) {
                return Err(Error::Code { index: index % rows.len, code: code.into() });
            }
            layout.put_code(codes, index / rows.len, index % rows.len, code);
        }
        let divisors_at = match weights.steps {
            Steps::PerChannel(_) => 0,
            Steps::PiAdaptive { divisors, group, .. } => {
                let at = self.align()?;
                let packed = self.reserve(layout.divisor_bytes(), op)?;
                for (row, row_divisors) in divisors.chunks_exact(rows.len / group).enumerate() {
                    for (group, &k) in row_divisors.iter().enumerate() {
                        layout.put_divisor(packed, row, group, k);
                    }
                }
                at
            }
        };
        let params_at = self.align()?;
        for (channel, (&multiplier, &step)) in multipliers.iter().zip(&steps).enumerate() {
            let unit = f64::from(input.scale) * step / 2.0;
            let real = f64::from(bias.get(channel).copied().unwrap_or(0.0));
            if !real.is_finite() {
                return Err(Error::NotFinite { what: What::Bias, index: channel });
            }
            let folded = weights.weighted_level_sum(kind, channel, &rows) * i64::from(input.zero_point);
            let bias = libm::rint(real / unit) - folded as f64;
            let overflow = op_fault(op, OpFault::Overflow { channel: channel as u32 });
            let fits = bias.abs() <= f64::from(i32::MAX);
            let bias = if fits { bias as i32 } else { return Err(overflow) };
            self.parameters.extend(ChannelParams { bias, multiplier }.write());
        }
        let channels = u16::try_from(channels).map_err(|_| op_fault(op, OpFault::Shape))?;
        let window = window.unwrap_or(Window::square(1, 1, 0));
        self.push(OpRecord {
            kind: kind as u8,
            weight_spec: spec,
            shift,
            clamp: output.clamp,
            inputs: [x.0, 0],
            kernel: window.kernel,
            stride: window.stride,
            pad: [window.pad[0], window.pad[1]],
            weights: codes_at,
            divisors: divisors_at,
            params: params_at,
            multipliers: [0; 2],
            output: info([size[0], size[1], channels], output.scale, output.zero_point),
            scratch: 0,
        })
    }

    /// Plans the arena and writes the file. The outputs for `known_inputs` are computed and stored with them as known
    /// answers. The finished file has passed [`Model::parse`].
    ///
    /// # Errors
    /// Whatever `parse` finds wrong with the model, first of all [`OpFault::Overflow`]; [`FileFault::ModelHeader`] for a
    /// model without operators.
    ///
    /// ```
    /// # use qat_kernels::artifact::{MAGIC, Metadata, ModelBuilder, TensorSpec};
    /// # use qat_kernels::infer::Model;
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 300], scale: 1.0, zero_point: 0 });
    /// # b.argmax(b.input())?;
    /// let metadata = Metadata { name: "loudest", ..Metadata::default() };
    /// let file = b.finish(&metadata, &[&[0; 300], &[-9; 300]])?;
    /// assert!(file.starts_with(&MAGIC));
    /// let model = Model::parse(&file)?;
    /// assert_eq!(model.metadata()?.name, "loudest");
    /// assert_eq!(model.self_test(&mut [0; 2], &mut []), Ok(2)); // an answer for each input
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn finish(mut self, metadata: &Metadata<'_>, known_inputs: &[&[i8]]) -> Result<Vec<u8>> {
        let arena_len = self.plan_arena()?;
        let too_long = Error::File { at: 0, fault: FileFault::TooLong };
        let header = ModelHeader {
            input: self.input,
            operators: u16::try_from(self.records.len()).map_err(|_| too_long)?,
            arena_len: u32::try_from(arena_len).map_err(|_| too_long)?,
        };
        let mut program = header.write().to_vec();
        self.records.iter().for_each(|r| program.extend(r.write()));
        let metadata =
            postcard::to_allocvec(metadata).map_err(|_| Error::File { at: 0, fault: FileFault::Metadata })?;
        let mut sections = alloc::vec![
            (Section::Program, &program[..]),
            (Section::Parameters, &self.parameters[..]),
            (Section::Metadata, &metadata[..]),
        ];

        let file = assemble(&sections)?;
        let model = Model::parse(&file)?;
        if known_inputs.is_empty() {
            return Ok(file);
        }
        let mut known = Vec::new();
        let (mut output, mut arena) = (alloc::vec![0; model.output_len()], alloc::vec![0; arena_len]);
        for &input in known_inputs {
            model.run(input, &mut output, &mut arena)?;
            known.extend(input.iter().chain(&output).map(|v| v.cast_unsigned()));
        }
        sections.push((Section::KnownAnswers, &known));
        assemble(&sections)
    }

    /// Gives every intermediate tensor and scratch buffer its place; returns the arena's length.
    fn plan_arena(&mut self) -> Result<usize> {
        let last = self.records.len().saturating_sub(1);
        let buffers = Buffers::new(&self.input, &self.records).ok_or(op_fault(last, OpFault::Shape))?;
        let (offsets, arena_len) = plan(&buffers.lifetimes);
        let too_long = Error::File { at: 0, fault: FileFault::TooLong };
        for (op, (record, [result, scratch])) in self.records.iter_mut().zip(buffers.of).enumerate() {
            let place = |i: usize| u32::try_from(offsets[i]).map_err(|_| too_long);
            record.output.offset = if op == last { IN_OUTPUT } else { place(result)? };
            record.scratch = if buffers.lifetimes[scratch].bytes == 0 { 0 } else { place(scratch)? };
        }
        Ok(arena_len)
    }

    fn align(&mut self) -> Result<u32> {
        self.parameters.resize(self.parameters.len().next_multiple_of(4), 0);
        let too_long = Error::File { at: 0, fault: FileFault::TooLong };
        u32::try_from(self.parameters.len()).map_err(|_| too_long)
    }

    /// Appends that many zero bytes and returns them.
    fn reserve(&mut self, bytes: Option<usize>, op: usize) -> Result<&mut [u8]> {
        let at = self.parameters.len();
        let end = bytes.and_then(|n| at.checked_add(n)).ok_or(op_fault(op, OpFault::Shape))?;
        self.parameters.resize(end, 0);
        Ok(self.parameters.get_mut(at..).unwrap_or_default())
    }

    fn push(&mut self, record: OpRecord) -> Result<TensorId> {
        let op = self.records.len();
        if !(record.output.scale > 0.0 && record.output.scale.is_normal()) {
            return Err(op_fault(op, OpFault::Requantisation));
        }
        let too_long = Error::File { at: 0, fault: FileFault::TooLong };
        self.records.push(record);
        Ok(TensorId(u16::try_from(self.records.len()).map_err(|_| too_long)?))
    }
}

/// Rows of a packed matrix: output channels, or taps of a depthwise kernel.
#[derive(Clone, Copy)]
struct Rows {
    count: usize,
    len: usize,
}

impl Weights<'_> {
    fn channels(&self) -> usize {
        match self.steps {
            Steps::PerChannel(steps) => steps.len(),
            Steps::PiAdaptive { alpha, .. } => alpha.len(),
        }
    }

    fn group(&self) -> u8 {
        match self.steps {
            Steps::PerChannel(_) => 0,
            Steps::PiAdaptive { group, .. } => group as u8,
        }
    }

    /// The step of each channel that multiplies its accumulator: Δ, or α·π/60 where 60/k is in the accumulator.
    fn base_steps(&self, rows: &Rows) -> Result<Vec<f64>> {
        match self.steps {
            Steps::PerChannel(steps) => steps
                .iter()
                .enumerate()
                .map(|(index, &value)| {
                    let positive = value > 0.0 && value.is_normal();
                    positive.then(|| f64::from(value)).ok_or(Error::NotPositive {
                        what: What::Steps,
                        index,
                        value,
                    })
                })
                .collect(),
            Steps::PiAdaptive { alpha, divisors, group } => {
                check_group(group)?;
                if !rows.len.is_multiple_of(group) {
                    return Err(Error::NotDivisible { what: What::Group, len: rows.len, by: group });
                }
                expect_len(What::Divisors, rows.count * (rows.len / group), divisors.len())?;
                if let Some(&k) = divisors.iter().find(|k| !(2..=5).contains(*k)) {
                    return Err(Error::Divisor { k });
                }
                alpha
                    .iter()
                    .enumerate()
                    .map(|(index, &value)| {
                        pi_step(value, 5).map_err(|_| Error::NotPositive {
                            what: What::Alpha,
                            index,
                            value,
                        })?;
                        Ok(f64::from(value) * f64::from(core::f32::consts::PI) / 60.0)
                    })
                    .collect()
            }
        }
    }

    /// Σ m_g·(2·level) over the weights of a channel.
    fn weighted_level_sum(&self, kind: OpKind, channel: usize, rows: &Rows) -> i64 {
        let level = |&code: &i8| i64::from(self.levels.twice_level(code.into()));
        if kind == OpKind::DepthwiseConv2d {
            return self.codes.iter().skip(channel).step_by(rows.len).map(level).sum();
        }
        let row = self.codes.chunks_exact(rows.len).nth(channel).unwrap_or_default();
        match self.steps {
            Steps::PerChannel(_) => row.iter().map(level).sum(),
            Steps::PiAdaptive { divisors, group, .. } => {
                let factors = divisors.iter().skip(channel * (rows.len / group)).map(|&k| 60 / i64::from(k));
                row.chunks_exact(group).zip(factors).map(|(g, f)| f * g.iter().map(level).sum::<i64>()).sum()
            }
        }
    }
}

/// Multipliers `M = round(r·2^n)` of the ratios `r = s_x·Δ/2/s_y`, and the largest n ≤ 32 at which all of them fit.
fn multipliers(steps: &[f64], input_scale: f32, output_scale: f32) -> Result<(Vec<i32>, u8), OpFault> {
    let fault = OpFault::Requantisation;
    let ratios: Vec<f64> =
        steps.iter().map(|s| f64::from(input_scale) * s / 2.0 / f64::from(output_scale)).collect();
    let largest = ratios.iter().copied().fold(0.0, f64::max);
    if !largest.is_finite() || largest <= 0.0 {
        return Err(fault);
    }
    let shift = (1..=32)
        .rev()
        .find(|&n| libm::rint(largest * power_of_two(n)) <= f64::from(i32::MAX))
        .ok_or(fault)?;
    Ok((ratios.iter().map(|r| libm::rint(r * power_of_two(shift)) as i32).collect(), shift as u8))
}

/// 2^n without `std`.
fn power_of_two(n: i32) -> f64 {
    libm::scalbn(1.0, n)
}

fn info(shape: [u16; 3], scale: f32, zero_point: i8) -> TensorInfo {
    TensorInfo { shape, zero_point, scale, offset: 0 }
}

fn expect_len(what: What, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}
