//! Accuracy of a `.piq` file, measured with the integer engine that runs on the device.

use crate::affine::Affine;
use crate::data::{Split, Standardisation};
use crate::error::{Error, ErrorKind, Result};
use qat_kernels::artifact::Metadata;
use qat_kernels::infer::Model;
use rayon::prelude::*;

/// What the engine made of a test split.
///
/// ```
/// use qat_trainer::eval::Evaluation;
/// // Logits of two classes for three examples, the first of label 0, the others of label 1.
/// let confusion = vec![vec![1, 0], vec![2, 0]];
/// let e = Evaluation { confusion, inputs: vec![7, 8, 9], logits: vec![5, -5, 3, 2, 1, 0] };
/// assert_eq!(e.confusion[1][0], 2); // both were taken for 0, which is
/// assert!(e.logits.as_chunks::<2>().0.iter().all(|[no, yes]| no > yes)); // what the logits say
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// `confusion[label][answer]`: how many examples of `label` were given `answer`.
    pub confusion: Vec<Vec<u32>>,
    /// The int8 inputs, example by example.
    pub inputs: Vec<i8>,
    /// The int8 logits, example by example.
    pub logits: Vec<i8>,
}

impl Evaluation {
    /// Number of examples.
    ///
    /// ```
    /// # use qat_trainer::eval::Evaluation;
    /// let e = Evaluation { confusion: vec![vec![5, 1], vec![0, 3]], inputs: vec![], logits: vec![] };
    /// assert_eq!(e.examples(), 9);
    /// ```
    #[must_use]
    pub fn examples(&self) -> u32 {
        self.confusion.iter().flatten().sum()
    }

    /// Number of right answers.
    ///
    /// ```
    /// # use qat_trainer::eval::Evaluation;
    /// let e = Evaluation { confusion: vec![vec![0, 6], vec![2, 4]], inputs: vec![], logits: vec![] };
    /// assert_eq!(e.correct(), 4); // the diagonal
    /// ```
    #[must_use]
    pub fn correct(&self) -> u32 {
        self.confusion.iter().enumerate().filter_map(|(i, row)| row.get(i)).sum()
    }

    /// Share of right answers.
    ///
    /// ```
    /// # use qat_trainer::eval::Evaluation;
    /// let of = |confusion| Evaluation { confusion, inputs: vec![], logits: vec![] }.accuracy();
    /// assert_eq!(of(vec![vec![1, 1], vec![0, 2]]), 0.75);
    /// assert_eq!(of(vec![]), 0.0); // no examples, no right answers
    /// ```
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        f64::from(self.correct()) / f64::from(self.examples().max(1))
    }

    /// The inputs as a file for a device: `QSMP`, then as little-endian 32-bit numbers the version 1, the number of
    /// examples and the values per example, then the int8 values.
    ///
    /// ```
    /// # use qat_trainer::eval::Evaluation;
    /// let e = Evaluation { confusion: vec![vec![2]], inputs: vec![1, 2, 3, -1, -2, -3], logits: vec![9, 9] };
    /// let file = e.samples_file();
    /// assert_eq!(file[..16], *b"QSMP\x01\0\0\0\x02\0\0\0\x03\0\0\0"); // version 1, two examples of three values
    /// assert_eq!(file[16..], [1, 2, 3, 0xFF, 0xFE, 0xFD]);
    /// ```
    #[must_use]
    pub fn samples_file(&self) -> Vec<u8> {
        let count = self.examples();
        let width = self.inputs.len() as u32 / count.max(1);
        let mut file = b"QSMP".to_vec();
        [1, count, width].iter().for_each(|n: &u32| file.extend(n.to_le_bytes()));
        file.extend(self.inputs.iter().map(|v| v.cast_unsigned()));
        file
    }

    /// The logits as a file: the int8 values, nothing else.
    ///
    /// ```
    /// # use qat_trainer::eval::Evaluation;
    /// let e = Evaluation { confusion: vec![vec![1, 0], vec![0, 0]], inputs: vec![0], logits: vec![127, -128] };
    /// assert_eq!(e.logits_file(), [0x7F, 0x80]);
    /// ```
    #[must_use]
    pub fn logits_file(&self) -> Vec<u8> {
        self.logits.iter().map(|v| v.cast_unsigned()).collect()
    }
}

/// Runs `model` on a split whose features are standardised as the model wants them.
///
/// # Errors
/// [`ErrorKind::Model`] if the examples have not the model's number of inputs, or a label has no output.
///
/// ```
/// # use qat_kernels::{Grid, Levels};
/// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
/// # use qat_kernels::infer::Model;
/// # use qat_trainer::{ErrorKind, data::Split, eval::evaluate};
/// # let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 2], scale: 0.5, zero_point: 0 });
/// # let (levels, steps) = (Levels::new(2, Grid::MidTread)?, Steps::PerChannel(&[1.0; 2]));
/// # let weights = Weights { levels, codes: &[0, 1, 1, 0], steps };
/// # b.linear(b.input(), &weights, &[], Output::new(0.5, 0))?;
/// # let file = b.finish(&Metadata::default(), &[])?;
/// let swap = Model::parse(&file)?; // two inputs in steps of ½, given out the other way round
/// let split = Split { features: vec![4.0, 1.0, 3.0, 3.0], labels: vec![1, 1] };
/// let e = evaluate(&swap, &split)?;
/// assert_eq!(e.logits, [2, 8, 6, 6]);
/// assert_eq!(e.confusion, [[0, 0], [1, 1]]); // a tie goes to the first class
/// let three = Split { features: vec![0.0; 3], labels: vec![0] };
/// assert_eq!(evaluate(&swap, &three).unwrap_err().kind(), ErrorKind::Model);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn evaluate(model: &Model<'_>, split: &Split) -> Result<Evaluation> {
    let (width, classes) = (model.input_len(), model.output_len());
    if split.features.len() != split.len() * width {
        return Err(Error::new(
            ErrorKind::Model,
            format!(
                "the model reads {width} numbers, the data gives {}",
                split.features.len() / split.len().max(1)
            ),
        )
        .remedy("use the run description that the model was trained with"));
    }
    if let Some(label) = split.labels.iter().find(|&&l| l as usize >= classes) {
        return Err(Error::new(ErrorKind::Model, format!("there is no output for the label {label}")));
    }
    let code = Affine { scale: model.input_scale(), zero_point: model.input_zero_point() };
    let inputs: Vec<i8> = split.features.par_iter().map(|&x| code.quantize(x)).collect();
    let mut logits = vec![0i8; split.len() * classes];
    logits
        .par_chunks_exact_mut(classes)
        .zip(inputs.par_chunks_exact(width))
        .try_for_each_init(|| vec![0u8; model.arena_len()], |arena, (out, x)| model.run(x, out, arena))?;
    let mut confusion = vec![vec![0; classes]; classes];
    for (logits, &label) in logits.chunks_exact(classes).zip(&split.labels) {
        confusion[label as usize][argmax(logits)] += 1;
    }
    Ok(Evaluation { confusion, inputs, logits })
}

/// Index of the first largest value, as the engine's `argmax` decides.
fn argmax<T: PartialOrd>(values: &[T]) -> usize {
    values.iter().enumerate().fold(0, |best, (i, v)| if *v > values[best] { i } else { best })
}

/// The classes that a model's outputs stand for.
///
/// # Errors
/// [`ErrorKind::Model`] if there is not one name per output.
///
/// ```
/// # use qat_kernels::{Grid, Levels};
/// # use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
/// # use qat_kernels::infer::Model;
/// # use qat_trainer::eval::classes;
/// # let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 1], scale: 0.5, zero_point: 0 });
/// # let (levels, steps) = (Levels::new(2, Grid::MidTread)?, Steps::PerChannel(&[1.0; 2]));
/// # b.linear(b.input(), &Weights { levels, codes: &[-1, 1], steps }, &[], Output::new(0.5, 0))?;
/// let file = b.finish(&Metadata { labels: "still\nmoving", ..Metadata::default() }, &[])?;
/// let model = Model::parse(&file)?;
/// assert_eq!(classes(&model, &model.metadata()?)?, ["still", "moving"]);
/// let e = classes(&model, &Metadata { labels: "still", ..Metadata::default() }).unwrap_err();
/// assert!(e.to_string().starts_with("metadata: 1 labels for 2 outputs"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn classes(model: &Model<'_>, metadata: &Metadata<'_>) -> Result<Vec<String>> {
    let classes: Vec<String> = metadata.label_list().map(String::from).collect();
    if classes.len() != model.output_len() {
        return Err(Error::new(
            ErrorKind::Model,
            format!("{} labels for {} outputs", classes.len(), model.output_len()),
        )
        .place("metadata")
        .remedy("export the model with `qat export`"));
    }
    Ok(classes)
}

/// How a model wants its features standardised.
///
/// ```
/// use qat_kernels::artifact::{InputTransform, Metadata};
/// use qat_trainer::eval::standardisation;
/// let (mean, std) = (128.0f32.to_le_bytes(), 64.0f32.to_le_bytes());
/// let metadata = Metadata { input: InputTransform { mean: &mean, std: &std }, ..Metadata::default() };
/// assert_eq!(standardisation(&metadata).apply_one(0, 96.0), -0.5);
/// assert_eq!(standardisation(&Metadata::default()).apply_one(0, 96.0), 96.0); // none: as they are
/// ```
#[must_use]
pub fn standardisation(metadata: &Metadata<'_>) -> Standardisation {
    let floats = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Standardisation { mean: floats(metadata.input.mean), std: floats(metadata.input.std) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qat_kernels::artifact::{ModelBuilder, Output, Steps, TensorSpec, Weights};
    use qat_kernels::{Grid, Levels};

    /// Two inputs to two outputs, unchanged.
    fn identity() -> Vec<u8> {
        let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 2], scale: 0.5, zero_point: 1 });
        let levels = Levels::new(2, Grid::MidTread).unwrap();
        let weights = Weights { levels, codes: &[1, 0, 0, 1], steps: Steps::PerChannel(&[1.0; 2]) };
        b.linear(b.input(), &weights, &[], Output::new(0.5, 1)).unwrap();
        b.finish(&Metadata { labels: "x\ny", ..Metadata::default() }, &[]).unwrap()
    }

    #[test]
    fn counts_and_files() {
        let file = identity();
        let model = Model::parse(&file).unwrap();
        let split = Split { features: vec![1.0, 0.0, 2.0, 3.0, 4.0, 4.0], labels: vec![0, 0, 1] };
        let e = evaluate(&model, &split).unwrap();
        assert_eq!(e.confusion, [[1, 1], [1, 0]]); // a tie goes to the first
        assert_eq!((e.examples(), e.correct()), (3, 1));
        assert_eq!(e.logits, [3, 1, 5, 7, 9, 9]);
        assert_eq!(e.logits, e.inputs);
        let samples = e.samples_file();
        assert_eq!(samples[..16], *b"QSMP\x01\0\0\0\x03\0\0\0\x02\0\0\0");
        assert_eq!(samples[16..], e.logits_file());
    }

    #[test]
    fn misfits_are_errors() {
        let file = identity();
        let model = Model::parse(&file).unwrap();
        assert!(evaluate(&model, &Split { features: vec![1.0; 3], labels: vec![0] }).is_err());
        assert!(evaluate(&model, &Split { features: vec![1.0; 2], labels: vec![2] }).is_err());
        let meta = model.metadata().unwrap();
        assert_eq!(classes(&model, &meta).unwrap(), ["x", "y"]);
        assert!(classes(&model, &Metadata { labels: "x", ..meta }).is_err());
    }
}
