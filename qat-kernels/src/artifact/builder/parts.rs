//! What layers are told about: tensors, weights and their steps, windows, outputs.

use crate::grid::Levels;

/// A tensor's shape (height, width, channels) and what its int8 values stand for: `scale·(q − zero_point)`.
///
/// ```
/// use qat_kernels::artifact::TensorSpec;
/// let pixels = TensorSpec { shape: [28, 28, 1], scale: 1.0 / 255.0, zero_point: -128 };
/// let real = |q: i8| pixels.scale * (f32::from(q) - f32::from(pixels.zero_point));
/// assert_eq!([-128, 127].map(real), [0.0, 1.0]); // black and white
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorSpec {
    /// Height, width, channels.
    pub shape: [u16; 3],
    /// Real value of one step, positive.
    pub scale: f32,
    /// The value that stands for 0.
    pub zero_point: i8,
}

/// A tensor of a model under construction.
///
/// ```
/// use qat_kernels::artifact::{ModelBuilder, Output, TensorSpec};
/// use qat_kernels::{Error, OpFault};
/// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 4], scale: 0.1, zero_point: 0 });
/// let mut other = b.clone();
/// let x = b.input();
/// let y = b.sigmoid(x)?;
/// b.add(x, y, Output::new(0.1, 0))?; // may be read any number of times
/// assert_eq!(other.argmax(y), Err(Error::Op { op: 0, fault: OpFault::Input })); // has no such tensor
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorId(pub(super) u16);

/// The steps of a layer's weights.
///
/// ```
/// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
/// # use qat_kernels::{Grid, Levels, infer::Model};
/// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 16], scale: 1.0, zero_point: 0 });
/// let steps = Steps::PiAdaptive { alpha: &[0.5], divisors: &[2, 5], group: 8 };
/// let weights = Weights { levels: Levels::new(2, Grid::MidTread)?, codes: &[1; 16], steps };
/// b.linear(b.input(), &weights, &[], Output::new(0.1, 0))?;
/// let file = b.finish(&Metadata::default(), &[&[1; 16]])?;
/// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
/// assert_eq!(answers, [[88]]); // 8·π/4 + 8·π/10 = 8.796
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Steps<'a> {
    /// Δ of every output channel.
    PerChannel(&'a [f32]),
    /// α of every output channel and a divisor k for every `group` weights of its row: Δ = α·π/k.
    PiAdaptive {
        /// One α per channel.
        alpha: &'a [f32],
        /// Divisors, row by row, each 2..=5.
        divisors: &'a [u8],
        /// Weights per divisor: 8, 16 or 32, a divisor of the row length.
        group: usize,
    },
}

/// The quantised weights of a layer.
///
/// Layout of the codes: linear `[out][in]` (in: height × width × channels), conv2d `[out][kernel h][kernel w][in]`,
/// depthwise `[kernel h][kernel w][channel]`.
///
/// ```
/// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
/// # use qat_kernels::{Grid, Levels, infer::Model};
/// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 3], scale: 1.0, zero_point: 0 });
/// let weights = Weights {
///     levels: Levels::new(2, Grid::MidTread)?,
///     codes: &[1, -1, 0, 0, 1, -1], // two outputs: differences of neighbours
///     steps: Steps::PerChannel(&[1.0, 0.5]),
/// };
/// b.linear(b.input(), &weights, &[], Output::new(1.0, 0))?;
/// let file = b.finish(&Metadata::default(), &[&[5, 3, -5]])?;
/// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
/// assert_eq!(answers, [[2, 4]]); // 5 − 3 and ½·(3 + 5)
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights<'a> {
    /// Bits and grid.
    pub levels: Levels,
    /// Codes, unpacked.
    pub codes: &'a [i8],
    /// Steps.
    pub steps: Steps<'a>,
}

/// Kernel, stride and padding of a window; height before width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Kernel size.
    pub kernel: [u16; 2],
    /// Distance of neighbouring windows, 1..=255.
    pub stride: [u8; 2],
    /// Padding above, left, below, right.
    pub pad: [u8; 4],
}

impl Window {
    /// A square window with the same padding on all sides.
    ///
    /// ```
    /// # use qat_kernels::artifact::{ModelBuilder, TensorSpec, Window};
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [8, 6, 1], scale: 1.0, zero_point: 0 });
    /// let mut size = |window| b.max_pool(b.input(), window, [-128, 127]).and_then(|y| b.tensor(y));
    /// // Of 8 × 6 pixels.
    /// assert_eq!(size(Window::square(3, 1, 1))?.shape, [8, 6, 1]);
    /// assert_eq!(size(Window::square(2, 2, 0))?.shape, [4, 3, 1]);
    /// assert_eq!(size(Window { stride: [1, 2], ..Window::square(3, 1, 1) })?.shape, [8, 3, 1]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn square(kernel: u16, stride: u8, pad: u8) -> Self {
        Self { kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 4] }
    }

    /// Output size along both axes: ⌊(n + pads − kernel)/stride⌋ + 1.
    pub(super) fn output(&self, [height, width]: [u16; 2]) -> Option<[u16; 2]> {
        let axis = |n: u16, axis: usize| {
            let padded = u32::from(n) + u32::from(self.pad[axis]) + u32::from(self.pad[axis + 2]);
            let room = padded.checked_sub(self.kernel[axis].into())?;
            u16::try_from(room.checked_div(self.stride[axis].into())? + 1).ok()
        };
        Some([axis(height, 0)?, axis(width, 1)?])
    }
}

/// How an operator's result is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Output {
    /// Real value of one step, positive.
    pub scale: f32,
    /// The value that stands for 0.
    pub zero_point: i8,
    /// Smallest and largest stored value.
    pub clamp: [i8; 2],
}

impl Output {
    /// Without an activation function.
    ///
    /// ```
    /// use qat_kernels::artifact::Output;
    /// let logits = Output::new(0.25, -8);
    /// let reals = logits.clamp.map(|q| logits.scale * (f32::from(q) - f32::from(logits.zero_point)));
    /// assert_eq!(reals, [-30.0, 33.75]); // of −128 and 127
    /// ```
    #[must_use]
    pub const fn new(scale: f32, zero_point: i8) -> Self {
        Self { scale, zero_point, clamp: [i8::MIN, i8::MAX] }
    }

    /// With ReLU: nothing below the zero point.
    ///
    /// ```
    /// use qat_kernels::artifact::Output;
    /// assert_eq!(Output::new(0.1, -20).relu().clamp, [-20, 127]);
    /// assert_eq!(Output::new(0.1, -128).relu().clamp, [-128, 127]); // all codes are of use
    /// ```
    #[must_use]
    pub const fn relu(self) -> Self {
        Self { clamp: [self.zero_point, i8::MAX], ..self }
    }

    /// With ReLU6: between the zero point and `round(6/scale)` above it.
    ///
    /// ```
    /// use qat_kernels::artifact::Output;
    /// assert_eq!(Output::new(0.05, -100).relu6().clamp, [-100, 20]); // 120 steps of 0.05
    /// assert_eq!(Output::new(0.01, -100).relu6().clamp, [-100, 127]); // 6 is beyond int8
    /// ```
    #[must_use]
    pub fn relu6(self) -> Self {
        let top = f32::from(self.zero_point) + libm::rintf(6.0 / self.scale);
        Self { clamp: [self.zero_point, if top < 127.0 { top as i8 } else { i8::MAX }], ..self }
    }
}
