//! The quantisers against numbers that this project did not compute: torch's autograd in float64, confirmed by torch's,
//! torchao's and Brevitas' own quantisers. `benches/peers/golden.py` makes the files in `tests/vectors` and says how.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test file that cannot be read must fail the test")]

use qat_kernels::ste::{lsq_gradient_scale, lsq_step_gradient};
use qat_kernels::ste_simd::{Backend, Kernels};
use qat_kernels::{Grid, Levels, LsqMask, SteVariant};

const INDEX: &str = include_str!("vectors/index.csv");
const DATA: &[u8] = include_bytes!("vectors/quantisers.f32");

/// Allowed error of a weight and of its gradient, relative.
const WEIGHT: f64 = 1e-6;
/// Allowed error of a step's gradient and of LSQ's gradient scale, relative.
const STEP: f64 = 1e-5;

/// One line of the index and its arrays. `lsq_step` and `rounded_step` are the gradients of the steps under the mask of
/// the paper and under torch's.
struct Case {
    name: &'static str,
    levels: Levels,
    clip_val: f32,
    lambda: f32,
    gradient_scale: f32,
    steps: Vec<f32>,
    w: Vec<f32>,
    g: Vec<f32>,
    w_hat: Vec<f32>,
    clipped: Vec<f32>,
    lsq: Vec<f32>,
    lsq_step: Vec<f32>,
    rounded: Vec<f32>,
    rounded_step: Vec<f32>,
    ewgs: Vec<f32>,
}

impl Case {
    fn weights_per_step(&self) -> usize {
        self.w.len() / self.steps.len()
    }

    /// Every weight with the step that covers it.
    fn weights(&self) -> impl Iterator<Item = (f32, f32)> {
        let n = self.weights_per_step();
        self.w.iter().enumerate().map(move |(i, &w)| (w, self.steps[i / n]))
    }
}

fn cases() -> Vec<Case> {
    let mut lines = INDEX.lines();
    assert!(
        lines.next().unwrap().starts_with("case,bits,grid,steps,weights,clip_val,lambda,gradient_scale,")
    );
    let mut data = DATA.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let cases: Vec<Case> = lines
        .map(|line| {
            let field: Vec<&str> = line.split(',').collect();
            let grid = match field[2] {
                "mid-tread" => Grid::MidTread,
                "mid-rise" => Grid::MidRise,
                other => panic!("unknown grid {other}"),
            };
            let (n, m): (usize, usize) = (field[3].parse().unwrap(), field[4].parse().unwrap());
            let mut take = |len: usize| -> Vec<f32> {
                let array: Vec<f32> = data.by_ref().take(len).collect();
                assert_eq!(array.len(), len, "the data end early");
                array
            };
            Case {
                name: field[0],
                levels: Levels::new(field[1].parse().unwrap(), grid).unwrap(),
                clip_val: field[5].parse().unwrap(),
                lambda: field[6].parse().unwrap(),
                gradient_scale: field[7].parse().unwrap(),
                steps: take(n),
                w: take(m),
                g: take(m),
                w_hat: take(m),
                clipped: take(m),
                lsq: take(m),
                lsq_step: take(n),
                rounded: take(m),
                rounded_step: take(n),
                ewgs: take(m),
            }
        })
        .collect();
    assert!(data.next().is_none() && DATA.len() == 143_840, "the data and the index disagree");
    cases
}

/// Relative closeness; a zero is only close to a zero.
fn assert_close(got: impl IntoIterator<Item = f32>, want: &[f32], tolerance: f64, what: &str) {
    let got: Vec<f32> = got.into_iter().collect();
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - f64::from(want)).abs();
        assert!(error <= tolerance * f64::from(want).abs(), "{what}[{i}]: {got:e}, not {want:e}");
    }
}

/// Holds an estimator against the vectors: the scalar definition, then the slice kernels of every backend.
fn check_backward(
    ste: impl Fn(&Case) -> SteVariant,
    mask: LsqMask,
    expected: impl Fn(&Case) -> (&[f32], &[f32]),
) {
    for case in &cases() {
        let ste = ste(case);
        let (grad_w, step_grads) = expected(case);
        let levels = case.levels;
        let what = format!("{} {ste:?} {mask:?}", case.name);

        let scalar = case.weights().zip(&case.g);
        let scalar = scalar.map(|((w, step), &g)| ste.backward_in_range(w, step, levels, mask, g));
        assert_close(scalar, grad_w, WEIGHT, &what);
        let terms: Vec<f64> = case
            .weights()
            .zip(&case.g)
            .map(|((w, step), &g)| f64::from(lsq_step_gradient(w, step, levels, mask, g)))
            .collect();
        let sums = terms.chunks(case.weights_per_step()).map(|terms| terms.iter().sum::<f64>() as f32);
        assert_close(sums, step_grads, STEP, &format!("{what} steps"));

        for backend in Backend::available() {
            let what = format!("{what} {backend:?}");
            let (mut got_w, mut got_steps) = (vec![f32::NAN; case.w.len()], vec![f32::NAN; case.steps.len()]);
            Kernels::on(backend)
                .backward(ste, levels, mask, &case.steps, &case.w, &case.g, &mut got_w, &mut got_steps)
                .unwrap();
            assert_close(got_w, grad_w, WEIGHT, &what);
            assert_close(got_steps, step_grads, STEP, &format!("{what} steps"));
        }
    }
}

#[test]
fn vectors_cover_what_they_should() {
    let cases = cases();
    assert_eq!(cases.len(), 16);
    let mut seen = Vec::new();
    for case in &cases {
        let lv = case.levels;
        seen.push((lv.bits(), lv.grid().offset() > 0.0, case.steps.len() > 1));
        assert_eq!(case.w.len(), if case.steps.len() > 1 { 4 * 96 } else { 256 }, "{}", case.name);
        let count = |f: &dyn Fn(f32) -> bool| {
            case.weights().filter(|&(w, step)| f(w / step - lv.grid().offset())).count()
        };
        let (lo, hi) = (lv.lo() as f32, lv.hi() as f32);
        assert!(count(&|x| x < lo) > 5 && count(&|x| x > hi) > 5, "{}: saturated at both ends", case.name);
        assert!(count(&|x| x > lo && x < hi) > 20, "{}: inside", case.name);
        assert!(count(&|x| x == lo) > 0 && count(&|x| x == hi) > 0, "{}: on the bounds", case.name);
        assert!(count(&|x| x > lo && x < hi && x.fract().abs() == 0.5) > 1, "{}: ties", case.name);
        assert!(case.w.iter().any(|w| w.abs() > 1e25), "{}: huge", case.name);
        assert!(case.w.iter().any(|w| w.is_subnormal()), "{}: tiny", case.name);
        for wanted in [-1, 0, 1] {
            let sign = |g: f32| i32::from(g > 0.0) - i32::from(g < 0.0);
            assert!(case.g.iter().any(|&g| sign(g) == wanted), "{}: gradients of sign {wanted}", case.name);
        }
        // Otherwise the mask of the paper and torch's would not be told apart.
        assert_ne!(case.lsq, case.rounded);
        assert_ne!(case.lsq_step, case.rounded_step);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 16, "4 bit widths, 2 grids, 2 granularities");
}

#[test]
fn forward_matches() {
    for case in &cases() {
        let scalar = case.weights().map(|(w, step)| case.levels.fake_quantize(w, step));
        assert_close(scalar, &case.w_hat, WEIGHT, case.name);
        let codes =
            case.weights().map(|(w, step)| case.levels.dequantize(case.levels.quantize(w, step), step));
        assert_close(codes, &case.w_hat, WEIGHT, case.name);
        for backend in Backend::available() {
            let mut out = vec![f32::NAN; case.w.len()];
            Kernels::on(backend).fake_quantize(case.levels, &case.steps, &case.w, &mut out).unwrap();
            assert_close(out, &case.w_hat, WEIGHT, &format!("{} {backend:?}", case.name));
        }
    }
}

#[test]
fn standard_passes_the_gradient_on() {
    check_backward(|_| SteVariant::Standard, LsqMask::Exact, |case| (&case.g, &case.lsq_step));
}

#[test]
fn clipped_matches_the_derivative_of_a_clamp() {
    assert!(
        cases().iter().all(|case| case.w.iter().any(|w| w.abs() == case.clip_val)),
        "a weight on the bound"
    );
    let ste = |case: &Case| SteVariant::Clipped { clip_val: case.clip_val };
    check_backward(ste, LsqMask::Exact, |case| (&case.clipped, &case.lsq_step));
}

#[test]
fn lsq_matches_the_paper() {
    check_backward(|_| SteVariant::LearnedStepSize, LsqMask::Exact, |case| (&case.lsq, &case.lsq_step));
}

#[test]
fn lsq_with_the_rounded_mask_matches_torch_and_brevitas() {
    let ste = |_: &Case| SteVariant::LearnedStepSize;
    check_backward(ste, LsqMask::Rounded, |case| (&case.rounded, &case.rounded_step));
}

#[test]
fn ewgs_matches_the_paper() {
    let ste = |case: &Case| SteVariant::Ewgs { lambda: case.lambda };
    check_backward(ste, LsqMask::Exact, |case| (&case.ewgs, &case.lsq_step));
}

#[test]
fn gradient_scale_matches() {
    for case in &cases() {
        let got = lsq_gradient_scale(case.weights_per_step(), case.levels);
        assert_close([got], &[case.gradient_scale], STEP, case.name);
    }
}
