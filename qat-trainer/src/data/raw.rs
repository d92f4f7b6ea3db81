//! Examples as their files have them: what every format is read into.

use super::labels::Labels;
use super::{Split, Standardisation};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::Shape;
use std::path::PathBuf;

/// What the features are; decides how they are standardised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Grey or colour values 0 to 255.
    Pixels,
    /// Columns that have nothing in common.
    Table,
    /// Measurements of a few channels at many places: columns or steps of time.
    Channels,
}

/// The labels in the files.
#[derive(Clone, Debug)]
pub(super) enum RawLabels {
    /// Numbers of classes.
    Numbers(Vec<u32>),
    /// Texts: names, or numbers in decimal.
    Texts(Vec<String>),
}

impl RawLabels {
    pub(super) fn len(&self) -> usize {
        match self {
            RawLabels::Numbers(n) => n.len(),
            RawLabels::Texts(t) => t.len(),
        }
    }
}

/// Where each label stands, for errors.
#[derive(Clone, Debug)]
pub(super) enum Places {
    /// At a byte of a binary file: the first one's, and the bytes from one to the next.
    Bytes { first: usize, stride: usize },
    /// On a line of a text.
    Lines(Vec<u32>),
    /// In an array, by index.
    Index,
    /// A file for each example.
    Files(Vec<PathBuf>),
}

impl Places {
    fn select(&self, indices: &[usize]) -> Self {
        match self {
            Places::Lines(lines) => Places::Lines(indices.iter().map(|&i| lines[i]).collect()),
            Places::Files(files) => Places::Files(indices.iter().map(|&i| files[i].clone()).collect()),
            // A part of a binary file has no stride; its labels have been checked before it was divided.
            Places::Bytes { .. } | Places::Index => Places::Index,
        }
    }
}

/// Examples with their labels, nothing standardised yet.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    /// The file that the features came from.
    pub(super) file: PathBuf,
    /// Where the labels came from, if not from `file`.
    pub(super) label_file: PathBuf,
    /// Example by example, height × width × channels.
    pub(super) features: Vec<f32>,
    pub(super) labels: RawLabels,
    pub(super) places: Places,
    pub(super) shape: Shape,
    pub(super) kind: Kind,
    /// Names of the feature columns of a table with a header.
    pub(super) columns: Option<Vec<String>>,
    /// The group of each example, where the run description asks for it.
    pub(super) groups: Option<Vec<String>>,
}

impl Raw {
    /// Where the label of an example stands.
    pub(super) fn place(&self, index: usize) -> String {
        match &self.places {
            Places::Bytes { first, stride } => {
                let byte = index.saturating_mul(*stride).saturating_add(*first);
                format!("byte {byte}, label {index}")
            }
            Places::Lines(lines) => format!("line {}", lines.get(index).copied().unwrap_or_default()),
            Places::Index => format!("label {index}"),
            Places::Files(files) => {
                format!("{}", files.get(index).unwrap_or(&self.label_file).display())
            }
        }
    }

    /// Some of the examples.
    pub(super) fn select(&self, indices: &[usize]) -> Self {
        let width = self.shape.len();
        Self {
            file: self.file.clone(),
            label_file: self.label_file.clone(),
            features: indices.iter().flat_map(|&i| &self.features[i * width..][..width]).copied().collect(),
            labels: match &self.labels {
                RawLabels::Numbers(n) => RawLabels::Numbers(indices.iter().map(|&i| n[i]).collect()),
                RawLabels::Texts(t) => RawLabels::Texts(indices.iter().map(|&i| t[i].clone()).collect()),
            },
            places: self.places.select(indices),
            shape: self.shape,
            kind: self.kind,
            columns: self.columns.clone(),
            groups: None,
        }
    }

    /// A test split must look like the training split.
    pub(super) fn same_columns_as(&self, train: &Raw) -> Result<()> {
        let differ = |problem: String| {
            Err(Error::new(ErrorKind::Data, problem)
                .file(&self.file)
                .remedy("name the training and test files of one data set"))
        };
        if self.shape != train.shape {
            return differ(format!(
                "its examples have the shape {}, those of {} have {}",
                self.shape,
                train.file.display(),
                train.shape
            ));
        }
        if let (Some(a), Some(b)) = (&self.columns, &train.columns)
            && let Some((mine, theirs)) = a.iter().zip(b).find(|(a, b)| a != b)
        {
            return differ(format!(
                "its header has the column `{mine}` where {} has `{theirs}`",
                train.file.display()
            ));
        }
        Ok(())
    }

    /// The standardisation that makes these examples' mean 0 and deviation 1.
    pub(super) fn standardisation(&self) -> Standardisation {
        match self.kind {
            Kind::Pixels => Standardisation::of_images(&self.features),
            Kind::Table => Standardisation::of_columns(&self.features, self.shape.len()),
            Kind::Channels => Standardisation::of_columns(&self.features, self.shape.c),
        }
    }

    /// The examples standardised, with the numbers of their classes.
    pub(super) fn finish(mut self, labels: &Labels, standardisation: &Standardisation) -> Result<Split> {
        let classes = labels.assign(&self)?;
        standardisation.apply(&mut self.features);
        // What a file holds is finite; the distance from a mean, in deviations, need not be.
        if let Some(at) = self.features.iter().position(|x| !x.is_finite()) {
            let (example, feature) = (at / self.shape.len(), at % self.shape.len());
            let problem = format!(
                "feature {feature} is too far from the mean of the training split to be standardised"
            );
            return Err(Error::new(ErrorKind::Data, problem)
                .file(&self.file)
                .place(self.place(example))
                .remedy("correct it, or set standardise = false"));
        }
        Ok(Split { features: self.features, labels: classes })
    }
}
