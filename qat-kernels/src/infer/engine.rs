//! Walks the program: finds each operator's buffers and hands them to its kernel.

use super::check::{constant, rotation, scratch_len, section, weight_size};
#[cfg(not(target_os = "none"))]
use super::kernels::host::{conv2d, depthwise_conv2d, linear};
use super::kernels::{self, Requant, WeightView, Windows};
use super::model::Model;
use crate::arch::Backend;
use crate::arch::bytes::words_mut;
#[cfg(any(
    core_family = "cortex-m4",
    core_family = "cortex-m55",
    core_family = "cortex-m0",
    core_family = "riscv32"
))]
use crate::artifact::Target;
use crate::artifact::{IN_OUTPUT, OpKind, OpRecord, TensorInfo};
use crate::error::{Error, OpFault, Result};
use core::ops::Range;

/// Runs a checked model and shows each operator's result to `after`. `output` and `arena` have exactly the model's lengths.
/// `backend` is for workstations.
pub(super) fn run(
    model: &Model<'_>,
    backend: Backend,
    input: &[i8],
    output: &mut [i8],
    arena: &mut [i8],
    mut after: impl FnMut(usize, &[i8]),
) -> Result<()> {
    for op in 0..usize::from(model.header.operators) {
        // The checks of `parse` make this unreachable; an error instead of a panic keeps the panic machinery out of
        // firmware.
        operator(model, backend, op, input, output, arena).ok_or(Error::Op { op, fault: OpFault::Arena })?;
        let result = model.record(op).and_then(|record| match record.output.offset {
            IN_OUTPUT => Some(&*output),
            offset => arena.get(range(offset, record.output.len()?)?),
        });
        after(op, result.unwrap_or_default());
    }
    Ok(())
}

fn operator(
    model: &Model<'_>,
    backend: Backend,
    index: usize,
    model_input: &[i8],
    model_output: &mut [i8],
    arena: &mut [i8],
) -> Option<()> {
    let op = model.record(index)?;
    let kind = OpKind::from_u8(op.kind)?;
    let tensors = [model.tensor(op.inputs[0].into())?, model.tensor(op.inputs[1].into())?];
    let result = op.output;

    // The arena falls into the result and what lies before and after it; operands and scratch are in either part.
    let out_range = if result.offset == IN_OUTPUT { 0..0 } else { range(result.offset, result.len()?)? };
    let (before, rest) = arena.split_at_mut_checked(out_range.start)?;
    let (in_arena, after) = rest.split_at_mut_checked(out_range.len())?;
    let out = if result.offset == IN_OUTPUT { model_output } else { in_arena };

    let scratch_range = range(op.scratch, scratch_len(kind, &op, &tensors[0])?)?;
    let (scratch, parts) = carve(before, after, out_range.end, scratch_range)?;
    // An operand whose place the result takes is in `out` and nowhere else.
    let shared = |which: usize| -> Option<bool> {
        let in_arena = *op.inputs.get(which)? != 0;
        Some(kind.in_place() && in_arena && tensors.get(which)?.offset == result.offset)
    };
    let operand = |which: usize| -> Option<&[i8]> {
        let (tensor, info) = (*op.inputs.get(which)?, tensors.get(which)?);
        match (tensor, shared(which)?) {
            (0, _) => Some(model_input),
            (_, true) => Some(&[]),
            _ => parts.find(range(info.offset, info.len()?)?),
        }
    };
    let x = operand(0)?;
    let first = &tensors[0];

    match kind {
        OpKind::Linear => linear(backend, x, &view(model, kind, &op, first)?, &requant(&op), scratch, out),
        OpKind::Conv2d => {
            let (windows, weights) = (windows(&op, first), view(model, kind, &op, first)?);
            conv2d(backend, x, &windows, &weights, &requant(&op), first.zero_point, scratch, out)
        }
        OpKind::DepthwiseConv2d => {
            let (windows, weights) = (windows(&op, first), view(model, kind, &op, first)?);
            depthwise_conv2d(backend, x, &windows, &weights, &requant(&op), first.zero_point, scratch, out)
        }
        OpKind::MaxPool => kernels::max_pool(x, &windows(&op, first), op.clamp, out),
        OpKind::AvgPool => kernels::avg_pool(
            x,
            &windows(&op, first),
            first.zero_point,
            op.multipliers[0],
            &requant(&op),
            out,
        ),
        OpKind::Add => {
            let (other, requant) = (operand(1)?, requant(&op));
            let ([z, other_z], [m, other_m]) = ([first, &tensors[1]].map(|t| t.zero_point), op.multipliers);
            #[cfg(core_family = "cortex-m4")]
            use kernels::cortex_m4::{add, add_in_place};
            #[cfg(not(core_family = "cortex-m4"))]
            use kernels::{add, add_in_place};
            match [shared(0)?, shared(1)?] {
                [true, _] => add_in_place(out, other, [z, other_z], [m, other_m], &requant),
                [_, true] => add_in_place(out, x, [other_z, z], [other_m, m], &requant),
                _ => add([x, other], [z, other_z], [m, other_m], &requant, out),
            }
        }
        OpKind::ArgMax => {
            let index = kernels::argmax(x) as u16;
            let [low, high] = index.to_le_bytes();
            let [a, b] = out else { return None };
            (*a, *b) = (low.cast_signed(), high.cast_signed());
            Some(())
        }
        OpKind::Table => {
            kernels::table(x, constant(model, kind, &op)?.first_chunk()?, out);
            Some(())
        }
        OpKind::Softmax => {
            let table = constant(model, kind, &op)?.as_chunks().0;
            kernels::softmax(x, first.shape[2].into(), table, &requant(&op), out)
        }
        OpKind::Hadamard => {
            let rotation = rotation(constant(model, kind, &op)?)?;
            let (multiplier, scratch) = (op.multipliers[0], words_mut(scratch));
            kernels::hadamard(x, first.zero_point, rotation, multiplier, &requant(&op), scratch, out)
        }
    }
}

/// The kernel for the layer's packing: a core family's own on that core, the portable one for everything else.
#[cfg(target_os = "none")]
fn linear(
    _: Backend,
    x: &[i8],
    weights: &WeightView<'_>,
    requant: &Requant,
    #[allow(unused_variables, reason = "for kernels of a family")] scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    match weights.layout.target() {
        #[cfg(core_family = "cortex-m4")]
        Target::CortexM4 => kernels::cortex_m4::linear(x, weights, requant, scratch, out),
        #[cfg(core_family = "cortex-m55")]
        Target::CortexM55 => kernels::cortex_m55::linear(x, weights, requant, scratch, out),
        #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
        Target::CortexM0 | Target::RiscV32 => kernels::planes::linear(x, weights, requant, scratch, out),
        _ => kernels::linear(x, weights, requant, out),
    }
}

/// As [`linear`].
#[cfg(target_os = "none")]
fn conv2d(
    _: Backend,
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    match weights.layout.target() {
        #[cfg(core_family = "cortex-m4")]
        Target::CortexM4 => {
            kernels::cortex_m4::conv2d(x, windows, weights, requant, zero_point, scratch, out)
        }
        #[cfg(core_family = "cortex-m55")]
        Target::CortexM55 => {
            kernels::cortex_m55::conv2d(x, windows, weights, requant, zero_point, scratch, out)
        }
        #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
        Target::CortexM0 | Target::RiscV32 => {
            kernels::planes::conv2d(x, windows, weights, requant, zero_point, scratch, out)
        }
        _ => kernels::conv2d(x, windows, weights, requant, zero_point, scratch, out),
    }
}

/// As [`linear`].
#[cfg(target_os = "none")]
fn depthwise_conv2d(
    _: Backend,
    x: &[i8],
    windows: &Windows,
    weights: &WeightView<'_>,
    requant: &Requant,
    zero_point: i8,
    #[allow(unused_variables, reason = "for kernels of a family")] scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    match weights.layout.target() {
        #[cfg(core_family = "cortex-m4")]
        Target::CortexM4 => {
            kernels::cortex_m4::depthwise_conv2d(x, windows, weights, requant, zero_point, scratch, out)
        }
        #[cfg(core_family = "cortex-m55")]
        Target::CortexM55 => {
            kernels::cortex_m55::depthwise_conv2d(x, windows, weights, requant, zero_point, scratch, out)
        }
        #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
        Target::CortexM0 | Target::RiscV32 => {
            kernels::planes::depthwise_conv2d(x, windows, weights, requant, zero_point, scratch, out)
        }
        _ => kernels::depthwise_conv2d(x, windows, weights, requant, zero_point, out),
    }
}

fn range(offset: u32, len: usize) -> Option<Range<usize>> {
    let start = offset as usize;
    Some(start..start.checked_add(len)?)
}

/// The arena without the result and without the scratch buffer: up to three readable parts, each with its offset.
struct Parts<'a>([(usize, &'a [i8]); 3]);

impl Parts<'_> {
    fn find(&self, range: Range<usize>) -> Option<&[i8]> {
        self.0.iter().find_map(|&(start, part)| part.get(range.start.checked_sub(start)?..range.end - start))
    }
}

/// Takes the scratch buffer out of whichever part of the arena holds it.
fn carve<'a>(
    before: &'a mut [i8],
    after: &'a mut [i8],
    after_start: usize,
    scratch: Range<usize>,
) -> Option<(&'a mut [i8], Parts<'a>)> {
    let in_before = scratch.end <= before.len();
    let (part, part_start, other) =
        if in_before { (before, 0, (after_start, &*after)) } else { (after, after_start, (0, &*before)) };
    // An empty scratch buffer sits at offset 0 and cuts nothing off.
    let (low, rest) = part.split_at_mut_checked(scratch.start.checked_sub(part_start)?)?;
    let (taken, high) = rest.split_at_mut_checked(scratch.len())?;
    Some((taken, Parts([(part_start, low), (scratch.end, high), other])))
}

fn view<'a>(model: &Model<'a>, kind: OpKind, op: &OpRecord, input: &TensorInfo) -> Option<WeightView<'a>> {
    let size = weight_size(kind, op, input)?;
    Some(WeightView {
        spec: op.weight_spec,
        layout: size.layout,
        fan_in: size.fan_in,
        channels: op.output.shape[2].into(),
        codes: section(model.parameters, op.weights, size.code_bytes)?,
        divisors: section(model.parameters, op.divisors, size.divisor_bytes)?,
        params: section(model.parameters, op.params, size.param_bytes)?.as_chunks().0,
    })
}

fn requant(op: &OpRecord) -> Requant {
    Requant {
        shift: op.shift,
        zero_point: op.output.zero_point.into(),
        lo: op.clamp[0].into(),
        hi: op.clamp[1].into(),
    }
}

fn windows(op: &OpRecord, input: &TensorInfo) -> Windows {
    Windows {
        input: input.shape.map(usize::from),
        output: op.output.shape.map(usize::from),
        kernel: op.kernel.map(usize::from),
        stride: op.stride.map(usize::from),
        pad: op.pad.map(usize::from),
    }
}
