use super::*;
use crate::quantizer::samples;

/// (H·D)ᵢⱼ by definition: the parity of the bits that i and j share, and the sign of j.
fn entry(rotation: Rotation, block: &Range<usize>, i: usize, j: usize) -> i32 {
    let parity = ((i - block.start) & (j - block.start)).count_ones();
    if (parity % 2 == 1) ^ rotation.negates(j) { -1 } else { 1 }
}

fn by_definition(rotation: Rotation, x: &[i32]) -> Vec<i32> {
    let mut out = vec![0; x.len()];
    for block in rotation.blocks(x.len()) {
        for i in block.clone() {
            out[i] = block.clone().map(|j| entry(rotation, &block, i, j) * x[j]).sum();
        }
    }
    out
}

fn integers(seed: u64, len: usize) -> Vec<i32> {
    samples(seed, len, false).iter().map(|x| (x * 40.0) as i32).collect()
}

#[test]
fn integer_rotation_is_the_matrix_for_every_small_length() {
    for len in 1..=130 {
        for rotation in [
            Rotation::new(len as u64),
            Rotation::even(3, len).unwrap(),
            Rotation::new(5).with_max_block(8).unwrap(),
        ] {
            let x = integers(len as u64, len);
            let mut found = x.clone();
            rotation.rotate_i32(&mut found).unwrap();
            assert_eq!(found, by_definition(rotation, &x), "{len}");
            rotation.rotate_back_i32(&mut found).unwrap();
            assert_eq!(found, x, "{len}");
        }
    }
}

#[test]
fn h_times_its_transpose_is_n_times_the_identity() {
    for n in [1usize, 2, 4, 8, 16, 32, 64, 128, 256] {
        let rotation = Rotation::new(n as u64);
        let columns: Vec<Vec<i32>> = (0..n)
            .map(|j| {
                let mut unit = vec![0; n];
                unit[j] = 1;
                rotation.rotate_i32(&mut unit).unwrap();
                unit
            })
            .collect();
        for (i, a) in columns.iter().enumerate() {
            for (j, b) in columns.iter().enumerate() {
                let dot: i32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert_eq!(dot, if i == j { n as i32 } else { 0 });
            }
        }
    }
}

#[test]
fn float_rotation_is_the_matrix_over_root_n() {
    for len in [1, 2, 3, 31, 64, 100, 128, 200, 384, 1000, 4096] {
        let rotation = Rotation::new(11);
        let x = integers(1, len);
        let mut expected = x.clone();
        rotation.rotate_i32(&mut expected).unwrap();
        let mut found: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        rotation.rotate(&mut found).unwrap();
        for block in rotation.blocks(len) {
            let root = (block.len() as f32).sqrt();
            for i in block {
                assert!((found[i] - expected[i] as f32 / root).abs() < 2e-3, "{len} {i}");
            }
        }
        rotation.rotate_back(&mut found).unwrap();
        assert!(found.iter().zip(&x).all(|(found, &x)| (found - x as f32).abs() < 1e-3), "{len}");
    }
}

#[test]
fn rotation_keeps_lengths_and_spreads_an_outlier() {
    let mut x = vec![0.0; 512];
    x[77] = 16.0;
    Rotation::new(2).rotate(&mut x).unwrap();
    assert!(x.iter().all(|x| (x.abs() - 16.0 / 512f32.sqrt()).abs() < 1e-6));
    let negative = x.iter().filter(|x| **x < 0.0).count();
    assert_eq!(negative, 256);
}

#[test]
fn a_layer_with_rotated_weights_takes_rotated_inputs() {
    let (columns, rotation) = (100, Rotation::new(3));
    let (mut weights, mut x) = (samples(1, 7 * columns, true), samples(2, columns, false));
    let original = weights.clone();
    let layer = |w: &[f32], x: &[f32]| -> Vec<f64> {
        w.chunks(columns)
            .map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum())
            .collect()
    };
    let before = layer(&weights, &x);
    rotation.rotate_rows(&mut weights, columns).unwrap();
    assert!(weights.iter().zip(&original).any(|(a, b)| (a - b).abs() > 0.1));
    rotation.rotate(&mut x).unwrap();
    assert!(layer(&weights, &x).iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-4));
    rotation.rotate_rows_back(&mut weights, columns).unwrap();
    assert!(weights.iter().zip(&original).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn int8_activations_fit_their_stated_bounds() {
    // The extreme: every difference is ±255 with the signs of one row of H·D.
    let rotation = Rotation::even(4, 384).unwrap().with_max_block(MAX_I16_BLOCK).unwrap();
    for row in [0, 5, 127] {
        let x: Vec<i8> = (0..384)
            .map(|j| {
                let block = j / 128 * 128..j / 128 * 128 + 128;
                if entry(rotation, &block, block.start + row, j) == 1 { 127 } else { -128 }
            })
            .collect();
        let (mut narrow, mut wide) = (vec![0; 384], vec![0; 384]);
        rotation.rotate_i8_to_i16(&x, -128, &mut narrow).unwrap();
        rotation.rotate_i8_to_i32(&x, -128, &mut wide).unwrap();
        let exact: Vec<i32> =
            by_definition(rotation, &x.iter().map(|&x| i32::from(x) + 128).collect::<Vec<_>>());
        assert_eq!(wide, exact);
        assert_eq!(narrow.iter().map(|&x| i32::from(x)).collect::<Vec<_>>(), exact);
    }
    let mut all = [0; 128];
    Rotation::new(0).rotate_i8_to_i16(&[127; 128], -128, &mut all).unwrap();
    assert!(all.iter().all(|x| x.unsigned_abs() <= 32_640));
}

#[test]
fn bad_input_is_named() {
    let rotation = Rotation::new(1);
    let empty = Err(Error::Empty { what: What::Input });
    assert_eq!(rotation.rotate(&mut []), empty);
    assert_eq!(rotation.rotate_back(&mut []), empty);
    assert_eq!(rotation.rotate_i32(&mut []), empty);
    assert_eq!(rotation.rotate_back_i32(&mut []), empty);
    assert_eq!(rotation.rotate_i8_to_i16(&[], 0, &mut []), empty);
    assert_eq!(Rotation::even(0, 0).map(|_| ()), empty);
    let not_divisible = Error::NotDivisible { what: What::Weights, len: 10, by: 4 };
    assert_eq!(rotation.rotate_rows(&mut [0.0; 10], 4), Err(not_divisible));
    assert_eq!(rotation.rotate_rows(&mut [0.0; 10], 0), Err(Error::Empty { what: What::Columns }));
    let length = Error::Length { what: What::Output, expected: 4, got: 3 };
    assert_eq!(rotation.rotate_i8_to_i32(&[0; 4], 0, &mut [0; 3]), Err(length));
    for block in [0, 3, 100] {
        assert!(matches!(rotation.with_max_block(block), Err(Error::Range { what: What::Group, .. })));
    }
    let too_wide = rotation.rotate_i8_to_i16(&[0; 256], 0, &mut [0; 256]);
    assert!(matches!(too_wide, Err(Error::Range { what: What::Group, .. })));
    let mut x = [1 << 27; 16];
    assert!(matches!(rotation.rotate_i32(&mut x), Err(Error::Range { what: What::Input, .. })));
    assert_eq!(x, [1 << 27; 16]);
    let mut largest = [(i32::MAX / 16); 16];
    rotation.rotate_i32(&mut largest).unwrap();
    rotation.rotate_back_i32(&mut largest).unwrap();
    assert_eq!(largest, [(i32::MAX / 16); 16]);
    assert!(matches!(rotation.rotate_i32(&mut [i32::MIN]), Err(Error::Range { .. })));
    assert_eq!(walsh_hadamard(&mut []), empty);
    let not_a_power = Err(Error::NotDivisible { what: What::Input, len: 12, by: 8 });
    assert_eq!(walsh_hadamard(&mut [0.0; 12]), not_a_power);
    assert_eq!(walsh_hadamard_i32(&mut [0; 12]), not_a_power);
}

#[test]
fn signs_are_what_they_were() {
    // A stored model depends on them.
    let rotation = Rotation::new(2024);
    let word = (0..64).fold(0u64, |word, i| word | u64::from(rotation.negates(i)) << i);
    assert_eq!(word, splitmix64(2024, 1));
    let second = (64..128).fold(0u64, |word, i| word | u64::from(rotation.negates(i)) << (i - 64));
    assert_eq!(second, splitmix64(2024, 2));
    assert_eq!(splitmix64(0, 1), 0xE220_A839_7B1D_CDAF); // the generator's published first output for seed 0
}

/// The `count`-th output of the generator.
fn splitmix64(seed: u64, count: usize) -> u64 {
    let mut state = seed;
    let mut output = 0;
    for _ in 0..count {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        output = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        output = (output ^ (output >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        output ^= output >> 31;
    }
    output
}
