//! A checked model and what can be asked of it.

use super::{check, engine};
use crate::arch::Backend;
use crate::artifact::signature::Signature;
use crate::artifact::{
    HEADER_LEN, Metadata, ModelHeader, OpKind, OpRecord, RECORD_LEN, Sections, TensorInfo,
};
use crate::error::{Error, FileFault, Result, What};

/// A `.piq` model, borrowed from the bytes of its file: nothing is copied, so the file may stay in flash.
///
/// ```
/// # #[cfg(feature = "alloc")] {
/// use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
/// use qat_kernels::{Grid, Levels, infer::Model};
///
/// // A layer of two inputs and one output, weights 0.5·(1, −2), bias 0.25.
/// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 2], scale: 0.25, zero_point: 0 });
/// let weights = Weights {
///     levels: Levels::new(2, Grid::MidTread)?,
///     codes: &[1, -2],
///     steps: Steps::PerChannel(&[0.5]),
/// };
/// b.linear(b.input(), &weights, &[0.25], Output::new(0.125, 0))?;
/// let file = b.finish(&Metadata::default(), &[&[4, 1]])?;
///
/// let model = Model::parse(&file)?;
/// let mut output = [0];
/// let mut arena = [0; 64];
/// model.run(&[4, 1], &mut output, &mut arena)?;
/// assert_eq!(output, [4]); // 0.5·1.0 − 1.0·0.25 + 0.25 = 0.5, in units of 0.125
/// # }
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    pub(super) header: ModelHeader,
    pub(super) records: &'a [u8],
    pub(super) parameters: &'a [u8],
    metadata: &'a [u8],
    known_answers: &'a [u8],
    signature: Option<Signature<'a>>,
    output: TensorInfo,
    macs: u64,
    input_len: usize,
    output_len: usize,
}

/// An input of the file with the output that every engine must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownAnswer<'a> {
    /// The model's input.
    pub input: &'a [i8],
    /// The model's output.
    pub output: &'a [i8],
}

/// What an operator is, for reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatorInfo {
    /// Its name: `linear`, `conv2d`, `depthwise_conv2d`, `max_pool`, `avg_pool`, `add`, `argmax`, `table`, `softmax`,
    /// `hadamard`.
    pub name: &'static str,
    /// Bits per weight, 0 without weights.
    pub bits: u8,
    /// Weights per divisor k, 0 where k is fixed.
    pub group: u8,
    /// Number of weights.
    pub weights: usize,
    /// Bytes of codes and divisors.
    pub code_bytes: usize,
    /// Bytes of codes, divisors, biases, multipliers and tables.
    pub parameter_bytes: usize,
    /// Height, width, channels of the result.
    pub output_shape: [u16; 3],
    /// Scale of the result.
    pub output_scale: f32,
    /// Zero point of the result.
    pub output_zero_point: i8,
    /// Multiply-accumulates.
    pub macs: u64,
}

impl<'a> Model<'a> {
    /// Checks a whole file: lengths, CRC, ranges, shapes, offsets, and that no accumulator can overflow. Afterwards
    /// [`Self::run`] has nothing left to go wrong but the caller's buffers.
    ///
    /// The metadata is checked when it is read ([`Self::metadata`]), so that firmware that never reads it does not
    /// carry the decoder. Nor is a signature checked: `parse_signed` (feature `signature`) does.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Op`] say what is wrong and where.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        Self::from_sections(&Sections::parse(bytes)?)
    }

    /// As [`Self::parse`], for files that a stranger may have had in hand: nothing but a file that the holder of the
    /// private key has signed is accepted. The signature is checked before anything else in the file is believed but its
    /// outer layer, in constant memory (the file is not copied; 2.6 KiB of stack and two million instructions on a Cortex-M4), see
    /// [`crate::artifact::signature`].
    ///
    /// An older file with a valid signature is accepted as well; firmware that must not go back compares
    /// [`Metadata::created`].
    ///
    /// # Errors
    /// [`FileFault::Unsigned`], [`FileFault::OtherSigner`], [`FileFault::Signature`], [`FileFault::PublicKey`]; else as
    /// [`Self::parse`].
    #[cfg(feature = "signature")]
    pub fn parse_signed(bytes: &'a [u8], public_key: &[u8; 32]) -> Result<Self> {
        let sections = Sections::parse(bytes)?;
        let unsigned = Error::File { at: bytes.len(), fault: FileFault::Unsigned };
        sections.signature.ok_or(unsigned)?.check(public_key)?;
        Self::from_sections(&sections)
    }

    fn from_sections(sections: &Sections<'a>) -> Result<Self> {
        let broken = Error::File { at: 0, fault: FileFault::ModelHeader };
        let header = ModelHeader::read(sections.program).ok_or(broken)?;
        let records = sections.program.get(HEADER_LEN..).ok_or(broken)?;
        let operators = usize::from(header.operators);
        if !(1..=check::MAX_OPERATORS).contains(&operators) || records.len() != operators * RECORD_LEN {
            return Err(broken);
        }
        let input_len = header.input.len().filter(|&n| n > 0 && n <= check::MAX_ELEMENTS).ok_or(broken)?;
        if !check::is_scale(header.input.scale) {
            return Err(broken);
        }
        let mut model = Self {
            header,
            records,
            parameters: sections.parameters,
            metadata: sections.metadata,
            known_answers: sections.known_answers,
            signature: sections.signature,
            output: header.input,
            macs: 0,
            input_len,
            output_len: 0,
        };
        for op in 0..operators {
            let macs = check::operator(&model, op).map_err(|fault| Error::Op { op, fault })?;
            model.macs = model.macs.saturating_add(macs);
        }
        model.output = model.tensor(operators).ok_or(broken)?;
        model.output_len = model.output.len().ok_or(broken)?;
        let pair = model.input_len + model.output_len;
        if !model.known_answers.len().is_multiple_of(pair) {
            return Err(Error::File { at: 0, fault: FileFault::KnownAnswers });
        }
        Ok(model)
    }

    /// Runs the model on one input.
    ///
    /// `input`: [`Self::input_len`] int8 values, height × width × channels. `output`: [`Self::output_len`] values.
    /// `arena`: at least [`Self::arena_len`] bytes, contents irrelevant before and after; four-byte alignment is
    /// welcome but not needed.
    ///
    /// Workstations use the fastest instruction set that they have ([`Backend::best`]), and some 40 KiB of stack. On
    /// microcontrollers 2 KiB are enough for any model: nothing recurses, no frame depends on the model, and the tests
    /// measure the stack of every operator on every core.
    ///
    /// # Errors
    /// [`Error::Length`] for a buffer of the wrong length; nothing else.
    pub fn run(&self, input: &[i8], output: &mut [i8], arena: &mut [u8]) -> Result<()> {
        self.run_on(Backend::best(), input, output, arena)
    }

    /// As [`Self::run`], on a backend of the caller's choice. The output does not depend on it. On microcontrollers it
    /// changes nothing: they have what they were compiled for.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_on(&self, backend: Backend, input: &[i8], output: &mut [i8], arena: &mut [u8]) -> Result<()> {
        self.execute(backend, input, output, arena, |_, _| {})
    }

    /// As [`Self::run`], and shows the result of each operator to `after` (index, int8 values) before the next one runs: to
    /// find the layer at which two computations part, or to measure each. [`Self::run`] has none of it in its code.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_observed(
        &self,
        input: &[i8],
        output: &mut [i8],
        arena: &mut [u8],
        after: impl FnMut(usize, &[i8]),
    ) -> Result<()> {
        self.execute(Backend::best(), input, output, arena, after)
    }

    #[inline(always)]
    fn execute(
        &self,
        backend: Backend,
        input: &[i8],
        output: &mut [i8],
        arena: &mut [u8],
        after: impl FnMut(usize, &[i8]),
    ) -> Result<()> {
        for (what, expected, got) in
            [(What::Input, self.input_len, input.len()), (What::Output, self.output_len, output.len())]
        {
            if expected != got {
                return Err(Error::Length { what, expected, got });
            }
        }
        let arena_len = self.arena_len();
        let got = arena.len();
        let arena = arena.get_mut(..arena_len).ok_or(Error::Length {
            what: What::Arena,
            expected: arena_len,
            got,
        })?;
        engine::run(self, backend, input, output, crate::arch::bytes::as_i8_mut(arena), after)
    }

    /// Computes the file's known answers and compares: a self-test for a device that has just been flashed.
    ///
    /// `output` needs [`Self::output_len`] values, `arena` [`Self::arena_len`] bytes. Returns how many there are.
    ///
    /// # Errors
    /// [`Error::KnownAnswer`] for the first that differs; [`Error::Length`] for a buffer of the wrong length.
    pub fn self_test(&self, output: &mut [i8], arena: &mut [u8]) -> Result<usize> {
        let mut count = 0;
        for (index, known) in self.known_answers().enumerate() {
            self.run(known.input, output, arena)?;
            if output != known.output {
                return Err(Error::KnownAnswer { index });
            }
            count += 1;
        }
        Ok(count)
    }

    /// The known answers in the file.
    pub fn known_answers(&self) -> impl Iterator<Item = KnownAnswer<'a>> + use<'a> {
        let input_len = self.input_len;
        crate::arch::bytes::as_i8(self.known_answers)
            .chunks_exact((self.input_len + self.output_len).max(1))
            .filter_map(move |pair| {
                let (input, output) = pair.split_at_checked(input_len)?;
                Some(KnownAnswer { input, output })
            })
    }

    /// Names and provenance.
    ///
    /// # Errors
    /// [`Error::File`] if the section does not decode.
    pub fn metadata(&self) -> Result<Metadata<'a>> {
        Metadata::parse(self.metadata)
    }

    /// The signature in the file, unchecked; `None` if it is not signed.
    #[must_use]
    pub fn signature(&self) -> Option<Signature<'a>> {
        self.signature
    }

    /// Values of an input.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.input_len
    }

    /// Values of an output.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.output_len
    }

    /// Bytes of scratch memory that [`Self::run`] needs.
    #[must_use]
    pub fn arena_len(&self) -> usize {
        self.header.arena_len as usize
    }

    /// Height, width and channels of the input.
    #[must_use]
    pub fn input_shape(&self) -> [u16; 3] {
        self.header.input.shape
    }

    /// The real value of one input step.
    #[must_use]
    pub fn input_scale(&self) -> f32 {
        self.header.input.scale
    }

    /// The input value that stands for 0.
    #[must_use]
    pub fn input_zero_point(&self) -> i8 {
        self.header.input.zero_point
    }

    /// Height, width and channels of the output.
    #[must_use]
    pub fn output_shape(&self) -> [u16; 3] {
        self.output.shape
    }

    /// The real value of one output step.
    #[must_use]
    pub fn output_scale(&self) -> f32 {
        self.output.scale
    }

    /// The output value that stands for 0.
    #[must_use]
    pub fn output_zero_point(&self) -> i8 {
        self.output.zero_point
    }

    /// Multiply-accumulates of one run.
    #[must_use]
    pub fn macs(&self) -> u64 {
        self.macs
    }

    /// The operators in order.
    pub fn operators(&self) -> impl Iterator<Item = OperatorInfo> + use<'_, 'a> {
        (0..usize::from(self.header.operators)).filter_map(|i| {
            let op = self.record(i)?;
            let kind = OpKind::from_u8(op.kind)?;
            let input = self.tensor(op.inputs[0].into())?;
            let size = check::weight_size(kind, &op, &input);
            Some(OperatorInfo {
                name: kind.name(),
                bits: op.weight_spec.bits,
                group: op.weight_spec.group,
                weights: size.map_or(0, |s| s.weights),
                code_bytes: size.map_or(0, |s| s.code_bytes + s.divisor_bytes),
                parameter_bytes: size
                    .map_or(kind.constant_bytes(), |s| s.code_bytes + s.divisor_bytes + s.param_bytes),
                output_shape: op.output.shape,
                output_scale: op.output.scale,
                output_zero_point: op.output.zero_point,
                macs: check::macs(kind, &op, &input).unwrap_or(0),
            })
        })
    }

    #[inline]
    pub(super) fn record(&self, op: usize) -> Option<OpRecord> {
        OpRecord::read(self.records.get(op.checked_mul(RECORD_LEN)?..)?)
    }

    /// Tensor 0 is the input, tensor i + 1 the result of operator i.
    #[inline]
    pub(super) fn tensor(&self, index: usize) -> Option<TensorInfo> {
        match index.checked_sub(1) {
            None => Some(self.header.input),
            Some(op) => Some(self.record(op)?.output),
        }
    }
}
