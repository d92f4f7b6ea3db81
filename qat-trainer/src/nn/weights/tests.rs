//! The fused update against torch's operators.

use super::*;
use crate::autograd::slice;
use crate::nn::param::Param;
use crate::random::normal;
use qat_kernels::Grid;

fn quant(bits: u8, grid: Grid, step: StepRule) -> WeightQuant {
    WeightQuant { levels: Levels::new(bits, grid).unwrap(), step }
}

/// LSQ, with the fit of least squared error, in torch's order.
fn kind(shape: &[usize], quant: WeightQuant) -> Kind<'_> {
    Kind { shape, quant, ste: SteVariant::LearnedStepSize, init: StepInit::Mse, order: &[] }
}

fn adamw(weights: AdamW, factor: f32) -> Rates {
    Rates { weights: Rule::AdamW(weights), scales: AdamW { weight_decay: 0.0, ..weights }, factor }
}

/// Q(w) by torch's operators: the detach trick for w, LSQ's gradient for α by autograd.
fn reference(w: &Tensor, alpha: &Tensor, q: WeightQuant, scale: f64) -> Tensor {
    let (lo, hi) = (f64::from(q.levels.lo()), f64::from(q.levels.hi()));
    let offset = f64::from(q.levels.grid().offset());
    // The value of α with its gradient times `scale`.
    let alpha = (alpha.detach() + (alpha - alpha.detach()) * scale).unsqueeze(1);
    // The same operations in the same order as `pi_step`: a step that differs in its last bit rounds differently.
    let step = match q.step {
        StepRule::Pi { k } => alpha * std::f64::consts::PI / i64::from(k),
        _ => alpha,
    };
    let v = (w / &step - offset).clamp(lo, hi);
    ((v.round() - &v).detach() + &v + offset) * step
}

/// The fused pass against torch's autograd through the detach trick and AdamW, over 20 updates of a linear
/// regression: w and α within 1e-5, relative to values of the order of 1. The difference is that of f32 sums in
/// another order.
#[test]
fn equals_the_detach_trick_with_adamw() {
    for (bits, grid, rule) in [
        (2, Grid::MidRise, StepRule::Pi { k: 3 }),
        (3, Grid::MidTread, StepRule::Uniform),
        (8, Grid::MidTread, StepRule::Pi { k: 4 }),
    ] {
        let q = quant(bits, grid, rule);
        let (x, target) = (normal(11, &[64, 24]), normal(12, &[64, 6]));
        let start = normal(13, &[6, 24]);
        let fitted = QuantWeights::new(slice(&start).unwrap(), kind(&[6, 24], q), None).unwrap();
        // Off the fit, which likes to put a weight exactly on the end of the grid: there the last bit of a division
        // decides about its gradient.
        let off: Vec<f32> = fitted.alpha().iter().map(|a| a * 0.97).collect();
        let mut ours =
            QuantWeights::with_steps(slice(&start).unwrap(), kind(&[6, 24], q), &off, &[]).unwrap();
        let mut w = Param::new(slice(&start).unwrap(), &[6, 24], true).unwrap();
        let mut alpha = ours.alpha().to_vec();
        let mut moments = Moments::new(6);
        let scale = f64::from(lsq_gradient_scale(24, q.levels));
        let loss = |w_hat: &Tensor| x.linear(w_hat, None::<&Tensor>).mse_loss(&target, tch::Reduction::Mean);
        for t in 1..=20 {
            let weights = AdamW { lr: 0.02, weight_decay: 0.05, step: t, ..AdamW::default() };
            let scales = AdamW { lr: 0.01, weight_decay: 0.0, ..weights };

            let g = Tensor::f_run_backward(&[loss(ours.leaf())], &[ours.leaf()], false, false).unwrap();
            ours.update(slice(&g[0]).unwrap(), &Rates { weights: Rule::AdamW(weights), scales, factor: 1.0 })
                .unwrap();

            let a = leaf(&alpha, &[6]).unwrap();
            let l = loss(&reference(w.leaf(), &a, q, scale));
            let g = Tensor::f_run_backward(&[l], &[w.leaf(), &a], false, false).unwrap();
            w.update(slice(&g[0]).unwrap(), 1.0, Rule::AdamW(weights)).unwrap();
            let log_grad: Vec<f32> = slice(&g[1]).unwrap().iter().zip(&alpha).map(|(g, a)| g * a).collect();
            let mut log_alpha: Vec<f32> = alpha.iter().map(|a| a.ln()).collect();
            moments.step(&mut log_alpha, &log_grad, 1.0, &Rule::AdamW(scales)).unwrap();
            alpha = log_alpha.iter().map(|a| a.exp()).collect();
        }
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near(ours.alpha(), &alpha), "{bits}: {:?} {alpha:?}", ours.alpha());
        assert!(near(&ours.weights(), w.values().unwrap()), "{bits}");
        assert!(!near(&ours.weights(), slice(&start).unwrap()));
    }
}

#[test]
fn w_hat_is_the_quantised_weight_after_every_update() {
    let q = quant(2, Grid::MidRise, StepRule::Pi { k: 3 });
    let start = normal(5, &[3, 50]);
    let mut w = QuantWeights::new(slice(&start).unwrap(), kind(&[3, 50], q), None).unwrap();
    for t in 1..5_u32 {
        let weights = AdamW { lr: 0.05, step: t, ..AdamW::default() };
        let rates = adamw(weights, 0.5);
        w.update(slice(&normal(t.into(), &[3, 50])).unwrap(), &rates).unwrap();
        for (c, &alpha) in w.alpha().iter().enumerate() {
            let s = qat_kernels::pi_step(alpha, 3).unwrap();
            for i in c * 50..(c + 1) * 50 {
                assert_eq!(slice(w.leaf()).unwrap()[i], q.levels.fake_quantize(w.weights()[i], s));
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let q = quant(3, Grid::MidTread, StepRule::Uniform);
            let start = normal(5, &[140, 900]);
            let shape = [140, 900];
            let mut w = QuantWeights::new(slice(&start).unwrap(), kind(&shape, q), None).unwrap();
            let rates = adamw(AdamW::default(), 1.0);
            w.update(slice(&normal(6, &[140, 900])).unwrap(), &rates).unwrap();
            (w.weights(), w.alpha().to_vec())
        })
    };
    assert_eq!(run(1), run(7));
}

#[test]
fn a_gradient_that_is_not_a_number_is_an_error() {
    let q = quant(2, Grid::MidRise, StepRule::Uniform);
    let mut w = QuantWeights::new(&[0.5; 8], kind(&[2, 4], q), None).unwrap();
    let rates = adamw(AdamW::default(), 1.0);
    assert!(w.update(&[f32::NAN; 8], &rates).unwrap_err().to_string().contains("diverged"));
    assert!(w.update(&[0.0; 7], &rates).unwrap_err().to_string().contains("7 gradients"));
    let adaptive = quant(2, Grid::MidRise, StepRule::PiAdaptive { group: 16 });
    assert!(QuantWeights::new(&[0.5; 8], kind(&[2, 4], adaptive), None).is_err());
}

/// ŵ of an adaptive quantiser from its parts, in torch's order.
fn adaptive_reference(w: &QuantWeights, order: &[usize], group: usize) -> Vec<f32> {
    let (weights, fan_in) = (w.weights(), order.len());
    let mut wanted = vec![0.0; weights.len()];
    for c in 0..w.alpha().len() {
        for (place, &at) in order.iter().enumerate() {
            let k = w.divisors()[(c * fan_in + place) / group];
            let step = qat_kernels::pi_step(w.alpha()[c], k).unwrap();
            wanted[c * fan_in + at] = w.quant.levels.fake_quantize(weights[c * fan_in + at], step);
        }
    }
    wanted
}

#[test]
fn adaptive_quantisers_learn_alpha_and_choose_k_again_in_the_engines_order() {
    let q = quant(2, Grid::MidRise, StepRule::PiAdaptive { group: 8 });
    // Four channels of 8 × 3: the engine has the 8 input channels innermost.
    let order: Vec<usize> = (0..3).flat_map(|place| (0..8).map(move |c| c * 3 + place)).collect();
    let kind = Kind { order: &order, ..kind(&[4, 8, 3], q) };
    let start = normal(21, &[4, 24]);
    let mut w = QuantWeights::new(slice(&start).unwrap(), kind, None).unwrap();
    assert_eq!(w.weights(), slice(&start).unwrap());
    assert_eq!(w.divisors().len(), 12);
    let (alpha, divisors) = (w.alpha().to_vec(), w.divisors().to_vec());
    let target = normal(22, &[4, 24]);
    let distance =
        |w: &QuantWeights| (w.leaf().view([4, 24]) - &target).pow_tensor_scalar(2).sum(tch::Kind::Float);
    let before = distance(&w).double_value(&[]);
    for step in 1..=200 {
        let g = Tensor::f_run_backward(&[distance(&w)], &[w.leaf()], false, false).unwrap();
        w.update(
            slice(&g[0].contiguous()).unwrap(),
            &adamw(AdamW { lr: 0.02, step, ..AdamW::default() }, 1.0),
        )
        .unwrap();
        assert_eq!(slice(w.leaf()).unwrap(), adaptive_reference(&w, &order, 8));
        if step % 50 == 0 {
            w.choose_divisors().unwrap();
            assert_eq!(slice(w.leaf()).unwrap(), adaptive_reference(&w, &order, 8));
        }
    }
    assert!(distance(&w).double_value(&[]) < 0.4 * before);
    assert_ne!(w.alpha(), alpha);
    assert_ne!(w.divisors(), divisors);
}

/// The gradient of α is the sum over its groups, by a difference quotient with codes held fixed.
#[test]
fn alpha_gets_the_gradients_of_all_its_groups() {
    let q = quant(3, Grid::MidTread, StepRule::PiAdaptive { group: 8 });
    let start = normal(31, &[1, 32]);
    let kind = kind(&[1, 32], q);
    let fitted = QuantWeights::new(slice(&start).unwrap(), kind, None).unwrap();
    // Far inside the range every weight keeps LSQ's `level − v`.
    let alpha = [fitted.alpha()[0] * 3.0];
    let mut w = QuantWeights::with_steps(slice(&start).unwrap(), kind, &alpha, fitted.divisors()).unwrap();
    let g = normal(32, &[1, 32]);
    let expected: f64 = (0..32)
        .map(|i| {
            let (x, g) = (f64::from(slice(&start).unwrap()[i]), f64::from(slice(&g).unwrap()[i]));
            let k = f64::from(w.divisors()[i / 8]);
            let step = f64::from(alpha[0]) * std::f64::consts::PI / k;
            g * ((x / step).round_ties_even() - x / step) * std::f64::consts::PI / k
        })
        .sum();
    // The first step of AdamW moves log α by the learning rate, against the gradient's sign; its moment keeps the size.
    let rates = adamw(AdamW { lr: 1e-3, weight_decay: 0.0, ..AdamW::default() }, 1.0);
    w.update(slice(&g).unwrap(), &rates).unwrap();
    let scale = f64::from(lsq_gradient_scale(32, q.levels)) * f64::from(alpha[0]);
    let m = f64::from(w.alpha_moments.split().0[0]) / 0.1;
    assert!((m - expected * scale).abs() < 1e-5 * expected.abs().max(1.0), "{m} {}", expected * scale);
    assert_eq!(w.alpha()[0] < alpha[0], expected > 0.0);
}

#[test]
fn sgd_moves_the_weights_by_the_estimators_gradient() {
    let q = quant(2, Grid::MidRise, StepRule::Uniform);
    let sgd = super::super::optimiser::Sgd { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    let rates =
        Rates { weights: Rule::Sgd(sgd), scales: AdamW { lr: 1e-9, ..AdamW::default() }, factor: 0.5 };
    let kind = Kind { ste: SteVariant::Standard, ..kind(&[1, 4], q) };
    let mut w = QuantWeights::with_steps(&[0.3, -0.2, 0.9, 1.7], kind, &[1.0], &[]).unwrap();
    w.update(&[1.0, -2.0, 0.0, 4.0], &rates).unwrap();
    let near = |a: &[f32], b: [f32; 4]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(near(&w.weights(), [0.25, -0.1, 0.9, 1.5]), "{:?}", w.weights());
    assert_eq!(slice(w.leaf()).unwrap(), [0.5, -0.5, 0.5, 1.5]);
    // The velocity goes on without a gradient.
    w.update(&[0.0; 4], &rates).unwrap();
    assert!(near(&w.weights(), [0.205, -0.01, 0.9, 1.32]), "{:?}", w.weights());
}

#[test]
fn fewer_bits_get_steps_of_their_own() {
    let target = quant(2, Grid::MidRise, StepRule::Pi { k: 3 });
    let start = normal(41, &[3, 40]);
    let direct = QuantWeights::new(slice(&start).unwrap(), kind(&[3, 40], target), None).unwrap();
    let eight = quant(8, Grid::MidRise, StepRule::Pi { k: 3 });
    let mut w = QuantWeights::new(slice(&start).unwrap(), kind(&[3, 40], eight), None).unwrap();
    w.average(0.9);
    assert!(!w.set_bits(8).unwrap());
    assert!(w.set_bits(2).unwrap());
    assert_eq!((w.bits(), w.alpha()), (2, direct.alpha()));
    assert!(w.leaf().equal(direct.leaf()));
    w.swap_average().unwrap();
    assert!(w.leaf().equal(direct.leaf()));
}

#[test]
fn an_importance_moves_the_steps_towards_what_matters() {
    for step in [StepRule::Uniform, StepRule::PiAdaptive { group: 8 }] {
        let q = quant(2, Grid::MidRise, step);
        let start = normal(51, &[2, 64]);
        let start = slice(&start).unwrap();
        // The first half of each row matters a hundred times more.
        let importance: Vec<f32> = (0..128).map(|i| if i % 64 < 32 { 1.0 } else { 0.01 }).collect();
        let error = |w: &QuantWeights| -> f32 {
            let squares = slice(w.leaf()).unwrap().iter().zip(start).map(|(a, b)| (a - b) * (a - b));
            squares.zip(&importance).map(|(e, i)| e * i).sum()
        };
        let plain = QuantWeights::new(start, kind(&[2, 64], q), None).unwrap();
        let weighted = QuantWeights::new(start, kind(&[2, 64], q), Some(&importance)).unwrap();
        assert!(error(&weighted) < error(&plain), "{step:?}");
    }
}

#[test]
fn restored_weights_go_on_bit_for_bit() {
    for step in [StepRule::Uniform, StepRule::Pi { k: 3 }, StepRule::PiAdaptive { group: 8 }] {
        let q = quant(3, Grid::MidRise, step);
        let order: Vec<usize> = (0..24).map(|i| i % 8 * 3 + i / 8).collect();
        let kind = Kind { order: &order, ..kind(&[4, 8, 3], q) };
        let start = normal(61, &[4, 24]);
        let importance: Vec<f32> = (0..96).map(|i| (i % 5) as f32).collect();
        let go = |w: &mut QuantWeights, steps: std::ops::RangeInclusive<u32>| {
            for step in steps {
                let rates = adamw(AdamW { lr: 0.03, step, ..AdamW::default() }, 0.9);
                w.update(slice(&normal(step.into(), &[4, 24])).unwrap(), &rates).unwrap();
                w.average(0.8);
                w.choose_divisors().unwrap();
            }
        };
        let mut a = QuantWeights::new(slice(&start).unwrap(), kind, Some(&importance)).unwrap();
        go(&mut a, 1..=3);
        let mut state = Checkpoint::default();
        a.save_state("l", &mut state).unwrap();
        let mut b = QuantWeights::with_steps(&a.weights(), kind, a.alpha(), a.divisors()).unwrap();
        b.load_state("l", &state).unwrap();
        for w in [&mut a, &mut b] {
            go(w, 4..=6);
            w.swap_average().unwrap();
        }
        assert_eq!((a.weights(), a.alpha(), a.divisors()), (b.weights(), b.alpha(), b.divisors()));
        assert!(a.leaf().equal(b.leaf()));
    }
}
