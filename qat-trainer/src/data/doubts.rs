//! What looks wrong in a data set without being an error: counted, to be told before a long training.

use super::{Dataset, Split};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};

/// Standard deviations from the median beyond which a value is suspected of being none of its feature's. The deviation
/// is 1.4826 times the median distance from the median, which outliers do not move (Rousseeuw & Croux 1993).
const FAR: f64 = 20.0;
const NORMAL: f64 = 1.4826;
/// Values that medians are taken of, at most.
const SAMPLE: usize = 10_000;
/// Share of all inputs, from the middle outwards, that should have more than [`FEW_CODES`] of the 256 codes.
const BULK: f64 = 0.999;
const FEW_CODES: usize = 32;
/// How many times as many examples as the smallest class the largest one may have.
const IMBALANCE: usize = 20;

/// Something that looks wrong in a data set.
///
/// ```
/// use qat_trainer::data::Doubt;
/// let doubt = Doubt::RareClass { class: "fall".into(), examples: 12, largest: 900 };
/// let text = doubt.to_string(); // with numbers, and what to do about them
/// assert!(text.starts_with("class `fall` has 12 training examples, the largest class 900"), "{text}");
/// assert!(text.contains("class_weights"), "{text}");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Doubt {
    /// Features (columns of a table, channels of anything else) that have the same value in every training example.
    Constant {
        /// Their indices, from 0.
        features: Vec<usize>,
        /// Features in all.
        of: usize,
    },
    /// Values of a feature more than 20 standard deviations from its median, outliers not counted in the deviation.
    Outliers {
        /// Its index, from 0.
        feature: usize,
        /// How many, in the training half.
        values: usize,
        /// The farthest one's distance, in standard deviations.
        farthest: f64,
    },
    /// The inputs' range is so wide that 99.9 % of them share few of the 256 codes of 8 bits.
    FewCodes {
        /// The codes that they share.
        codes: usize,
    },
    /// Training examples that have the same features as others with another label.
    Contradictions {
        /// How many.
        examples: usize,
        /// Training examples in all.
        of: usize,
    },
    /// Test examples that are in the training half as well, feature for feature.
    InBothHalves {
        /// How many.
        examples: usize,
        /// Test examples in all.
        of: usize,
    },
    /// A class with less than a twentieth of the examples of the largest one.
    RareClass {
        /// Its name.
        class: String,
        /// Its training examples.
        examples: usize,
        /// Those of the largest class.
        largest: usize,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant { features, of } => {
                let first = features.first().copied().unwrap_or_default();
                write!(
                    f,
                    "{} of {of} features never change (the first one: {first}); leave them out",
                    features.len()
                )
            }
            Self::Outliers { feature, values, farthest } => write!(
                f,
                "feature {feature} has {values} values more than {FAR} standard deviations from its median, the farthest \
                 {farthest:.0}; look at them, and clip or remove what is wrong"
            ),
            Self::FewCodes { codes } => write!(
                f,
                "99.9 % of the inputs share {codes} of the 256 codes of 8 bits, the rest are for outliers; clip or \
                 rescale the features"
            ),
            Self::Contradictions { examples, of } => write!(
                f,
                "{examples} of {of} training examples have the features of others with another label; look at the labels"
            ),
            Self::InBothHalves { examples, of } => write!(
                f,
                "{examples} of {of} test examples are in the training half, too; the accuracy counts what was learned by \
                 heart"
            ),
            Self::RareClass { class, examples, largest } => write!(
                f,
                "class `{class}` has {examples} training examples, the largest class {largest}; consider \
                 `class_weights = \"balanced\"` of [train]"
            ),
        }
    }
}

impl Dataset {
    /// What looks wrong, in the order of [`Doubt`]'s variants; empty for most data sets.
    ///
    /// ```
    /// # use qat_trainer::{affine::Affine, data::Standardisation, spec::Shape};
    /// use qat_trainer::data::{Dataset, Doubt, Split};
    /// let data = Dataset {
    ///     train: Split { features: vec![0.0, 1.0, 1.0, 2.0], labels: vec![0, 0, 1, 1] },
    ///     test: Split { features: vec![5.0, 2.0], labels: vec![0, 1] },
    ///     # classes: ["a", "b"].map(String::from).to_vec(), shape: Shape::flat(1),
    ///     # standardisation: Standardisation::none(), input: Affine::from_range(0.0, 5.0), sha256: [0; 32],
    ///     // …
    /// };
    /// let wanted = [Doubt::Contradictions { examples: 2, of: 4 }, Doubt::InBothHalves { examples: 1, of: 2 }];
    /// assert_eq!(data.doubts(), wanted); // both labels have a 1, both halves a 2
    /// ```
    #[must_use]
    pub fn doubts(&self) -> Vec<Doubt> {
        let columns = if self.shape.h * self.shape.w == 1 { self.shape.len() } else { self.shape.c };
        let mut doubts = Vec::new();
        let constant: Vec<usize> =
            (0..columns).filter(|&i| is_constant(self.train.column(i, columns))).collect();
        if !constant.is_empty() {
            doubts.push(Doubt::Constant { features: constant, of: columns });
        }
        doubts.extend((0..columns).filter_map(|i| outliers(i, &self.train, columns)));
        doubts.extend(self.few_codes());
        let known = Known::new(&self.train);
        let (contradictions, both) = (known.contradictions(), known.among(&self.test));
        if contradictions > 0 {
            doubts.push(Doubt::Contradictions { examples: contradictions, of: self.train.len() });
        }
        if both > 0 {
            doubts.push(Doubt::InBothHalves { examples: both, of: self.test.len() });
        }
        doubts.extend(self.rare_classes());
        doubts
    }

    fn few_codes(&self) -> Option<Doubt> {
        let mut counts = [0usize; 256];
        for &x in &self.train.features {
            counts[(i16::from(self.input.quantize(x)) + 128) as usize] += 1;
        }
        // The fullest codes first: the fewest that hold the bulk.
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let bulk = (BULK * self.train.features.len() as f64).ceil() as usize;
        let mut held = 0;
        let codes = 1 + counts.iter().take_while(|&&n| (held += n, held < bulk).1).count();
        // Features of few values, such as bits, need few codes.
        let values: HashSet<u32> = sample(&self.train.features).map(|x| x.to_bits()).collect();
        (codes <= FEW_CODES && values.len() > 4 * codes).then_some(Doubt::FewCodes { codes })
    }

    fn rare_classes(&self) -> Vec<Doubt> {
        let mut counts = vec![0usize; self.classes.len()];
        self.train.labels.iter().for_each(|&label| counts[label as usize] += 1);
        let largest = counts.iter().copied().max().unwrap_or_default();
        let rare = self.classes.iter().zip(counts).filter(|(_, n)| n * IMBALANCE < largest);
        rare.map(|(class, examples)| Doubt::RareClass { class: class.clone(), examples, largest }).collect()
    }
}

impl Split {
    /// The values of one of `columns` features.
    fn column(&self, index: usize, columns: usize) -> impl Iterator<Item = f32> + Clone {
        self.features.iter().skip(index).step_by(columns.max(1)).copied()
    }
}

fn is_constant(mut values: impl Iterator<Item = f32>) -> bool {
    let first = values.next();
    values.all(|x| Some(x) == first)
}

/// Some of the values, evenly from the first to the last.
fn sample(values: &[f32]) -> impl Iterator<Item = f32> {
    values.iter().step_by(values.len().div_ceil(SAMPLE).max(1)).copied()
}

fn outliers(feature: usize, split: &Split, columns: usize) -> Option<Doubt> {
    let values: Vec<f32> = split.column(feature, columns).collect();
    let mut some: Vec<f32> = sample(&values).collect();
    let middle = median(&mut some)?;
    some.iter_mut().for_each(|x| *x = (*x - middle).abs());
    let deviation = NORMAL * f64::from(median(&mut some)?);
    // Mostly one value: there is no telling what is far from it.
    if deviation == 0.0 {
        return None;
    }
    let distances = values.iter().map(|&x| (f64::from(x) - f64::from(middle)).abs() / deviation);
    let far = || distances.clone().filter(|&d| d > FAR);
    let farthest = far().fold(0.0, f64::max);
    (farthest > 0.0).then(|| Doubt::Outliers { feature, values: far().count(), farthest })
}

fn median(values: &mut [f32]) -> Option<f32> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f32::total_cmp).1)
}

/// Features by their bits: finite numbers, compared exactly.
#[derive(Clone, Copy)]
struct Bits<'a>(&'a [f32]);

impl PartialEq for Bits<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().map(|x| x.to_bits()).eq(other.0.iter().map(|x| x.to_bits()))
    }
}

impl Eq for Bits<'_> {}

impl Hash for Bits<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|x| state.write_u32(x.to_bits()));
    }
}

/// The examples of a split by their features: how many there are, and their label if they agree.
struct Known<'a>(HashMap<Bits<'a>, (usize, Option<u32>)>);

impl<'a> Known<'a> {
    fn new(split: &'a Split) -> Self {
        let mut known = HashMap::new();
        for (features, &label) in split.examples().zip(&split.labels) {
            let (count, agreed) = known.entry(Bits(features)).or_insert((0, Some(label)));
            *count += 1;
            *agreed = agreed.filter(|&other| other == label);
        }
        Self(known)
    }

    fn contradictions(&self) -> usize {
        self.0.values().filter(|(_, agreed)| agreed.is_none()).map(|(count, _)| count).sum()
    }

    fn among(&self, split: &Split) -> usize {
        split.examples().filter(|features| self.0.contains_key(&Bits(features))).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affine::Affine;
    use crate::data::Standardisation;
    use crate::spec::Shape;

    /// A table of two features whose rows differ, and two classes.
    fn sound() -> Dataset {
        let split = |n: usize, at: usize| Split {
            features: (at..at + n).flat_map(|i| [i as f32, (i * i % 97) as f32]).collect(),
            labels: (0..n).map(|i| (i % 2) as u32).collect(),
        };
        Dataset {
            train: split(200, 0),
            test: split(50, 1000),
            classes: ["even", "odd"].map(String::from).to_vec(),
            shape: Shape::flat(2),
            standardisation: Standardisation::none(),
            input: Affine::from_range(0.0, 200.0),
            sha256: [0; 32],
        }
    }

    #[test]
    fn a_sound_table_raises_none() {
        assert_eq!(sound().doubts(), []);
    }

    #[test]
    fn each_fault_is_counted() {
        let mut data = sound();
        data.train.features.iter_mut().skip(1).step_by(2).for_each(|x| *x = 0.1);
        assert_eq!(data.doubts(), [Doubt::Constant { features: vec![1], of: 2 }]);

        let mut data = sound();
        data.train.features[6] = 1e7;
        data.input = Affine::from_range(0.0, 1e7);
        let doubts = data.doubts();
        assert!(
            matches!(
                doubts[..],
                [Doubt::Outliers { feature: 0, values: 1, farthest }, Doubt::FewCodes { codes: 2 }] if farthest > 1e5
            ),
            "{doubts:?}"
        );

        let mut data = sound();
        data.train.features.copy_within(0..2, 2);
        data.test.features[..2].copy_from_slice(&data.train.features[8..10]);
        let wanted =
            [Doubt::Contradictions { examples: 2, of: 200 }, Doubt::InBothHalves { examples: 1, of: 50 }];
        assert_eq!(data.doubts(), wanted);

        let mut data = sound();
        data.train.labels.iter_mut().skip(9).for_each(|label| *label = 0);
        let wanted = Doubt::RareClass { class: "odd".into(), examples: 4, largest: 196 };
        assert_eq!(data.doubts(), std::slice::from_ref(&wanted));
        assert!(wanted.to_string().contains("class `odd` has 4"), "{wanted}");
    }

    #[test]
    fn features_of_few_values_need_few_codes() {
        let mut data = sound();
        data.train.features.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 5 % 2) as f32);
        data.input = Affine::from_range(0.0, 1.0);
        assert!(!data.doubts().iter().any(|doubt| matches!(doubt, Doubt::FewCodes { .. })));
    }
}
