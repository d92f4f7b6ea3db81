//! microflow 0.1.3: int8 activations and weights, requantised in f32. Called as the code is that its macro makes of a
//! model: weights, zero points and the constants that its compiler computes are constants here, too.

use core::hint::black_box;

use harness::counted;
use microflow::activation::FusedActivation;
use microflow::buffer::{Buffer2D, Buffer4D};
use microflow::ops::{
    Conv2DOptions, DepthwiseConv2DOptions, FullyConnectedOptions, conv_2d, depthwise_conv_2d, fully_connected,
};
use microflow::tensor::{Tensor2D, Tensor4D, TensorViewPadding};
use nalgebra::{ArrayStorage, Matrix};

use crate::answer::Answer;
use crate::layer::{INPUT_ZERO, Layer, OUTPUT_ZERO, SCALE};

/// `IN` to `OUT` features.
struct Linear<const IN: usize, const OUT: usize>;

impl<const IN: usize, const OUT: usize> Linear<IN, OUT> {
    const LAYER: Layer = Layer::linear(IN, OUT);

    const WEIGHTS: Tensor2D<i8, IN, OUT, 1> = {
        let mut columns = [[0; IN]; OUT];
        let mut at = 0;
        while at < IN * OUT {
            columns[at / IN][at % IN] = Self::LAYER.weight(at / IN, at % IN);
            at += 1;
        }
        Tensor2D::new(Matrix::from_array_storage(ArrayStorage(columns)), [Self::LAYER.weight_scale(0)], [0])
    };

    /// The sum of each output's weights times the zero point of the input.
    const SUMS: Buffer2D<i32, 1, OUT> = {
        let mut sums = [[0; 1]; OUT];
        let mut at = 0;
        while at < IN * OUT {
            sums[at / IN][0] += Self::LAYER.weight(at / IN, at % IN) as i32 * INPUT_ZERO as i32;
            at += 1;
        }
        Matrix::from_array_storage(ArrayStorage(sums))
    };
}

pub(crate) fn linear<const IN: usize, const OUT: usize>() -> Answer {
    let layer = Linear::<IN, OUT>::LAYER;
    let mut input = Tensor2D::new(Buffer2D::from_fn(|_, i| layer.input(i)), [SCALE], [INPUT_ZERO]);
    black_box(&mut input);
    let output: Tensor2D<i8, 1, OUT, 1> = counted(|| {
        let output = fully_connected(
            input,
            &Linear::<IN, OUT>::WEIGHTS,
            [SCALE],
            [OUTPUT_ZERO],
            FullyConnectedOptions { fused_activation: FusedActivation::None },
            (
                const { biases(&Linear::<IN, OUT>::LAYER) },
                const { Linear::<IN, OUT>::LAYER.weight_scale(0) },
                Linear::<IN, OUT>::SUMS,
                0,
            ),
        );
        black_box(&output);
        output
    });
    layer.check(output.buffer.as_slice())
}

/// A convolution over `H × W × IN` with a `K × K` window to `OUT` channels.
struct Conv<const H: usize, const W: usize, const IN: usize, const K: usize, const OUT: usize>;

impl<const H: usize, const W: usize, const IN: usize, const K: usize, const OUT: usize>
    Conv<H, W, IN, K, OUT>
{
    const LAYER: Layer = Layer::conv(K, [H, W, IN], OUT);

    const FILTERS: Tensor4D<i8, OUT, K, K, IN, OUT> = {
        let mut filters: Buffer4D<i8, OUT, K, K, IN> =
            [Matrix::from_array_storage(ArrayStorage([[[0; IN]; K]; K])); OUT];
        let mut output = 0;
        while output < OUT {
            let mut columns = [[[0; IN]; K]; K];
            let mut at = 0;
            while at < K * K * IN {
                let (row, column) = (at / IN / K, at / IN % K);
                columns[column][row][at % IN] = Self::LAYER.weight(output, at);
                at += 1;
            }
            filters[output] = Matrix::from_array_storage(ArrayStorage(columns));
            output += 1;
        }
        Tensor4D::new(filters, scales(&Self::LAYER), [0; OUT])
    };
}

pub(crate) fn conv<const H: usize, const W: usize, const IN: usize, const K: usize, const OUT: usize>()
-> Answer {
    let layer = Conv::<H, W, IN, K, OUT>::LAYER;
    let mut input = map::<H, W, IN>(&layer);
    black_box(&mut input);
    let output: Tensor4D<i8, 1, H, W, OUT, 1> = counted(|| {
        let output = conv_2d(
            input,
            &Conv::<H, W, IN, K, OUT>::FILTERS,
            [SCALE],
            [OUTPUT_ZERO],
            Conv2DOptions {
                fused_activation: FusedActivation::None,
                view_padding: TensorViewPadding::Same,
                strides: (1, 1),
            },
            (
                const { biases(&Conv::<H, W, IN, K, OUT>::LAYER) },
                const { multipliers(&Conv::<H, W, IN, K, OUT>::LAYER) },
            ),
        );
        black_box(&output);
        output
    });
    check_map(&layer, &output)
}

/// A 3×3 depthwise convolution over `H × W × C`.
struct Depthwise<const H: usize, const W: usize, const C: usize>;

impl<const H: usize, const W: usize, const C: usize> Depthwise<H, W, C> {
    const LAYER: Layer = Layer::depthwise([H, W, C]);

    const WEIGHTS: Tensor4D<i8, 1, 3, 3, C, C> = {
        let mut columns = [[[0; C]; 3]; 3];
        let mut at = 0;
        while at < 9 * C {
            let (row, column) = (at / C / 3, at / C % 3);
            columns[column][row][at % C] = Self::LAYER.weight(at % C, at / C);
            at += 1;
        }
        Tensor4D::new([Matrix::from_array_storage(ArrayStorage(columns))], scales(&Self::LAYER), [0; C])
    };
}

pub(crate) fn depthwise<const H: usize, const W: usize, const C: usize>() -> Answer {
    let layer = Depthwise::<H, W, C>::LAYER;
    let mut input = map::<H, W, C>(&layer);
    black_box(&mut input);
    let output: Tensor4D<i8, 1, H, W, C, 1> = counted(|| {
        let output = depthwise_conv_2d(
            input,
            &Depthwise::<H, W, C>::WEIGHTS,
            [SCALE],
            [OUTPUT_ZERO],
            DepthwiseConv2DOptions {
                fused_activation: FusedActivation::None,
                view_padding: TensorViewPadding::Same,
                strides: (1, 1),
            },
            (
                const { biases(&Depthwise::<H, W, C>::LAYER) },
                const { multipliers(&Depthwise::<H, W, C>::LAYER) },
            ),
        );
        black_box(&output);
        output
    });
    check_map(&layer, &output)
}

/// Bias and multiplier: what its compiler makes of the biases and of the scales.
const fn biases<const OUT: usize>(layer: &Layer) -> Buffer2D<f32, OUT, 1> {
    let mut biases = [0.0; OUT];
    let mut output = 0;
    while output < OUT {
        biases[output] = layer.bias(output) as f32 * layer.weight_scale(output);
        output += 1;
    }
    Matrix::from_array_storage(ArrayStorage([biases]))
}

/// Input and output have one scale, so that these are the scales of the weights.
const fn multipliers<const OUT: usize>(layer: &Layer) -> Buffer2D<f32, OUT, 1> {
    Matrix::from_array_storage(ArrayStorage([scales(layer)]))
}

const fn scales<const OUT: usize>(layer: &Layer) -> [f32; OUT] {
    let mut scales = [0.0; OUT];
    let mut output = 0;
    while output < OUT {
        scales[output] = layer.weight_scale(output);
        output += 1;
    }
    scales
}

fn map<const H: usize, const W: usize, const C: usize>(layer: &Layer) -> Tensor4D<i8, 1, H, W, C, 1> {
    let pixel = |row, column| core::array::from_fn(|c| layer.input((row * W + column) * C + c));
    Tensor4D::new([Buffer2D::from_fn(pixel)], [SCALE], [INPUT_ZERO])
}

fn check_map<const H: usize, const W: usize, const C: usize>(
    layer: &Layer,
    output: &Tensor4D<i8, 1, H, W, C, 1>,
) -> Answer {
    // Its matrices lie in memory column by column.
    let mut rows = [[[0; C]; W]; H];
    for (row, pixels) in rows.iter_mut().enumerate() {
        for (column, pixel) in pixels.iter_mut().enumerate() {
            *pixel = output.buffer[0][(row, column)];
        }
    }
    layer.check(rows.as_flattened().as_flattened())
}
