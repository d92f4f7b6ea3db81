//! Packed matrices and decoders with adapters on them: the device computes what the CPU computes.

use crate::checks::{GRADIENTS, LOSS, all, distance, gradients, numbers, rates};
use crate::shapes::{Shape, Weights};
use anyhow::{Result, ensure};
use qat_benches::results::Figure;
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels, SteVariant};
use qat_trainer::llm::{Adapters, Backend, Decoder, LoraMode, LoraSettings, MatrixQuant, PackedMatrix};
use qat_trainer::spec::WeightQuant;
use tch::{Device, Kind};

pub(crate) fn run(device: Device) -> Result<Vec<Figure>> {
    let mut figures = packed(device)?;
    for (case, mode) in [
        ("decoder_packed", LoraMode::Packed),
        ("decoder_merged", LoraMode::Merged),
        ("decoder_scales", LoraMode::Scales),
    ] {
        figures.extend(decoder(case, mode, device)?);
    }
    Ok(figures)
}

/// Packed matrices of every grid, width and kind of steps, unpacked there to what they are here.
fn packed(device: Device) -> Result<Vec<Figure>> {
    let (mut checked, mut unequal) = (0, 0);
    // The second one's rows are no whole eights, so that they end within a byte.
    for (columns, block) in [(320, Some(64)), (77, None)] {
        let w = numbers(3, &[37, columns], 0.3);
        let w_there = w.f_to_device(device)?;
        let fits = |quant: &MatrixQuant| {
            let whole = !matches!(quant.quant.step, StepRule::PiAdaptive { .. });
            quant.ste == SteVariant::Standard && quant.block == block && (columns % 16 == 0 || whole)
        };
        for quant in all()?.into_iter().filter(fits) {
            let ours = PackedMatrix::fitted(&w, quant)?;
            for backend in Backend::all(device) {
                let there = PackedMatrix::fitted(&w_there, quant)?.on(backend);
                for kind in [Kind::Float, Kind::BFloat16] {
                    checked += 1;
                    if !ours.weights(kind)?.f_equal(&there.weights(kind)?.f_to_device(Device::Cpu)?)? {
                        eprintln!("{backend:?} {quant:?}: the {kind:?} of packed codes are others");
                        unequal += 1;
                    }
                }
            }
        }
    }
    ensure!(unequal == 0, "{unequal} of {checked} packed matrices are not those of the CPU");
    println!("{checked} packed matrices: weights equal");
    let figure = |metric, value: i32| Figure::new("packed".into(), metric, value.to_string(), "");
    Ok(vec![figure("checked", checked), figure("unequal", unequal).with_goal("0".into())])
}

/// A small decoder in f32, adapted here and there from the same adapters: its loss and gradients, there with activations that
/// are kept and that are computed twice. (In bf16 gradients of so few numbers are mostly rounding.)
fn decoder(case: &str, mode: LoraMode, device: Device) -> Result<Vec<Figure>> {
    let shape = Shape::named("tiny")?;
    let weights = Weights::generated(&shape.config, 3)?;
    let levels = Levels::new(2, Grid::MidRise)?;
    let quant = MatrixQuant {
        block: Some(16),
        ..MatrixQuant::new(WeightQuant { levels, step: StepRule::PiAdaptive { group: 8 } })
    };
    // A factor that is no power of two.
    let settings = LoraSettings { rank: shape.rank, alpha: 5.0, ..LoraSettings::new(mode, quant) };
    let adapted = |device: Device, start: Option<&Adapters>| -> Result<Decoder> {
        let mut decoder = weights.decoder(&shape.config, Kind::Float, device)?;
        decoder.adapt(&settings, start)?;
        Ok(decoder)
    };
    // U begins at zero, and hides the gradient of D.
    let mut first = adapted(Device::Cpu, None)?;
    for t in 1..=3 {
        let grads = gradients(&first, &shape)?.1;
        first.update(&grads, &rates(t))?;
    }
    let start = first.adapters(&settings)?;
    let (loss, grads) = gradients(&adapted(Device::Cpu, Some(&start))?, &shape)?;
    let mut there = adapted(device, Some(&start))?;
    let (mut of_loss, mut of_gradients) = (0.0f64, 0.0f64);
    for recompute in [false, true] {
        there.set_recompute(recompute);
        let (loss_there, grads_there) = gradients(&there, &shape)?;
        let off = (loss - loss_there).abs() / loss;
        ensure!(off <= LOSS, "{case}: the loss is {loss_there}, not {loss}");
        let mut largest = 0.0f64;
        for (a, b) in grads.iter().zip(&grads_there) {
            largest = largest.max(distance(a, b)?);
        }
        ensure!(largest <= GRADIENTS, "{case}: a gradient is off by {largest:.1e}");
        (of_loss, of_gradients) = (of_loss.max(off), of_gradients.max(largest));
    }
    println!("{case}: loss within {of_loss:.1e}, gradients within {of_gradients:.1e}");
    let figure = |metric, value: f64, goal: f64| {
        Figure::new(case.into(), metric, format!("{value:.1e}"), "").with_goal(format!("{goal:e}"))
    };
    Ok(vec![figure("loss_error", of_loss, LOSS), figure("gradient_error", of_gradients, GRADIENTS)])
}
