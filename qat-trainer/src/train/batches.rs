//! Examples as batches: shuffled, distorted, rounded to the code of the input.

use super::augment::distort;
use crate::affine::Affine;
use crate::autograd::slice_mut;
use crate::data::{Dataset, Split};
use crate::error::Result;
use crate::nn::fake_quantize_slice;
use crate::random::{Purpose, Random};
use crate::spec::{Augment, Shape};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

/// A batch: examples `[n, channels, height, width]` or `[n, features]`, and their labels `[n]`.
pub(super) struct Batch {
    pub(super) x: Tensor,
    pub(super) labels: Tensor,
}

/// Makes batches of a split.
pub(super) struct Batches<'a> {
    split: &'a Split,
    shape: Shape,
    background: f32,
    rounding: Option<Affine>,
}

impl<'a> Batches<'a> {
    /// Batches of `split`, a part of `data`; with the features rounded to the 8-bit code of the input or as they are.
    pub(super) fn new(data: &'a Dataset, split: &'a Split, rounded: bool) -> Self {
        let rounding = rounded.then_some(data.input);
        Self { split, shape: data.shape, background: data.background(), rounding }
    }

    /// Every example, in order.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.split.len()).collect()
    }

    /// The examples of these indices, undistorted.
    pub(super) fn plain(&self, indices: &[usize]) -> Result<Batch> {
        self.make(indices, |_, _, _| false)
    }

    /// The examples of these indices, each distorted in a way that depends on `seed`, `epoch` and its index alone.
    pub(super) fn distorted(
        &self,
        indices: &[usize],
        bounds: Augment,
        seed: u64,
        epoch: u32,
    ) -> Result<Batch> {
        if bounds.is_none() {
            return self.plain(indices);
        }
        self.make(indices, |example, from, to| {
            let mut random = Random::new(seed, Purpose::Distortion { epoch, example });
            distort(from, to, self.shape, bounds, self.background, &mut random);
            true
        })
    }

    /// `fill(index, from, to)` writes an example, or returns `false` to have it copied.
    fn make(
        &self,
        indices: &[usize],
        fill: impl Fn(usize, &[f32], &mut [f32]) -> bool + Sync,
    ) -> Result<Batch> {
        let (n, Shape { h, w, c }) = (indices.len() as i64, self.shape);
        let len = self.shape.len();
        let mut x = Tensor::f_empty([n, h as i64, w as i64, c as i64], (Kind::Float, Device::Cpu))?;
        let rows = slice_mut(&mut x)?.par_chunks_exact_mut(len.max(1)).zip(indices);
        rows.with_min_len(16).try_for_each(|(to, &i)| {
            let from = &self.split.features[i * len..(i + 1) * len];
            if !fill(i, from, to) {
                to.copy_from_slice(from);
            }
            self.rounding.map_or(Ok(()), |code| fake_quantize_slice(code, to))
        })?;
        let x = if self.shape.is_flat() {
            x.f_view([n, c as i64])?
        } else {
            // The order of channels-last memory, in which torch's poolings and normalisations are several times faster.
            x.f_permute([0, 3, 1, 2])?
        };
        let labels: Vec<i64> = indices.iter().map(|&i| i64::from(self.split.labels[i])).collect();
        Ok(Batch { x, labels: Tensor::f_from_slice(&labels)? })
    }
}

/// The examples of a training: those to learn from, those held back, and those to judge by.
pub(super) struct Examples<'a> {
    /// The training split.
    pub(super) train: Batches<'a>,
    /// Those of `train` to learn from.
    pub(super) learn: Vec<usize>,
    /// Those of `train` that are held back.
    pub(super) held_back: Vec<usize>,
    /// The test split.
    pub(super) test: Batches<'a>,
}

impl<'a> Examples<'a> {
    /// The examples of `data`, `share` of the training split held back.
    pub(super) fn new(data: &'a Dataset, share: f32, seed: u64, rounded: bool) -> Self {
        let train = Batches::new(data, &data.train, rounded);
        let test = Batches::new(data, &data.test, rounded);
        let mut learn = train.all();
        let mut held_back = Vec::new();
        if share > 0.0 {
            learn = Random::new(seed, Purpose::Validation).order(learn.len());
            // At least one to judge by, and two to learn from.
            let most = learn.len().saturating_sub(2);
            let count = ((learn.len() as f64 * f64::from(share)).round() as usize).clamp(1.min(most), most);
            held_back = learn.split_off(learn.len() - count);
            learn.sort_unstable();
            held_back.sort_unstable();
        }
        Self { train, learn, held_back, test }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::quarters;

    #[test]
    fn a_share_is_held_back_once_and_for_all() {
        let data = quarters();
        let of = |share, seed| {
            let e = Examples::new(&data, share, seed, false);
            (e.learn, e.held_back)
        };
        assert_eq!(of(0.0, 1), ((0..200).collect(), vec![]));
        let (learn, held_back) = of(0.1, 1);
        assert_eq!((learn.len(), held_back.len()), (180, 20));
        assert!(held_back.iter().all(|i| !learn.contains(i)));
        assert_eq!(of(0.1, 1), (learn, held_back.clone()));
        assert_ne!(of(0.1, 2).1, held_back);
        assert_eq!((of(1e-6, 1).1.len(), of(0.999, 1).0.len()), (1, 2));
    }
}
