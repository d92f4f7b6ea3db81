//! Calibration: however a stream is split over two engines, the merged one equals one engine that saw all of it, bit for bit
//! (a moving average aside), and every range that comes out is one.
#![no_main]

use fuzz::{float, floats};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, CalibrationMethod};

fuzz_target!(|bytes: &[u8]| {
    // What runs out of bytes says nothing.
    let _ = check(&mut Unstructured::new(bytes));
});

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let method = match u.int_in_range(0..=3u8)? {
        0 => CalibrationMethod::MinMax,
        1 => CalibrationMethod::Percentile { share: float(u)? },
        2 => CalibrationMethod::Mse,
        _ => CalibrationMethod::Entropy,
    };
    let config = CalibrationConfig::default().with_method(method).with_bits(u.int_in_range(1..=9)?);
    let Ok(mut whole) = CalibrationEngine::<256>::new(config) else { return Ok(()) };
    let (mut first, mut second) = (whole.clone(), whole.clone());
    for _ in 0..u.int_in_range(1..=4u8)? {
        let batch = floats(u, 64, float)?;
        let part: bool = u.arbitrary()?;
        let one = if part { &mut first } else { &mut second };
        assert_eq!(one.observe(&batch), whole.observe(&batch));
    }
    first.merge(&second).expect("engines of one configuration");
    assert_eq!(first, whole);
    if let Ok(range) = whole.range(0) {
        assert!(range.lo() <= range.hi() && range.lo().is_finite() && range.hi().is_finite());
        let scale = whole.params(0).expect("a range has a scale").scale;
        assert!(scale > 0.0 && scale.is_finite());
    }
    Ok(())
}
