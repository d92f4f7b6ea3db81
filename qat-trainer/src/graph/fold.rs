//! Folding batch normalisation into the weights before it.

use crate::error::{Error, ErrorKind, Result};

/// ε of batch normalisation, torch's default.
pub const BN_EPS: f64 = 1e-5;

/// The four tensors of a batch normalisation, one number per channel each.
///
/// ```
/// use qat_trainer::graph::{BatchNorm, fold_batch_norm};
/// // Two channels; γ switches the second off.
/// let bn = BatchNorm {
///     weight: &[1.0, 0.0],
///     bias: &[0.0, 0.5],
///     running_mean: &[2.0, 7.0],
///     running_var: &[1.0 - 1e-5, 3.0],
/// };
/// let (w, b) = fold_batch_norm(&[3.0, 4.0], None, bn)?;
/// assert_eq!((w, b), (vec![3.0, 0.0], vec![-2.0, 0.5]));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// γ.
    pub weight: &'a [f32],
    /// β.
    pub bias: &'a [f32],
    /// Running mean μ.
    pub running_mean: &'a [f32],
    /// Running variance σ².
    pub running_var: &'a [f32],
}

/// Weights and bias of the layer that equals a layer followed by batch normalisation:
/// `w' = w·γ/√(σ² + ε)`, `b' = (b − μ)·γ/√(σ² + ε) + β`, computed in f64 and rounded once.
///
/// `weights` holds one row per channel, all of the same length, in any order within the row. A `bias` of `None` is 0.
///
/// # Errors
/// [`ErrorKind::Checkpoint`] if the lengths disagree or a variance is negative.
///
/// ```
/// use qat_trainer::graph::{BatchNorm, fold_batch_norm};
/// let bn = BatchNorm { weight: &[2.0], bias: &[1.0], running_mean: &[3.0], running_var: &[4.0 - 1e-5] };
/// let (w, b) = fold_batch_norm(&[0.5, -1.0], Some(&[5.0]), bn)?;
/// assert_eq!((w, b), (vec![0.5, -1.0], vec![3.0])); // γ/σ = 1
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn fold_batch_norm(
    weights: &[f32],
    bias: Option<&[f32]>,
    bn: BatchNorm<'_>,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let channels = bn.weight.len();
    let lengths =
        [bn.bias.len(), bn.running_mean.len(), bn.running_var.len(), bias.map_or(channels, <[f32]>::len)];
    if channels == 0 || lengths.iter().any(|&n| n != channels) || !weights.len().is_multiple_of(channels) {
        return Err(Error::new(
            ErrorKind::Checkpoint,
            format!("batch normalisation of {channels} channels does not fit {} weights", weights.len()),
        ));
    }
    let fan_in = weights.len() / channels;
    let mut folded = Vec::with_capacity(weights.len());
    let mut folded_bias = Vec::with_capacity(channels);
    for c in 0..channels {
        let variance = f64::from(bn.running_var[c]);
        if variance.is_nan() || variance < 0.0 {
            return Err(Error::new(
                ErrorKind::Checkpoint,
                format!("the variance of channel {c} is {variance}"),
            ));
        }
        let factor = f64::from(bn.weight[c]) / (variance + BN_EPS).sqrt();
        folded.extend(weights[c * fan_in..][..fan_in].iter().map(|&w| (f64::from(w) * factor) as f32));
        let b = bias.map_or(0.0, |b| f64::from(b[c])) - f64::from(bn.running_mean[c]);
        folded_bias.push((b * factor + f64::from(bn.bias[c])) as f32);
    }
    Ok((folded, folded_bias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folded_layer_equals_layer_then_normalisation() {
        let (weights, bias) = ([0.3f32, -1.5, 2.0, 0.25, 0.0, -4.0], [0.1f32, -0.2]);
        let bn = BatchNorm {
            weight: &[1.5, -0.5],
            bias: &[0.2, 0.7],
            running_mean: &[0.4, -3.0],
            running_var: &[2.5, 1e-9],
        };
        let (w, b) = fold_batch_norm(&weights, Some(&bias), bn).unwrap();
        let x = [1.0f64, -0.5, 2.5];
        let dot = |w: &[f32]| w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
        for c in 0..2 {
            let y = dot(&weights[3 * c..][..3]) + f64::from(bias[c]);
            let sigma = (f64::from(bn.running_var[c]) + BN_EPS).sqrt();
            let wanted =
                (y - f64::from(bn.running_mean[c])) / sigma * f64::from(bn.weight[c]) + f64::from(bn.bias[c]);
            let got = dot(&w[3 * c..][..3]) + f64::from(b[c]);
            assert!((got - wanted).abs() <= 1e-6 * wanted.abs().max(1.0), "{got} {wanted}");
        }
    }

    #[test]
    fn misfits_are_errors() {
        let bn =
            BatchNorm { weight: &[1.0; 2], bias: &[0.0; 2], running_mean: &[0.0; 2], running_var: &[1.0; 2] };
        assert!(fold_batch_norm(&[1.0; 3], None, bn).is_err());
        assert!(fold_batch_norm(&[1.0; 4], Some(&[0.0]), bn).is_err());
        assert!(fold_batch_norm(&[1.0; 4], None, BatchNorm { running_var: &[1.0, -1.0], ..bn }).is_err());
        assert!(fold_batch_norm(&[1.0; 4], None, BatchNorm { bias: &[], ..bn }).is_err());
    }
}
