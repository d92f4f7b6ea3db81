//! The program section: a 32-byte model header and one 64-byte record per operator, little-endian, fixed width.
//!
//! Operator `i` makes tensor `i + 1`; tensor 0 is the model's input and the last tensor its output. A record therefore
//! describes its result, too. Field offsets are in `docs/format.md` and in the two `write`/`read` pairs below.

use super::sections::{u16_at, u32_at};
#[cfg(feature = "alloc")]
use crate::grid::Grid;

pub(crate) const HEADER_LEN: usize = 32;
pub(crate) const RECORD_LEN: usize = 64;
/// Arena offset of the last operator's result, which goes to the caller's output instead.
pub(crate) const IN_OUTPUT: u32 = u32::MAX;

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum OpKind {
    /// Fully connected, the input read as one flat vector.
    Linear = 1,
    Conv2d = 2,
    DepthwiseConv2d = 3,
    MaxPool = 4,
    AvgPool = 5,
    Add = 6,
    /// Index of the first largest input as u16, little-endian, in two bytes.
    ArgMax = 7,
    /// A function of one value, by table.
    Table = 8,
    /// Softmax over the channels.
    Softmax = 9,
    /// Randomised Hadamard rotation of the input, read as one flat vector.
    Hadamard = 10,
}

impl OpKind {
    pub(crate) const fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => OpKind::Linear,
            2 => OpKind::Conv2d,
            3 => OpKind::DepthwiseConv2d,
            4 => OpKind::MaxPool,
            5 => OpKind::AvgPool,
            6 => OpKind::Add,
            7 => OpKind::ArgMax,
            8 => OpKind::Table,
            9 => OpKind::Softmax,
            10 => OpKind::Hadamard,
            _ => return None,
        })
    }

    /// Whether each output value depends on the operands' values at its own place only, so that the result may take the
    /// place of one of them.
    pub(crate) const fn in_place(self) -> bool {
        matches!(self, OpKind::Add)
    }

    /// Whether the operator has weights, biases and multipliers.
    pub(crate) const fn has_weights(self) -> bool {
        matches!(self, OpKind::Linear | OpKind::Conv2d | OpKind::DepthwiseConv2d)
    }

    /// Bytes in the parameter section of an operator without weights: a value for each input; e^(−s·d) for each distance d
    /// from the largest input; seed and block of a rotation.
    pub(crate) const fn constant_bytes(self) -> usize {
        match self {
            OpKind::Table => 256,
            OpKind::Softmax => 512,
            OpKind::Hadamard => RotationRecord::LEN,
            _ => 0,
        }
    }

    /// Its name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            OpKind::Linear => "linear",
            OpKind::Conv2d => "conv2d",
            OpKind::DepthwiseConv2d => "depthwise_conv2d",
            OpKind::MaxPool => "max_pool",
            OpKind::AvgPool => "avg_pool",
            OpKind::Add => "add",
            OpKind::ArgMax => "argmax",
            OpKind::Table => "table",
            OpKind::Softmax => "softmax",
            OpKind::Hadamard => "hadamard",
        }
    }
}

/// A tensor: int8, height × width × channels, channels innermost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TensorInfo {
    pub(crate) shape: [u16; 3],
    pub(crate) zero_point: i8,
    pub(crate) scale: f32,
    /// Byte offset in the arena, or [`IN_OUTPUT`].
    pub(crate) offset: u32,
}

impl TensorInfo {
    /// Elements; at most 2^48, which `None` keeps off 32-bit cores.
    pub(crate) fn len(&self) -> Option<usize> {
        let [h, w, c] = self.shape.map(usize::from);
        h.checked_mul(w)?.checked_mul(c)
    }
}

/// Header of the program section.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ModelHeader {
    pub(crate) input: TensorInfo,
    pub(crate) operators: u16,
    pub(crate) arena_len: u32,
}

/// How an operator's weights are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WeightSpec {
    pub(crate) bits: u8,
    /// 0 mid-tread, 1 mid-rise.
    pub(crate) grid: u8,
    /// Number of the core family whose order the codes have, see [`Target`](super::Target).
    pub(crate) layout: u8,
    /// Weights that share a divisor k, 0 where k is fixed.
    pub(crate) group: u8,
}

impl WeightSpec {
    pub(crate) const NONE: Self = Self { bits: 0, grid: 0, layout: 0, group: 0 };

    #[cfg(feature = "alloc")]
    pub(crate) const fn grid_code(grid: Grid) -> u8 {
        match grid {
            Grid::MidTread => 0,
            Grid::MidRise => 1,
        }
    }
}

/// One operator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OpRecord {
    pub(crate) kind: u8,
    pub(crate) weight_spec: WeightSpec,
    /// n of the requantisation, `… >> n`.
    pub(crate) shift: u8,
    /// Smallest and largest output, where ReLU and ReLU6 live.
    pub(crate) clamp: [i8; 2],
    /// Tensors read; the second one is used by additions only.
    pub(crate) inputs: [u16; 2],
    pub(crate) kernel: [u16; 2],
    pub(crate) stride: [u8; 2],
    /// Rows above and columns left of the input that count as zero.
    pub(crate) pad: [u8; 2],
    /// Offsets in the parameter section: codes, packed divisors, channel parameters.
    pub(crate) weights: u32,
    pub(crate) divisors: u32,
    pub(crate) params: u32,
    /// Multipliers of operators without channel parameters.
    pub(crate) multipliers: [i32; 2],
    pub(crate) output: TensorInfo,
    /// Arena offset of the scratch buffer.
    pub(crate) scratch: u32,
}

/// Bias and multiplier of one output channel: 8 bytes, the bias first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChannelParams {
    /// In units of the accumulator, with `−z_x·Σ m_g·(2·level)` folded in.
    pub(crate) bias: i32,
    /// M, not negative.
    pub(crate) multiplier: i32,
}

impl ChannelParams {
    pub(crate) const LEN: usize = 8;

    #[inline(always)]
    pub(crate) fn read(bytes: &[u8; Self::LEN]) -> Self {
        let [a, b, c, d, e, f, g, h] = *bytes;
        Self { bias: i32::from_le_bytes([a, b, c, d]), multiplier: i32::from_le_bytes([e, f, g, h]) }
    }

    #[cfg(feature = "alloc")]
    pub(crate) fn write(self) -> [u8; Self::LEN] {
        let ([a, b, c, d], [e, f, g, h]) = (self.bias.to_le_bytes(), self.multiplier.to_le_bytes());
        [a, b, c, d, e, f, g, h]
    }
}

/// A rotation: seed u64, block u32, 0 u32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RotationRecord {
    pub(crate) seed: u64,
    /// Numbers of a block, a power of two.
    pub(crate) block: u32,
}

impl RotationRecord {
    pub(crate) const LEN: usize = 16;

    /// `None` if short, or if the last four bytes are not zero.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let seed = u64::from(u32_at(bytes, 0)?) | u64::from(u32_at(bytes, 4)?) << 32;
        (u32_at(bytes, 12)? == 0).then_some(Self { seed, block: u32_at(bytes, 8)? })
    }

    #[cfg(feature = "alloc")]
    pub(crate) fn write(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.seed.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.block.to_le_bytes());
        bytes
    }
}

impl ModelHeader {
    /// `None` if short, or if a reserved byte is not zero.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        let reserved = bytes[7] == 0 && bytes[14..16] == [0; 2] && bytes[20..] == [0; 12];
        reserved.then_some(())?;
        Some(Self {
            input: TensorInfo {
                shape: [u16_at(bytes, 0)?, u16_at(bytes, 2)?, u16_at(bytes, 4)?],
                zero_point: bytes[6] as i8,
                scale: f32::from_bits(u32_at(bytes, 8)?),
                offset: 0,
            },
            operators: u16_at(bytes, 12)?,
            arena_len: u32_at(bytes, 16)?,
        })
    }

    #[cfg(feature = "alloc")]
    pub(crate) fn write(&self) -> [u8; HEADER_LEN] {
        let mut b = [0; HEADER_LEN];
        for (to, dim) in b.chunks_exact_mut(2).zip(self.input.shape) {
            to.copy_from_slice(&dim.to_le_bytes());
        }
        b[6] = self.input.zero_point as u8;
        b[8..12].copy_from_slice(&self.input.scale.to_le_bytes());
        b[12..14].copy_from_slice(&self.operators.to_le_bytes());
        b[16..20].copy_from_slice(&self.arena_len.to_le_bytes());
        b
    }
}

impl OpRecord {
    /// `None` if short; says nothing about the values.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let b: &[u8; RECORD_LEN] = bytes.first_chunk()?;
        let u16_ = |at: usize| u16_at(b, at);
        let u32_ = |at: usize| u32_at(b, at);
        Some(Self {
            kind: b[0],
            weight_spec: WeightSpec { bits: b[1], grid: b[2], layout: b[3], group: b[4] },
            shift: b[5],
            clamp: [b[6] as i8, b[7] as i8],
            inputs: [u16_(8)?, u16_(10)?],
            kernel: [u16_(12)?, u16_(14)?],
            stride: [b[16], b[17]],
            pad: [b[18], b[19]],
            weights: u32_(20)?,
            divisors: u32_(24)?,
            params: u32_(28)?,
            multipliers: [u32_(32)?.cast_signed(), u32_(36)?.cast_signed()],
            output: TensorInfo {
                shape: [u16_(40)?, u16_(42)?, u16_(44)?],
                zero_point: b[46] as i8,
                scale: f32::from_bits(u32_(48)?),
                offset: u32_(52)?,
            },
            scratch: u32_(56)?,
        })
    }

    /// Whether the reserved bytes of a record are zero.
    pub(crate) fn reserved_is_zero(bytes: &[u8]) -> bool {
        bytes.first_chunk::<RECORD_LEN>().is_some_and(|b| b[47] == 0 && b[60..] == [0; 4])
    }

    #[cfg(feature = "alloc")]
    pub(crate) fn write(&self) -> [u8; RECORD_LEN] {
        let mut b = [0; RECORD_LEN];
        let mut put = |at: usize, value: &[u8]| b[at..at + value.len()].copy_from_slice(value);
        let spec = self.weight_spec;
        put(0, &[self.kind, spec.bits, spec.grid, spec.layout, spec.group, self.shift]);
        put(6, &self.clamp.map(i8::cast_unsigned));
        for (at, value) in [
            (8, self.inputs[0]),
            (10, self.inputs[1]),
            (12, self.kernel[0]),
            (14, self.kernel[1]),
            (40, self.output.shape[0]),
            (42, self.output.shape[1]),
            (44, self.output.shape[2]),
        ] {
            put(at, &value.to_le_bytes());
        }
        put(16, &self.stride);
        put(18, &self.pad);
        put(46, &[self.output.zero_point as u8]);
        for (at, value) in [
            (20, self.weights),
            (24, self.divisors),
            (28, self.params),
            (32, self.multipliers[0].cast_unsigned()),
            (36, self.multipliers[1].cast_unsigned()),
            (48, self.output.scale.to_bits()),
            (52, self.output.offset),
            (56, self.scratch),
        ] {
            put(at, &value.to_le_bytes());
        }
        b
    }
}

#[cfg(test)]
#[cfg(feature = "alloc")]
mod tests {
    use super::*;

    /// Records whose every byte differs: a field read from or written to the wrong place shows.
    #[test]
    fn every_field_keeps_its_place() {
        let mut bytes: Vec<u8> = (1..=RECORD_LEN as u8).collect();
        bytes[47] = 0;
        bytes[60..].fill(0);
        assert!(OpRecord::reserved_is_zero(&bytes));
        assert_eq!(OpRecord::read(&bytes).unwrap().write(), bytes[..]);
        for reserved in [47, 60, 61, 62, 63] {
            let mut b = bytes.clone();
            b[reserved] = 1;
            assert!(!OpRecord::reserved_is_zero(&b));
        }
        let mut header: Vec<u8> = (1..=HEADER_LEN as u8).collect();
        for reserved in [7, 14, 15].into_iter().chain(20..32) {
            header[reserved] = 0;
        }
        assert_eq!(ModelHeader::read(&header).unwrap().write(), header[..]);
        header[31] = 1;
        assert_eq!(ModelHeader::read(&header), None);
    }
}
