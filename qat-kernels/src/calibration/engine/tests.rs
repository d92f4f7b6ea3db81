//! What the engine sees, refuses and finds.

use super::*;

const MINMAX: CalibrationMethod = CalibrationMethod::MinMax;

fn config(method: CalibrationMethod) -> CalibrationConfig {
    CalibrationConfig::default().with_method(method)
}

fn per_channel<const N: usize, const BINS: usize>(
    method: CalibrationMethod,
) -> CalibrationEngine<BINS, [Observer<BINS>; N]> {
    let config = config(method).with_granularity(QuantGranularity::PerChannel);
    CalibrationEngine::with_parts(config, [const { Observer::new() }; N]).unwrap()
}

#[test]
fn engines_that_cannot_work_are_refused() {
    let e = |c| CalibrationEngine::<0>::new(c).unwrap_err();
    assert_eq!(e(config(MINMAX).with_bits(1)), Error::Bits { bits: 1 });
    let token = config(MINMAX).with_granularity(QuantGranularity::PerToken);
    assert_eq!(e(token), Error::Unsupported { what: What::Granularity });
    for method in
        [CalibrationMethod::Mse, CalibrationMethod::Entropy, CalibrationMethod::Percentile { share: 0.9 }]
    {
        assert_eq!(e(config(method)), Error::Capacity { what: What::Histogram, capacity: 0 });
    }
    let few = CalibrationEngine::<256>::new(config(CalibrationMethod::Mse)).unwrap_err();
    assert_eq!(few, Error::Capacity { what: What::Histogram, capacity: 256 });
    assert!(CalibrationEngine::<512>::new(config(CalibrationMethod::Mse)).is_ok());
    let none: [Observer<0>; 0] = [];
    assert_eq!(
        CalibrationEngine::with_parts(config(MINMAX).with_granularity(QuantGranularity::PerChannel), none),
        Err(Error::Empty { what: What::Channels })
    );
    assert_eq!(
        CalibrationEngine::with_parts(config(MINMAX), [Observer::<0>::new(); 2]).unwrap_err(),
        Error::Length { what: What::Channels, expected: 1, got: 2 }
    );
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let mut e = per_channel::<3, 0>(MINMAX);
    assert_eq!(e.observe(&[0.0; 4]), Err(Error::NotDivisible { what: What::Samples, len: 4, by: 3 }));
    assert_eq!(
        e.observe_channels_last(&[0.0; 4]),
        Err(Error::NotDivisible { what: What::Samples, len: 4, by: 3 })
    );
    assert_eq!(e.observe_part(3, &[0.0]), Err(Error::Length { what: What::Channels, expected: 4, got: 3 }));
    assert_eq!(e.range(3), Err(Error::Length { what: What::Channels, expected: 4, got: 3 }));
    let beyond = Error::Length { what: What::Channels, expected: usize::MAX, got: 3 };
    assert_eq!(e.range(usize::MAX), Err(beyond));
    assert_eq!(e.observe_part(usize::MAX, &[0.0]), Err(beyond));
    assert_eq!(e.observe(&[]), Ok(()));
    let grouped = config(MINMAX).with_granularity(QuantGranularity::PerGroup(4));
    let mut e = CalibrationEngine::with_parts(grouped, [Observer::<0>::new(); 2]).unwrap();
    assert_eq!(e.observe(&[0.0; 6]), Err(Error::Length { what: What::Samples, expected: 8, got: 6 }));
    assert_eq!(e.observe(&[0.0; 8]), Ok(()));
}

#[test]
fn a_part_without_samples_is_named() {
    let mut e = per_channel::<2, 0>(MINMAX);
    e.observe(&[1.0, f32::NAN]).unwrap();
    assert_eq!(e.range(1), Err(Error::NoSamples { part: 1 }));
    let unused = e.calibrated(0).unwrap();
    assert_eq!(e.finish(&mut [unused; 2]), Err(Error::NoSamples { part: 1 }));
    assert_eq!(e.finish(&mut [unused]), Err(Error::Length { what: What::Output, expected: 2, got: 1 }));
    let stats = e.stats();
    assert_eq!((stats.empty_parts, stats.constant_parts, stats.non_finite), (1, 1, 1));
}

#[test]
fn both_layouts_of_channels_see_the_same() {
    const C: usize = 5;
    let rows: Vec<f32> = (0..C * 301).map(|i| ((i * 7919) % 1013) as f32 / 100.0 - 3.0).collect();
    let last: Vec<f32> = (0..rows.len()).map(|i| rows[(i % C) * 301 + i / C]).collect();
    let method = CalibrationMethod::MovingAverage { momentum: 0.5 };
    let (mut a, mut b) = (per_channel::<C, 64>(method), per_channel::<C, 64>(method));
    for _ in 0..2 {
        a.observe(&rows).unwrap();
        b.observe_channels_last(&last).unwrap();
    }
    assert_eq!(a, b);
    assert_eq!(a.stats().samples, 2 * rows.len() as u64);
}

#[test]
fn outliers_are_left_out_and_counted() {
    let limited = config(CalibrationMethod::Mse).with_outlier_limit(10.0);
    let mut e = CalibrationEngine::<512>::new(limited).unwrap();
    e.observe(&[1.0, -2.0, 10.0, 1e30, f32::NEG_INFINITY]).unwrap();
    assert_eq!(e.parts()[0].extremes(), Some(ClipRange::new(-2.0, 10.0).unwrap()));
    let stats = e.stats();
    assert_eq!((stats.samples, stats.outliers, stats.non_finite), (3, 1, 1));
}

#[test]
fn constants_keep_their_value() {
    for method in [
        MINMAX,
        CalibrationMethod::MovingAverage { momentum: 0.9 },
        CalibrationMethod::Percentile { share: 0.999 },
        CalibrationMethod::Mse,
        CalibrationMethod::Entropy,
    ] {
        for c in [3.7, -3.7, 1e-20, 0.0] {
            let mut e = CalibrationEngine::<512>::new(config(method)).unwrap();
            for _ in 0..5 {
                e.observe(&[c; 33]).unwrap();
            }
            let Calibrated { range, params } = e.calibrated(0).unwrap();
            assert_eq!((range.lo(), range.hi()), (c, c), "{method:?}");
            let levels = e.config().levels().unwrap();
            let back = params.dequantize(params.quantize(c, levels), levels);
            assert!((back - c).abs() <= c.abs() * 1e-6, "{method:?} {c} {back}");
            assert_eq!(e.stats().constant_parts, 1);
        }
    }
}

#[test]
fn one_pass_serves_several_methods() {
    let mut e = CalibrationEngine::<512>::new(config(CalibrationMethod::Mse)).unwrap();
    e.observe(&[-1.0, 0.5, 2.0]).unwrap();
    assert_eq!(e.range_with(0, CalibrationMethod::Mse), e.range(0));
    assert_eq!(e.range_with(0, MINMAX), Ok(ClipRange::new(-1.0, 2.0).unwrap()));
    assert!(matches!(
        e.range_with(0, CalibrationMethod::Percentile { share: 2.0 }),
        Err(Error::Range { .. })
    ));
    let average = CalibrationMethod::MovingAverage { momentum: 0.5 };
    assert_eq!(e.range_with(0, average), Err(Error::Mismatch { what: What::Config }));
    let few = CalibrationEngine::<16>::new(config(MINMAX)).unwrap();
    assert!(matches!(few.range_with(0, CalibrationMethod::Mse), Err(Error::Capacity { .. })));
}

#[test]
fn merges_that_make_no_sense_are_refused() {
    let mut a = CalibrationEngine::<16>::new(config(MINMAX)).unwrap();
    let b = CalibrationEngine::<16>::new(config(MINMAX).with_bits(4)).unwrap();
    assert_eq!(a.merge(&b), Err(Error::Mismatch { what: What::Config }));
    let mut c = per_channel::<2, 16>(MINMAX);
    let d = per_channel::<3, 16>(MINMAX);
    assert_eq!(c.merge(&d), Err(Error::Length { what: What::Channels, expected: 2, got: 3 }));
}
