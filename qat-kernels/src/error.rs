//! The one error type of the crate: small, `Copy`, numbers instead of strings, so that it costs no heap and little flash.

use crate::artifact::Target;
use crate::invariants::Invariant;
use core::fmt;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// The argument or buffer that an [`Error`] is about.
///
/// ```
/// use qat_kernels::{Error, Grid, Levels, What, ste_simd};
/// let (two_weights, mut one_code) = ([0.1, 0.2], [0]);
/// let got = ste_simd::quantize(Levels::new(4, Grid::MidTread)?, &[0.5], &two_weights, &mut one_code);
/// assert_eq!(got, Err(Error::Length { what: What::Codes, expected: 2, got: 1 }));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Weights (or whatever is being quantised).
    Weights,
    /// A gradient, incoming or outgoing.
    Gradient,
    /// Integer codes.
    Codes,
    /// Packed bytes.
    Packed,
    /// Step sizes or scales, one per channel or group.
    Steps,
    /// α of a Pi quantiser, one per channel.
    Alpha,
    /// The divisors k of a Pi quantiser, one per group.
    Divisors,
    /// Importance weights of a search.
    Importance,
    /// State of an optimiser (moments).
    Moments,
    /// Samples handed to a calibration.
    Samples,
    /// Output buffer.
    Output,
    /// Input of a model or layer.
    Input,
    /// The arena or another scratch buffer.
    Arena,
    /// The learning rate.
    LearningRate,
    /// The clip value of a clipped STE.
    ClipVal,
    /// λ of EWGS or of a loss term.
    Lambda,
    /// The number of epochs.
    Epochs,
    /// A group size (sub-channel granularity).
    Group,
    /// Number of channels.
    Channels,
    /// Number of columns of a matrix.
    Columns,
    /// A rank (LoRA).
    Rank,
    /// A histogram or its bins.
    Histogram,
    /// A percentile, a momentum, or another share in `0..=1`.
    Share,
    /// A name or other text.
    Text,
    /// Bias of a layer.
    Bias,
    /// A scale of activations.
    Scale,
    /// ε of an optimiser.
    Epsilon,
    /// Weight decay of an optimiser.
    WeightDecay,
    /// The number of an update, counted from 1.
    Update,
    /// The configuration of a calibration.
    Config,
    /// The granularity asked for.
    Granularity,
    /// The SHA-256 of a data set.
    Dataset,
    /// The number of samples that a calibration saw.
    SampleCount,
    /// A point in time.
    Time,
    /// Domains of a data set, with their counts.
    Domains,
    /// Tensors of a calibration.
    Tensors,
    /// Samples a second.
    SampleRate,
    /// Samples of a frame.
    Frame,
    /// Samples from one frame to the next.
    Hop,
    /// Bands of frequencies.
    Bands,
    /// The upper end of the bands, in Hz.
    Frequency,
}

/// What is wrong with the outer layer of a file.
///
/// ```
/// use qat_kernels::{Error, FileFault, artifact::MAGIC, infer::Model};
/// let fault_of = |file| Model::parse(file).map(|_| ());
/// assert_eq!(fault_of(b"RIFF"), Err(Error::File { at: 0, fault: FileFault::Magic }));
/// assert_eq!(fault_of(&MAGIC), Err(Error::File { at: 4, fault: FileFault::Truncated { got: 4 } }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileFault {
    /// The first bytes are not this format's.
    Magic,
    /// A format version that this crate does not know.
    Version {
        /// The version found.
        version: u16,
    },
    /// The file ends inside its header.
    Truncated {
        /// Bytes there are.
        got: usize,
    },
    /// The length in the header is not the length of the file.
    TotalLength {
        /// Length according to the header.
        stated: usize,
        /// Length there is.
        got: usize,
    },
    /// The checksum does not match: the file was damaged.
    Crc,
    /// A reserved field is not zero.
    Reserved,
    /// The section table contradicts itself or the file.
    SectionTable,
    /// A section of a kind that this crate does not know.
    UnknownSection {
        /// The kind found.
        kind: u16,
    },
    /// Bytes after the last section.
    TrailingBytes,
    /// More than 4 GiB, or more sections or operators than the format can count.
    TooLong,
    /// The metadata section does not decode.
    Metadata,
    /// The known answers do not have the model's shape.
    KnownAnswers,
    /// The model header is damaged or has fields out of range.
    ModelHeader,
    /// A signature section of the wrong length.
    SignatureSection,
    /// No signature where one is required.
    Unsigned,
    /// Signed with another key than the one required.
    OtherSigner,
    /// The signature is not the signer's of these bytes.
    Signature,
    /// Not an Ed25519 key that a signature can be checked with.
    PublicKey,
}

/// What is wrong with an operator of a model.
///
/// ```
/// # #[cfg(feature = "alloc")] {
/// use qat_kernels::artifact::{ModelBuilder, Output, Steps, TensorSpec, Weights};
/// use qat_kernels::{Error, Grid, Levels, OpFault};
/// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 1], scale: 0.5, zero_point: 0 });
/// let levels = Levels::new(2, Grid::MidTread)?;
/// let weights = Weights { levels, codes: &[1, -2], steps: Steps::PerChannel(&[0.5, 0.5]) };
/// // The second bias is 2^40 units of 0.5·0.5/2: more than an accumulator holds.
/// let layer = b.linear(b.input(), &weights, &[1.0, (1u64 << 37) as f32], Output::new(0.5, 0));
/// assert_eq!(layer.err(), Some(Error::Op { op: 0, fault: OpFault::Overflow { channel: 1 } }));
/// # }
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpFault {
    /// An operator kind that this crate does not know.
    Kind {
        /// The kind found.
        kind: u8,
    },
    /// Weights packed in an order that does not exist, or not for such a layer.
    Layout {
        /// The layout found.
        layout: u8,
    },
    /// Weights packed for another core family than this build runs on.
    Target {
        /// The family that the file is packed for.
        packed_for: Target,
        /// The family of this build.
        device: Target,
    },
    /// The file lies at an address that its kernels cannot read words from; it needs a multiple of 4.
    Alignment,
    /// Bit width, grid or group size that does not exist or does not fit the layer.
    Quantiser,
    /// An input that does not exist yet at this point of the program.
    Input,
    /// Shapes that do not fit together, or are empty or too large.
    Shape,
    /// Kernel, stride or padding that does not fit the shapes.
    Window,
    /// Parameters outside their section, misaligned or of the wrong length.
    Parameters,
    /// Buffers outside the arena, or overlapping where they must not.
    Arena,
    /// A scale, multiplier, shift or clamp out of range.
    Requantisation,
    /// The accumulator of this channel could overflow 32 bits.
    Overflow {
        /// The channel.
        channel: u32,
    },
    /// A reserved field is not zero.
    Reserved,
}

/// What is wrong with a tensor of a calibration artifact.
///
/// ```
/// use qat_kernels::calibration::{CalibrationConfig, Parts, TensorCalibration};
/// use qat_kernels::{QuantGranularity, TensorFault};
/// let config = CalibrationConfig::default().with_granularity(QuantGranularity::PerTensor);
/// let mut tensor = TensorCalibration { name: "", config, parts: Parts::default() };
/// assert_eq!(tensor.validate(), Err(TensorFault::Name));
/// tensor.name = "conv1.out";
/// assert_eq!(tensor.validate(), Err(TensorFault::Parts { got: 0 })); // one tensor, one part
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorFault {
    /// The name is empty or too long.
    Name,
    /// An earlier tensor has the same name.
    DuplicateName,
    /// The configuration is not one that can be calibrated with.
    Config,
    /// The number of parts does not fit the granularity.
    Parts {
        /// Parts there are.
        got: usize,
    },
    /// The range of a part is not finite, or its ends are swapped.
    Range {
        /// The part.
        part: usize,
    },
    /// The scale of a part is not positive, finite and normal.
    Scale {
        /// The part.
        part: usize,
    },
    /// The zero point of a part is not a code of the tensor's bit width, or not 0 in a symmetric scheme.
    ZeroPoint {
        /// The part.
        part: usize,
    },
}

/// What went wrong, and where.
///
/// ```
/// use qat_kernels::{Error, pi_step};
/// assert_eq!(pi_step(0.5, 7), Err(Error::Divisor { k: 7 }));
/// let text = pi_step(0.5, 7).map_err(|error| error.to_string());
/// assert_eq!(text, Err("Pi divisor k = 7; only 2, 3, 4 and 5 exist".into()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A bit width outside `MIN_BITS..=MAX_BITS`.
    Bits {
        /// The width asked for.
        bits: u8,
    },
    /// A Pi divisor outside `{2, 3, 4, 5}`.
    Divisor {
        /// The divisor asked for.
        k: u8,
    },
    /// A size of adaptive groups that is none of 8, 16 and 32.
    Group {
        /// The size asked for.
        group: usize,
    },
    /// A number that must be positive and finite is not (α, a step, a scale, a rate).
    NotPositive {
        /// Which number.
        what: What,
        /// Its index in the slice, 0 for a single number.
        index: usize,
        /// The value found.
        value: f32,
    },
    /// NaN or an infinity where a finite number is needed.
    NotFinite {
        /// Which slice.
        what: What,
        /// Index of the first offender.
        index: usize,
    },
    /// A number outside its allowed range.
    Range {
        /// Which number.
        what: What,
        /// The value found.
        value: f32,
        /// Smallest allowed value.
        min: f32,
        /// Largest allowed value.
        max: f32,
    },
    /// A slice of the wrong length.
    Length {
        /// Which slice.
        what: What,
        /// The length needed.
        expected: usize,
        /// The length given.
        got: usize,
    },
    /// A slice that must not be empty is.
    Empty {
        /// Which slice.
        what: What,
    },
    /// A length that must be divided evenly is not.
    NotDivisible {
        /// Which length.
        what: What,
        /// The length.
        len: usize,
        /// The divisor.
        by: usize,
    },
    /// A code outside the grid.
    Code {
        /// Index of the code.
        index: usize,
        /// The code found.
        code: i32,
    },
    /// A rank outside `1..=min(d_in, d_out)` (INV-6).
    Rank {
        /// The rank asked for.
        rank: usize,
        /// The largest rank allowed.
        max: usize,
    },
    /// A file is not what it should be.
    File {
        /// Byte offset of the trouble.
        at: usize,
        /// What is wrong there.
        fault: FileFault,
    },
    /// An operator of a model is not what it should be.
    Op {
        /// Index of the operator.
        op: usize,
        /// What is wrong with it.
        fault: OpFault,
    },
    /// A known answer of the file does not come out of this engine.
    KnownAnswer {
        /// Index of the known answer.
        index: usize,
    },
    /// No usable sample was seen where one is needed.
    NoSamples {
        /// The part (channel, group) without samples.
        part: usize,
    },
    /// Two things that must agree do not.
    Mismatch {
        /// Which things.
        what: What,
    },
    /// A valid choice that this operation cannot serve.
    Unsupported {
        /// Which choice.
        what: What,
    },
    /// A provenance without this item (INV-5), or with a contradictory one.
    Provenance {
        /// Which item.
        what: What,
    },
    /// A tensor of a calibration artifact is not what it should be.
    Tensor {
        /// Index of the tensor.
        tensor: usize,
        /// What is wrong with it.
        fault: TensorFault,
    },
    /// An invariant of the design is broken: a fault of the program, found by a check of [`crate::invariants`].
    Invariant {
        /// Which invariant.
        invariant: Invariant,
        /// Index of the first place where it is broken.
        index: usize,
    },
    /// A fixed capacity is used up.
    Capacity {
        /// Of what.
        what: What,
        /// The capacity.
        capacity: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Bits { bits } => write!(f, "{bits} bits asked for; 2 to 8 are possible"),
            Error::Divisor { k } => write!(f, "Pi divisor k = {k}; only 2, 3, 4 and 5 exist"),
            Error::Group { group } => write!(f, "groups of {group} weights; only 8, 16 and 32 exist"),
            Error::NotPositive { what, index, value } => {
                write!(f, "{what:?}[{index}] is {value}; it must be positive and finite")
            }
            Error::NotFinite { what, index } => write!(f, "{what:?}[{index}] is NaN or infinite"),
            Error::Range { what, value, min, max } => {
                write!(f, "{what:?} is {value}; it must lie in {min}..={max}")
            }
            Error::Length { what, expected, got } => {
                write!(f, "{what:?} has length {got}; {expected} needed")
            }
            Error::Empty { what } => write!(f, "{what:?} is empty"),
            Error::NotDivisible { what, len, by } => {
                write!(f, "{what:?} of length {len} does not divide into parts of {by}")
            }
            Error::Code { index, code } => write!(f, "code {code} at index {index} is outside the grid"),
            Error::Rank { rank, max: 0 } => write!(f, "rank {rank} of a layer without inputs or outputs"),
            Error::Rank { rank, max } => write!(f, "rank {rank} is outside 1..={max}"),
            Error::File { at, fault } => write!(f, "byte {at}: {fault}"),
            Error::Op { op, fault } => write!(f, "operator {op}: {fault}"),
            Error::KnownAnswer { index } => {
                write!(f, "known answer {index} differs from what this engine computes")
            }
            Error::NoSamples { part } => write!(f, "part {part} has seen no finite sample"),
            Error::Mismatch { what } => write!(f, "{what:?} differ; they must agree"),
            Error::Unsupported { what } => write!(f, "this operation does not serve that {what:?}"),
            Error::Provenance { what } => write!(f, "the provenance lacks or contradicts its {what:?}"),
            Error::Tensor { tensor, fault } => write!(f, "tensor {tensor}: {fault}"),
            Error::Invariant { invariant, index } => write!(f, "{invariant} is broken at index {index}"),
            Error::Capacity { what, capacity } => write!(f, "no room for more {what:?}: {capacity} is all"),
        }
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            FileFault::Magic => f.write_str("not a file of this format (wrong first bytes)"),
            FileFault::Version { version } => write!(f, "format version {version} is not known here"),
            FileFault::Truncated { got } => write!(f, "the file ends inside its header after {got} bytes"),
            FileFault::TotalLength { stated, got } => {
                write!(f, "the header states {stated} bytes but there are {got}")
            }
            FileFault::Crc => f.write_str("checksum mismatch, the file is damaged"),
            FileFault::Reserved => f.write_str("a reserved field is not zero"),
            FileFault::SectionTable => f.write_str("the section table is broken"),
            FileFault::UnknownSection { kind } => write!(f, "section kind {kind} is not known here"),
            FileFault::TrailingBytes => f.write_str("bytes after the last section"),
            FileFault::TooLong => f.write_str("too long for the format"),
            FileFault::Metadata => f.write_str("the metadata does not decode"),
            FileFault::KnownAnswers => f.write_str("the known answers do not have the model's shape"),
            FileFault::ModelHeader => f.write_str("the model header is broken"),
            FileFault::SignatureSection => f.write_str("the signature section has the wrong length"),
            FileFault::Unsigned => f.write_str("the file is not signed"),
            FileFault::OtherSigner => {
                f.write_str("the file is signed with another key than the one required")
            }
            FileFault::Signature => f.write_str("the signature does not belong to these bytes"),
            FileFault::PublicKey => f.write_str("the public key is no Ed25519 key, or a weak one"),
        }
    }
}

impl fmt::Display for OpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            OpFault::Kind { kind } => write!(f, "kind {kind} is not known here"),
            OpFault::Layout { layout } => {
                write!(f, "layout {layout} of the weights does not exist for such a layer")
            }
            OpFault::Target { packed_for, device } => {
                write!(f, "the weights are packed for {packed_for}, this engine runs on {device}")
            }
            OpFault::Alignment => f.write_str("the weights do not lie on a four-byte boundary"),
            OpFault::Quantiser => f.write_str("bits, grid or group do not exist or do not fit the layer"),
            OpFault::Input => f.write_str("an input does not exist at this point"),
            OpFault::Shape => f.write_str("shapes do not fit together"),
            OpFault::Window => f.write_str("kernel, stride or padding do not fit the shapes"),
            OpFault::Parameters => {
                f.write_str("parameters lie outside their section or have the wrong length")
            }
            OpFault::Arena => f.write_str("buffers lie outside the arena or overlap"),
            OpFault::Requantisation => f.write_str("a scale, multiplier, shift or clamp is out of range"),
            OpFault::Overflow { channel } => write!(f, "the accumulator of channel {channel} could overflow"),
            OpFault::Reserved => f.write_str("a reserved field is not zero"),
        }
    }
}

impl fmt::Display for TensorFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            TensorFault::Name => f.write_str("the name is empty or too long"),
            TensorFault::DuplicateName => f.write_str("an earlier tensor has the same name"),
            TensorFault::Config => f.write_str("the configuration is out of range"),
            TensorFault::Parts { got } => write!(f, "{got} parts do not fit the granularity"),
            TensorFault::Range { part } => write!(f, "the range of part {part} is not finite or swapped"),
            TensorFault::Scale { part } => write!(f, "the scale of part {part} is not positive and finite"),
            TensorFault::ZeroPoint { part } => {
                write!(f, "the zero point of part {part} is no code of its scheme")
            }
        }
    }
}

impl core::error::Error for Error {}
