//! The last linear layer of a classifier and what goes into it, for adaptation on the device.

use super::check::{section, weight_size};
use super::model::Model;
use crate::artifact::{ChannelParams, Layout, OpKind, OpRecord, TensorInfo};
use crate::error::{Error, Result, What};
use crate::grid::{Grid, Levels};

/// The last linear layer of a model, read in place: codes, divisors, biases and multipliers.
///
/// Its outputs are `((Σ_g m_g Σ_i (2·level_i)·x_i + bias)·M) / 2^n` steps of the output scale above the zero point, before
/// rounding: see the [module](super).
///
/// ```
/// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
/// use qat_kernels::infer::Model;
/// let model = Model::parse(file)?;
/// let (mut output, mut arena) = ([0; 3], vec![0; model.arena_len()]);
/// let features = model.features(&[40; 36], &mut output, &mut arena)?;
/// let layer = model.last_linear()?;
/// let logit = |class| -> Option<i64> {
///     let mut sum = layer.bias(class)?;
///     for (i, &x) in features.iter().enumerate() {
///         let twice_level = layer.levels().twice_level(layer.code(class, i)?.into());
///         sum += layer.factor(class, i / layer.group())? * twice_level * i32::from(x);
///     }
///     let (n, zero_point) = (layer.shift(), i64::from(model.output_zero_point()));
///     let product = i64::from(sum) * i64::from(layer.multiplier(class)?);
///     Some((zero_point + ((product + (1 << (n - 1))) >> n)).clamp(-128, 127))
/// };
/// assert_eq!([0, 1, 2].map(logit), output.map(|y| Some(y.into())));
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LastLinear<'a> {
    op: OpRecord,
    input: TensorInfo,
    levels: Levels,
    layout: Layout,
    features: usize,
    classes: usize,
    codes: &'a [u8],
    divisors: &'a [u8],
    params: &'a [[u8; ChannelParams::LEN]],
}

impl<'a> Model<'a> {
    /// The linear layer that the program ends with, an argmax behind it or not.
    ///
    /// # Errors
    /// [`Error::Unsupported`] of [`What::Output`] if the program ends otherwise.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// assert_eq!((layer.features(), layer.classes(), layer.levels().bits()), (16, 3, 2));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn last_linear(&self) -> Result<LastLinear<'a>> {
        let unsupported = |what| Error::Unsupported { what };
        let mut op = usize::from(self.header.operators);
        let record = loop {
            op = op.checked_sub(1).ok_or(unsupported(What::Output))?;
            let record = self.record(op).ok_or(unsupported(What::Output))?;
            match OpKind::from_u8(record.kind) {
                Some(OpKind::ArgMax) => {}
                Some(OpKind::Linear) => break record,
                _ => return Err(unsupported(What::Output)),
            }
        };
        self.view(record).ok_or(unsupported(What::Output))
    }

    fn view(&self, op: OpRecord) -> Option<LastLinear<'a>> {
        let input = self.tensor(op.inputs[0].into())?;
        let size = weight_size(OpKind::Linear, &op, &input)?;
        let grid = if op.weight_spec.grid == 0 { Grid::MidTread } else { Grid::MidRise };
        Some(LastLinear {
            op,
            input,
            levels: Levels::new(op.weight_spec.bits, grid).ok()?,
            layout: size.layout,
            features: size.fan_in,
            classes: op.output.shape[2].into(),
            codes: section(self.parameters, op.weights, size.code_bytes)?,
            divisors: section(self.parameters, op.divisors, size.divisor_bytes)?,
            params: section(self.parameters, op.params, size.param_bytes)?.as_chunks().0,
        })
    }

    /// Runs the model and returns the input of its last linear layer, which stays in the arena until the next run.
    ///
    /// `output` gets the model's own answer.
    ///
    /// # Errors
    /// As [`Self::run`] and [`Self::last_linear`].
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let (input, mut output, mut arena) = ([40; 36], [0; 3], vec![0; model.arena_len()]);
    /// let features = model.features(&input, &mut output, &mut arena)?.to_vec();
    /// let mut results = vec![]; // of all eight operators
    /// model.run_observed(&input, &mut output, &mut arena, |_, result| results.push(result.to_vec()))?;
    /// assert_eq!(features, results[6]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn features<'b>(&self, input: &'b [i8], output: &mut [i8], arena: &'b mut [u8]) -> Result<&'b [i8]> {
        let layer = self.last_linear()?;
        self.run(input, output, arena)?;
        if layer.op.inputs[0] == 0 {
            return Ok(input);
        }
        // Neither the layer itself nor an argmax writes over the layer's input: the plan keeps it apart from their results.
        let start = layer.input.offset as usize;
        let bytes = arena.get(start..).and_then(|rest| rest.get(..layer.features));
        bytes.map(crate::arch::bytes::as_i8).ok_or(Error::Unsupported { what: What::Output })
    }
}

impl LastLinear<'_> {
    /// Inputs.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// # let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// let row: Option<Vec<i8>> = (0..layer.features()).map(|i| layer.code(0, i)).collect();
    /// assert_eq!(row.map(|row| row.len()), Some(16));
    /// assert_eq!(layer.code(0, layer.features()), None); // the row ends there
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn features(&self) -> usize {
        self.features
    }

    /// Outputs.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// # let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// // What an adaptation copies to change it.
    /// let biases: Vec<i32> = (0..layer.classes()).filter_map(|class| layer.bias(class)).collect();
    /// assert_eq!(biases.len(), model.output_len());
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn classes(&self) -> usize {
        self.classes
    }

    /// Grid and bit width of the weights.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// # let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// assert_eq!(layer.code(0, 0).map(|code| layer.levels().level(code.into())), Some(-1.5)); // mid-rise
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn levels(&self) -> Levels {
        self.levels
    }

    /// Weights that share a step: the group of an adaptive k, else a whole row.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// # let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// assert_eq!(layer.features() / layer.group(), 2); // two divisors to a row
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn group(&self) -> usize {
        match self.op.weight_spec.group {
            0 => self.features,
            group => group.into(),
        }
    }

    /// The feature that stands for 0.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// # let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// let outputs_of_the_layer_before = model.operators().nth(6).map(|op| op.output_zero_point);
    /// assert_eq!(outputs_of_the_layer_before, Some(layer.zero_point()));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn zero_point(&self) -> i8 {
        self.input.zero_point
    }

    /// The real value of one output step, as the bits of an f32.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// # let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// assert_eq!(f32::from_bits(layer.output_scale_bits()), 0.05);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn output_scale_bits(&self) -> u32 {
        self.op.output.scale.to_bits()
    }

    /// n of the requantisation.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// # let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// // The real value of an accumulator's unit, in steps of the output: s_x·(α·π/60)/2/s_y.
    /// let ratio = layer.multiplier(2).map(|m| f64::from(m) / 2f64.powi(layer.shift().into()));
    /// let exact = 0.07 * (0.3 * core::f64::consts::PI / 60.0) / 2.0 / 0.05;
    /// assert!(ratio.is_some_and(|ratio| (ratio / exact - 1.0).abs() < 1e-6));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn shift(&self) -> u8 {
        self.op.shift
    }

    /// The code of a weight.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// # let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// assert_eq!([0, 1, 2, 3].map(|i| layer.code(0, i)), [-2, -1, 0, 1].map(Some));
    /// assert_eq!(layer.code(3, 0), None); // there are three classes
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn code(&self, class: usize, feature: usize) -> Option<i8> {
        i8::try_from(self.layout.code(self.codes, class, feature)?).ok()
    }

    /// The factor of a group's sums: 60/k, or 1 where k is fixed.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// # let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// assert_eq!((layer.factor(0, 0), layer.factor(0, 1)), (Some(30), Some(12))); // k = 2 and 5
    /// assert_eq!(layer.factor(0, 2), None); // two groups of eight
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn factor(&self, class: usize, group: usize) -> Option<i32> {
        if self.op.weight_spec.group == 0 {
            return (group == 0).then_some(1);
        }
        let field = self.layout.divisor_field(self.divisors, class, group)?;
        60_i32.checked_div(i32::from(field) + 2)
    }

    /// A class's bias, in units of its accumulator, `−z·Σ m_g·(2·level)` folded in.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// # let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// // 0.1, −0.1 and 0 in units of s_x·(α·π/60)/2, with z = 0.
    /// let unit = |alpha: f64| 0.07 * (alpha * core::f64::consts::PI / 60.0) / 2.0;
    /// let biases = [0.1 / unit(0.1), -0.1 / unit(0.2), 0.0].map(|bias| Some(bias.round() as i32));
    /// assert_eq!([0, 1, 2].map(|class| layer.bias(class)), biases);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn bias(&self, class: usize) -> Option<i32> {
        Some(ChannelParams::read(self.params.get(class)?).bias)
    }

    /// A class's multiplier M.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// # let model = Model::parse(file)?;
    /// let layer = model.last_linear()?;
    /// // M is proportional to α: 0.1, 0.2 and 0.3 here.
    /// let m = [0, 1, 2].map(|class| layer.multiplier(class).map(f64::from).unwrap_or_default());
    /// assert!((m[1] / m[0] - 2.0).abs() < 1e-6 && (m[2] / m[0] - 3.0).abs() < 1e-6);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn multiplier(&self, class: usize) -> Option<i32> {
        Some(ChannelParams::read(self.params.get(class)?).multiplier)
    }
}

#[cfg(test)]
#[cfg(feature = "alloc")]
mod tests {
    use super::*;
    use crate::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};

    fn builder() -> (ModelBuilder, Levels) {
        (
            ModelBuilder::new(TensorSpec { shape: [1, 1, 16], scale: 0.5, zero_point: 3 }),
            Levels::new(2, Grid::MidRise).unwrap(),
        )
    }

    #[test]
    fn parameters_and_features_are_those_of_the_layer() {
        let (mut b, levels) = builder();
        let first: Vec<i8> = (0..256).map(|i| (i * 7 % 4 - 2) as i8).collect();
        let second: Vec<i8> = (0..32).map(|i| (i * 5 % 4 - 2) as i8).collect();
        let weights = Weights { levels, codes: &first, steps: Steps::PerChannel(&[0.125; 16]) };
        let hidden = b.linear(b.input(), &weights, &[0.25; 16], Output::new(0.5, -7).relu()).unwrap();
        let steps = Steps::PiAdaptive { alpha: &[0.1, 0.2], divisors: &[2, 3, 4, 5], group: 8 };
        let weights = Weights { levels, codes: &second, steps };
        let logits = b.linear(hidden, &weights, &[1.0, -1.0], Output::new(0.25, 5)).unwrap();
        b.argmax(logits).unwrap();
        let file = b.finish(&Metadata::default(), &[]).unwrap();
        let model = Model::parse(&file).unwrap();

        let layer = model.last_linear().unwrap();
        assert_eq!((layer.features(), layer.classes(), layer.group(), layer.zero_point()), (16, 2, 8, -7));
        let codes: Vec<i8> = (0..2)
            .flat_map(|c| (0..16).map(move |i| (c, i)))
            .map(|(c, i)| layer.code(c, i).unwrap())
            .collect();
        assert_eq!(codes, second);
        let factors = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(c, g)| layer.factor(c, g));
        assert_eq!(factors, [Some(30), Some(20), Some(15), Some(12)]);
        assert_eq!(
            (layer.code(0, 16), layer.code(2, 0), layer.factor(2, 0), layer.bias(2)),
            (None, None, None, None)
        );

        // The same network without its last layer gives the features, and the layer's formula its answer.
        let (mut b, levels) = builder();
        let weights = Weights { levels, codes: &first, steps: Steps::PerChannel(&[0.125; 16]) };
        b.linear(b.input(), &weights, &[0.25; 16], Output::new(0.5, -7).relu()).unwrap();
        let front = b.finish(&Metadata::default(), &[]).unwrap();
        let front = Model::parse(&front).unwrap();
        for seed in 0..50_i32 {
            let input: Vec<i8> = (0..16).map(|i| ((seed * 37 + i * 91) % 200 - 100) as i8).collect();
            let (mut want, mut arena) = ([0; 16], vec![0; front.arena_len()]);
            front.run(&input, &mut want, &mut arena).unwrap();
            let (mut answer, mut arena) = ([0; 2], vec![0; model.arena_len()]);
            let features = model.features(&input, &mut answer, &mut arena).unwrap();
            assert_eq!(features, want);
            let logit = |c| {
                let sum: i32 = (0..16)
                    .map(|i| {
                        let level = levels.twice_level(layer.code(c, i).unwrap().into());
                        layer.factor(c, i / 8).unwrap() * level * i32::from(features[i])
                    })
                    .sum();
                let product =
                    i64::from(sum + layer.bias(c).unwrap()) * i64::from(layer.multiplier(c).unwrap());
                (5 + ((product + (1 << (layer.shift() - 1))) >> layer.shift())).clamp(-128, 127)
            };
            assert_eq!(answer, [i8::from(logit(1) > logit(0)), 0]);
        }
    }

    #[test]
    fn a_model_without_a_linear_end_is_refused() {
        let (mut b, levels) = builder();
        let weights = Weights { levels, codes: &[1; 256], steps: Steps::PerChannel(&[0.125; 16]) };
        let x = b.linear(b.input(), &weights, &[], Output::new(0.5, 0)).unwrap();
        b.add(x, x, Output::new(1.0, 0)).unwrap();
        let file = b.finish(&Metadata::default(), &[]).unwrap();
        let refused = Model::parse(&file).unwrap().last_linear();
        assert!(matches!(refused, Err(Error::Unsupported { what: What::Output })));
    }
}
