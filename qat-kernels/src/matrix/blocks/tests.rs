//! Every backend against the definition, with plain numbers.

use super::*;
use crate::matrix::tests::{Numbers, rows};
use crate::quantizer::{F16, pack_divisors};

/// Activations of a vector as the definition has them, and the scale of each.
fn rounded(x: &[f32]) -> Vec<(i32, f32)> {
    let block = |x: &[f32]| {
        let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        let inverse = 127.0 / largest;
        let one = |x: &f32| match inverse.is_finite() {
            true => ((x * inverse).round_ties_even() as i32, largest / 127.0),
            false => (0, 0.0),
        };
        x.iter().map(one).collect::<Vec<_>>()
    };
    x.chunks(ACTIVATION_BLOCK).flat_map(block).collect()
}

/// A matrix in plain numbers.
struct Plain {
    levels: Levels,
    step: StepRule,
    columns: usize,
    block: usize,
    codes: Vec<i8>,
    scales: Vec<F16>,
    divisors: Vec<u8>,
}

impl Plain {
    fn random(n: &mut Numbers, bits: u8, step: StepRule, [count, columns]: [usize; 2], block: usize) -> Self {
        let grid = [Grid::MidTread, Grid::MidRise][n.below(2) as usize];
        let levels = Levels::new(bits, grid).unwrap();
        let codes = n.extreme(count * columns, levels.lo().into(), levels.hi().into());
        // Positive and finite, subnormal ones and the largest among them.
        let scale = |n: &mut Numbers| match n.below(8) {
            0 => F16::TINY,
            1 => F16::MAX,
            _ => F16::from_bits(1 + n.below(0x7BFF) as u16),
        };
        let scales = (0..count * columns / block).map(|_| scale(n)).collect();
        let groups = match step {
            StepRule::PiAdaptive { group } => count * columns / group,
            _ => 0,
        };
        let divisors = (0..groups).map(|_| 2 + n.below(4) as u8).collect();
        Self { levels, step, columns, block, codes, scales, divisors }
    }

    /// The definition, for one row.
    fn product(&self, row: usize, x: &[(i32, f32)]) -> f32 {
        let unit = unit(self.levels.bits());
        let mut sums = [0f32; 16];
        for (u, x) in x.chunks(unit).enumerate() {
            let at = row * self.columns + u * unit;
            let codes = &self.codes[at..at + unit];
            let n: i32 = codes.iter().zip(x).map(|(&q, (x, _))| self.levels.twice_level(q.into()) * x).sum();
            let factor = match self.step {
                StepRule::PiAdaptive { group } => 60.0 / f32::from(self.divisors[at / group]),
                _ => 1.0,
            };
            sums[u % 16] += n as f32 * x[0].1 * (self.scales[at / self.block].to_f32() * factor);
        }
        let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15] = sums;
        let even = ((s0 + s8) + (s4 + s12)) + ((s2 + s10) + (s6 + s14));
        let odd = ((s1 + s9) + (s5 + s13)) + ((s3 + s11) + (s7 + s15));
        let c = match self.step {
            StepRule::Uniform => 0.5,
            StepRule::Pi { k } => PI / (2.0 * f32::from(k)),
            StepRule::PiAdaptive { .. } => PI / 120.0,
        };
        (even + odd) * c
    }

    /// On every backend, rows in two parts.
    fn check(&self, n: &mut Numbers, vectors: usize) {
        let Self { levels, step, columns, block, .. } = *self;
        let x = (0..vectors * columns).map(|_| n.below(2001) as f32 * 1e-3 - 1.0);
        let mut x: Vec<f32> = x.collect();
        // A run of zeros, an outlier, and numbers too small to be told from zero.
        x.iter_mut().take(40).for_each(|x| *x = 0.0);
        x.iter_mut().skip(50).step_by(97).for_each(|x| *x *= 1000.0);
        x.iter_mut().rev().take(8).for_each(|x| *x = f32::from_bits(3));
        let codes = rows(levels.bits(), columns, &self.codes);
        let scales: Vec<u8> = self.scales.iter().flat_map(|s| s.to_bits().to_le_bytes()).collect();
        let count = self.codes.len() / columns;
        let mut divisors = Vec::new();
        if let StepRule::PiAdaptive { group } = step {
            divisors = vec![0; count * packed_len(columns / group, 2)];
            pack_divisors(&self.divisors, columns / group, &mut divisors).unwrap();
        }
        let vectors_of: Vec<_> = x.chunks(columns).map(rounded).collect();
        let expected: Vec<u32> = (0..count)
            .flat_map(|row| vectors_of.iter().map(move |x| self.product(row, x).to_bits()))
            .collect();
        for backend in Backend::available() {
            let matrix = BlockMatrix::new(levels, step, columns, block, &codes, &scales, &divisors).unwrap();
            let matrix = matrix.on(backend);
            let mut buffer = vec![7; matrix.loaded_len(vectors)];
            let loaded = matrix.load(&x, &mut buffer).unwrap();
            let mut y = vec![f32::NAN; count * vectors];
            let half = count / 2;
            let (first, second) = y.split_at_mut(half * vectors);
            matrix.multiply(&loaded, 0..half, first).unwrap();
            matrix.multiply(&loaded, half..count, second).unwrap();
            let y: Vec<u32> = y.into_iter().map(f32::to_bits).collect();
            assert_eq!(
                y,
                expected,
                "{}: {levels:?}, {step:?}, {count}×{columns}/{block}, {vectors} vectors",
                backend.isa().name()
            );
        }
    }
}

#[test]
fn every_width_step_and_block_is_the_definition() {
    let n = &mut Numbers(5);
    for bits in 2..=8 {
        for step in [
            StepRule::Uniform,
            StepRule::Pi { k: 3 },
            StepRule::PiAdaptive { group: 16 },
            StepRule::PiAdaptive { group: 32 },
        ] {
            for (columns, block) in
                [(32, 32), (64, 32), (96, 32), (576, 64), (640, 128), (96, 96), (1536, 512)]
            {
                let shape = [1 + n.below(9) as usize, columns];
                let vectors = 1 + n.below(14) as usize;
                Plain::random(n, bits, step, shape, block).check(n, vectors);
            }
        }
        if bits > 2 {
            let narrow = StepRule::PiAdaptive { group: 8 };
            Plain::random(n, bits, narrow, [5, 200], 8).check(n, 3);
        }
        Plain::random(n, bits, StepRule::Uniform, [5, 16 * 19], 16).check(n, 1);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let levels = Levels::new(2, Grid::MidRise).unwrap();
    let new = |step, columns, block, lens: [usize; 3]| {
        let [codes, scales, divisors] = lens.map(|len| &[0; 256][..len]);
        BlockMatrix::new(levels, step, columns, block, codes, scales, divisors).map(|m| m.rows())
    };
    let (uniform, adaptive) = (StepRule::Uniform, StepRule::PiAdaptive { group: 16 });
    assert_eq!(new(uniform, 64, 32, [48, 12, 0]), Ok(3));
    assert_eq!(new(adaptive, 64, 32, [48, 12, 3]), Ok(3));
    assert_eq!(new(uniform, 0, 32, [0; 3]), Err(Error::Empty { what: What::Columns }));
    let indivisible = |what, len, by| Err(Error::NotDivisible { what, len, by });
    assert_eq!(new(uniform, 64, 48, [48, 12, 0]), indivisible(What::Columns, 64, 48));
    assert_eq!(new(uniform, 64, 8, [48, 48, 0]), indivisible(What::Steps, 8, 16));
    assert_eq!(new(uniform, 64, 32, [47, 12, 0]), indivisible(What::Packed, 47, 16));
    let narrow = StepRule::PiAdaptive { group: 8 };
    assert_eq!(new(narrow, 64, 32, [48, 12, 6]), indivisible(What::Group, 8, 16));
    assert_eq!(new(StepRule::PiAdaptive { group: 12 }, 64, 32, [48, 12, 6]), Err(Error::Group { group: 12 }));
    assert_eq!(
        new(StepRule::PiAdaptive { group: 32 }, 64, 16, [48, 24, 3]),
        indivisible(What::Steps, 16, 32)
    );
    let odd = Error::Range { what: What::Steps, value: 48.0, min: 16.0, max: 96.0 };
    assert_eq!(new(uniform, 96, 48, [24, 4, 0]), Err(odd));
    assert_eq!(new(StepRule::Pi { k: 6 }, 64, 32, [48, 12, 0]), Err(Error::Divisor { k: 6 }));
    let length = |what, expected, got| Err(Error::Length { what, expected, got });
    assert_eq!(new(uniform, 64, 32, [48, 11, 0]), length(What::Steps, 12, 11));
    assert_eq!(new(adaptive, 64, 32, [48, 12, 2]), length(What::Divisors, 3, 2));
    assert_eq!(new(uniform, 64, 32, [48, 12, 3]), length(What::Divisors, 0, 3));

    let matrix = BlockMatrix::new(levels, uniform, 64, 32, &[0; 48], &[0; 12], &[]).unwrap();
    let mut buffer = vec![0; matrix.loaded_len(2)];
    let error = Error::NotDivisible { what: What::Input, len: 65, by: 64 };
    assert_eq!(matrix.load(&[0.0; 65], &mut buffer).map(|_| ()), Err(error));
    let error = Error::Length { what: What::Arena, expected: matrix.loaded_len(1), got: buffer.len() };
    assert_eq!(matrix.load(&[0.0; 64], &mut buffer).map(|_| ()), Err(error));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = [0.0; 128];
        x[70] = bad;
        let error = Error::NotFinite { what: What::Input, index: 70 };
        assert_eq!(matrix.load(&x, &mut buffer).map(|_| ()), Err(error));
    }
    let x = matrix.load(&[0.0; 128], &mut buffer).unwrap();
    let mut y = [0.0; 6];
    let error = Err(Error::Length { what: What::Weights, expected: 3, got: 4 });
    assert_eq!(matrix.multiply(&x, 1..4, &mut y), error);
    let error = Err(Error::Length { what: What::Output, expected: 4, got: 6 });
    assert_eq!(matrix.multiply(&x, 1..3, &mut y), error);
    let other = BlockMatrix::new(levels, uniform, 32, 32, &[0; 24], &[0; 6], &[]).unwrap();
    let error = Err(Error::Length { what: What::Input, expected: 32, got: 64 });
    assert_eq!(other.multiply(&x, 0..3, &mut y), error);
    assert_eq!(matrix.multiply(&x, 0..3, &mut y), Ok(()));
}
