//! The gradients of one layer's quantiser.

use crate::checks::numbers;
use crate::shapes::Shape;
use crate::timed;
use anyhow::{Result, ensure};
use qat_benches::results::Figure;
use qat_benches::rounds::median;
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels};
use qat_trainer::llm::{Backend, MatrixQuant, NodeQuantised};
use qat_trainer::spec::WeightQuant;
use tch::{Device, Kind, Tensor};

/// Passes in a round: the device works on one while the next is given to it, as in a training.
const PASSES: u32 = 100;

/// The gradients of w and of log α given that of ŵ, which comes as bf16, on every backend.
pub(crate) fn run(shape: &Shape, device: Device, rounds: usize) -> Result<Vec<Figure>> {
    let [out, inputs] = shape.matrix;
    let (w, g) = (numbers(1, &shape.matrix, 0.03), numbers(2, &shape.matrix, 1e-3));
    let quant =
        MatrixQuant::new(WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Pi { k: 3 } });
    let passes = if device == Device::Cpu { 1 } else { PASSES };
    let mut figures = Vec::new();
    for backend in Backend::all(device) {
        // The kernels of the CPU take f32.
        let kind = if backend == Backend::Kernels { Kind::Float } else { Kind::BFloat16 };
        let grad = g.f_to_device(device)?.f_to_kind(kind)?;
        let matrix = NodeQuantised::on(backend, &w.f_to_device(device)?, None, quant, None)?;
        let mut last: Option<(Tensor, Tensor)> = None;
        let mut times = Vec::new();
        for round in 0..rounds + 1 {
            let seconds = timed(device, || {
                for _ in 0..passes {
                    last = Some(matrix.gradients(&grad)?);
                }
                Ok(())
            })?;
            // The first round compiles and fills caches.
            if round > 0 {
                times.push(1e6 * seconds / f64::from(passes));
            }
        }
        let Some((of_w, of_alpha)) = last else { continue };
        for of in [of_w, of_alpha] {
            let size = of.f_to_kind(Kind::Double)?.f_norm()?.f_double_value(&[])?;
            ensure!(size.is_finite() && size > 0.0, "{backend:?}: a gradient of the size {size}");
        }
        let time = median(times);
        println!("gradients of a {out}x{inputs} layer, {backend:?}: {time:.1} µs");
        let name = format!("{backend:?}").to_lowercase();
        let best = backend == Backend::on(device);
        let case = format!("scale_grad_{out}x{inputs}");
        let case = if best { case } else { format!("{case}_{name}") };
        let figure = Figure::new(case, "time_us", format!("{time:.1}"), "µs");
        figures.push(if best { figure.with_goal("50".into()) } else { figure });
    }
    Ok(figures)
}
