//! The sample file: one input after the other.
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | `QSMP` |
//! | 4..8 | version, u32 little endian, 1 |
//! | 8..12 | number of samples, u32 little endian |
//! | 12..16 | values a sample, u32 little endian |
//! | 16.. | samples, one int8 a value |
//!
//! The logits file has no header: `number of samples × outputs` int8.

use core::ffi::CStr;

use crate::Failure;
use crate::semihosting::{File, Mode};

/// Name of the sample file, in the emulator's working directory.
pub const SAMPLES: &CStr = c"samples.bin";
/// Name of the logits file, in the emulator's working directory.
pub const LOGITS: &CStr = c"logits.bin";

/// Name of the file for the depth of the stack in bytes, u32 little endian, in the emulator's working directory.
pub const STACK: &CStr = c"stack.bin";

/// Memory for one sample, in and out.
pub struct Buffers<'a> {
    /// At least one input.
    pub input: &'a mut [i8],
    /// At least one output.
    pub output: &'a mut [i8],
}

/// Reads every sample of [`SAMPLES`], hands it to `run` together with the room for the answer, and appends the answer
/// to [`LOGITS`].
///
/// # Errors
/// A file that cannot be opened, read or written, a header that does not fit `input_len`, too little memory, or
/// the failure of `run`.
pub fn for_each_sample(
    input_len: usize,
    output_len: usize,
    buffers: Buffers<'_>,
    mut run: impl FnMut(&[i8], &mut [i8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let input = first("input buffer", buffers.input, input_len)?;
    let output = first("output buffer", buffers.output, output_len)?;

    let mut samples = File::open(SAMPLES, Mode::Read).ok_or(Failure::new("cannot open samples.bin"))?;
    let mut logits = File::open(LOGITS, Mode::Write).ok_or(Failure::new("cannot create logits.bin"))?;
    for _ in 0..read_header(&mut samples, input_len)? {
        samples.read(input).ok_or(Failure::new("samples.bin is shorter than its header says"))?;
        run(input, output)?;
        logits.write(output).ok_or(Failure::new("cannot write logits.bin"))?;
    }
    Ok(())
}

/// The first `len` elements of `buffer`.
pub(crate) fn first<'a, T>(
    what: &'static str,
    buffer: &'a mut [T],
    len: usize,
) -> Result<&'a mut [T], Failure> {
    let there = buffer.len();
    buffer.get_mut(..len).ok_or(Failure::too_small(what, len, there))
}

/// Checks the header and returns the number of samples.
fn read_header(samples: &mut File, input_len: usize) -> Result<u32, Failure> {
    let mut word = || {
        let mut word = [0u8; 4];
        samples.read(&mut word).ok_or(Failure::new("samples.bin has no header"))?;
        Ok(word)
    };
    let (magic, version, count, len) = (word()?, word()?, word()?, word()?);
    if magic != *b"QSMP" || u32::from_le_bytes(version) != 1 {
        return Err(Failure::new("samples.bin is not a sample file of version 1"));
    }
    match usize::try_from(u32::from_le_bytes(len)) {
        Ok(len) if len == input_len => Ok(u32::from_le_bytes(count)),
        _ => Err(Failure::new("samples.bin has samples of another length than the model's input")),
    }
}

/// Writes [`STACK`].
///
/// # Errors
/// A file that cannot be written.
pub fn write_stack(bytes: usize) -> Result<(), Failure> {
    let written =
        File::open(STACK, Mode::Write).and_then(|mut file| file.write(&(bytes as u32).to_le_bytes()));
    written.ok_or(Failure::new("cannot write stack.bin"))
}
