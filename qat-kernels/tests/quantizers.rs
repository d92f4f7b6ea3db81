//! What holds for every quantiser, checked against the scalar definitions of `grid` and `ste`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use core::f32::consts::PI;
use proptest::prelude::*;
use qat_kernels::quantizer::{
    AdaptivePiQuantizer, DifferentiableQuantizer, F16, GroupQuantizer, PiQuantDifferentiable,
    QuantizerSettings, StepInit, UniformQuantizer, create_quantizer, create_quantizer_in, piq2_quantizer,
    piq3_quantizer, uniform_quantizer,
};
use qat_kernels::ste::{lsq_gradient_scale, lsq_step_gradient};
use qat_kernels::{
    Error, Grid, Levels, LsqMask, QatConfig, QuantGranularity, SteVariant, What, config::StepRule,
    invariants, pi_step,
};

/// One of the quantisers over the same weights, with what is needed to check it by definition.
enum Any {
    Uniform(UniformQuantizer<Vec<f32>>),
    Group(GroupQuantizer<Vec<F16>>),
    Pi(PiQuantDifferentiable<Vec<f32>>),
    Adaptive(AdaptivePiQuantizer<Vec<f32>, Vec<u8>>),
}

impl Any {
    /// All kinds, for `channels` channels of two groups of 16.
    fn all(settings: QuantizerSettings, channels: usize, k: u8) -> [Self; 4] {
        let ones = || vec![1.0; channels];
        [
            Any::Uniform(UniformQuantizer::new(settings, ones()).unwrap()),
            Any::Group(GroupQuantizer::new(settings, vec![F16::ONE; 2 * channels]).unwrap()),
            Any::Pi(PiQuantDifferentiable::new(settings, k, ones()).unwrap()),
            Any::Adaptive(AdaptivePiQuantizer::new(settings, 16, ones(), vec![3; 2 * channels]).unwrap()),
        ]
    }

    fn get(&mut self) -> &mut dyn DifferentiableQuantizer {
        match self {
            Any::Uniform(q) => q,
            Any::Group(q) => q,
            Any::Pi(q) => q,
            Any::Adaptive(q) => q,
        }
    }

    /// The step of weight `i` of `len`, the scale that it comes from, and d step / d scale.
    fn step(&self, i: usize, len: usize) -> (f32, usize, f32) {
        match self {
            Any::Uniform(q) => {
                let scale = i / (len / q.steps().len());
                (q.steps()[scale], scale, 1.0)
            }
            Any::Group(q) => {
                let scale = i / (len / q.steps().len());
                (q.steps()[scale].to_f32(), scale, 1.0)
            }
            Any::Pi(q) => {
                let scale = i / (len / q.alphas().len());
                (pi_step(q.alphas()[scale], q.k()).unwrap(), scale, PI / f32::from(q.k()))
            }
            Any::Adaptive(q) => {
                let (scale, k) = (i / (len / q.alphas().len()), q.divisors()[i / q.group()]);
                (pi_step(q.alphas()[scale], k).unwrap(), scale, PI / f32::from(k))
            }
        }
    }
}

fn grid() -> impl Strategy<Value = Grid> {
    prop_oneof![Just(Grid::MidTread), Just(Grid::MidRise)]
}

fn ste() -> impl Strategy<Value = SteVariant> {
    prop_oneof![
        Just(SteVariant::Standard),
        (0.01f32..3.0).prop_map(|clip_val| SteVariant::Clipped { clip_val }),
        Just(SteVariant::LearnedStepSize),
        (0.0f32..1.0).prop_map(|lambda| SteVariant::Ewgs { lambda }),
    ]
}

fn settings() -> impl Strategy<Value = QuantizerSettings> {
    let init = prop_oneof![Just(StepInit::Mse), Just(StepInit::Lsq), Just(StepInit::Max)];
    let mask = prop_oneof![Just(LsqMask::Exact), Just(LsqMask::Rounded)];
    (2u8..=8, grid(), ste(), init, mask).prop_map(|(bits, grid, ste, init, mask)| {
        QuantizerSettings::new(Levels::new(bits, grid).unwrap()).with_ste(ste).with_init(init).with_mask(mask)
    })
}

/// Channels of 32 weights of one magnitude, some of them dead.
fn weights() -> impl Strategy<Value = Vec<f32>> {
    let channel = (prop::collection::vec(-1.0f32..1.0, 32), prop_oneof![Just(0.0f32), 1e-4f32..100.0]);
    prop::collection::vec(channel, 1..4).prop_map(|channels| {
        channels.into_iter().flat_map(|(row, scale)| row.into_iter().map(move |w| w * scale)).collect()
    })
}

proptest! {
    #[test]
    fn codes_and_passes_follow_the_definitions(
        settings in settings(), weights in weights(), k in 2u8..=5, seed in any::<u32>()
    ) {
        let (len, lv) = (weights.len(), settings.levels);
        for mut any in Any::all(settings, len / 32, k) {
            let q = any.get();
            q.init_scale_from_weights(&weights).unwrap();
            let mut scales = vec![0.0; q.scale_count()];
            q.scales(&mut scales).unwrap();
            prop_assert_eq!(invariants::positive_alpha(&scales), Ok(()));

            let (mut codes, mut again) = (vec![0; len], vec![0; len]);
            let (mut decoded, mut forward) = (vec![0.0; len], vec![0.0; len]);
            q.quantize(&weights, &mut codes).unwrap();
            q.dequantize(&codes, &mut decoded).unwrap();
            q.forward(&weights, &mut forward).unwrap();
            q.quantize(&decoded, &mut again).unwrap();
            prop_assert!(codes.iter().all(|&q| (lv.lo()..=lv.hi()).contains(&q.into())));
            prop_assert_eq!(&decoded, &forward);
            prop_assert_eq!(&codes, &again);

            let g: Vec<f32> =
                (0..len as u32).map(|i| ((i.wrapping_mul(seed | 1) >> 7) % 2001) as f32 / 1000.0 - 1.0).collect();
            let (mut grad_weights, mut grad_scales) = (vec![0.0; len], vec![0.0; scales.len()]);
            q.backward(&weights, &g, &mut grad_weights, &mut grad_scales).unwrap();
            let (mut sums, mut magnitudes) = (vec![0.0f64; scales.len()], vec![0.0f64; scales.len()]);
            for i in 0..len {
                let (step, scale, factor) = any.step(i, len);
                prop_assert_eq!(codes[i], lv.quantize(weights[i], step) as i8);
                prop_assert_eq!(forward[i], lv.fake_quantize(weights[i], step));
                let expected = settings.ste.backward_in_range(weights[i], step, lv, settings.mask, g[i]);
                prop_assert_eq!(grad_weights[i], expected);
                let term = f64::from(lsq_step_gradient(weights[i], step, lv, settings.mask, g[i])) * f64::from(factor);
                sums[scale] += term;
                magnitudes[scale] += term.abs();
            }
            let covers = len / scales.len();
            for scale in 0..scales.len() {
                let root = f64::from(lsq_gradient_scale(covers, lv));
                let error = (f64::from(grad_scales[scale]) - sums[scale] * root).abs();
                prop_assert!(error <= 1e-5 * magnitudes[scale] * root + 1e-12, "{} {}", error, sums[scale] * root);
            }
        }
    }

    #[test]
    fn refused_scales_leave_the_old_ones(settings in settings(), k in 2u8..=5) {
        for mut any in Any::all(settings, 3, k) {
            let q = any.get();
            let mut before = vec![0.0; q.scale_count()];
            q.scales(&mut before).unwrap();
            for bad in [0.0, -0.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut scales = before.clone();
                scales[2] = bad;
                let refused = q.set_scales(&scales);
                prop_assert!(matches!(refused, Err(Error::NotPositive { index: 2, .. })), "{:?}", refused);
                let mut after = vec![0.0; q.scale_count()];
                q.scales(&mut after).unwrap();
                prop_assert_eq!(&before, &after);
            }
        }
    }
}

#[test]
fn bad_slices_are_refused_by_every_quantiser_in_every_method() {
    let settings = QuantizerSettings::new(Levels::new(3, Grid::MidRise).unwrap());
    for mut any in Any::all(settings, 2, 3) {
        let q = any.get();
        let (w, n) = ([0.5; 64], q.scale_count());
        let (mut out, mut codes, mut scales) = ([0.0; 64], [0; 64], vec![0.0; n]);
        for at in [0, 40, 63] {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut bad = w;
                bad[at] = value;
                let not_finite = |what| Err(Error::NotFinite { what, index: at });
                let (weights, gradient) = (not_finite(What::Weights), not_finite(What::Gradient));
                assert_eq!(q.init_scale_from_weights(&bad), weights);
                assert_eq!(q.forward(&bad, &mut out), weights);
                assert_eq!(q.quantize(&bad, &mut codes), weights);
                assert_eq!(q.backward(&bad, &w, &mut out, &mut scales), weights);
                assert_eq!(q.backward(&w, &bad, &mut out, &mut scales), gradient);
                assert!(q.init_scale_weighted(&w, Some(&bad)).is_err());
            }
        }
        codes[50] = 4;
        assert_eq!(q.dequantize(&codes, &mut out), Err(Error::Code { index: 50, code: 4 }));
        codes[50] = 0;

        let length = |what, expected, got| Err(Error::Length { what, expected, got });
        assert_eq!(q.forward(&w, &mut out[..63]), length(What::Output, 64, 63));
        assert_eq!(q.quantize(&w, &mut codes[..63]), length(What::Codes, 64, 63));
        assert_eq!(q.dequantize(&codes, &mut out[..63]), length(What::Output, 64, 63));
        assert_eq!(q.backward(&w, &w[..63], &mut out, &mut scales), length(What::Gradient, 64, 63));
        assert_eq!(q.backward(&w, &w, &mut out[..63], &mut scales), length(What::Output, 64, 63));
        assert!(matches!(
            q.backward(&w, &w, &mut out, &mut scales[1..]),
            Err(Error::Length { what: What::Steps | What::Alpha, .. })
        ));
        assert!(matches!(q.scales(&mut [0.0; 9]), Err(Error::Length { got: 9, .. })));
        assert!(matches!(q.set_scales(&[1.0; 9]), Err(Error::Length { got: 9, .. })));
        assert_eq!(q.init_scale_weighted(&w, Some(&w[..63])), length(What::Importance, 64, 63));
        for len in [0, 63] {
            assert!(q.init_scale_from_weights(&w[..len]).is_err());
            assert!(q.forward(&w[..len], &mut out[..len]).is_err());
            assert!(q.quantize(&w[..len], &mut codes[..len]).is_err());
            assert!(q.dequantize(&codes[..len], &mut out[..len]).is_err());
            assert!(q.backward(&w[..len], &w[..len], &mut out[..len], &mut scales).is_err());
        }
        q.forward(&w, &mut out).unwrap();
    }
}

#[test]
fn constructors_refuse_what_the_invariants_forbid() {
    let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise).unwrap());
    for k in [0, 1, 6, 255] {
        assert_eq!(PiQuantDifferentiable::new(settings, k, [1.0]), Err(Error::Divisor { k }));
    }
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        let refused = |result: Result<(), Error>, what: What| {
            assert!(
                matches!(result, Err(Error::NotPositive { what: w, index: 1, .. }) if w == what),
                "{result:?}"
            );
        };
        refused(PiQuantDifferentiable::new(settings, 3, [1.0, bad]).map(|_| ()), What::Alpha);
        refused(UniformQuantizer::new(settings, [1.0, bad]).map(|_| ()), What::Steps);
    }
    assert_eq!(UniformQuantizer::new(settings, [0.0; 0]), Err(Error::Empty { what: What::Steps }));
    assert_eq!(PiQuantDifferentiable::new(settings, 3, [0.0; 0]), Err(Error::Empty { what: What::Alpha }));
    let bad_ste = settings.with_ste(SteVariant::Clipped { clip_val: -1.0 });
    assert!(matches!(UniformQuantizer::new(bad_ste, [1.0]), Err(Error::Range { what: What::ClipVal, .. })));
    for bits in [0, 1, 9] {
        assert_eq!(uniform_quantizer(bits), Err(Error::Bits { bits }));
    }
}

#[test]
fn storage_may_be_an_array_a_slice_or_a_vec() {
    let settings = QuantizerSettings::new(Levels::new(4, Grid::MidTread).unwrap());
    let weights: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut on_stack = [1.0; 4];
    let mut borrowed = PiQuantDifferentiable::new(settings, 3, &mut on_stack[..]).unwrap();
    let mut owned = PiQuantDifferentiable::new(settings, 3, vec![1.0; 4]).unwrap();
    let mut array = PiQuantDifferentiable::new(settings, 3, [1.0; 4]).unwrap();
    borrowed.init_scale_from_weights(&weights).unwrap();
    owned.init_scale_from_weights(&weights).unwrap();
    array.init_scale_from_weights(&weights).unwrap();
    assert_eq!(borrowed.alphas(), owned.alphas());
    assert_eq!(array.alphas(), owned.alphas());
    assert_eq!(on_stack, array.into_alphas());
}

#[test]
fn a_configuration_makes_the_quantiser_that_it_describes() {
    let weights: Vec<f32> = (0..128).map(|i| (i as f32 * 1.3).sin()).collect();
    let mut out = vec![0.0; 128];
    for config in
        [QatConfig::default(), QatConfig::piq2(), QatConfig::piq3(), QatConfig::piq2a(), QatConfig::piq3a()]
    {
        let mut one = create_quantizer(&config).unwrap();
        assert_eq!((one.levels(), one.scale_count()), (config.levels().unwrap(), 1));
        one.init_scale_from_weights(&weights).unwrap();
        one.forward(&weights, &mut out).unwrap();

        let ks = if matches!(config.step, StepRule::PiAdaptive { .. }) { 8 } else { 0 };
        let mut many = create_quantizer_in(&config, 4, 32, [0.0; 4], vec![0; ks]).unwrap();
        many.init_scale_from_weights(&weights).unwrap();
        assert_eq!(many.scale_count(), 4);
        many.forward(&weights, &mut out).unwrap();
    }
    assert_eq!(
        create_quantizer(&QatConfig::piq2()),
        Ok(qat_kernels::quantizer::Quantizer::Pi(piq2_quantizer()))
    );
    assert_eq!(
        create_quantizer(&QatConfig::piq3()),
        Ok(qat_kernels::quantizer::Quantizer::Pi(piq3_quantizer()))
    );

    let grouped = QatConfig::default().with_granularity(QuantGranularity::PerGroup(8));
    let mut q = create_quantizer_in(&grouped, 4, 32, [0.0; 16], []).unwrap();
    q.init_scale_from_weights(&weights).unwrap();
    let refused = create_quantizer_in(&grouped, 4, 30, [0.0; 16], []).map(|_| ());
    assert_eq!(refused, Err(Error::NotDivisible { what: What::Weights, len: 30, by: 8 }));
    let refused = create_quantizer_in(&grouped, 4, 32, [0.0; 15], []).map(|_| ());
    assert_eq!(refused, Err(Error::Length { what: What::Steps, expected: 16, got: 15 }));
    let token = QatConfig::default().with_granularity(QuantGranularity::PerToken);
    assert_eq!(create_quantizer(&token), Err(Error::Unsupported { what: What::Granularity }));
    assert_eq!(create_quantizer(&QatConfig::default().with_bits(9)), Err(Error::Bits { bits: 9 }));
}

#[test]
fn adaptive_steps_beat_a_stored_scale_per_group_at_fewer_bits() {
    // About Gaussian rows; the study in `benches` does this on real weights.
    let mut state = 7u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    let weights: Vec<f32> = (0..64 * 384).map(|_| (0..12).map(|_| uniform()).sum()).collect();
    let settings = QuantizerSettings::new(Levels::new(2, Grid::MidRise).unwrap());
    let error = |q: &mut dyn DifferentiableQuantizer| -> f32 {
        let mut out = vec![0.0; weights.len()];
        q.init_scale_from_weights(&weights).unwrap();
        q.forward(&weights, &mut out).unwrap();
        weights.iter().zip(&out).map(|(w, w_hat)| (w - w_hat).powi(2)).sum()
    };
    let groups = weights.len() / 16;
    let adaptive = error(&mut AdaptivePiQuantizer::new(settings, 16, [1.0; 64], vec![3; groups]).unwrap());
    let stored = error(&mut GroupQuantizer::new(settings, vec![F16::ONE; groups / 2]).unwrap());
    let fixed = error(&mut PiQuantDifferentiable::new(settings, 3, [1.0; 64]).unwrap());
    let free = error(&mut UniformQuantizer::new(settings, [1.0; 64]).unwrap());
    assert!(adaptive < 0.97 * stored, "2.17 bits against 2.5: {adaptive} {stored}");
    assert!(stored < fixed);
    assert!((fixed / free - 1.0).abs() < 1e-4, "with α free, a fixed k is a uniform grid: {fixed} {free}");
}
