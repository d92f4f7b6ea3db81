//! Every backend against the definition, with plain numbers.

use super::PackedMatrix;
use crate::arch::Backend;
use crate::error::{Error, What};
use crate::grid::{Grid, Levels};
use crate::pack::{pack, packed_len};

pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as i64
    }

    /// Numbers in `lo..=hi`: all the smallest, all the largest, either of them, or any.
    pub(super) fn extreme(&mut self, len: usize, lo: i64, hi: i64) -> Vec<i8> {
        let kind = self.below(5);
        let one = |n: &mut Self| match kind {
            0 => lo,
            1 => hi,
            2 => [lo, hi][n.below(2) as usize],
            _ => lo + n.below(hi - lo + 1),
        };
        (0..len).map(|_| one(self) as i8).collect()
    }
}

/// Packs rows of `columns` codes.
pub(super) fn rows(bits: u8, columns: usize, codes: &[i8]) -> Vec<u8> {
    let mut packed = vec![0; codes.len() / columns * packed_len(columns, bits)];
    for (to, from) in packed.chunks_mut(packed_len(columns, bits)).zip(codes.chunks(columns)) {
        pack(bits, from, to).unwrap();
    }
    packed
}

/// One random matrix times `batch` random vectors, on every backend.
fn check(n: &mut Numbers, bits: u8, group: usize, [count, columns]: [usize; 2], batch: usize) {
    let grid = [Grid::MidTread, Grid::MidRise][n.below(2) as usize];
    let levels = Levels::new(bits, grid).unwrap();
    let codes = n.extreme(count * columns, levels.lo().into(), levels.hi().into());
    let ks: Vec<i8> =
        (0..count * columns.checked_div(group).unwrap_or(0)).map(|_| n.below(4) as i8).collect();
    let x = n.extreme(batch * columns, -128, 127);
    let packed = rows(bits, columns, &codes);
    // Fields of two bits without a sign are two's complement for `pack`.
    let ks_signed: Vec<i8> = ks.iter().map(|&k| if k > 1 { k - 4 } else { k }).collect();
    let divisors = columns.checked_div(group).map_or(Vec::new(), |groups| rows(2, groups, &ks_signed));
    let mut expected = Vec::new();
    for x in x.chunks(columns) {
        for (row, codes) in codes.chunks(columns).enumerate() {
            let product = |i: usize| {
                let factor = match i.checked_div(group) {
                    None => 1,
                    Some(g) => 60 / (i32::from(ks[row * (columns / group) + g]) + 2),
                };
                factor * levels.twice_level(codes[i].into()) * i32::from(x[i])
            };
            expected.push((0..columns).map(product).sum::<i32>());
        }
    }
    for backend in Backend::available() {
        let mut matrix = PackedMatrix::new(levels, count, columns, &packed).unwrap().on(backend);
        if group > 0 {
            matrix = matrix.with_divisors(group, &divisors).unwrap();
        }
        let mut sums = vec![-1; batch * count];
        matrix.multiply(&x, &mut sums).unwrap();
        let name = backend.isa().name();
        assert_eq!(
            sums, expected,
            "{name}: {bits} bits, groups of {group}, {count}×{columns}, {batch} vectors"
        );
    }
}

#[test]
fn every_width_with_every_tail_is_the_definition() {
    let n = &mut Numbers(1);
    for bits in 2..=8 {
        for columns in (1..=70).chain([127, 128, 129, 255, 256, 257, 384, 513]) {
            let count = 1 + n.below(9) as usize;
            let batch = [1, 4, 8][n.below(3) as usize];
            check(n, bits, 0, [count, columns], batch);
        }
    }
}

#[test]
fn groups_of_every_size_are_the_definition() {
    let n = &mut Numbers(2);
    for bits in 2..=7 {
        for group in [8, 16, 32] {
            for groups in (1..=20).chain([31, 32, 33, 64]) {
                let count = 1 + n.below(5) as usize;
                let batch = [1, 4, 8][n.below(3) as usize];
                check(n, bits, group, [count, groups * group], batch);
            }
        }
    }
}

#[test]
fn every_number_of_vectors_is_the_definition() {
    let n = &mut Numbers(3);
    for batch in 0..=17 {
        check(n, 2, 0, [3, 100], batch);
        check(n, 3, 16, [3, 96], batch);
    }
}

/// Several pieces of activations, and several blocks of rows.
#[test]
fn large_matrices_are_the_definition() {
    let n = &mut Numbers(4);
    for (bits, group) in [(2, 0), (2, 32), (3, 8), (5, 16), (8, 0)] {
        check(n, bits, group, [2, 17_000 / 32 * 32], 1);
        check(n, bits, group, [300, 4096], 8);
        check(n, bits, group, [2100, 64], 1);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let levels = |bits| Levels::new(bits, Grid::MidRise).unwrap();
    let new = |bits, rows, columns, len: usize| {
        PackedMatrix::new(levels(bits), rows, columns, &[0; 64][..len]).map(|_| ())
    };
    assert_eq!(new(2, 2, 9, 6), Ok(()));
    assert_eq!(new(2, 2, 9, 5), Err(Error::Length { what: What::Packed, expected: 6, got: 5 }));
    let none = Error::Range { what: What::Columns, value: 0.0, min: 1.0, max: 5_592_405.0 };
    assert_eq!(new(2, 2, 0, 0), Err(none));
    let long = PackedMatrix::new(levels(8), 0, 70_000, &[]).map(|_| ());
    assert_eq!(long, Err(Error::Range { what: What::Columns, value: 70_000.0, min: 1.0, max: 65_793.0 }));

    let matrix = PackedMatrix::new(levels(2), 1, 32, &[0; 8]).unwrap();
    let divided = |group, len: usize| matrix.with_divisors(group, &[0; 64][..len]).map(|_| ());
    assert_eq!(divided(16, 1), Ok(()));
    assert_eq!(divided(16, 2), Err(Error::Length { what: What::Divisors, expected: 1, got: 2 }));
    assert_eq!(divided(12, 1), Err(Error::Group { group: 12 }));
    let odd = PackedMatrix::new(levels(2), 1, 24, &[0; 6]).unwrap();
    let error = odd.with_divisors(16, &[0]).map(|_| ());
    assert_eq!(error, Err(Error::NotDivisible { what: What::Columns, len: 24, by: 16 }));
    let eight = PackedMatrix::new(levels(8), 1, 32, &[0; 32]).unwrap();
    assert_eq!(eight.with_divisors(16, &[0]).map(|_| ()), Err(Error::Bits { bits: 8 }));

    let mut sums = [0; 3];
    let error = Error::NotDivisible { what: What::Input, len: 33, by: 32 };
    assert_eq!(matrix.multiply(&[0; 33], &mut sums), Err(error));
    let error = Error::Length { what: What::Output, expected: 2, got: 3 };
    assert_eq!(matrix.multiply(&[0; 64], &mut sums), Err(error));
}
