//! Fixed point against real numbers (f64 holds every product of two 16-bit numbers exactly): the same codes, the same masks,
//! values and gradients within the bounds that `qat_kernels::fixed` states.
#![no_main]

use fuzz::{levels, mask};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use qat_kernels::Grid;
use qat_kernels::fixed::{FixedQuantizer, FixedSte, Q16, Q32};

fuzz_target!(|bytes: &[u8]| {
    // What runs out of bytes says nothing.
    let _ = check(&mut Unstructured::new(bytes));
});

const ULP: f64 = 1.0 / 4096.0;

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let (levels, mask) = (levels(u)?, mask(u)?);
    let (step, w) = (Q16::<12>::from_raw(u.arbitrary()?), Q16::<12>::from_raw(u.arbitrary()?));
    let (g, lambda) = (Q32::<20>::from_raw(u.arbitrary()?), Q32::<30>::from_raw(u.arbitrary()?));
    let clip_val = Q16::<12>::from_raw(u.arbitrary()?);
    let real = |q: Q16<12>| f64::from(q.raw()) * ULP;
    let Ok(quantizer) = FixedQuantizer::new(levels, step) else {
        assert!(step.raw() <= 0);
        return Ok(());
    };
    let offset = if levels.grid() == Grid::MidRise { 0.5 } else { 0.0 };
    let v = real(w) / real(step);
    let exact = (v - offset).round_ties_even().clamp(levels.lo().into(), levels.hi().into());
    let code = quantizer.quantize(w);
    assert_eq!(f64::from(code), exact);

    let (smallest, largest) = (f64::from(i16::MIN) * ULP, f64::from(i16::MAX) * ULP);
    let value = ((exact + offset) * real(step)).clamp(smallest, largest);
    assert!((real(quantizer.fake_quantize(w)) - value).abs() <= 0.5 * ULP);

    for ste in [
        FixedSte::Standard,
        FixedSte::Clipped { clip_val },
        FixedSte::LearnedStepSize,
        FixedSte::Ewgs { lambda },
    ] {
        if ste.validate().is_err() {
            continue;
        }
        let gradient = ste.backward(&quantizer, mask, w, g);
        let passes = match ste {
            FixedSte::Standard => true,
            FixedSte::Clipped { clip_val } => real(w).abs() <= real(clip_val),
            _ => quantizer.passes(w, mask),
        };
        if passes && !matches!(ste, FixedSte::Ewgs { .. }) {
            assert_eq!(gradient, g);
        }
        if passes && matches!(ste, FixedSte::Ewgs { .. }) {
            let (ulp, real_g) = (1.0 / f64::from(1 << 20), f64::from(g.raw()) / f64::from(1 << 20));
            let lambda = f64::from(lambda.raw()) / f64::from(1 << 30);
            let wanted = real_g * (1.0 + lambda * real_g.signum() * (v - exact - offset));
            let wanted = wanted.clamp(f64::from(i32::MIN) * ulp, f64::from(i32::MAX) * ulp);
            let error = (f64::from(gradient.raw()) * ulp - wanted).abs();
            // One ulp where a gradient is kept from zero; the last term is for the f64 itself.
            let bound = if gradient.raw().unsigned_abs() == 1 { ulp } else { 0.5 * ulp }
                + real_g.abs() / f64::from(1u32 << 31);
            assert!(error <= bound + 1e-11, "{ste:?}: {error} > {bound}");
        }
        if !passes {
            assert_eq!(gradient.raw(), 0);
        }
        // INV-1, to the last bit.
        if passes && g.raw() != 0 {
            assert!(gradient.raw() != 0, "{ste:?}");
        }
    }
    Ok(())
}
