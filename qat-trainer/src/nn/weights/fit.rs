//! From weights to steps: the fit before training, and the rule that turns α (or s) into Δ.

use crate::spec::WeightQuant;
use qat_kernels::config::StepRule;
use qat_kernels::quantizer::{QuantizerSettings, StepInit, fit_adaptive};
use qat_kernels::{Error, What, pi_step};
use rayon::prelude::*;

/// How many steps a channel of `per_channel` weights has.
pub(crate) fn steps_per_channel(rule: StepRule, per_channel: usize) -> usize {
    match rule {
        StepRule::PiAdaptive { group } => (per_channel / group.max(1)).max(1),
        StepRule::Uniform | StepRule::Pi { .. } => 1,
    }
}

/// α (or s) of every channel, and k of every group of an adaptive quantiser. `init` decides about the former; α and k
/// of an adaptive quantiser are found together by the least squared error. Both searches weight errors by `importance`,
/// where there is one.
pub(crate) fn fit(
    quant: WeightQuant,
    init: StepInit,
    w: &[f32],
    per_channel: usize,
    importance: Option<&[f32]>,
) -> Result<(Vec<f32>, Vec<u8>), Error> {
    let weight = |channel: usize| importance.map(|i| &i[channel * per_channel..][..per_channel]);
    let fit_row = |(channel, row): (usize, &[f32])| -> Result<(f32, Vec<u8>), Error> {
        if let StepRule::PiAdaptive { group } = quant.step {
            let mut divisors = vec![0; row.len() / group.max(1)];
            let alpha = fit_adaptive(quant.levels, group, row, weight(channel), &mut divisors)?;
            return Ok((alpha, divisors));
        }
        let settings = QuantizerSettings::new(quant.levels).with_init(init);
        let fitted = settings.initial_step(row, weight(channel))?;
        let mut unit = [0.0];
        steps(quant.step, 1.0, &[], &mut unit)?;
        Ok((fitted / unit[0], Vec::new()))
    };
    let fitted: Vec<_> = w.par_chunks(per_channel).enumerate().map(fit_row).collect::<Result<_, _>>()?;
    let (alphas, divisors): (Vec<f32>, Vec<Vec<u8>>) = fitted.into_iter().unzip();
    Ok((alphas, divisors.concat()))
}

/// The steps of one channel: Δ = s, α·π/k, or α·π/k for the k of each group.
pub(crate) fn steps(rule: StepRule, alpha: f32, divisors: &[u8], out: &mut [f32]) -> Result<(), Error> {
    match rule {
        StepRule::Pi { k } => out.fill(pi_step(alpha, k)?),
        StepRule::PiAdaptive { .. } => {
            for (step, &k) in out.iter_mut().zip(divisors) {
                *step = pi_step(alpha, k)?;
            }
        }
        StepRule::Uniform if alpha > 0.0 && alpha.is_normal() => out.fill(alpha),
        StepRule::Uniform => return Err(Error::NotPositive { what: What::Steps, index: 0, value: alpha }),
    }
    Ok(())
}
