//! The one error type of the crate: small, `Copy`, numbers instead of strings, so that it costs no heap and little flash.

use core::fmt;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// The argument or buffer that an [`Error`] is about.
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
}

/// What went wrong, and where.
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
            Error::Rank { rank, max } => write!(f, "rank {rank} is outside 1..={max}"),
            Error::Capacity { what, capacity } => write!(f, "no room for more {what:?}: {capacity} is all"),
        }
    }
}

impl core::error::Error for Error {}
