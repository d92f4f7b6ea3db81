//! Every quantiser on arbitrary configurations and weights (NaN, ∞ and subnormals among them): an error or finite numbers,
//! gradients that arrive (INV-1), scales that stay positive (INV-2), codes and values that agree.
#![no_main]

use fuzz::{config, float, floats};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use qat_kernels::quantizer::{DifferentiableQuantizer, create_quantizer_boxed};
use qat_kernels::{QatConfig, invariants};

fuzz_target!(|bytes: &[u8]| {
    // What runs out of bytes says nothing.
    let _ = check(&mut Unstructured::new(bytes));
});

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let config = config(u)?;
    let (rows, columns) = (u.int_in_range(0..=4)?, u.int_in_range(0..=64)?);
    let weights = match u.arbitrary()? {
        true => floats(u, 256, float)?,
        false => (0..rows * columns).map(|_| float(u)).collect::<Result<_>>()?,
    };
    let upstream = weights.iter().map(|_| float(u)).collect::<Result<Vec<f32>>>()?;
    let importance = weights.iter().map(|_| float(u).map(f32::abs)).collect::<Result<Vec<f32>>>()?;

    let Ok(mut quantizer) = create_quantizer_boxed(&config, rows, columns) else { return Ok(()) };
    assert_eq!(config.validate(), Ok(()));
    let importance = u.arbitrary::<bool>()?.then_some(&importance[..]);
    let fitted = quantizer.init_scale_weighted(&weights, importance).is_ok();
    if fitted {
        assert!(weights.iter().all(|w| w.is_finite()));
    }
    exercise(&*quantizer, &config, &weights, &upstream);
    let scales = floats(u, 8, float)?;
    if quantizer.set_scales(&scales).is_ok() {
        assert_eq!(invariants::positive_alpha(&scales), Ok(()));
        exercise(&*quantizer, &config, &weights, &upstream);
    }
    Ok(())
}

fn exercise(q: &dyn DifferentiableQuantizer, config: &QatConfig, weights: &[f32], upstream: &[f32]) {
    let mut scales = vec![0.0; q.scale_count()];
    q.scales(&mut scales).expect("room for all of them");
    assert_eq!(invariants::positive_alpha(&scales), Ok(()));
    let Ok(values) = q.forward_vec(weights) else { return };
    let codes = q.quantize_vec(weights).expect("what can be quantised has codes");
    let levels = q.levels();
    assert!(codes.iter().all(|&c| (levels.lo()..=levels.hi()).contains(&i32::from(c))));
    let back = q.dequantize_vec(&codes).expect("codes of the grid");
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&back), bits(&values), "{config:?}");
    let Ok((gradients, of_scales)) = q.backward_vec(weights, upstream) else { return };
    assert_eq!(of_scales.len(), scales.len());
    if matches!(config.ste, qat_kernels::SteVariant::Standard) {
        assert_eq!(bits(&gradients), bits(upstream));
    }
}
