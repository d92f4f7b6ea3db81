//! Laws of the calibration engine, on random streams: merging, re-ranging, and the truth of each method's range.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use qat_kernels::calibration::*;
use qat_kernels::{Grid, Levels, QuantGranularity};

const BINS: usize = 512;
const SCHEMES: [QuantScheme; 3] =
    [QuantScheme::Affine, QuantScheme::Symmetric(Grid::MidTread), QuantScheme::Symmetric(Grid::MidRise)];
const METHODS: [CalibrationMethod; 5] = [
    CalibrationMethod::MinMax,
    CalibrationMethod::MovingAverage { momentum: 0.75 },
    CalibrationMethod::Percentile { share: 0.98 },
    CalibrationMethod::Mse,
    CalibrationMethod::Entropy,
];

type Engine = CalibrationEngine<BINS>;

fn engine(config: CalibrationConfig, batches: &[Vec<f32>]) -> Engine {
    let mut engine = Engine::new(config).unwrap();
    batches.iter().for_each(|b| engine.observe(b).unwrap());
    engine
}

/// Anything an f32 can be, with emphasis on what real activations are.
fn any_sample() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -8.0f32..8.0,
        2 => Just(0.0f32),
        1 => Just(-0.0f32),
        2 => any::<u32>().prop_map(f32::from_bits),
        1 => prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(f32::MAX), Just(-1e-45f32)],
        2 => (-30i32..30, -1.0f32..1.0).prop_map(|(e, m)| m * (e as f32).exp2()),
    ]
}

fn any_batches() -> impl Strategy<Value = Vec<Vec<f32>>> {
    let signed = prop::collection::vec(prop::collection::vec(any_sample(), 0..60), 1..8);
    (signed, any::<bool>()).prop_map(|(mut batches, signed)| {
        if !signed {
            batches.iter_mut().flatten().for_each(|x| *x = x.abs());
        }
        batches
    })
}

fn any_config() -> impl Strategy<Value = CalibrationConfig> {
    (prop::sample::select(&METHODS[..]), 2u8..=8, prop::sample::select(&SCHEMES[..]), any::<Option<bool>>())
        .prop_map(|(method, bits, scheme, limit)| CalibrationConfig {
            method,
            bits,
            scheme,
            outlier_limit: limit.map(|tight| if tight { 5.0 } else { 1e6 }),
            ..CalibrationConfig::default()
        })
}

proptest! {
    #[test]
    fn merged_engines_equal_one_engine(
        batches in any_batches(),
        config in any_config(),
        owner in prop::collection::vec(0usize..3, 8),
        order in Just([0usize, 1, 2]).prop_shuffle(),
    ) {
        let averages = matches!(config.method, CalibrationMethod::MovingAverage { .. });
        prop_assume!(!averages);
        let one = engine(config, &batches);
        let mut engines = [0; 3].map(|_| Engine::new(config).unwrap());
        for (batch, &owner) in batches.iter().zip(&owner) {
            engines[owner].observe(batch).unwrap();
        }
        let mut merged = Engine::new(config).unwrap();
        for i in order {
            merged.merge(&engines[i]).unwrap();
        }
        prop_assert_eq!(&merged, &one);
        prop_assert_eq!(merged.calibrated(0), one.calibrated(0));
    }

    #[test]
    fn merged_averages_equal_one_average_in_order(batches in any_batches(), momentum in 0.0f32..0.999, cut in 0usize..8) {
        let config = CalibrationConfig::default().with_method(CalibrationMethod::MovingAverage { momentum });
        let one = engine(config, &batches);
        let cut = cut.min(batches.len());
        let mut merged = engine(config, &batches[..cut]);
        merged.merge(&engine(config, &batches[cut..])).unwrap();
        match (merged.range(0), one.range(0)) {
            (Ok(a), Ok(b)) => {
                let scale = b.magnitude().max(merged.parts()[0].extremes().unwrap().magnitude());
                prop_assert!((a.lo() - b.lo()).abs() <= 1e-6 * scale, "{a:?} {b:?}");
                prop_assert!((a.hi() - b.hi()).abs() <= 1e-6 * scale, "{a:?} {b:?}");
            }
            (a, b) => prop_assert_eq!(a, b),
        }
        prop_assert_eq!(merged.stats(), one.stats());
    }

    #[test]
    fn cuts_and_order_of_the_stream_do_not_matter(batches in any_batches(), config in any_config(), seed in any::<u64>()) {
        prop_assume!(!matches!(config.method, CalibrationMethod::MovingAverage { .. }));
        let one = engine(config, &batches);
        let mut samples = batches.concat();
        let mut state = seed;
        for i in (1..samples.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            samples.swap(i, (state >> 33) as usize % (i + 1));
        }
        prop_assert_eq!(engine(config, &[samples]), one);
    }

    #[test]
    fn counts_and_extremes_are_the_naive_ones(batches in any_batches(), limit in prop::option::of(0.5f32..100.0)) {
        let config = CalibrationConfig { outlier_limit: limit, ..CalibrationConfig::default() };
        let e = engine(config, &batches);
        let all = batches.concat();
        let finite: Vec<f32> = all.iter().copied().filter(|x| x.is_finite()).collect();
        let kept: Vec<f32> = finite.iter().copied().filter(|x| x.abs() <= limit.unwrap_or(f32::MAX)).collect();
        let stats = e.stats();
        prop_assert_eq!(stats.non_finite as usize, all.len() - finite.len());
        prop_assert_eq!(stats.outliers as usize, finite.len() - kept.len());
        prop_assert_eq!(stats.samples as usize, kept.len());
        prop_assert_eq!(stats.zeros as usize, kept.iter().filter(|x| **x == 0.0).count());
        if kept.is_empty() {
            prop_assert_eq!(e.range(0), Err(qat_kernels::Error::NoSamples { part: 0 }));
        } else {
            let range = e.range(0).unwrap();
            prop_assert_eq!(range.lo(), kept.iter().copied().fold(f32::INFINITY, f32::min));
            prop_assert_eq!(range.hi(), kept.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn every_range_lies_within_the_samples_and_gives_a_sound_scale(batches in any_batches(), config in any_config()) {
        let e = engine(config, &batches);
        let Some(all) = e.parts()[0].extremes() else { return Ok(()) };
        let Calibrated { range, params } = e.calibrated(0).unwrap();
        prop_assert!(range.lo() <= range.hi());
        // Symmetric thresholds may clip everything on one side; then the range is a point between 0 and the samples.
        prop_assert!(range.lo() >= all.lo().min(0.0) && range.hi() <= all.hi().max(0.0), "{range:?} {all:?}");
        prop_assert!(params.scale > 0.0 && params.scale.is_normal());
        let levels = config.levels().unwrap();
        prop_assert!((levels.lo()..=levels.hi()).contains(&i32::from(params.zero_point)));
        if config.scheme != QuantScheme::Affine {
            prop_assert_eq!(params.zero_point, 0);
        }
    }

    #[test]
    fn percentile_lies_within_one_bin_of_the_sorted_truth(
        batches in any_batches(),
        share in 0.51f32..=1.0,
        symmetric in any::<bool>(),
    ) {
        let scheme = if symmetric { QuantScheme::Symmetric(Grid::MidTread) } else { QuantScheme::Affine };
        let config =
            CalibrationConfig::default().with_method(CalibrationMethod::Percentile { share }).with_scheme(scheme);
        let e = engine(config, &batches);
        let mut kept: Vec<f64> =
            batches.iter().flatten().filter(|x| x.is_finite()).map(|&x| f64::from(x)).collect();
        prop_assume!(!kept.is_empty());
        let largest = kept.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        // The documented layout: the tightest power of two above the largest magnitude, both signs if one is negative.
        let top = f64::from_bits(largest.max(f64::from(f32::MIN_POSITIVE) / 2.0).to_bits() & !((1 << 52) - 1)) * 2.0;
        let sides = if kept.iter().any(|&x| x < 0.0) { 2.0 } else { 1.0 };
        let bin = top * sides / BINS as f64 * (1.0 + 1e-6);
        let truth = |sorted: &[f64], rank: f64| {
            // The sample that the rank falls on, ranks counting from 1; a rank at a border may take either neighbour.
            let (below, above) = ((rank - 1e-9).ceil().max(1.0), (rank + 1e-9).floor() + 1.0);
            let at = |r: f64| sorted[(r as usize).clamp(1, sorted.len()) - 1];
            (at(below), at(above))
        };
        let n = kept.len() as f64;
        let range = e.range(0).unwrap();
        let near = |x: f32, (a, b): (f64, f64)| f64::from(x) >= a - bin && f64::from(x) <= b + bin;
        if symmetric {
            kept.iter_mut().for_each(|x| *x = x.abs());
            kept.sort_by(f64::total_cmp);
            prop_assert!(near(range.magnitude(), truth(&kept, f64::from(share) * n)), "{range:?}");
        } else {
            kept.sort_by(f64::total_cmp);
            let tail = (1.0 - f64::from(share)) / 2.0;
            prop_assert!(near(range.lo(), truth(&kept, tail * n)), "{range:?}");
            prop_assert!(near(range.hi(), truth(&kept, (1.0 - tail) * n)), "{range:?}");
        }
    }

    #[test]
    fn clipped_share_is_that_of_the_samples_but_for_the_bins_at_the_ends(
        samples in prop::collection::vec(-4.0f32..4.0, 1..400),
        lo in -5.0f32..0.0,
        hi in 0.0f32..5.0,
    ) {
        let e = engine(CalibrationConfig::default(), std::slice::from_ref(&samples));
        let share = e.parts()[0].clipped_share(ClipRange::new(lo, hi).unwrap()).unwrap();
        let bin = 8.0 / BINS as f32;
        let clipped = |by: f32| samples.iter().filter(|&&x| x < lo - by || x > hi + by).count() as f32;
        let n = samples.len() as f32;
        prop_assert!(share >= clipped(bin) / n - 1e-5 && share <= clipped(-bin) / n + 1e-5, "{share}");
    }
}

/// A stream of standard normal numbers (Box-Muller on a 64-bit LCG).
fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (0..n)
        .map(|_| ((-2.0 * uniform().ln()).sqrt() * (core::f64::consts::TAU * uniform()).cos()) as f32)
        .collect()
}

fn squared_error(samples: &[f32], range: ClipRange, levels: Levels, bits: u8, scheme: QuantScheme) -> f64 {
    let p = AffineParams::from_range(range, bits, scheme).unwrap();
    samples.iter().map(|&x| f64::from(x - p.dequantize(p.quantize(x, levels), levels)).powi(2)).sum()
}

/// Samples as they occur: weights, skewed and rectified activations, heavy tails, a far outlier.
fn distributions() -> Vec<(&'static str, Vec<f32>)> {
    let gauss = normal(20_000, 1);
    let relu = gauss.iter().map(|x| x.max(0.0)).collect();
    let cubed = gauss.iter().map(|x| x * x * x).collect();
    let silu = gauss.iter().map(|x| 2.0 * x / (1.0 + (-2.0 * x).exp())).collect();
    let mut outlier = gauss.clone();
    outlier.push(60.0);
    vec![("gauss", gauss), ("relu", relu), ("cubed", cubed), ("silu", silu), ("outlier", outlier)]
}

#[test]
fn mse_is_as_good_as_brute_force() {
    for (name, samples) in distributions() {
        let (min, max) = samples.iter().fold((0.0f32, 0.0f32), |(a, b), &x| (a.min(x), b.max(x)));
        for bits in [2, 3, 4, 8] {
            for scheme in SCHEMES {
                let levels = Levels::new(bits, scheme.grid()).unwrap();
                let error = |lo: f32, hi: f32| {
                    squared_error(&samples, ClipRange::new(lo, hi).unwrap(), levels, bits, scheme)
                };
                let brute = if scheme == QuantScheme::Affine && min < 0.0 {
                    let ends = |end: f32| (1..=30).map(move |i| end * i as f32 / 30.0);
                    ends(min)
                        .flat_map(|lo| ends(max).map(move |hi| (lo, hi)))
                        .map(|(lo, hi)| error(lo, hi))
                        .fold(f64::INFINITY, f64::min)
                } else {
                    let top = max.max(-min);
                    (1..=300)
                        .map(|i| top * i as f32 / 300.0)
                        .map(|t| error(min.max(-t), max.min(t)))
                        .fold(f64::INFINITY, f64::min)
                };
                let config = CalibrationConfig::default()
                    .with_method(CalibrationMethod::Mse)
                    .with_bits(bits)
                    .with_scheme(scheme);
                let mut e = CalibrationEngine::<2048>::new(config).unwrap();
                e.observe(&samples).unwrap();
                let range = e.range(0).unwrap();
                let found = error(range.lo(), range.hi());
                // At 8 bits brute force also fits the noise of these very samples, which a histogram does not see.
                let tolerance = if bits == 8 { 1.015 } else { 1.001 };
                assert!(
                    found <= tolerance * brute,
                    "{name} {bits} {scheme:?}: {found} against {brute}, {range:?}"
                );
            }
        }
    }
}

#[test]
fn mse_of_gauss_finds_the_thresholds_of_the_literature() {
    // Optimal uniform quantisers of N(0, 1), Max 1960, table 2: 4 levels have the step 0.9957, 16 levels 0.3352. On the
    // mid-rise grid the threshold, the top level, is (2^b − 1)/2 steps.
    let samples = normal(200_000, 5);
    for (bits, step) in [(2u8, 0.9957f32), (4, 0.3352)] {
        let config = CalibrationConfig::default()
            .with_method(CalibrationMethod::Mse)
            .with_bits(bits)
            .with_scheme(QuantScheme::Symmetric(Grid::MidRise));
        let mut e = CalibrationEngine::<2048>::new(config).unwrap();
        e.observe(&samples).unwrap();
        let found = e.params(0).unwrap().scale;
        assert!((found / step - 1.0).abs() < 0.02, "{bits} bits: step {found}, Max has {step}");
    }
}

#[test]
fn an_outlier_ruins_min_max_and_nothing_else() {
    let mut samples = normal(20_000, 9);
    samples.push(30.0);
    let config = CalibrationConfig::default().with_bits(4).with_method(CalibrationMethod::Mse);
    let mut e = CalibrationEngine::<2048>::new(config).unwrap();
    e.observe(&samples).unwrap();
    let hi = |method| e.range_with(0, method).unwrap().hi();
    assert_eq!(hi(CalibrationMethod::MinMax), 30.0);
    for method in
        [CalibrationMethod::Percentile { share: 0.999 }, CalibrationMethod::Mse, CalibrationMethod::Entropy]
    {
        assert!((2.0..5.0).contains(&hi(method)), "{method:?}: {}", hi(method));
    }
    let clipped = e.parts()[0].clipped_share(e.range(0).unwrap()).unwrap();
    assert!(clipped > 0.0 && clipped < 0.02, "{clipped}");
}

#[test]
fn channels_are_calibrated_apart() {
    let scales = [0.01f32, 1.0, 300.0];
    let rows: Vec<f32> = scales.iter().flat_map(|s| normal(500, 4).into_iter().map(move |x| x * s)).collect();
    let config = CalibrationConfig::default()
        .with_method(CalibrationMethod::Mse)
        .with_scheme(QuantScheme::Symmetric(Grid::MidTread))
        .with_granularity(QuantGranularity::PerChannel);
    let mut e = CalibrationEngine::<512, _>::with_parts(config, vec![Observer::new(); 3]).unwrap();
    e.observe(&rows).unwrap();
    let mut out = [Calibrated { range: ClipRange::new(0.0, 0.0).unwrap(), params: e.params(0).unwrap() }; 4];
    let found = e.finish(&mut out).unwrap();
    assert_eq!(found.len(), 3);
    for (c, s) in found.iter().zip(scales) {
        // The layouts differ by powers of two only roughly, so do the searches.
        assert!((c.params.scale / s / found[1].params.scale - 1.0).abs() < 0.05, "{c:?}");
    }
}

/// What the methods choose today for a fixed stream. A change here changes the scales of every model calibrated again:
/// make it on purpose.
#[test]
fn value_stability() {
    let samples: Vec<f32> = (0..5000u32)
        .map(|i| {
            let u = (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32 - 0.4;
            u * u * u * 10.0
        })
        .collect();
    let mut e = CalibrationEngine::<1024>::new(CalibrationConfig::default()).unwrap();
    e.observe(&samples).unwrap();
    let bits = |method| {
        let range = e.range_with(0, method).unwrap();
        (range.lo().to_bits(), range.hi().to_bits())
    };
    assert_eq!(bits(CalibrationMethod::MinMax), (0xBF23_D70B, 0x400A_1DEC));
    assert_eq!(bits(CalibrationMethod::Percentile { share: 0.99 }), (0xBF1D_C71D, 0x4006_AAAB));
    assert_eq!(bits(CalibrationMethod::Mse), (0xBF22_23E8, 0x400A_1DEC));
    // The logarithm of the feature `micromath` is another one.
    #[cfg(not(feature = "micromath"))]
    assert_eq!(bits(CalibrationMethod::Entropy), (0xBF23_D70B, 0x3FFF_0000));
}

/// Every sample that is not zero is in one stretch of a range that holds them all.
#[test]
fn a_distribution_counts_every_sample_once() {
    let samples: Vec<f32> = (0..1000).map(|i| (i % 97) as f32 * 0.1 - 3.0).chain([0.0; 50]).collect();
    let mut engine = CalibrationEngine::<512>::new(CalibrationConfig::default()).unwrap();
    let [observer] = engine.parts() else { panic!() };
    assert_eq!(
        observer.distribution(ClipRange::new(-4.0, 8.0).unwrap(), &mut [0.0; 4]),
        Err(qat_kernels::Error::NoSamples { part: 0 })
    );
    engine.observe(&samples).unwrap();
    let [observer] = engine.parts() else { panic!() };
    let zeros = samples.iter().filter(|x| **x == 0.0).count();
    for bins in [1, 3, 24] {
        let mut counts = vec![0.0; bins];
        observer.distribution(ClipRange::new(-4.0, 8.0).unwrap(), &mut counts).unwrap();
        let sum: f32 = counts.iter().sum();
        assert!((sum - (samples.len() - zeros) as f32).abs() < 0.5, "{bins}: {sum}");
        for (i, count) in counts.iter().enumerate() {
            let width = 12.0 / bins as f32;
            let start = -4.0 + i as f32 * width;
            let inside = |x: &&f32| **x != 0.0 && (start..start + width).contains(*x);
            let wanted = samples.iter().filter(inside).count() as f32;
            // Samples near an edge share their bin with the neighbour's.
            assert!((count - wanted).abs() < 12.0, "{bins} {i}: {count} {wanted}");
        }
    }
}
