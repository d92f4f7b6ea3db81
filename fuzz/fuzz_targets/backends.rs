//! Every instruction set of the machine gives the bits of the portable one, for all passes of the estimators, whatever the
//! numbers; and no gradient is lost but by clipping (INV-1).
#![no_main]

use fuzz::{estimator, float, levels, mask};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use qat_kernels::ste_simd::{Backend, Isa, Kernels};
use qat_kernels::{SteVariant, invariants};

fuzz_target!(|bytes: &[u8]| {
    // What runs out of bytes says nothing.
    let _ = check(&mut Unstructured::new(bytes));
});

/// Equal bits; NaNs count as one, since no instruction set promises their payload.
fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let (levels, ste, mask) = (levels(u)?, estimator(u)?, mask(u)?);
    let (runs, per_step) = (u.int_in_range(1..=3usize)?, u.int_in_range(1..=70usize)?);
    let mut numbers = |len: usize| (0..len).map(|_| float(u)).collect::<Result<Vec<f32>>>();
    let steps: Vec<f32> = numbers(runs)?.into_iter().map(f32::abs).collect();
    let (w, g) = (numbers(runs * per_step)?, numbers(runs * per_step)?);
    let run = |backend: Backend| {
        let kernels = Kernels::on(backend);
        let (mut values, mut codes) = (vec![0.0; w.len()], vec![0; w.len()]);
        let (mut gradients, mut of_steps) = (vec![0.0; w.len()], vec![0.0; runs]);
        let forward = kernels.fake_quantize(levels, &steps, &w, &mut values);
        let quantised = kernels.quantize(levels, &steps, &w, &mut codes);
        let backward = kernels.backward(ste, levels, mask, &steps, &w, &g, &mut gradients, &mut of_steps);
        let results = (forward.is_ok(), quantised.is_ok(), backward.is_ok());
        if results != (true, true, true) {
            return (results, Vec::new(), Vec::new(), Vec::new(), Vec::new());
        }
        // EWGS with λ ≥ 2 may cancel a gradient without clipping it.
        if !matches!(ste, SteVariant::Ewgs { lambda } if lambda >= 2.0) {
            let runs = w.chunks(per_step).zip(g.chunks(per_step)).zip(gradients.chunks(per_step)).zip(&steps);
            for (((w, g), gradients), &step) in runs {
                let flow = invariants::gradient_flow(ste, levels, mask, step, w, g, gradients);
                assert_eq!(
                    flow,
                    Ok(()),
                    "{ste:?} {levels:?} {mask:?}, Δ = {step:?}: {w:?} {g:?} {gradients:?}"
                );
            }
        }
        (results, bits(&values), codes, bits(&gradients), bits(&of_steps))
    };
    let expected = Backend::new(Isa::Portable).map(run);
    for backend in Backend::available() {
        assert_eq!(Some(run(backend)), expected, "{}", backend.isa().name());
    }
    Ok(())
}
