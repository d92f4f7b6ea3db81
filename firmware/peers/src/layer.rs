//! The layers that everybody runs: shapes, generated numbers, and what they have to compute.

use crate::answer::Answer;

/// Code of the input that stands for 0.
pub(crate) const INPUT_ZERO: i8 = -7;
/// Code of the output that stands for 0.
pub(crate) const OUTPUT_ZERO: i8 = 5;
/// Scale of input and output: it is one, so that the scale of the weights is what sums are multiplied by.
pub(crate) const SCALE: f32 = 0.05;

/// A layer with stride 1 that keeps the size of its input, which is `height × width × inputs`.
#[derive(Clone, Copy)]
pub(crate) struct Layer {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Height and width of the window, which is padded around its middle.
    pub(crate) kernel: usize,
    /// Whether each output channel reads its own input channel only.
    pub(crate) depthwise: bool,
    /// Bits of the weights.
    pub(crate) bits: u32,
    /// Whether each output channel has its own scale.
    pub(crate) per_channel: bool,
}

impl Layer {
    /// A fully connected layer of int8 weights with one scale.
    pub(crate) const fn linear(inputs: usize, outputs: usize) -> Self {
        Self {
            height: 1,
            width: 1,
            inputs,
            outputs,
            kernel: 1,
            depthwise: false,
            bits: 8,
            per_channel: false,
        }
    }

    /// A convolution of int8 weights with a scale for each channel.
    pub(crate) const fn conv(kernel: usize, [height, width, inputs]: [usize; 3], outputs: usize) -> Self {
        Self { height, width, kernel, per_channel: true, ..Self::linear(inputs, outputs) }
    }

    /// A 3×3 depthwise convolution of int8 weights with a scale for each channel.
    pub(crate) const fn depthwise([height, width, channels]: [usize; 3]) -> Self {
        Self { depthwise: true, ..Self::conv(3, [height, width, channels], channels) }
    }

    /// The same with int4 weights and one scale.
    pub(crate) const fn int4(self) -> Self {
        Self { bits: 4, per_channel: false, ..self }
    }

    /// Weights of an output channel.
    pub(crate) const fn fan_in(&self) -> usize {
        self.kernel * self.kernel * if self.depthwise { 1 } else { self.inputs }
    }

    /// The weight number `index` of an output channel: over the rows and columns of the window and the input channels.
    pub(crate) const fn weight(&self, output: usize, index: usize) -> i8 {
        random(1 + (output * self.fan_in() + index) as u32) >> (8 - self.bits)
    }

    /// Input number `index`: over rows, columns and channels.
    pub(crate) const fn input(&self, index: usize) -> i8 {
        random(0x4000_0000 + index as u32)
    }

    /// The bias of a channel, in units of a product.
    pub(crate) const fn bias(&self, output: usize) -> i32 {
        random(0x8000_0000 + output as u32) as i32 * 16
    }

    /// The scale of a channel's weights: random sums then use the range of the output without leaving it often.
    pub(crate) const fn weight_scale(&self, output: usize) -> f32 {
        // About the square root of the number of products, which is all that matters here.
        let mut root = 1;
        while root * root < self.fan_in() {
            root += 1;
        }
        let step = if self.per_channel { 1.0 + (output % 8) as f32 / 8.0 } else { 1.0 };
        step * (1 << (8 - self.bits)) as f32 / (128.0 * root as f32)
    }

    /// Compares `output` with sums of all products in integers and one rounding of their multiple in f64.
    pub(crate) fn check(&self, output: &[i8]) -> Answer {
        let mut answer = Answer::default();
        for (index, &got) in output.iter().enumerate() {
            let (pixel, channel) = (index / self.outputs, index % self.outputs);
            let sum = self.sum(pixel / self.width, pixel % self.width, channel);
            let exact = f64::from(OUTPUT_ZERO) + f64::from(self.weight_scale(channel)) * f64::from(sum);
            answer.compare(got, exact);
        }
        if output.len() != self.height * self.width * self.outputs {
            answer = Answer::default();
        }
        answer
    }

    fn sum(&self, row: usize, column: usize, channel: usize) -> i32 {
        let channels = if self.depthwise { channel..channel + 1 } else { 0..self.inputs };
        let mut sum = self.bias(channel);
        let mut index = 0;
        for window_row in 0..self.kernel {
            for window_column in 0..self.kernel {
                // Beyond the lower end these wrap, and are then beyond the upper one.
                let y = (row + window_row).wrapping_sub(self.kernel / 2);
                let x = (column + window_column).wrapping_sub(self.kernel / 2);
                for input in channels.clone() {
                    if y < self.height && x < self.width {
                        let value = self.input((y * self.width + x) * self.inputs + input);
                        sum += (i32::from(value) - i32::from(INPUT_ZERO))
                            * i32::from(self.weight(channel, index));
                    }
                    index += 1;
                }
            }
        }
        sum
    }
}

/// The number of an index: the finaliser of MurmurHash3, which mixes all bits.
const fn random(index: u32) -> i8 {
    let mut x = index.wrapping_mul(0x9E37_79B9);
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    ((x ^ (x >> 16)) >> 24) as i8
}
