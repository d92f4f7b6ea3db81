//! The invariants of training and deployment as checks that tests, fuzzers and debug builds share.
//!
//! | invariant | check |
//! |---|---|
//! | INV-1: no zero gradient except by explicit clipping | [`gradient_flow`] |
//! | INV-2: α > 0 and finite after construction, load and every optimiser step | [`positive_alpha`] |
//! | INV-3: Δ = α·π/k, k ∈ {2, 3, 4, 5}, bit for bit | [`pi_steps`] |
//! | INV-5: artifacts decode to what was encoded, and carry their provenance | [`round_trip`], [`provenance`] |
//! | INV-6: 1 ≤ r ≤ min(d_in, d_out) | [`rank`] |
//!
//! (There is no INV-4.) Each returns [`Error::Invariant`], which names the invariant and the first place where it is
//! broken; wrong lengths and incomplete provenance are their own errors. A debug build checks with
//! `debug_assert_eq!(invariants::positive_alpha(&alpha), Ok(()))`; a release build carries none of it.

use crate::calibration::Provenance;
use crate::error::{Error, Result, What};
use crate::grid::{Levels, pi_step};
use crate::lora::Rank;
use crate::ste::{LsqMask, SteVariant};
use core::fmt;

/// An invariant, by number.
///
/// ```
/// use qat_kernels::{Error, invariants::Invariant};
/// let error = Error::Invariant { invariant: Invariant::PiStep, index: 3 };
/// assert_eq!(error.to_string(), "INV-3 (step = alpha*pi/k, k in 2..=5) is broken at index 3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Invariant {
    /// INV-1: no zero gradient except by explicit clipping.
    GradientFlow,
    /// INV-2: α is positive and finite.
    PositiveAlpha,
    /// INV-3: Δ = α·π/k with k ∈ {2, 3, 4, 5}.
    PiStep,
    /// INV-5: artifacts decode to what was encoded and carry their provenance.
    Artifact,
    /// INV-6: 1 ≤ r ≤ min(d_in, d_out).
    Rank,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Invariant::GradientFlow => "INV-1 (no zero gradient except by clipping)",
            Invariant::PositiveAlpha => "INV-2 (alpha is positive and finite)",
            Invariant::PiStep => "INV-3 (step = alpha*pi/k, k in 2..=5)",
            Invariant::Artifact => "INV-5 (artifacts round-trip and carry provenance)",
            Invariant::Rank => "INV-6 (1 <= rank <= min(d_in, d_out))",
        })
    }
}

fn broken<T>(invariant: Invariant, index: usize) -> Result<T> {
    Err(Error::Invariant { invariant, index })
}

/// Gradients below this, 2^−100, may vanish by underflow in the few products of an estimator.
const SMALLEST: f32 = f32::from_bits((127 - 100) << 23);
/// Gradients above this, 2^126, may overflow: EWGS makes them up to three times as large.
const LARGEST: f32 = f32::from_bits((127 + 126) << 23);

/// INV-1 for the weights of one step: wherever a gradient `upstream` (from 2^−100 to 2^126) arrives and the estimator does
/// not clip, a finite, non-zero gradient must have come out.
///
/// What counts as clipping: |w| > clip_val for `Clipped`, a weight outside the mask for LSQ and EWGS, nothing for the
/// standard estimator. EWGS with λ ≥ 2 can cancel a gradient without clipping; that is reported like any other loss.
///
/// # Errors
/// [`Error::Length`]; [`Error::Invariant`] with the index of the first lost gradient.
///
/// ```
/// use qat_kernels::{Error, Grid, Levels, LsqMask, SteVariant, invariants};
/// let lv = Levels::new(2, Grid::MidTread)?; // codes −2..=1
/// let check = |out: &[f32]| {
///     let (w, g) = ([0.3, 5.0], [1.0, 1.0]);
///     invariants::gradient_flow(SteVariant::LearnedStepSize, lv, LsqMask::Exact, 1.0, &w, &g, out)
/// };
/// assert_eq!(check(&[1.0, 0.0]), Ok(())); // 5.0 is clipped
/// assert!(matches!(check(&[0.0, 0.0]), Err(Error::Invariant { index: 0, .. })));
/// # Ok::<(), Error>(())
/// ```
pub fn gradient_flow(
    ste: SteVariant,
    levels: Levels,
    mask: LsqMask,
    step: f32,
    weights: &[f32],
    upstream: &[f32],
    gradients: &[f32],
) -> Result<()> {
    for got in [upstream.len(), gradients.len()] {
        if got != weights.len() {
            return Err(Error::Length { what: What::Gradient, expected: weights.len(), got });
        }
    }
    for (index, ((&w, &g), &out)) in weights.iter().zip(upstream).zip(gradients).enumerate() {
        let clipped = match ste {
            SteVariant::Standard => false,
            SteVariant::Clipped { clip_val } => w.abs() > clip_val || w.is_nan(),
            SteVariant::LearnedStepSize | SteVariant::Ewgs { .. } => !mask.passes(w / step, levels),
        };
        let arrives = (SMALLEST..=LARGEST).contains(&g.abs());
        if arrives && !clipped && (out == 0.0 || !out.is_finite()) {
            return broken(Invariant::GradientFlow, index);
        }
    }
    Ok(())
}

/// INV-2: every α is positive and finite.
///
/// # Errors
/// [`Error::Invariant`] with the index of the first that is not.
///
/// ```
/// use qat_kernels::{Error, invariants::{Invariant, positive_alpha}};
/// let alpha = [0.7, 1e-30, f32::INFINITY, -1.0];
/// assert_eq!(positive_alpha(&alpha[..2]), Ok(()));
/// let e = Error::Invariant { invariant: Invariant::PositiveAlpha, index: 2 }; // the first of the two
/// assert_eq!(positive_alpha(&alpha), Err(e));
/// ```
pub fn positive_alpha(alpha: &[f32]) -> Result<()> {
    match alpha.iter().position(|&a| !(a > 0.0 && a.is_finite())) {
        Some(index) => broken(Invariant::PositiveAlpha, index),
        None => Ok(()),
    }
}

/// INV-3: every step is [`pi_step`] of its channel's α and its own divisor, bit for bit.
///
/// `alpha` has one entry per channel; `divisors` and `steps` have the same number of groups for each channel, in order
/// (one each where k is fixed).
///
/// # Errors
/// [`Error::Length`], [`Error::NotDivisible`] or [`Error::Empty`] for slices that do not fit; [`Error::Invariant`] with
/// the index of the first wrong step or divisor (α itself is judged by INV-2, but a step that does not exist is wrong).
///
/// ```
/// use qat_kernels::{Error, invariants::{Invariant, pi_steps}, pi_step};
/// let (alpha, divisors) = ([1.0, 0.5], [2, 3, 4, 5]); // two channels of two groups
/// let mut steps = [pi_step(1.0, 2)?, pi_step(1.0, 3)?, pi_step(0.5, 4)?, pi_step(0.5, 5)?];
/// assert_eq!(pi_steps(&alpha, &divisors, &steps), Ok(()));
/// steps[2] = steps[2].next_up(); // off by one bit
/// let e = Error::Invariant { invariant: Invariant::PiStep, index: 2 };
/// assert_eq!(pi_steps(&alpha, &divisors, &steps), Err(e));
/// # Ok::<(), Error>(())
/// ```
pub fn pi_steps(alpha: &[f32], divisors: &[u8], steps: &[f32]) -> Result<()> {
    if divisors.len() != steps.len() {
        return Err(Error::Length { what: What::Steps, expected: divisors.len(), got: steps.len() });
    }
    if alpha.is_empty() || divisors.is_empty() {
        return Err(Error::Empty { what: if alpha.is_empty() { What::Alpha } else { What::Divisors } });
    }
    if !divisors.len().is_multiple_of(alpha.len()) {
        return Err(Error::NotDivisible { what: What::Divisors, len: divisors.len(), by: alpha.len() });
    }
    let groups = divisors.len() / alpha.len();
    let wanted =
        alpha.iter().zip(divisors.chunks(groups)).flat_map(|(&a, ks)| ks.iter().map(move |&k| pi_step(a, k)));
    match wanted.zip(steps).position(|(wanted, &step)| wanted.map(f32::to_bits) != Ok(step.to_bits())) {
        Some(index) => broken(Invariant::PiStep, index),
        None => Ok(()),
    }
}

/// INV-5, first half: what was decoded is what was encoded.
///
/// # Errors
/// [`Error::Invariant`] if decoding failed or gave something else.
///
/// ```
/// use qat_kernels::{Error, invariants::{Invariant, round_trip}, pack};
/// let (codes, mut packed) = ([3, -4, 1], [0; 2]);
/// pack::pack(3, &codes, &mut packed)?;
/// let decode = |bits| {
///     let mut back = [0; 3];
///     pack::unpack(bits, &packed, &mut back).map(|()| back)
/// };
/// assert_eq!(round_trip(&codes, decode(3)), Ok(()));
/// let e = Err(Error::Invariant { invariant: Invariant::Artifact, index: 0 });
/// assert_eq!(round_trip(&codes, decode(4)), e); // decodes as well, but to other codes
/// assert_eq!(round_trip(&codes, decode(9)), e); // a width that does not exist
/// # Ok::<(), Error>(())
/// ```
pub fn round_trip<T: PartialEq, E>(encoded: &T, decoded: Result<T, E>) -> Result<()> {
    match decoded {
        Ok(back) if back == *encoded => Ok(()),
        _ => broken(Invariant::Artifact, 0),
    }
}

/// INV-5, second half: the provenance of a calibration is complete and adds up.
///
/// # Errors
/// As [`Provenance::validate`]: [`Error::Provenance`] names the item, which says more than the number of the invariant.
///
/// ```
/// use qat_kernels::calibration::{Domains, Provenance};
/// use qat_kernels::{CalibrationMethod, Error, What, invariants};
/// let mut domains = Domains::new();
/// domains.add("speech", 40)?;
/// let whole = Provenance::new([7; 32], 1_700_000_000, CalibrationMethod::MinMax, &domains);
/// assert_eq!(invariants::provenance(&whole), Ok(()));
/// let undated = Provenance { unix_time: 0, ..whole };
/// assert_eq!(invariants::provenance(&undated), Err(Error::Provenance { what: What::Time }));
/// # Ok::<(), Error>(())
/// ```
pub fn provenance(provenance: &Provenance<'_>) -> Result<()> {
    provenance.validate()
}

/// INV-6: `1 ≤ rank ≤ min(d_in, d_out)`.
///
/// # Errors
/// [`Error::Invariant`].
///
/// ```
/// use qat_kernels::{Error, invariants::{Invariant, rank}};
/// assert_eq!(rank(8, 8, 64), Ok(()));
/// assert_eq!(rank(9, 8, 64), Err(Error::Invariant { invariant: Invariant::Rank, index: 0 }));
/// ```
pub fn rank(rank: usize, d_in: usize, d_out: usize) -> Result<()> {
    match Rank::new(rank, d_in, d_out) {
        Ok(_) => Ok(()),
        Err(_) => broken(Invariant::Rank, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::*;
    use crate::grid::Grid;
    use crate::pack;
    use crate::ste::simd;
    use proptest::prelude::*;

    fn estimators() -> impl Strategy<Value = SteVariant> {
        prop_oneof![
            Just(SteVariant::Standard),
            Just(SteVariant::LearnedStepSize),
            (0.01_f32..10.0).prop_map(|clip_val| SteVariant::Clipped { clip_val }),
            (0.0_f32..1.99).prop_map(|lambda| SteVariant::Ewgs { lambda }),
        ]
    }

    fn grids() -> impl Strategy<Value = Levels> {
        (2_u8..=8, any::<bool>())
            .prop_map(|(b, rise)| Levels::new(b, if rise { Grid::MidRise } else { Grid::MidTread }).unwrap())
    }

    fn masks() -> impl Strategy<Value = LsqMask> {
        any::<bool>().prop_map(|rounded| if rounded { LsqMask::Rounded } else { LsqMask::Exact })
    }

    proptest! {
        #[test]
        fn inv_1_holds_for_the_scalar_and_the_batched_estimators(
            ste in estimators(), lv in grids(), mask in masks(), step in 1e-6_f32..1e3,
            pairs in prop::collection::vec((-12.0_f32..12.0, prop::num::f32::NORMAL), 1..80),
        ) {
            let w: Vec<f32> = pairs.iter().map(|p| p.0 * step).collect();
            let g: Vec<f32> = pairs.iter().map(|p| p.1).collect();
            let mut out: Vec<f32> =
                w.iter().zip(&g).map(|(&w, &g)| ste.backward_in_range(w, step, lv, mask, g)).collect();
            prop_assert_eq!(gradient_flow(ste, lv, mask, step, &w, &g, &out), Ok(()));
            simd::backward(ste, lv, mask, &[step], &w, &g, &mut out, &mut [0.0]).unwrap();
            prop_assert_eq!(gradient_flow(ste, lv, mask, step, &w, &g, &out), Ok(()));
            // And a gradient lost anywhere is found there.
            let unclipped = |i: &usize| out[*i] != 0.0 && (SMALLEST..=LARGEST).contains(&g[*i].abs());
            if let Some(i) = (0..out.len()).find(unclipped) {
                out[i] = 0.0;
                prop_assert_eq!(
                    gradient_flow(ste, lv, mask, step, &w, &g, &out),
                    Err(Error::Invariant { invariant: Invariant::GradientFlow, index: i })
                );
            }
        }

        #[test]
        fn inv_2_and_inv_3_hold_for_every_pi_step_that_exists(
            alpha in prop::collection::vec(1e-30_f32..1e30, 1..9), ks in prop::collection::vec(2_u8..=5, 9), at in 0_usize..9,
        ) {
            let groups = ks.len() / alpha.len();
            let ks = &ks[..groups * alpha.len()];
            let mut steps: Vec<f32> =
                ks.iter().enumerate().map(|(i, &k)| pi_step(alpha[i / groups], k).unwrap()).collect();
            prop_assert_eq!(positive_alpha(&alpha), Ok(()));
            prop_assert_eq!(pi_steps(&alpha, ks, &steps), Ok(()));
            let at = at % steps.len();
            steps[at] = steps[at].next_up();
            let e = Error::Invariant { invariant: Invariant::PiStep, index: at };
            prop_assert_eq!(pi_steps(&alpha, ks, &steps), Err(e));
        }

        #[test]
        fn inv_2_finds_the_first_bad_alpha(
            good in prop::collection::vec(f32::MIN_POSITIVE..f32::MAX, 0..9),
            bad in prop_oneof![Just(0.0), Just(-0.0), Just(f32::NAN), Just(f32::INFINITY), -1e3_f32..-1e-3],
        ) {
            let mut alpha = good.clone();
            alpha.extend([bad, 1.0]);
            let e = Error::Invariant { invariant: Invariant::PositiveAlpha, index: good.len() };
            prop_assert_eq!(positive_alpha(&alpha), Err(e));
        }

        #[test]
        fn inv_5_holds_for_packed_codes(lv in grids(), w in prop::collection::vec(-10.0_f32..10.0, 1..100)) {
            let codes: Vec<i8> = w.iter().map(|&w| lv.quantize(w, 0.37) as i8).collect();
            let mut packed = vec![0; (codes.len() * usize::from(lv.bits())).div_ceil(8)];
            pack::pack(lv.bits(), &codes, &mut packed).unwrap();
            let mut back = vec![0; codes.len()];
            let decoded = pack::unpack(lv.bits(), &packed, &mut back).map(|()| back);
            prop_assert_eq!(round_trip(&codes, decoded), Ok(()));
        }

        #[test]
        fn inv_5_holds_for_calibrations(
            samples in prop::collection::vec(-1e3_f32..1e3, 1..50), hash: [u8; 32], time in 1..u64::MAX, examples in 1..u64::MAX,
        ) {
            let mut engine = CalibrationEngine::<0>::new(CalibrationConfig::default()).unwrap();
            engine.observe(&samples).unwrap();
            engine.count_examples("digits", examples).unwrap();
            let mut packed = [0; Parts::packed_len(1)];
            let parts = Parts::pack(&[engine.calibrated(0).unwrap()], &mut packed).unwrap();
            let config = *engine.config();
            let mut artifact: CalibrationArtifact<'_> =
                CalibrationArtifact::new(Provenance::new(hash, time, config.method, engine.domains()));
            artifact.push(TensorCalibration { name: "fc1.in", config, parts }).unwrap();
            prop_assume!(hash != [0; 32]);
            let mut file = [0; max_file_len(1, 1, 1, 12)];
            let bytes = artifact.to_slice(&mut file).unwrap();
            prop_assert_eq!(round_trip(&artifact, CalibrationArtifact::from_bytes(bytes)), Ok(()));
            prop_assert_eq!(provenance(artifact.provenance()), Ok(()));
        }

        #[test]
        fn inv_6_is_the_rank_types_own_rule(r in 0_usize..40, d_in in 0_usize..40, d_out in 0_usize..40) {
            let ok = r >= 1 && r <= d_in.min(d_out);
            prop_assert_eq!(rank(r, d_in, d_out).is_ok(), ok);
        }
    }

    #[test]
    fn inv_3_refuses_divisors_that_do_not_exist() {
        let third = pi_step(1.0, 3).unwrap();
        let e = Err(Error::Invariant { invariant: Invariant::PiStep, index: 1 });
        assert_eq!(pi_steps(&[1.0], &[3, 6], &[third, third]), e);
        assert_eq!(pi_steps(&[1.0, -1.0], &[3, 3], &[third, -third]), e);
        assert_eq!(pi_steps(&[], &[3], &[third]), Err(Error::Empty { what: What::Alpha }));
        assert!(matches!(pi_steps(&[1.0], &[3], &[]), Err(Error::Length { what: What::Steps, .. })));
    }

    #[test]
    fn inv_5_names_what_a_provenance_lacks() {
        let mut domains = Domains::default();
        domains.add("digits", 3).unwrap();
        let whole = Provenance::new([7; 32], 1, CalibrationMethod::MinMax, &domains);
        assert_eq!(provenance(&whole), Ok(()));
        let lacks = |p: Provenance<'_>, what| assert_eq!(provenance(&p), Err(Error::Provenance { what }));
        lacks(Provenance { dataset_sha256: [0; 32], ..whole.clone() }, What::Dataset);
        lacks(Provenance { samples: 0, ..whole.clone() }, What::SampleCount);
        lacks(Provenance { samples: 4, ..whole.clone() }, What::Domains);
        lacks(Provenance { unix_time: 0, ..whole }, What::Time);
    }

    #[test]
    fn inv_5_finds_a_failed_and_a_wrong_decoding() {
        let e = Err(Error::Invariant { invariant: Invariant::Artifact, index: 0 });
        assert_eq!(round_trip(&1, Err(())), e);
        assert_eq!(round_trip::<_, ()>(&1, Ok(2)), e);
    }

    #[test]
    fn inv_1_reports_an_ewgs_factor_that_cancels() {
        let lv = Levels::new(4, Grid::MidTread).unwrap();
        let ste = SteVariant::Ewgs { lambda: 2.0 };
        let (w, g) = ([0.5], [-1.0]); // v − level = ½, 1 − 2·½ = 0
        let out = [ste.backward_in_range(w[0], 1.0, lv, LsqMask::Exact, g[0])];
        let e = gradient_flow(ste, lv, LsqMask::Exact, 1.0, &w, &g, &out).unwrap_err();
        assert_eq!(e, Error::Invariant { invariant: Invariant::GradientFlow, index: 0 });
        assert!(e.to_string().contains("INV-1"));
    }
}
