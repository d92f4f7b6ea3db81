//! Random numbers that depend on the seed and on what they are for, and on nothing else: not on the number of threads,
//! not on what was drawn before for another purpose.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What random numbers are for. Each purpose has streams of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Initial weights of the layer of this index.
    Weights(usize),
    /// Order of the examples in this epoch.
    Order(u32),
    /// The generated input of this index.
    Generated(usize),
    /// Distortion of an example in an epoch.
    Distortion {
        /// The epoch, counted through both phases.
        epoch: u32,
        /// Index of the example.
        example: usize,
    },
    /// Which examples are held back.
    Validation,
}

/// A stream of random numbers.
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    /// The stream of `seed` for `purpose`.
    pub(crate) fn new(seed: u64, purpose: Purpose) -> Self {
        let (tag, a, b) = match purpose {
            Purpose::Weights(layer) => (0, 0, layer as u64),
            Purpose::Order(epoch) => (1, epoch, 0),
            Purpose::Generated(example) => (4, 0, example as u64),
            Purpose::Distortion { epoch, example } => (2, epoch, example as u64),
            Purpose::Validation => (3, 0, 0),
        };
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&u64::to_le_bytes(tag));
        key[16..20].copy_from_slice(&a.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(b);
        Self(rng)
    }

    /// Uniform in [−1, 1), on a grid of 2⁻²³.
    pub(crate) fn symmetric(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 * (1.0 / (1 << 23) as f32) - 1.0
    }

    /// Uniform in [0, 1), on a grid of 2⁻⁵³.
    #[cfg(feature = "tch")]
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal, by the polar method (Marsaglia and Bray 1964).
    pub(crate) fn normal(&mut self) -> f32 {
        loop {
            let (x, y) = (self.symmetric(), self.symmetric());
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                return x * (-2.0 * square.ln() / square).sqrt();
            }
        }
    }

    /// Uniform in `0..n`; n must not be 0. The bias of the multiplication is below n/2⁶⁴.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// A random order of `0..n` (Fisher and Yates).
    pub(crate) fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// Standard normal numbers for tests. torch's own generator is one for the whole process, so that tests running side by
/// side would draw from each other's sequence.
#[cfg(all(test, feature = "tch"))]
pub(crate) fn normal(seed: u64, shape: &[i64]) -> tch::Tensor {
    let mut random = Random::new(seed, Purpose::Weights(0));
    let n = shape.iter().product::<i64>();
    let values: Vec<f32> = (0..n).map(|_| random.normal()).collect();
    tch::Tensor::from_slice(&values).reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reproducible_and_different() {
        let draw = |seed, purpose| {
            let mut r = Random::new(seed, purpose);
            [0; 8].map(|_: i32| r.symmetric())
        };
        let d = |epoch, example| Purpose::Distortion { epoch, example };
        let all = [
            draw(1, Purpose::Weights(0)),
            draw(1, Purpose::Weights(1)),
            draw(2, Purpose::Weights(0)),
            draw(1, Purpose::Order(1)),
            draw(1, Purpose::Generated(1)),
            draw(1, d(0, 1)),
            draw(1, d(1, 0)),
            draw(1, Purpose::Validation),
            draw(1, d(1, 1)),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(a.iter().all(|x| (-1.0..1.0).contains(x)));
            assert!(all.iter().skip(i + 1).all(|b| a != b), "{i}");
        }
        assert_eq!(draw(1, d(1, 1)), all[all.len() - 1]);
    }

    #[test]
    fn an_order_is_a_permutation() {
        let mut order = Random::new(5, Purpose::Order(0)).order(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }
}
