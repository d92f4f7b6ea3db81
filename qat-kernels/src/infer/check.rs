//! What [`Model::parse`](super::Model::parse) proves about every operator, so that running it cannot go wrong.

mod buffers;

use super::model::Model;
use super::{cortex_m4, cortex_m55, planes};
use crate::artifact::{
    ChannelParams, Layout, OpKind, OpRecord, RECORD_LEN, RotationRecord, Target, TensorInfo, WeightSpec,
};
use crate::config::{MAX_BITS, MIN_BITS};
use crate::error::OpFault;
use crate::grid::{Grid, Levels};
use crate::hadamard::Rotation;
use buffers::buffers;

/// Largest tensor: offsets and products of two dimensions stay far from 32 bits.
pub(super) const MAX_ELEMENTS: usize = 1 << 28;
/// Most operators: a check of each against all between it and its operands stays quick.
pub(super) const MAX_OPERATORS: usize = 4096;
/// Largest multiplier of an addition; 2·255·2^21 + 2^30 fits an i32.
const MAX_ADD_MULTIPLIER: i32 = 1 << 21;
/// e^0 in the table of a softmax.
pub(crate) const SOFTMAX_ONE: u16 = 1 << 15;
/// Scale and zero point of shares.
pub(crate) const SOFTMAX_OUTPUT: (f32, i8) = (1.0 / 256.0, -128);
/// Largest 60/k.
const MAX_GROUP_FACTOR: u64 = 30;

pub(super) fn is_scale(scale: f32) -> bool {
    scale > 0.0 && scale.is_normal()
}

/// Sizes of a layer's parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightSize {
    pub(super) weights: usize,
    pub(super) layout: Layout,
    /// Weights that meet in one output.
    pub(super) fan_in: usize,
    pub(super) code_bytes: usize,
    pub(super) divisor_bytes: usize,
    pub(super) param_bytes: usize,
}

/// Sizes of an operator's parameters, `None` if it has none or they exceed the address space.
pub(super) fn weight_size(kind: OpKind, op: &OpRecord, input: &TensorInfo) -> Option<WeightSize> {
    let [kh, kw] = op.kernel.map(usize::from);
    let out = usize::from(op.output.shape[2]);
    let in_channels = usize::from(input.shape[2]);
    let taps = kh.checked_mul(kw)?;
    let spec = op.weight_spec;
    // Rows of the packed matrix and their length: a row per output channel, but a row per tap where each channel has
    // its own kernel, so that neighbouring channels are neighbouring codes.
    let (rows, columns, fan_in) = match kind {
        OpKind::Linear => (out, input.len()?, input.len()?),
        OpKind::Conv2d => {
            let k = taps.checked_mul(in_channels)?;
            (out, k, k)
        }
        OpKind::DepthwiseConv2d => (taps, in_channels, taps),
        _ => return None,
    };
    let layout = Layout::new(Target::from_id(spec.layout)?, kind, spec, rows, columns)?;
    Some(WeightSize {
        weights: rows.checked_mul(columns)?,
        layout,
        fan_in,
        code_bytes: layout.code_bytes()?,
        divisor_bytes: layout.divisor_bytes()?,
        param_bytes: out.checked_mul(ChannelParams::LEN)?,
    })
}

/// Bytes that an operator borrows from the arena while it runs. A convolution gathers its window there, unless the
/// window is one pixel and always inside; the kernels of a core family may need more, whatever the engine that runs it.
pub(crate) fn scratch_len(kind: OpKind, op: &OpRecord, input: &TensorInfo) -> Option<usize> {
    let [kh, kw] = op.kernel.map(usize::from);
    if kind == OpKind::Hadamard {
        // Sums of the largest block that divides the input, and room to align them. A rotation of smaller blocks leaves some
        // unused.
        return 1usize.checked_shl(input.len()?.trailing_zeros())?.checked_mul(4)?.checked_add(3);
    }
    let window = match kind {
        OpKind::Conv2d if op.kernel == [1, 1] && op.pad == [0, 0] => 0,
        OpKind::Conv2d => kh.checked_mul(kw)?.checked_mul(input.shape[2].into())?,
        _ => 0,
    };
    let columns = match kind {
        OpKind::Linear => input.len()?,
        OpKind::DepthwiseConv2d => kh.checked_mul(kw)?,
        _ => kh.checked_mul(kw)?.checked_mul(input.shape[2].into())?,
    };
    match Target::from_id(op.weight_spec.layout) {
        Some(Target::CortexM4) => {
            cortex_m4::scratch_len(kind, op.weight_spec, columns, input.shape[2].into(), window)
        }
        Some(Target::CortexM55) if kind.has_weights() => {
            cortex_m55::scratch_len(op.weight_spec, kind, [op.output.shape[2].into(), columns])
        }
        Some(target @ (Target::CortexM0 | Target::RiscV32)) if kind.has_weights() => {
            let rows = op.output.shape[2].into();
            planes::scratch_len(target, op.weight_spec, kind, [rows, columns], window)
        }
        _ => Some(window),
    }
}

/// Multiply-accumulates of an operator.
pub(super) fn macs(kind: OpKind, op: &OpRecord, input: &TensorInfo) -> Option<u64> {
    let outputs = op.output.len()? as u64;
    match kind {
        OpKind::Linear | OpKind::Conv2d | OpKind::DepthwiseConv2d => {
            outputs.checked_mul(weight_size(kind, op, input)?.fan_in as u64)
        }
        _ => Some(0),
    }
}

/// Checks operator `index`; returns its multiply-accumulates.
pub(super) fn operator(model: &Model<'_>, index: usize) -> Result<u64, OpFault> {
    let bytes = index.checked_mul(RECORD_LEN).and_then(|at| model.records.get(at..)).unwrap_or(&[]);
    let op = OpRecord::read(bytes).ok_or(OpFault::Shape)?;
    if !OpRecord::reserved_is_zero(bytes) {
        return Err(OpFault::Reserved);
    }
    let kind = OpKind::from_u8(op.kind).ok_or(OpFault::Kind { kind: op.kind })?;
    let second = usize::from(op.inputs[1]);
    if usize::from(op.inputs[0]) > index || second > index || (kind != OpKind::Add && second != 0) {
        return Err(OpFault::Input);
    }
    let input = model.tensor(op.inputs[0].into()).ok_or(OpFault::Input)?;
    op.output.len().filter(|&n| n > 0 && n <= MAX_ELEMENTS).ok_or(OpFault::Shape)?;
    shapes(kind, &op, &input)?;
    if !is_scale(op.output.scale) || op.clamp[0] > op.clamp[1] {
        return Err(OpFault::Requantisation);
    }
    match kind {
        k if k.has_weights() => weights(model, kind, &op, &input)?,
        k => {
            let unused = op.weight_spec == WeightSpec::NONE
                && [op.weights, op.divisors] == [0; 2]
                && (k.constant_bytes() > 0 || op.params == 0);
            unused.then_some(()).ok_or(OpFault::Reserved)?;
            without_weights(model, kind, &op, &input)?;
        }
    }
    buffers(model, index, kind, &op, &input)?;
    macs(kind, &op, &input).ok_or(OpFault::Shape)
}

/// Shapes, kernel, stride and padding.
fn shapes(kind: OpKind, op: &OpRecord, input: &TensorInfo) -> Result<(), OpFault> {
    let out = op.output.shape;
    let windowed =
        matches!(kind, OpKind::Conv2d | OpKind::DepthwiseConv2d | OpKind::MaxPool | OpKind::AvgPool);
    if !windowed {
        if (op.kernel, op.stride, op.pad) != ([1, 1], [1, 1], [0, 0]) {
            return Err(OpFault::Window);
        }
        let fits = match kind {
            OpKind::Linear => out[..2] == [1, 1],
            OpKind::ArgMax => out == [1, 1, 2] && input.len().is_some_and(|n| n <= usize::from(u16::MAX)),
            _ => out == input.shape,
        };
        return fits.then_some(()).ok_or(OpFault::Shape);
    }
    if kind != OpKind::Conv2d && out[2] != input.shape[2] {
        return Err(OpFault::Shape);
    }
    for axis in 0..2 {
        let (Some(&kernel), Some(&stride), Some(&pad)) =
            (op.kernel.get(axis), op.stride.get(axis), op.pad.get(axis))
        else {
            return Err(OpFault::Window);
        };
        let (Some(&size), Some(&steps)) = (input.shape.get(axis), out.get(axis)) else {
            return Err(OpFault::Shape);
        };
        let [kernel, stride, pad, size, steps] =
            [kernel.into(), stride.into(), pad.into(), size.into(), steps.into()].map(|v: u32| v);
        // Every window must touch the input: at the near side pad < kernel, at the far side the last start < size.
        let last_start = (steps - 1) * stride;
        if kernel == 0 || stride == 0 || pad >= kernel || last_start >= size + pad {
            return Err(OpFault::Window);
        }
    }
    Ok(())
}

fn weights(model: &Model<'_>, kind: OpKind, op: &OpRecord, input: &TensorInfo) -> Result<(), OpFault> {
    let spec = op.weight_spec;
    let no_layout = OpFault::Layout { layout: spec.layout };
    let packed_for = Target::from_id(spec.layout).ok_or(no_layout)?;
    if let Some(device) = Target::DEVICE
        && !packed_for.runs_on(Target::DEVICE)
    {
        return Err(OpFault::Target { packed_for, device });
    }
    let grid = match spec.grid {
        0 => Grid::MidTread,
        1 => Grid::MidRise,
        _ => return Err(OpFault::Quantiser),
    };
    if !(MIN_BITS..=MAX_BITS).contains(&spec.bits) {
        return Err(OpFault::Quantiser);
    }
    let levels = Levels::new(spec.bits, grid).map_err(|_| OpFault::Quantiser)?;
    let size = weight_size(kind, op, input).ok_or(match packed_for {
        Target::Portable => OpFault::Shape,
        _ => no_layout,
    })?;
    let group = usize::from(spec.group);
    let group_fits = match spec.group {
        0 => true,
        8 | 16 | 32 => kind != OpKind::DepthwiseConv2d && size.fan_in.is_multiple_of(group),
        _ => false,
    };
    if !group_fits {
        return Err(OpFault::Quantiser);
    }
    if op.multipliers != [0; 2] || !(1..=32).contains(&op.shift) {
        return Err(OpFault::Requantisation);
    }
    let codes = section(model.parameters, op.weights, size.code_bytes).ok_or(OpFault::Parameters)?;
    if packed_for != Target::Portable {
        // Kernels read words; an engine that only looks at bytes does not mind where the file lies.
        if !op.weights.is_multiple_of(4) {
            return Err(OpFault::Parameters);
        }
        if Target::DEVICE == Some(packed_for) && !codes.as_ptr().addr().is_multiple_of(4) {
            return Err(OpFault::Alignment);
        }
    }
    section(model.parameters, op.divisors, size.divisor_bytes).ok_or(OpFault::Parameters)?;
    if !op.params.is_multiple_of(4) || (size.divisor_bytes == 0 && op.divisors != 0) {
        return Err(OpFault::Parameters);
    }
    let params = section(model.parameters, op.params, size.param_bytes).ok_or(OpFault::Parameters)?;

    // |acc| can reach Σ m_g·|2·level|·|x| ≤ fan_in·30·L·128, and the bias comes on top. The sum must leave room for the
    // left shift by 32 − n with which cores of a 32×32→high-word multiplier reach the same rounding.
    let factor = if spec.group == 0 { 1 } else { MAX_GROUP_FACTOR };
    let widest = (size.fan_in as u64)
        .checked_mul(factor * 128 * u64::from(levels.max_twice_level().unsigned_abs()))
        .ok_or(OpFault::Overflow { channel: 0 })?;
    let room = u64::from(i32::MAX.unsigned_abs() >> (32 - op.shift));
    let (params, _) = params.as_chunks();
    for (channel, bytes) in params.iter().enumerate() {
        let p = ChannelParams::read(bytes);
        if p.multiplier < 0 {
            return Err(OpFault::Requantisation);
        }
        if widest.checked_add(p.bias.unsigned_abs().into()).is_none_or(|sum| sum > room) {
            return Err(OpFault::Overflow { channel: channel as u32 });
        }
    }
    Ok(())
}

fn without_weights(
    model: &Model<'_>,
    kind: OpKind,
    op: &OpRecord,
    input: &TensorInfo,
) -> Result<(), OpFault> {
    let same = |t: &TensorInfo| t.scale == op.output.scale && t.zero_point == op.output.zero_point;
    let fine = match kind {
        OpKind::MaxPool => same(input) && op.multipliers == [0; 2] && op.shift == 0,
        OpKind::AvgPool => {
            // |Σ (x − z)| ≤ 255·window must leave room for the shift, as above.
            let window = u64::from(op.kernel[0]) * u64::from(op.kernel[1]);
            let room = u64::from(i32::MAX.unsigned_abs()) >> (32 - op.shift.clamp(1, 32));
            (1..=32).contains(&op.shift)
                && op.multipliers[0] >= 0
                && op.multipliers[1] == 0
                && 255 * window <= room
        }
        OpKind::Add => {
            let other = model.tensor(op.inputs[1].into()).ok_or(OpFault::Input)?;
            if other.shape != input.shape {
                return Err(OpFault::Shape);
            }
            (1..=31).contains(&op.shift)
                && op.multipliers.iter().all(|m| (0..=MAX_ADD_MULTIPLIER).contains(m))
        }
        OpKind::Softmax => {
            let (table, _) = constant(model, kind, op).ok_or(OpFault::Parameters)?.as_chunks();
            // Then the sum over at most 2^16 − 1 channels is neither 0 nor 2^31.
            let fits = |power: &[u8; 2]| u16::from_le_bytes(*power) <= SOFTMAX_ONE;
            let one = table.first().is_some_and(|power| u16::from_le_bytes(*power) == SOFTMAX_ONE);
            let output = (op.output.scale, op.output.zero_point);
            (one && table.iter().all(fits)).then_some(()).ok_or(OpFault::Parameters)?;
            output == SOFTMAX_OUTPUT && op.multipliers == [0; 2] && op.shift == 0
        }
        OpKind::Table => {
            constant(model, kind, op).ok_or(OpFault::Parameters)?;
            op.clamp == [i8::MIN, i8::MAX] && op.multipliers == [0; 2] && op.shift == 0
        }
        OpKind::Hadamard => {
            let rotation =
                constant(model, kind, op).and_then(rotation).ok_or(OpFault::Parameters)?.max_block();
            if input.len().is_none_or(|len| !len.is_multiple_of(rotation)) {
                return Err(OpFault::Shape);
            }
            // |Σ ±(x − z)| ≤ 255·block must leave room for the shift, as above.
            let room = u64::from(i32::MAX.unsigned_abs()) >> (32 - op.shift.clamp(1, 32));
            (1..=32).contains(&op.shift)
                && op.multipliers[0] >= 0
                && op.multipliers[1] == 0
                && 255 * rotation as u64 <= room
        }
        _ => op.multipliers == [0; 2] && op.shift == 0,
    };
    fine.then_some(()).ok_or(OpFault::Requantisation)
}

/// What an operator without weights has in the parameter section.
pub(super) fn constant<'a>(model: &Model<'a>, kind: OpKind, op: &OpRecord) -> Option<&'a [u8]> {
    let aligned = op.params.is_multiple_of(4);
    section(model.parameters, op.params, kind.constant_bytes()).filter(|_| aligned)
}

/// The rotation that a record describes, if there is such a one.
pub(super) fn rotation(bytes: &[u8]) -> Option<Rotation> {
    let RotationRecord { seed, block } = RotationRecord::read(bytes)?;
    Rotation::new(seed).with_max_block(block as usize).ok().filter(|r| r.max_block() == block as usize)
}

/// `len` bytes at `offset` of the parameter section.
pub(super) fn section(parameters: &[u8], offset: u32, len: usize) -> Option<&[u8]> {
    parameters.get(offset as usize..)?.get(..len)
}

#[cfg(test)]
#[cfg(feature = "alloc")]
mod tests {
    use super::*;
    use crate::artifact::{HEADER_LEN, Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights, Window};
    use crate::crc32::crc32;
    use crate::error::{Error, FileFault, Result};

    const FILE_HEADER: usize = 16 + 3 * 12;

    /// A convolution, a depthwise convolution, an addition, an average and a linear layer.
    pub(super) fn sample() -> Vec<u8> {
        let mut b = ModelBuilder::new(TensorSpec { shape: [4, 4, 1], scale: 0.5, zero_point: 3 });
        let levels = Levels::new(2, Grid::MidRise).unwrap();
        let steps = Steps::PerChannel(&[0.1; 4]);
        let weights = |codes| Weights { levels, codes, steps };
        let out = Output::new(1.0, 0);
        let conv = b.conv2d(b.input(), Window::square(3, 1, 1), &weights(&[1; 36]), &[1.0; 4], out).unwrap();
        let dw =
            b.depthwise_conv2d(conv, Window::square(3, 1, 1), &weights(&[-2; 36]), &[], out.relu()).unwrap();
        let sum = b.add(conv, dw, out).unwrap();
        let mean = b.avg_pool(sum, Window::square(2, 2, 0), out).unwrap();
        let adaptive = Steps::PiAdaptive { alpha: &[0.1; 4], divisors: &[2; 4], group: 16 };
        b.linear(mean, &Weights { levels, codes: &[0; 64], steps: adaptive }, &[], out).unwrap();
        b.finish(&Metadata::default(), &[]).unwrap()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<()> {
        Model::parse(bytes).map(|_| ())
    }

    /// The sample with bytes of its program section replaced and the CRC made right again.
    fn with(at: usize, value: &[u8]) -> Vec<u8> {
        with_all(&[(at, value)])
    }

    /// The same in several places.
    pub(super) fn with_all(changes: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = sample();
        let program = FILE_HEADER.next_multiple_of(16);
        for &(at, value) in changes {
            bytes[program + at..][..value.len()].copy_from_slice(value);
        }
        sealed(bytes)
    }

    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let body = bytes.len() - 4;
        let crc = crc32(&bytes[..body]);
        bytes[body..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn each_operator_fault_has_its_name() {
        assert_eq!(parse(&sample()), Ok(()));
        let (overflow, quantiser) = (OpFault::Overflow { channel: 0 }, OpFault::Quantiser);
        let big = 0x7FFF_FFFFi32.to_le_bytes();
        for (op, at, value, fault) in [
            (0, 0, &[99][..], OpFault::Kind { kind: 99 }),
            (0, 1, &[9], quantiser),
            (0, 2, &[2], quantiser),
            (0, 3, &[99], OpFault::Layout { layout: 99 }),
            (0, 4, &[16], quantiser), // nine weights do not fall into groups of 16
            (1, 4, &[8], quantiser),  // no groups where every channel has its own kernel
            (0, 5, &[0], OpFault::Requantisation),
            (0, 5, &[33], OpFault::Requantisation),
            (0, 5, &[2], overflow), // no room for the left shift by 30
            (0, 6, &[5, 4], OpFault::Requantisation),
            (0, 8, &[1], OpFault::Input),
            (2, 10, &[3], OpFault::Input),
            (0, 10, &[1], OpFault::Input), // a second operand where there is none
            (2, 10, &[0], OpFault::Shape), // another shape than the first operand's
            (0, 12, &[0], OpFault::Window),
            (0, 16, &[0], OpFault::Window),
            (0, 18, &[3], OpFault::Window),
            (4, 12, &[2], OpFault::Window),
            (0, 20, &big, OpFault::Parameters),
            (0, 24, &[4], OpFault::Parameters),
            (0, 28, &[1], OpFault::Parameters),
            (0, 32, &[1], OpFault::Requantisation),
            (2, 32, &big, OpFault::Requantisation),
            (3, 5, &[0], OpFault::Requantisation),
            (3, 20, &[4], OpFault::Reserved),
            (0, 40, &[0, 0], OpFault::Shape),
            (0, 40, &[9], OpFault::Window),
            (1, 44, &[5], OpFault::Shape),
            (0, 47, &[1], OpFault::Reserved),
            (0, 48, &[0, 0, 0xC0, 0x7F], OpFault::Requantisation), // NaN
            (0, 48, &[0; 4], OpFault::Requantisation),
            (0, 52, &big, OpFault::Arena),
            (0, 56, &big, OpFault::Arena),
            (1, 56, &[4], OpFault::Arena),    // scratch where none is needed
            (4, 52, &[0; 4], OpFault::Arena), // the last result goes to the output
            (0, 60, &[1], OpFault::Reserved),
        ] {
            let bytes = with(HEADER_LEN + op * RECORD_LEN + at, value);
            assert_eq!(parse(&bytes), Err(Error::Op { op, fault }), "operator {op}, byte {at}");
        }
    }

    /// Broken tables and rotations: bytes of the parameter section of a model of one operator.
    #[test]
    fn broken_constants_are_refused() {
        type Build = fn(&mut ModelBuilder, crate::artifact::TensorId) -> Result<crate::artifact::TensorId>;
        let rotate: Build =
            |b, x| b.hadamard(x, Rotation::even(1, 12)?, Output { clamp: [-9, 9], ..Output::new(1.0, 0) });
        let parameters = OpFault::Parameters;
        for (build, at, value, fault) in [
            (ModelBuilder::softmax as Build, 0, &[0, 0][..], parameters),
            (ModelBuilder::softmax, 2, &[1, 0x80], parameters),
            (rotate, 8, &[3], parameters),
            (rotate, 8, &[0], parameters),
            (rotate, 8, &[8], OpFault::Shape),
            (rotate, 12, &[1], parameters),
        ] {
            let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 12], scale: 0.5, zero_point: 3 });
            let x = b.input();
            build(&mut b, x).unwrap();
            let mut bytes = b.finish(&Metadata::default(), &[]).unwrap();
            assert_eq!(parse(&bytes), Ok(()));
            let section = (FILE_HEADER.next_multiple_of(16) + HEADER_LEN + RECORD_LEN).next_multiple_of(16);
            bytes[section + at..][..value.len()].copy_from_slice(value);
            assert_eq!(parse(&sealed(bytes)), Err(Error::Op { op: 0, fault }), "byte {at}: {value:?}");
        }
    }

    #[test]
    fn a_broken_model_header_is_refused() {
        let broken = Err(Error::File { at: 0, fault: FileFault::ModelHeader });
        for (at, value) in [(0, &[0, 0][..]), (7, &[1]), (8, &[0; 4]), (12, &[0]), (12, &[9]), (31, &[1])] {
            assert_eq!(parse(&with(at, value)), broken, "byte {at}");
        }
    }

    #[test]
    fn a_layer_that_could_overflow_is_not_written() {
        // 2^16 inputs · 255 · 128 do not fit 31 bits.
        let mut b = ModelBuilder::new(TensorSpec { shape: [16, 64, 65], scale: 1.0, zero_point: 0 });
        let levels = Levels::new(8, Grid::MidRise).unwrap();
        let weights = Weights { levels, codes: &[0; 16 * 64 * 65], steps: Steps::PerChannel(&[1e-6]) };
        b.linear(b.input(), &weights, &[], Output::new(1.0, 0)).unwrap();
        let overflow = Error::Op { op: 0, fault: OpFault::Overflow { channel: 0 } };
        assert_eq!(b.finish(&Metadata::default(), &[]), Err(overflow));
    }
}
