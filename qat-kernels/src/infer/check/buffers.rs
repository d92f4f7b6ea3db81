//! Where results, operands and scratch memory lie: inside the arena, apart from one another, and left alone as long as
//! somebody reads them.

use super::super::model::Model;
use super::scratch_len;
use crate::artifact::{IN_OUTPUT, OpKind, OpRecord, TensorInfo};
use crate::error::OpFault;
use core::ops::Range;

/// What an operator does to the arena.
struct Writes {
    result: Range<usize>,
    scratch: Range<usize>,
}

/// Checks the buffers of operator `index`.
pub(super) fn buffers(
    model: &Model<'_>,
    index: usize,
    kind: OpKind,
    op: &OpRecord,
    input: &TensorInfo,
) -> Result<(), OpFault> {
    let Writes { result, scratch } = writes(model, index, kind, op, input)?;
    let is_last = index + 1 == usize::from(model.header.operators);
    let no_scratch = scratch.is_empty() && op.scratch != 0;
    if is_last != (op.output.offset == IN_OUTPUT) || no_scratch || overlap(&result, &scratch) {
        return Err(OpFault::Arena);
    }
    let mut shared = false;
    for &tensor in &op.inputs {
        if tensor == 0 {
            continue;
        }
        let operand = place(model, tensor.into())?;
        // One operand may be where the result is to be, all of it, if every value is read before it is written.
        let in_place = kind.in_place() && !shared && operand == result;
        shared |= in_place;
        if overlap(&operand, &scratch) || (overlap(&operand, &result) && !in_place) {
            return Err(OpFault::Arena);
        }
        untouched(model, tensor.into(), &operand, index)?;
    }
    Ok(())
}

/// Nobody between the operator that makes `tensor` and operator `reader` writes to its place.
fn untouched(model: &Model<'_>, tensor: usize, operand: &Range<usize>, reader: usize) -> Result<(), OpFault> {
    for between in tensor..reader {
        let op = model.record(between).ok_or(OpFault::Input)?;
        let kind = OpKind::from_u8(op.kind).ok_or(OpFault::Kind { kind: op.kind })?;
        let input = model.tensor(op.inputs[0].into()).ok_or(OpFault::Input)?;
        let Writes { result, scratch } = writes(model, between, kind, &op, &input)?;
        if overlap(operand, &result) || overlap(operand, &scratch) {
            return Err(OpFault::Arena);
        }
    }
    Ok(())
}

/// What operator `index` writes in the arena; the last one's result is elsewhere.
fn writes(
    model: &Model<'_>,
    index: usize,
    kind: OpKind,
    op: &OpRecord,
    input: &TensorInfo,
) -> Result<Writes, OpFault> {
    let is_last = index + 1 == usize::from(model.header.operators);
    let scratch = scratch_len(kind, op, input).ok_or(OpFault::Shape)?;
    Ok(Writes {
        result: if is_last { 0..0 } else { place(model, index + 1)? },
        scratch: inside(model, op.scratch, scratch)?,
    })
}

/// Where a tensor other than the input lies.
fn place(model: &Model<'_>, tensor: usize) -> Result<Range<usize>, OpFault> {
    let info = model.tensor(tensor).ok_or(OpFault::Input)?;
    inside(model, info.offset, info.len().ok_or(OpFault::Shape)?)
}

fn inside(model: &Model<'_>, offset: u32, len: usize) -> Result<Range<usize>, OpFault> {
    let start = offset as usize;
    let end = start.checked_add(len).filter(|&end| end <= model.arena_len()).ok_or(OpFault::Arena)?;
    Ok(start..end)
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
#[cfg(feature = "alloc")]
mod tests {
    use super::super::tests::{parse, sample, with_all};
    use crate::artifact::{HEADER_LEN, RECORD_LEN};
    use crate::error::{Error, OpFault};
    use crate::infer::Model;

    /// Where the offset of the result of operator `op` is, and which tensor it reads.
    const fn result(op: usize) -> usize {
        HEADER_LEN + op * RECORD_LEN + 52
    }
    const fn reads(op: usize) -> usize {
        HEADER_LEN + op * RECORD_LEN + 8
    }

    fn refused(op: usize) -> Result<(), Error> {
        Err(Error::Op { op, fault: OpFault::Arena })
    }

    /// conv → 1, depthwise → 2, add → 3, average → 4, linear.
    #[test]
    fn overlaps_are_refused_where_they_do_harm() {
        let file = sample();
        let model = Model::parse(&file).unwrap();
        let [conv, dw, sum, mean] = [1, 2, 3, 4].map(|t| model.tensor(t).unwrap().offset);
        // The sum takes the place of an operand; of either, but only as a whole.
        assert_eq!((sum, mean), (conv, dw));
        let apart = (result(3), &conv.to_le_bytes()[..]);
        assert_eq!(parse(&with_all(&[(result(2), &dw.to_le_bytes()), apart])), Ok(()));
        assert_eq!(parse(&with_all(&[(result(2), &(dw - 4).to_le_bytes()), apart])), refused(2));
        // Others may not: they read a value more than once, or elsewhere.
        assert_eq!(parse(&with_all(&[(result(1), &conv.to_le_bytes())])), refused(1));
        assert_eq!(parse(&with_all(&[apart])), refused(3));
    }

    /// The average reads the depthwise result instead of the sum, which may have been written over it in the meantime.
    #[test]
    fn what_is_read_later_must_be_left_alone() {
        let file = sample();
        let [conv, dw] = [1, 2].map(|t| Model::parse(&file).unwrap().tensor(t).unwrap().offset.to_le_bytes());
        let mean = (result(3), &conv[..]);
        let over_it = (result(2), &dw[..]);
        let other = (reads(3), &[2, 0][..]);
        assert_eq!(parse(&with_all(&[mean, over_it])), Ok(()));
        assert_eq!(parse(&with_all(&[mean, other])), Ok(()));
        assert_eq!(parse(&with_all(&[mean, over_it, other])), refused(3));
    }
}
