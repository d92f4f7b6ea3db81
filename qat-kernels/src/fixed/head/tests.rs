//! What the last layer learns, and that it stays within its bits.

use super::*;
use crate::fixed::Q16;
use crate::grid::Grid;
use proptest::prelude::*;

fn levels(bits: u8) -> Levels {
    Levels::new(bits, Grid::MidRise).unwrap()
}

/// Noisy copies of one random pattern per class.
fn samples(count: usize) -> Vec<([i8; 32], usize)> {
    let mut state = 0x9E37_79B9_u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as i32
    };
    let patterns: Vec<[i32; 32]> = (0..6).map(|_| core::array::from_fn(|_| random() % 100)).collect();
    (0..count).map(|i| (patterns[i % 6].map(|p| (p + random() % 161 - 128).min(127) as i8), i % 6)).collect()
}

fn trained<W: Word, const F: u32>(group: usize) -> (Memory<W, F>, usize) {
    let samples = samples(1200);
    let mut memory = Memory::<W, F>::new(6, 32, group, Fixed::from_ratio(3, 2));
    let mut head = Head::new(levels(2), group, -128, memory.buffers()).unwrap();
    for (i, (x, label)) in samples[..600].iter().enumerate() {
        head.learn(&Adaptation::default().decayed(i as u32, 600), x, *label).unwrap();
    }
    let right = samples[600..].iter().filter(|(x, label)| head.predict(x).unwrap() == *label).count();
    (memory, right)
}

#[test]
fn a_two_bit_layer_learns_from_nothing() {
    for right in [trained::<i32, 24>(32).1, trained::<i16, 12>(32).1, trained::<i32, 24>(8).1] {
        assert!(right > 500, "{right} of 600");
    }
}

#[test]
fn the_trained_layer_never_changes_its_bits() {
    // The same numbers on every machine: what the emulated microcontroller is held to as well.
    let (mut memory, _) = trained::<i32, 24>(32);
    let mut bytes: Vec<u8> = memory.weights.iter().flat_map(|w| w.raw().to_le_bytes()).collect();
    bytes.extend(memory.bias.iter().flat_map(|b| b.raw().to_le_bytes()));
    let head = Head::new(levels(2), 32, -128, memory.buffers()).unwrap();
    assert_eq!(head.digest(), crate::crc32::crc32(&bytes));
    assert_eq!(head.digest(), 0x4B18_7A84);
    let (mut memory, _) = trained::<i16, 12>(8);
    assert_eq!(Head::new(levels(2), 8, -128, memory.buffers()).unwrap().digest(), 0x009A_4D0D);
}

#[test]
fn codes_always_are_those_of_the_weights() {
    let (mut memory, _) = trained::<i16, 12>(8);
    let learned = memory.codes.clone();
    let head = Head::new(levels(2), 8, -128, memory.buffers()).unwrap();
    assert_eq!(head.codes(), learned);
    assert!((-2..=1).all(|q| learned.contains(&q)));
}

#[test]
fn logits_are_the_layers_within_their_bound() {
    let (mut memory, _) = trained::<i32, 24>(8);
    let (steps, bias) = (memory.steps.clone(), memory.bias.clone());
    let mut head = Head::new(levels(2), 8, -128, memory.buffers()).unwrap();
    for (x, _) in samples(50) {
        let codes = head.codes().to_vec();
        for (c, logit) in head.logits(&x).unwrap().iter().enumerate() {
            let sum: f64 = (0..32)
                .map(|i| {
                    let level = f64::from(codes[c * 32 + i]) + 0.5;
                    let step = f64::from(steps[c * 4 + i / 8].raw()) / 2_f64.powi(24);
                    level * step * (f64::from(x[i]) + 128.0) / 128.0
                })
                .sum();
            let exact = sum + f64::from(bias[c].raw()) / 2_f64.powi(20);
            assert!((f64::from(logit.raw()) / 65536.0 - exact).abs() <= 2_f64.powi(-16));
        }
    }
}

#[test]
fn bad_buffers_and_samples_are_typed_errors() {
    let step = Q16::<12>::from_ratio(1, 1);
    let refused = |change: fn(&mut Memory<i16, 12>), group| {
        let mut memory = Memory::new(2, 4, 4, step);
        change(&mut memory);
        Head::new(levels(2), group, 0, memory.buffers()).err()
    };
    let length = |what, expected, got| Some(Error::Length { what, expected, got });
    assert_eq!(refused(|_| (), 4), None);
    assert_eq!(refused(|_| (), 0), Some(Error::Empty { what: What::Group }));
    assert_eq!(refused(|_| (), 3), Some(Error::NotDivisible { what: What::Weights, len: 8, by: 3 }));
    assert_eq!(refused(|_| (), 8), Some(Error::NotDivisible { what: What::Group, len: 4, by: 8 }));
    assert_eq!(refused(|m| m.bias.clear(), 4), Some(Error::Empty { what: What::Bias }));
    assert_eq!(refused(|m| m.weights.clear(), 4), Some(Error::Empty { what: What::Weights }));
    assert_eq!(refused(|m| m.steps.clear(), 4), length(What::Steps, 2, 0));
    assert_eq!(refused(|m| m.codes.clear(), 4), length(What::Codes, 8, 0));
    assert_eq!(refused(|m| m.logits.clear(), 4), length(What::Output, 2, 0));
    assert_eq!(refused(|m| m.gradient.clear(), 4), length(What::Gradient, 2, 0));
    let zero = Error::NotPositive { what: What::Steps, index: 1, value: 0.0 };
    assert_eq!(refused(|m| m.steps[1] = Q16::default(), 4), Some(zero));
    let mut wide = Memory::new(1, MAX_FEATURES + 1, MAX_FEATURES + 1, step);
    let e = Head::new(levels(2), MAX_FEATURES + 1, 0, wide.buffers()).err();
    assert_eq!(e, Some(Error::Capacity { what: What::Weights, capacity: MAX_FEATURES }));

    let mut memory = Memory::new(2, 4, 4, step);
    let mut head = Head::new(levels(2), 4, 0, memory.buffers()).unwrap();
    let how = Adaptation::default();
    assert_eq!(head.predict(&[0; 3]).err(), length(What::Input, 4, 3));
    assert_eq!(head.learn(&how, &[0; 3], 0).err(), length(What::Input, 4, 3));
    assert_eq!(head.learn(&how, &[0; 4], 2).err(), Some(Error::Code { index: 0, code: 2 }));
    let stopped = Adaptation { rate: Q32::default(), ..how };
    assert!(matches!(head.learn(&stopped, &[0; 4], 0), Err(Error::NotPositive { .. })));
}

#[test]
fn rates_decay_linearly_but_never_to_zero() {
    let how = Adaptation::<i32, 24>::default();
    assert_eq!(how.decayed(0, 10), how);
    assert_eq!(how.decayed(5, 10).rate.raw(), 1 << 26);
    assert_eq!(how.decayed(5, 10).bias_rate.raw(), 1 << 27);
    assert_eq!((how.decayed(10, 10).rate.raw(), how.decayed(7, 0).bias_rate.raw()), (1, 1));
}

proptest! {
    #[test]
    fn extreme_layers_saturate_and_stay_consistent(
        step in 1..=i32::MAX, weight: i32, bias: i32, z: i8, rate in 1..=i32::MAX, bits in 2_u8..=8,
        x in prop::array::uniform8(any::<i8>()), label in 0_usize..3,
    ) {
        let mut memory = Memory::<i32, 20>::new(3, 8, 4, Q32::from_raw(step));
        memory.weights.fill(Q32::from_raw(weight));
        memory.bias.fill(Q32::from_raw(bias));
        let how = Adaptation { rate: Q32::from_raw(rate), bias_rate: Q32::from_raw(rate), ..Adaptation::default() };
        let mut head = Head::new(levels(bits), 4, z, memory.buffers()).unwrap();
        for _ in 0..3 {
            prop_assert!(head.learn(&how, &x, label).unwrap() < 3);
        }
        let quantizer = FixedQuantizer::new(levels(bits), Q32::<20>::from_raw(step)).unwrap();
        for (w, q) in head.weights().iter().zip(head.codes()) {
            prop_assert_eq!(quantizer.quantize(*w), *q);
        }
    }
}
