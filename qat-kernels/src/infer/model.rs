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
///
/// ```
/// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
/// use qat_kernels::infer::{KnownAnswer, Model};
/// let model = Model::parse(file)?;
/// let (mut output, mut arena) = (vec![0; model.output_len()], vec![0; model.arena_len()]);
/// let mut is_right = |known: KnownAnswer<'_>| {
///     model.run(known.input, &mut output, &mut arena).is_ok() && output == known.output
/// };
/// assert_eq!(model.known_answers().map(&mut is_right).collect::<Vec<_>>(), [true, true]);
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownAnswer<'a> {
    /// The model's input.
    pub input: &'a [i8],
    /// The model's output.
    pub output: &'a [i8],
}

/// What an operator is, for reports.
///
/// ```
/// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
/// use qat_kernels::infer::Model;
/// let model = Model::parse(file)?;
/// let last = model.operators().last(); // from 16 features to 3 classes
/// assert_eq!(last.map(|op| (op.name, op.bits, op.group, op.weights)), Some(("linear", 2, 8, 48)));
/// // A row: 4 bytes of codes, 1 byte of divisors, bias and multiplier of 4 bytes each.
/// assert_eq!(last.map(|op| (op.code_bytes, op.parameter_bytes)), Some((3 * 5, 3 * 13)));
/// # Ok::<(), qat_kernels::Error>(())
/// ```
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
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// use qat_kernels::{Error, FileFault, infer::Model};
    /// assert!(Model::parse(file).is_ok());
    /// let mut damaged = *file;
    /// damaged[100] ^= 1;
    /// let e = Error::File { at: file.len() - 4, fault: FileFault::Crc };
    /// assert_eq!(Model::parse(&damaged).err(), Some(e));
    /// # Ok::<(), Error>(())
    /// ```
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
    ///
    /// ```
    /// # #[cfg(feature = "alloc")] {
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// use qat_kernels::artifact::signature::{public_key, sign};
    /// use qat_kernels::{Error, FileFault, infer::Model};
    /// let (ours, another) = (public_key(&[7; 32]), public_key(&[8; 32]));
    /// let signed = sign(file, &[7; 32])?;
    /// assert!(Model::parse_signed(&signed, &ours).is_ok());
    /// let fault = |file, key| match Model::parse_signed(file, key) {
    ///     Err(Error::File { fault, .. }) => Some(fault),
    ///     _ => None,
    /// };
    /// assert_eq!(fault(&signed, &another), Some(FileFault::OtherSigner));
    /// assert_eq!(fault(file, &ours), Some(FileFault::Unsigned));
    /// # }
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
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
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// use qat_kernels::{Error, What, infer::Model};
    /// let model = Model::parse(file)?;
    /// let (mut first, mut second) = ([0; 3], [0; 3]);
    /// // What is in the arena does not matter, and it may be too long.
    /// model.run(&[5; 36], &mut first, &mut vec![0; model.arena_len()])?;
    /// model.run(&[5; 36], &mut second, &mut vec![0xFF; model.arena_len() + 7])?;
    /// assert_eq!(first, second);
    /// let none = model.run(&[5; 36], &mut first, &mut []);
    /// assert!(matches!(none, Err(Error::Length { what: What::Arena, got: 0, .. })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn run(&self, input: &[i8], output: &mut [i8], arena: &mut [u8]) -> Result<()> {
        self.run_on(Backend::best(), input, output, arena)
    }

    /// As [`Self::run`], on a backend of the caller's choice. The output does not depend on it. On microcontrollers it
    /// changes nothing: they have what they were compiled for.
    ///
    /// # Errors
    /// As [`Self::run`].
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// use qat_kernels::{arch::Backend, infer::Model};
    /// let model = Model::parse(file)?;
    /// let (mut output, mut arena) = ([0; 3], vec![0; model.arena_len()]);
    /// for backend in Backend::available() {
    ///     for known in model.known_answers() {
    ///         model.run_on(backend, known.input, &mut output, &mut arena)?;
    ///         assert_eq!(output, known.output);
    ///     }
    /// }
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn run_on(&self, backend: Backend, input: &[i8], output: &mut [i8], arena: &mut [u8]) -> Result<()> {
        self.execute(backend, input, output, arena, |_, _| {})
    }

    /// As [`Self::run`], and shows the result of each operator to `after` (index, int8 values) before the next one runs: to
    /// find the layer at which two computations part, or to measure each. [`Self::run`] has none of it in its code.
    ///
    /// # Errors
    /// As [`Self::run`].
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let (mut output, mut arena, mut results) = ([0; 3], vec![0; model.arena_len()], vec![]);
    /// model.run_observed(&[9; 36], &mut output, &mut arena, |_, result| results.push(result.to_vec()))?;
    /// assert_eq!(results[0].len(), 6 * 6 * 4); // the first convolution's
    /// assert!(results[4].iter().all(|y| *y >= -90)); // the clamp of the pooling
    /// assert_eq!(results[7], output);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
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
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let (mut output, mut arena) = ([0; 3], vec![0; model.arena_len()]);
    /// assert_eq!(model.self_test(&mut output, &mut arena)?, 2); // both are right
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
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
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let lengths: Vec<_> = model.known_answers().map(|k| (k.input.len(), k.output.len())).collect();
    /// assert_eq!(lengths, [(36, 3), (36, 3)]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
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
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let metadata = model.metadata()?;
    /// assert_eq!((metadata.name, metadata.method, metadata.samples), ("golden", "mse", 12));
    /// let mut input = [0; 36]; // of raw values that are all the mean
    /// metadata.input.apply(model.input_scale(), model.input_zero_point(), &[0.5; 36], &mut input)?;
    /// assert_eq!(input, [model.input_zero_point(); 36]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn metadata(&self) -> Result<Metadata<'a>> {
        Metadata::parse(self.metadata)
    }

    /// The signature in the file, unchecked; `None` if it is not signed.
    ///
    /// ```
    /// # #[cfg(all(feature = "alloc", feature = "signature"))] {
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// use qat_kernels::{artifact::signature::{public_key, sign}, infer::Model};
    /// assert_eq!(Model::parse(file)?.signature(), None);
    /// let signed = sign(file, &[7; 32])?;
    /// let signer = Model::parse(&signed)?.signature().map(|signature| *signature.signer);
    /// assert_eq!(signer, Some(public_key(&[7; 32]))); // so it says
    /// # }
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn signature(&self) -> Option<Signature<'a>> {
        self.signature
    }

    /// Values of an input.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// assert_eq!(model.input_len(), model.input_shape().into_iter().map(usize::from).product::<usize>());
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.input_len
    }

    /// Values of an output.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// assert_eq!(model.output_len(), model.metadata()?.label_list().count()); // a value for each label
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.output_len
    }

    /// Bytes of scratch memory that [`Self::run`] needs.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let mut arena = [0; 512]; // static memory of a device
    /// assert!(model.arena_len() <= arena.len()); // to be checked once
    /// model.run(&[0; 36], &mut [0; 3], &mut arena)?;
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn arena_len(&self) -> usize {
        self.header.arena_len as usize
    }

    /// Height, width and channels of the input.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let [height, width, channels] = model.input_shape().map(usize::from);
    /// let (mut input, row, column) = (vec![0; height * width * channels], 2, 3);
    /// input[(row * width + column) * channels] = 100; // one grey pixel
    /// assert_eq!(input.iter().position(|x| *x == 100), Some(15));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn input_shape(&self) -> [u16; 3] {
        self.header.input.shape
    }

    /// The real value of one input step.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let steps = (0.5 / model.input_scale()).round() as i8;
    /// assert_eq!(steps + model.input_zero_point(), 25 - 7); // ½ in steps of 0.02 above −7
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn input_scale(&self) -> f32 {
        self.header.input.scale
    }

    /// The input value that stands for 0.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let real = |q: i8| model.input_scale() * (f32::from(q) - f32::from(model.input_zero_point()));
    /// assert_eq!([-7, -8, -6].map(real), [0.0, -0.02, 0.02]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn input_zero_point(&self) -> i8 {
        self.header.input.zero_point
    }

    /// Height, width and channels of the output.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// assert_eq!(model.output_shape(), [1, 1, 3]);
    /// assert_eq!(model.operators().last().map(|op| op.output_shape), Some(model.output_shape()));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn output_shape(&self) -> [u16; 3] {
        self.output.shape
    }

    /// The real value of one output step.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let margin = model.output_scale() * f32::from(43_i8 - 23); // between two logits
    /// assert_eq!(margin, 1.0); // 20 steps of 0.05
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn output_scale(&self) -> f32 {
        self.output.scale
    }

    /// The output value that stands for 0.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let is_positive = |logit: i8| logit > model.output_zero_point(); // no float needed
    /// assert_eq!([2, 3, 4].map(is_positive), [false, false, true]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn output_zero_point(&self) -> i8 {
        self.output.zero_point
    }

    /// Multiply-accumulates of one run.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let convolutions = 36 * 4 * (9 + 9 + 4); // 6 × 6 × 4 values of 3 × 3, 3 × 3 × 1 and 1 × 1 × 4 each
    /// assert_eq!(model.macs(), convolutions + 16 * 4 + 3 * 16);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn macs(&self) -> u64 {
        self.macs
    }

    /// The operators in order.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let names: Vec<&str> = model.operators().map(|op| op.name).collect();
    /// assert_eq!(names[..4], ["conv2d", "depthwise_conv2d", "conv2d", "add"]);
    /// assert_eq!(model.operators().map(|op| op.macs).sum::<u64>(), model.macs());
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
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
