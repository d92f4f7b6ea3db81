//! What 2 bits make of a row of weights, with one k for all and with k for each group of 8:
//! `cargo run -p qat-kernels --example quantise`. No heap: it would do the same on a microcontroller.
#![allow(missing_docs)]

use qat_kernels::config::StepRule;
use qat_kernels::{DifferentiableQuantizer as _, Grid, QatConfig, Result, SteVariant, create_quantizer};

/// Small weights on the left, large ones on the right: no single step suits both halves.
const WEIGHTS: [f32; 16] =
    [0.11, -0.07, 0.04, -0.12, 0.09, 0.02, -0.05, 0.10, 0.41, -0.28, 0.17, -0.45, 0.33, 0.08, -0.21, 0.37];

/// Σ(w − ŵ)² of the weights under a rule for the step.
fn error(step: StepRule) -> Result<f32> {
    let config = QatConfig::default()
        .with_bits(2)
        .with_grid(Grid::MidRise)
        .with_step(step)
        .with_ste(SteVariant::LearnedStepSize);
    let mut quantizer = create_quantizer(&config)?;
    quantizer.init_scale_from_weights(&WEIGHTS)?;
    let mut rounded = [0.0; 16];
    quantizer.forward(&WEIGHTS, &mut rounded)?;
    Ok(WEIGHTS.iter().zip(rounded).map(|(w, r)| (w - r) * (w - r)).sum())
}

fn main() -> Result<()> {
    let fixed = error(StepRule::Pi { k: 3 })?;
    let adaptive = error(StepRule::PiAdaptive { group: 8 })?;
    println!("squared error with one k {fixed:.4}, with k for each group of 8 {adaptive:.4}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_k_is_a_uniform_step() -> Result<()> {
        let [fixed, uniform] = [error(StepRule::Pi { k: 3 })?, error(StepRule::Uniform)?];
        assert!((fixed - uniform).abs() <= 1e-3 * uniform, "{fixed} {uniform}");
        Ok(())
    }

    #[test]
    fn groups_of_different_spread_want_different_k() -> Result<()> {
        let [fixed, adaptive] = [error(StepRule::Pi { k: 3 })?, error(StepRule::PiAdaptive { group: 8 })?];
        assert!(adaptive < 0.7 * fixed, "{adaptive} {fixed}");
        main()
    }
}
