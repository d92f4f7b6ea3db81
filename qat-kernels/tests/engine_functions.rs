//! Sigmoid, softmax and rotations on the engine against real numbers and exact integers.
#![cfg(feature = "alloc")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what cannot be built or read must fail the test"
)]

use proptest::prelude::*;
use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorId, TensorSpec, Weights};
use qat_kernels::hadamard::Rotation;
use qat_kernels::infer::Model;
use qat_kernels::{Error, Grid, Levels, OpFault, What};

fn run(
    spec: TensorSpec,
    x: &[i8],
    build: impl FnOnce(&mut ModelBuilder, TensorId) -> Result<TensorId, Error>,
) -> Result<(Vec<i8>, TensorSpec), Error> {
    let mut b = ModelBuilder::new(spec);
    let input = b.input();
    let y = build(&mut b, input)?;
    let result = b.tensor(y)?;
    let file = b.finish(&Metadata::default(), &[])?;
    let model = Model::parse(&file)?;
    let (mut out, mut arena) = (vec![0; model.output_len()], vec![0x5A; model.arena_len()]);
    model.run(x, &mut out, &mut arena)?;
    Ok((out, result))
}

fn all_int8() -> Vec<i8> {
    (i8::MIN..=i8::MAX).collect()
}

#[test]
fn sigmoid_is_within_half_a_step_of_the_real_one() {
    for (scale, zero_point) in [(0.05, 0), (0.001, -100), (1.0, 127)] {
        let spec = TensorSpec { shape: [1, 1, 256], scale, zero_point };
        let (out, y) = run(spec, &all_int8(), ModelBuilder::sigmoid).unwrap();
        for (q, out) in all_int8().into_iter().zip(out) {
            let real =
                1.0 / (1.0 + (-f64::from(scale) * f64::from(i16::from(q) - i16::from(zero_point))).exp());
            let got = f64::from(y.scale) * f64::from(i16::from(out) - i16::from(y.zero_point));
            // The largest int8 stands for 255/256.
            assert!((got - real.min(255.0 / 256.0)).abs() <= 0.5 / 256.0 + 1e-12, "{q}: {got}, {real}");
        }
    }
}

#[test]
fn any_function_goes_through_a_table() {
    let spec = TensorSpec { shape: [16, 16, 1], scale: 0.5, zero_point: 3 };
    let output = Output::new(2.0, -7);
    let (out, _) = run(spec, &all_int8(), |b, x| b.table(x, output, |x| -x)).unwrap();
    for (q, out) in all_int8().into_iter().zip(out) {
        let exact = -0.5 * (f64::from(q) - 3.0) / 2.0;
        assert_eq!(f64::from(out), exact.round_ties_even() - 7.0);
    }
    let nan = run(spec, &all_int8(), |b, x| b.table(x, output, |x| if x > 60.0 { f64::NAN } else { x }));
    assert_eq!(nan, Err(Error::NotFinite { what: What::Output, index: 252 }));
    let clamped = run(spec, &all_int8(), |b, x| b.table(x, output.relu(), |x| x));
    assert_eq!(clamped, Err(Error::Op { op: 0, fault: OpFault::Requantisation }));
}

proptest! {
    #[test]
    fn softmax_is_within_a_step_of_the_real_one(
        x in prop::collection::vec(any::<i8>(), 1..40),
        rows in 1u16..4,
        scale in prop_oneof![Just(0.001f32), Just(0.05), Just(0.3), Just(4.0)],
    ) {
        let channels = x.len() as u16;
        let spec = TensorSpec { shape: [rows, 1, channels], scale, zero_point: 9 };
        let all = x.repeat(rows.into());
        let (out, y) = run(spec, &all, ModelBuilder::softmax).unwrap();
        prop_assert_eq!((y.scale, y.zero_point), (1.0 / 256.0, -128));
        let real: Vec<f64> = x.iter().map(|&q| (f64::from(scale) * f64::from(q)).exp()).collect();
        let sum: f64 = real.iter().sum();
        for row in out.chunks(channels.into()) {
            for (&got, real) in row.iter().zip(&real) {
                let (got, real) = (f64::from(got) + 128.0, (256.0 * real / sum).min(255.0));
                // Half a step of the result; the table's halves of 2^−15 add up over the channels.
                let slack = 0.5 + 256.0 * (f64::from(channels) + 1.0) / 65536.0;
                prop_assert!((got - real).abs() <= slack, "{got}, {real}");
            }
        }
    }

    #[test]
    fn a_rotation_is_its_definition_in_exact_integers(
        seed: u64, blocks in 1usize..5, log in 0u32..8, zero_point: i8, numbers: u64,
    ) {
        let block = 1usize << log;
        let len = blocks * block;
        let rotation = Rotation::new(seed).with_max_block(block).unwrap();
        let mut state = numbers;
        let x: Vec<i8> = (0..len).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as i8
        }).collect();
        let mut sums = vec![0; len];
        rotation.rotate_i8_to_i32(&x, zero_point, &mut sums).unwrap();

        let spec = TensorSpec { shape: [1, 1, len as u16], scale: 0.25, zero_point };
        let output = Output::new(0.5, -4);
        let (out, _) = run(spec, &x, |b, x| b.hadamard(x, rotation, output)).unwrap();
        let ratio = 0.25 / 0.5 / f64::from(block as u32).sqrt();
        let shift = (1..=32).rev().find(|&n| (ratio * 2f64.powi(n)).round_ties_even() <= f64::from(i32::MAX)).unwrap();
        let m = (ratio * 2f64.powi(shift)).round_ties_even() as i64;
        for (sum, out) in sums.into_iter().zip(out) {
            let y = (i64::from(sum) * m + (1 << (shift - 1))) >> shift;
            prop_assert_eq!(i64::from(out), (y - 4).clamp(-128, 127));
        }
    }
}

/// A rotated layer behind a rotation of its input computes what the layer computes, up to the roundings on the way.
#[test]
fn a_rotated_layer_gives_the_layers_answer() {
    let (features, classes) = (96, 5);
    let rotation = Rotation::even(7, features).unwrap();
    let mut weights: Vec<f32> =
        (0..features * classes).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let x: Vec<i8> = (0..features).map(|i| (i * 53 % 200) as i8).collect();
    let spec = TensorSpec { shape: [1, 1, features as u16], scale: 0.02, zero_point: 4 };
    let levels = Levels::new(8, Grid::MidTread).unwrap();
    let exact: Vec<f32> = weights
        .chunks(features)
        .map(|row| row.iter().zip(&x).map(|(w, &q)| w * 0.02 * (f32::from(q) - 4.0)).sum())
        .collect();
    rotation.rotate_rows(&mut weights, features).unwrap();
    let step = weights.iter().fold(0f32, |m, w| m.max(w.abs())) / 127.0;
    let codes: Vec<i8> = weights.iter().map(|w| (w / step).round() as i8).collect();
    let (out, y) = run(spec, &x, |b, x| {
        let rotated = b.hadamard(x, rotation, Output::new(0.06, 0))?;
        let weights = Weights { levels, codes: &codes, steps: Steps::PerChannel(&[step; 5]) };
        b.linear(rotated, &weights, &[], Output::new(0.2, 0))
    })
    .unwrap();
    for (&got, want) in out.iter().zip(exact) {
        assert!((f32::from(got) * y.scale - want).abs() < 0.4, "{got} · {}, {want}", y.scale);
    }
}

#[test]
fn rotations_that_do_not_fit_are_refused() {
    let spec = TensorSpec { shape: [1, 1, 12], scale: 1.0, zero_point: 0 };
    let uneven = run(spec, &[0; 12], |b, x| b.hadamard(x, Rotation::new(1), Output::new(1.0, 0)));
    assert_eq!(uneven, Err(Error::Op { op: 0, fault: OpFault::Shape }));
    let far = run(spec, &[0; 12], |b, x| b.hadamard(x, Rotation::even(1, 12)?, Output::new(1e-30, 0)));
    assert_eq!(far, Err(Error::Op { op: 0, fault: OpFault::Requantisation }));
}
