//! Operators without weights: pooling, sums, functions by table, rotations.

use super::{ModelBuilder, Output, TensorId, Window, info, multipliers, op_fault, power_of_two};
use crate::artifact::record::{OpKind, OpRecord, RotationRecord, TensorInfo, WeightSpec};
use crate::error::{Error, OpFault, Result, What};
use crate::hadamard::Rotation;
use crate::infer::{SOFTMAX_ONE, SOFTMAX_OUTPUT};

impl ModelBuilder {
    /// Largest value of each window, clamped. The result keeps the input's scale and zero point; padding never wins.
    ///
    /// # Errors
    /// [`OpFault::Window`] if the window does not fit.
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, TensorSpec, Window};
    /// # use qat_kernels::infer::Model;
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 4, 1], scale: 1.0, zero_point: 0 });
    /// let pairs = Window { kernel: [1, 2], stride: [1, 2], pad: [0; 4] };
    /// b.max_pool(b.input(), pairs, [0, 127])?; // and a ReLU
    /// let file = b.finish(&Metadata::default(), &[&[3, -5, -7, -2]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[3, 0]]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn max_pool(&mut self, x: TensorId, window: Window, clamp: [i8; 2]) -> Result<TensorId> {
        let input = self.info(x)?;
        let output = Output { scale: input.scale, zero_point: input.zero_point, clamp };
        self.pool(OpKind::MaxPool, x, window, 0, 0, output)
    }

    /// Mean of each window, padding counted as 0 (torch's `count_include_pad=True`). A window of the whole input is
    /// global pooling.
    ///
    /// # Errors
    /// [`OpFault::Window`] if the window does not fit, [`OpFault::Requantisation`] if the scales are too far apart.
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, TensorSpec, Window};
    /// # use qat_kernels::infer::Model;
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [2, 2, 1], scale: 1.0, zero_point: 0 });
    /// b.avg_pool(b.input(), Window::square(2, 2, 0), Output::new(0.5, 0))?;
    /// let file = b.finish(&Metadata::default(), &[&[10, 20, 30, 41]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[51]]); // 25¼ is 50½ steps of ½; halves round up
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn avg_pool(&mut self, x: TensorId, window: Window, output: Output) -> Result<TensorId> {
        let area = f64::from(window.kernel[0]) * f64::from(window.kernel[1]);
        let scale = self.info(x)?.scale;
        // The step of `multipliers` is halved there because levels are stored doubled.
        let (m, shift) = multipliers(&[2.0 / area], scale, output.scale)
            .map_err(|fault| op_fault(self.records.len(), fault))?;
        self.pool(OpKind::AvgPool, x, window, m.first().copied().unwrap_or(0), shift, output)
    }

    fn pool(
        &mut self,
        kind: OpKind,
        x: TensorId,
        window: Window,
        multiplier: i32,
        shift: u8,
        output: Output,
    ) -> Result<TensorId> {
        let [height, width, channels] = self.info(x)?.shape;
        let size = window.output([height, width]).ok_or(op_fault(self.records.len(), OpFault::Window))?;
        self.push(OpRecord {
            shift,
            clamp: output.clamp,
            kernel: window.kernel,
            stride: window.stride,
            pad: [window.pad[0], window.pad[1]],
            multipliers: [multiplier, 0],
            ..plain(kind, [x.0, 0], info([size[0], size[1], channels], output.scale, output.zero_point))
        })
    }

    /// Sum of two tensors of one shape, each with its own scale.
    ///
    /// # Errors
    /// [`OpFault::Shape`] for different shapes, [`OpFault::Requantisation`] if the scales are too far apart.
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, TensorSpec};
    /// # use qat_kernels::infer::Model;
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 2], scale: 0.5, zero_point: 0 });
    /// let x = b.input(); // in steps of ½
    /// let square = b.table(x, Output::new(1.0, 0), |x| x * x)?;
    /// b.add(x, square, Output::new(0.25, 0))?;
    /// let file = b.finish(&Metadata::default(), &[&[3, -4]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[14, 8]]); // 1½ + 2 and −2 + 4, in steps of ¼
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn add(&mut self, a: TensorId, b: TensorId, output: Output) -> Result<TensorId> {
        let op = self.records.len();
        let (first, second) = (self.info(a)?, self.info(b)?);
        if first.shape != second.shape {
            return Err(op_fault(op, OpFault::Shape));
        }
        let ratios = [first.scale, second.scale].map(|s| f64::from(s) / f64::from(output.scale));
        // The larger multiplier gets all of its 21 bits; products and sum then stay below 2^31.
        let shift =
            (1..=31).rev().find(|&n| ratios.iter().all(|r| r * power_of_two(n) <= f64::from(1 << 21)));
        let shift = shift.ok_or(op_fault(op, OpFault::Requantisation))?;
        let multipliers = ratios.map(|r| libm::rint(r * power_of_two(shift)) as i32);
        self.push(OpRecord {
            shift: shift as u8,
            clamp: output.clamp,
            multipliers,
            ..plain(OpKind::Add, [a.0, b.0], info(first.shape, output.scale, output.zero_point))
        })
    }

    /// Index of the first largest value as u16, little-endian, in two bytes.
    ///
    /// # Errors
    /// [`OpFault::Input`] if the model has no such tensor.
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, TensorSpec};
    /// # use qat_kernels::infer::Model;
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 300], scale: 1.0, zero_point: 0 });
    /// b.argmax(b.input())?;
    /// let mut logits = [-4; 300];
    /// logits[258] = 7;
    /// let file = b.finish(&Metadata::default(), &[&logits[..]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[2, 1]]); // 258 is 0x0102, low byte first
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn argmax(&mut self, x: TensorId) -> Result<TensorId> {
        self.info(x)?;
        self.push(OpRecord {
            clamp: [i8::MIN, i8::MAX],
            ..plain(OpKind::ArgMax, [x.0, 0], info([1, 1, 2], 1.0, 0))
        })
    }

    /// `y = f(x)` for every value, by a table of 256: f is called with the real value of each int8 and its result rounded to
    /// the output's grid, ties to even.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if f gives NaN; [`OpFault::Requantisation`] unless the output clamps to all of int8.
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, TensorSpec};
    /// # use qat_kernels::infer::Model;
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 3], scale: 1.0, zero_point: -128 });
    /// b.table(b.input(), Output::new(1.0 / 16.0, -128), f64::sqrt)?; // of 0 to 255
    /// let file = b.finish(&Metadata::default(), &[&[-128, 16, 127]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[-128, 64, 127]]); // 0, √144 and √255, in sixteenths
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn table(&mut self, x: TensorId, output: Output, f: impl Fn(f64) -> f64) -> Result<TensorId> {
        let op = self.records.len();
        let input = self.info(x)?;
        let mut table = [0; 256];
        for (index, (entry, q)) in table.iter_mut().zip(i8::MIN..=i8::MAX).enumerate() {
            let real = f64::from(input.scale) * f64::from(i16::from(q) - i16::from(input.zero_point));
            let y = libm::rint(f(real) / f64::from(output.scale)) + f64::from(output.zero_point);
            if y.is_nan() {
                return Err(Error::NotFinite { what: What::Output, index });
            }
            *entry = (y.clamp(-128.0, 127.0) as i8).cast_unsigned();
        }
        if output.clamp != [i8::MIN, i8::MAX] {
            return Err(op_fault(op, OpFault::Requantisation));
        }
        let output = info(input.shape, output.scale, output.zero_point);
        self.with_constant(OpKind::Table, x, output, &table)
    }

    /// The logistic sigmoid 1/(1 + e^(−x)), in steps of 1/256 from −128: the largest output stands for 255/256.
    ///
    /// # Errors
    /// [`OpFault::Input`] if the model has no such tensor.
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, TensorSpec};
    /// # use qat_kernels::infer::Model;
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 3], scale: 0.1, zero_point: 0 });
    /// b.sigmoid(b.input())?;
    /// let file = b.finish(&Metadata::default(), &[&[0, 127, -128]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[0, 127, -128]]); // ½, nearly 1, nearly 0
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn sigmoid(&mut self, x: TensorId) -> Result<TensorId> {
        let (scale, zero_point) = SOFTMAX_OUTPUT;
        self.table(x, Output::new(scale, zero_point), |x| 1.0 / (1.0 + libm::exp(-x)))
    }

    /// Softmax over the channels of each pixel, in steps of 1/256 from −128: the largest output stands for 255/256. With
    /// `e_i = ⌊2^15·e^(−s·(max − x_i))⌉` from a table, a share is `e_i/Σe` rounded to the nearest step, halves up.
    ///
    /// # Errors
    /// [`OpFault::Input`] if the model has no such tensor.
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, TensorSpec};
    /// # use qat_kernels::infer::Model;
    /// use core::f32::consts::LN_2;
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 2], scale: LN_2, zero_point: 0 });
    /// b.softmax(b.input())?; // a step more is twice the share
    /// let file = b.finish(&Metadata::default(), &[&[1, 0]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[43, -43]]); // ⅔ and ⅓ of 256: 171 and 85, less 128
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn softmax(&mut self, x: TensorId) -> Result<TensorId> {
        let input = self.info(x)?;
        let mut table = [0; 512];
        for (distance, entry) in table.as_chunks_mut().0.iter_mut().enumerate() {
            let power = libm::exp(-f64::from(input.scale) * distance as f64);
            *entry = (libm::rint(f64::from(SOFTMAX_ONE) * power) as u16).to_le_bytes();
        }
        let (scale, zero_point) = SOFTMAX_OUTPUT;
        self.with_constant(OpKind::Softmax, x, info(input.shape, scale, zero_point), &table)
    }

    /// `y = R·x` for the whole input read as one vector, R the orthogonal rotation of [`crate::hadamard`]: what a linear
    /// layer reads whose weights were rotated by [`Rotation::rotate_rows`].
    ///
    /// # Errors
    /// [`OpFault::Shape`] unless the vector falls into blocks of one size ([`Rotation::even`]);
    /// [`OpFault::Requantisation`] if the scales are too far apart.
    ///
    /// ```
    /// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, TensorSpec};
    /// # use qat_kernels::hadamard::Rotation;
    /// # use qat_kernels::infer::Model;
    /// let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 4], scale: 1.0, zero_point: 0 });
    /// let rotation = Rotation::even(0, 4)?; // this seed negates all four
    /// b.hadamard(b.input(), rotation, Output::new(1.0, 0))?;
    /// let file = b.finish(&Metadata::default(), &[&[8, 0, 0, 0]])?;
    /// let answers: Vec<_> = Model::parse(&file)?.known_answers().map(|known| known.output).collect();
    /// assert_eq!(answers, [[-4; 4]]); // the outlier is spread, the length is kept
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn hadamard(&mut self, x: TensorId, rotation: Rotation, output: Output) -> Result<TensorId> {
        let op = self.records.len();
        let input = self.info(x)?;
        let block = rotation.max_block();
        let even = input.len().is_some_and(|len| len.is_multiple_of(block));
        let block = u32::try_from(block).ok().filter(|_| even).ok_or(op_fault(op, OpFault::Shape))?;
        // The step of `multipliers` is halved there because levels are stored doubled.
        let step = 2.0 / libm::sqrt(block.into());
        let (m, shift) =
            multipliers(&[step], input.scale, output.scale).map_err(|fault| op_fault(op, fault))?;
        let bytes = RotationRecord { seed: rotation.seed(), block }.write();
        let tensor = info(input.shape, output.scale, output.zero_point);
        let id = self.with_constant(OpKind::Hadamard, x, tensor, &bytes)?;
        if let Some(record) = self.records.last_mut() {
            record.clamp = output.clamp;
            record.shift = shift;
            record.multipliers = [m.first().copied().unwrap_or(0), 0];
        }
        Ok(id)
    }

    /// An operator with `constant` in the parameter section.
    fn with_constant(
        &mut self,
        kind: OpKind,
        x: TensorId,
        output: TensorInfo,
        constant: &[u8],
    ) -> Result<TensorId> {
        let params = self.align()?;
        self.parameters.extend_from_slice(constant);
        self.push(OpRecord { clamp: [i8::MIN, i8::MAX], params, ..plain(kind, [x.0, 0], output) })
    }
}

/// A record without weights, window or requantisation.
fn plain(kind: OpKind, inputs: [u16; 2], output: TensorInfo) -> OpRecord {
    OpRecord {
        kind: kind as u8,
        weight_spec: WeightSpec::NONE,
        shift: 0,
        clamp: [0; 2],
        inputs,
        kernel: [1; 2],
        stride: [1; 2],
        pad: [0; 2],
        weights: 0,
        divisors: 0,
        params: 0,
        multipliers: [0; 2],
        output,
        scratch: 0,
    }
}
