//! From the labels in the files to class numbers.

use super::csv::shorten;
use super::raw::{Raw, RawLabels};
use crate::error::{Error, ErrorKind, Result};
use std::collections::{BTreeSet, HashMap};

/// Most classes: the engine counts outputs in 16 bits, and a table with more is one whose label column is a number.
const MAX_CLASSES: usize = 4096;

/// The classes of a data set.
pub(super) struct Labels {
    names: Vec<String>,
    /// The names are the numbers 0, 1, 2, …: labels are read as numbers, so that `03` is class 3.
    numeric: bool,
}

impl Labels {
    /// Classes with these names.
    pub(super) fn from_names(names: &[String]) -> Self {
        let numeric = names.iter().enumerate().all(|(i, name)| *name == i.to_string());
        Self { names: names.to_vec(), numeric }
    }

    /// The classes of the training split, unless the run description names them.
    ///
    /// Labels that are all whole numbers are the numbers of their classes; other labels are names, which are sorted.
    pub(super) fn learn(given: Option<&[String]>, train: &Raw) -> Result<Self> {
        if let Some(names) = given {
            return Ok(Self::from_names(names));
        }
        let refuse = |place: String, problem: String, remedy: &str| {
            Err(Error::new(ErrorKind::Data, problem).file(&train.label_file).place(place).remedy(remedy))
        };
        let count = match &train.labels {
            RawLabels::Numbers(numbers) => {
                let max = numbers.iter().enumerate().max_by_key(|&(i, n)| (n, std::cmp::Reverse(i)));
                match max {
                    Some((i, &n)) if n as usize >= MAX_CLASSES => {
                        return refuse(
                            train.place(i),
                            format!("the label {n} is too large"),
                            "number the classes from 0, or name them in `classes`",
                        );
                    }
                    max => max.map_or(0, |(_, &n)| n as usize + 1),
                }
            }
            RawLabels::Texts(cells) => {
                // The first label decides what the column holds, so that one bad cell is an error and not a class.
                let first = cells.first().map_or("", String::as_str);
                if first.parse::<f64>().is_err() {
                    let names: BTreeSet<&str> = cells.iter().map(String::as_str).collect();
                    if names.len() > MAX_CLASSES {
                        return refuse(
                            train.place(0),
                            format!("the label column has {} different values", names.len()),
                            "choose the column of the label with `label`",
                        );
                    }
                    let names: Vec<String> = names.into_iter().map(String::from).collect();
                    return Self::at_least_two(Self { names, numeric: false }, train);
                }
                let mut count = 0;
                for (i, cell) in cells.iter().enumerate() {
                    match cell.parse::<usize>() {
                        Ok(n) if n < MAX_CLASSES => count = count.max(n + 1),
                        Ok(n) => {
                            return refuse(
                                train.place(i),
                                format!("the label {n} is too large"),
                                "number the classes from 0, or name them in `classes`",
                            );
                        }
                        Err(_) => {
                            return refuse(
                                train.place(i),
                                format!(
                                    "the label `{}` is not a whole number like those before it",
                                    shorten(cell)
                                ),
                                "correct the label, or choose another `label` column",
                            );
                        }
                    }
                }
                count
            }
        };
        let names = (0..count).map(|i| i.to_string()).collect();
        Self::at_least_two(Self { names, numeric: true }, train)
    }

    fn at_least_two(self, train: &Raw) -> Result<Self> {
        if self.names.len() < 2 {
            return Err(Error::new(ErrorKind::Data, "all labels are equal: there is nothing to tell apart")
                .file(&train.label_file)
                .remedy("take data with two classes or more, or choose another `label` column"));
        }
        Ok(self)
    }

    /// The class of every example.
    pub(super) fn assign(&self, raw: &Raw) -> Result<Vec<u32>> {
        let classes = self.names.len();
        let refuse = |place: String, label: &str| {
            let known = if classes <= 12 { self.names.join(", ") } else { format!("{classes} classes") };
            Err(Error::new(ErrorKind::Data, format!("the label `{}` is none of {known}", shorten(label)))
                .file(&raw.label_file)
                .place(place)
                .remedy("correct the label, or list every class in `classes`"))
        };
        let mut out = Vec::with_capacity(raw.labels.len());
        match &raw.labels {
            RawLabels::Numbers(numbers) => {
                for (i, &label) in numbers.iter().enumerate() {
                    if label as usize >= classes {
                        return refuse(raw.place(i), &label.to_string());
                    }
                    out.push(label);
                }
            }
            RawLabels::Texts(cells) => {
                let by_name: HashMap<&str, u32> =
                    self.names.iter().zip(0..).map(|(name, i)| (name.as_str(), i)).collect();
                for (i, cell) in cells.iter().enumerate() {
                    let number = cell.parse::<u32>().ok().filter(|&n| (n as usize) < classes);
                    let class = if self.numeric { number } else { by_name.get(cell.as_str()).copied() };
                    match class {
                        Some(class) => out.push(class),
                        None => return refuse(raw.place(i), cell),
                    }
                }
            }
        }
        Ok(out)
    }

    pub(super) fn into_names(self) -> Vec<String> {
        self.names
    }
}
