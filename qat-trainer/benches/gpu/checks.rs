//! The device computes what qat-kernels computes.

use crate::adapted;
use crate::shapes::{Shape, Weights};
use anyhow::{Result, ensure};
use qat_benches::results::Figure;
use qat_kernels::config::StepRule;
use qat_kernels::ste_simd::AdamW;
use qat_kernels::{Grid, Levels, SteVariant};
use qat_trainer::llm::{
    Backend, Decoder, DeviceQuantised, Linear, MatrixQuant, NodeQuantised, Rates, Rule, chunked_cross_entropy,
};
use qat_trainer::spec::WeightQuant;
use tch::{Device, Kind, Tensor};

/// Largest errors, as norms relative to the norm of what the CPU computes.
///
/// | what | why that much |
/// |---|---|
/// | ŵ, and so the codes; the gradient of w | nothing: the same operations, each rounded once |
/// | the gradient of log α | its sums of up to some thousand f32 are added in another order |
/// | a decoder's loss in f32 | as above, in every product of matrices |
/// | a decoder's gradients in f32 | as above; and a weight at the border of two levels may fall to either side |
/// | a decoder in bf16 | its numbers have 8 bits, and both sides round at other places |
const OF_LOG_ALPHA: f64 = 1e-5;
pub(crate) const LOSS: f64 = 1e-4;
pub(crate) const GRADIENTS: f64 = 2e-2;
const LOSS_BF16: f64 = 1e-2;
const GRADIENTS_BF16: f64 = 5e-2;

pub(crate) fn run(device: Device) -> Result<Vec<Figure>> {
    let mut figures = quantisers(device)?;
    figures.extend(adapted::run(device)?);
    if Backend::on(device) == Backend::Fused {
        figures.push(updates(device)?);
    }
    figures.extend(decoders(device)?);
    Ok(figures)
}

/// Every estimator on every grid, width and kind of steps, with α per row and per block.
pub(crate) fn all() -> Result<Vec<MatrixQuant>> {
    let estimators = [
        SteVariant::Standard,
        SteVariant::Clipped { clip_val: 0.4 },
        SteVariant::LearnedStepSize,
        SteVariant::Ewgs { lambda: 0.2 },
    ];
    let rules = [StepRule::Uniform, StepRule::Pi { k: 3 }, StepRule::PiAdaptive { group: 16 }];
    let mut all = Vec::new();
    for bits in [2, 3, 4, 8] {
        for grid in [Grid::MidTread, Grid::MidRise] {
            for step in rules {
                for block in [None, Some(64)] {
                    let quant = WeightQuant { levels: Levels::new(bits, grid)?, step };
                    all.extend(estimators.map(|ste| MatrixQuant { ste, block, ..MatrixQuant::new(quant) }));
                }
            }
        }
    }
    Ok(all)
}

fn quantisers(device: Device) -> Result<Vec<Figure>> {
    // The rows are no multiple of the widths of a GPU.
    let (w, g) = (numbers(1, &[37, 320], 0.3), numbers(2, &[37, 320], 1.0));
    let (w_there, g_there) = (w.f_to_device(device)?, g.f_to_device(device)?);
    let (mut checked, mut unequal, mut largest) = (0, 0, 0.0f64);
    for quant in all()? {
        let ours = NodeQuantised::on(Backend::Kernels, &w, None, quant, None)?;
        let (of_w, of_alpha) = ours.gradients(&g)?;
        for backend in Backend::all(device) {
            let there = NodeQuantised::on(backend, &w_there, None, quant, None)?;
            let (of_w_there, of_alpha_there) = there.gradients(&g_there)?;
            let same =
                |a: &Tensor, b: &Tensor| -> Result<bool> { Ok(a.f_equal(&b.f_to_device(Device::Cpu)?)?) };
            let pairs = [
                ("ŵ", ours.weight()?.f_detach()?, there.weight()?.f_detach()?),
                ("the gradient of w", of_w.shallow_clone(), of_w_there),
            ];
            for (what, here, there) in pairs {
                if !same(&here, &there)? {
                    eprintln!("{backend:?} {quant:?}: {what} is another one");
                    unequal += 1;
                }
            }
            let error = distance(&of_alpha, &of_alpha_there)?;
            ensure!(
                error <= OF_LOG_ALPHA,
                "{backend:?} {quant:?}: the gradient of log α is off by {error:.1e}"
            );
            (checked, largest) = (checked + 1, largest.max(error));
        }
    }
    ensure!(unequal == 0, "{unequal} tensors of {checked} quantisers are not those of the CPU");
    println!(
        "{checked} quantisers: weights and their gradients equal, gradients of log α within {largest:.1e}"
    );
    let figure = |metric, value, unit| Figure::new("quantisers".into(), metric, value, unit);
    Ok(vec![
        figure("checked", checked.to_string(), ""),
        figure("unequal", unequal.to_string(), "").with_goal("0".into()),
        figure("log_alpha_error", format!("{largest:.1e}"), "").with_goal(format!("{OF_LOG_ALPHA:e}")),
    ])
}

/// The kernel that makes a whole update at once, against those that make its parts: three updates, and what the network computes
/// with behind each.
fn updates(device: Device) -> Result<Figure> {
    let mut checked = 0;
    // Rows for a warp, and rows for a block of threads.
    for (rows, row) in [(37, 320), (5, 1344)] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let w = numbers(1, &[rows, row], 0.3).f_to_device(device)?.f_to_kind(kind)?;
            for quant in all()? {
                let mut parts = NodeQuantised::on(Backend::Fused, &w, None, quant, None)?;
                let mut whole = DeviceQuantised::new(&w, None, quant, None)?;
                for t in 1..=3 {
                    let g =
                        numbers(1 + i64::from(t), &[rows, row], 1.0).f_to_device(device)?.f_to_kind(kind)?;
                    let (of_w, of_alpha) = parts.gradients(&g)?;
                    parts.update(&[of_w, of_alpha], &rates(t))?;
                    whole.update(&[g], &rates(t))?;
                    let same = parts.weight()?.f_equal(&whole.weight()?)?;
                    ensure!(same, "{quant:?} in {kind:?}, update {t}: the whole is not the sum of its parts");
                    checked += 1;
                }
            }
        }
    }
    println!("{checked} updates at once: what their parts make");
    Ok(Figure::new("updates".into(), "equal", checked.to_string(), ""))
}

/// Small decoders, quantised and plain, here and there: their loss and gradients, and their loss after a step.
fn decoders(device: Device) -> Result<Vec<Figure>> {
    let levels = Levels::new(2, Grid::MidRise)?;
    let adaptive = MatrixQuant {
        block: Some(16),
        ..MatrixQuant::new(WeightQuant { levels, step: StepRule::PiAdaptive { group: 8 } })
    };
    let mut figures = Vec::new();
    for (case, shape, kind, quant) in [
        ("decoder_plain", "tiny", Kind::Float, None),
        ("decoder_2bit", "tiny", Kind::Float, Some(adaptive)),
        ("decoder_odd", "odd", Kind::Float, None),
        ("decoder_bf16", "tiny", Kind::BFloat16, None),
        ("decoder_odd_bf16", "odd", Kind::BFloat16, None),
    ] {
        let shape = Shape::named(shape)?;
        let weights = Weights::generated(&shape.config, 3)?;
        let (loss_goal, gradient_goal) =
            if kind == Kind::Float { (LOSS, GRADIENTS) } else { (LOSS_BF16, GRADIENTS_BF16) };
        let mut here = learning(&weights, &shape, (kind, quant), Device::Cpu, Backend::Kernels)?;
        let (mut of_loss, mut of_gradients) = (0.0f64, 0.0f64);
        for backend in Backend::all(device) {
            let mut there = learning(&weights, &shape, (kind, quant), device, backend)?;
            let (loss, grads) = gradients(&here, &shape)?;
            let (loss_there, grads_there) = gradients(&there, &shape)?;
            let off = (loss - loss_there).abs() / loss;
            ensure!(off <= loss_goal, "{case}, {backend:?}: the loss is {loss_there}, not {loss}");
            let mut largest = 0.0f64;
            for (a, b) in grads.iter().zip(&grads_there) {
                largest = largest.max(distance(a, b)?);
            }
            ensure!(largest <= gradient_goal, "{case}, {backend:?}: a gradient is off by {largest:.1e}");
            println!("{case}, {backend:?}: loss within {off:.1e}, gradients within {largest:.1e}");
            (of_loss, of_gradients) = (of_loss.max(off), of_gradients.max(largest));
            there.update(&grads_there, &rates(1))?;
            let after = gradients(&there, &shape)?.0;
            ensure!(after < loss, "{case}, {backend:?}: a step leaves the loss at {after}, from {loss}");
        }
        let (loss, grads) = gradients(&here, &shape)?;
        here.update(&grads, &rates(1))?;
        ensure!(gradients(&here, &shape)?.0 < loss, "{case}: a step on the CPU does not learn");
        let figure = |metric, value: f64, goal: f64| {
            Figure::new(case.into(), metric, format!("{value:.1e}"), "").with_goal(format!("{goal:e}"))
        };
        figures.extend([
            figure("loss_error", of_loss, loss_goal),
            figure("gradient_error", of_gradients, gradient_goal),
        ]);
    }
    Ok(figures)
}

pub(crate) fn rates(step: u32) -> Rates {
    let adamw = AdamW { lr: 1e-3, weight_decay: 0.0, step, ..AdamW::default() };
    Rates { weights: Rule::AdamW(adamw), scales: adamw, factor: 1.0 }
}

fn learning(
    weights: &Weights,
    shape: &Shape,
    (kind, quant): (Kind, Option<MatrixQuant>),
    device: Device,
    backend: Backend,
) -> Result<Decoder> {
    let mut decoder = weights.decoder(&shape.config, kind, device)?;
    if let Some(quant) = quant {
        decoder.replace(|name, linear| {
            if !name.starts_with("model.layers.") {
                return Ok(None);
            }
            let node = NodeQuantised::on(backend, &linear.weight()?, linear.bias(), quant, None)?;
            Ok(Some(Box::new(node) as Box<dyn Linear>))
        })?;
    }
    decoder.learn()?;
    Ok(decoder)
}

pub(crate) fn gradients(decoder: &Decoder, shape: &Shape) -> Result<(f64, Vec<Tensor>)> {
    let (tokens, targets) = shape.tokens(decoder.device())?;
    let hidden = decoder.hidden(&tokens)?.f_flatten(0, 1)?;
    let loss = chunked_cross_entropy(decoder, &hidden, &targets, shape.chunk)?;
    let grads = Tensor::f_run_backward(&[&loss], &decoder.leaves(), false, false)?;
    let value = loss.f_double_value(&[])?;
    ensure!(value.is_finite(), "the loss is {value}");
    Ok((value, grads))
}

/// ‖a − b‖/‖a‖ in f64; NaN never passes a comparison with a tolerance.
pub(crate) fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let [a, b] = [a, b].map(|t| t.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double));
    let (a, b) = (a?, b?);
    Ok(a.f_sub(&b)?.f_norm()?.f_double_value(&[])? / a.f_norm()?.f_double_value(&[])?)
}

/// Normally distributed numbers of a seed.
pub(crate) fn numbers(seed: i64, shape: &[i64], deviation: f64) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(shape, (Kind::Float, Device::Cpu)) * deviation
}
