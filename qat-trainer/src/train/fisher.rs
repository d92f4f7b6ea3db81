//! How much each weight matters: the diagonal of the empirical Fisher information.

use super::batches::Batches;
use crate::autograd::slice;
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::error::Result;
use crate::nn::{FloatNet, Network};
use crate::spec::ModelSpec;
use tch::{Reduction, Tensor};

/// The mean square of the gradients of each example's cross entropy, for every weight of a network whose batch
/// normalisation is `folded`, over the first `samples` training examples (LeCun et al. 1990, with the Fisher information
/// in place of the Hessian). Tensors of the result have the names and shapes of the weights.
pub(super) fn fisher(
    model: &ModelSpec,
    data: &Dataset,
    folded: &Checkpoint,
    samples: usize,
) -> Result<Checkpoint> {
    let net = FloatNet::load_folded(model, data.shape, folded)?;
    let examples = Batches::new(data, &data.train, false);
    let mut squares: Vec<Vec<f32>> = net.leaves().iter().map(|l| vec![0.0; l.numel()]).collect();
    let count = samples.min(data.train.len());
    for i in 0..count {
        let example = examples.plain(&[i])?;
        // One example at a time: the square of a batch's mean gradient is something else.
        let loss = net.forward(&example.x, false)?.f_cross_entropy_loss(
            &example.labels,
            None::<Tensor>,
            Reduction::Mean,
            -100,
            0.0,
        )?;
        let grads = Tensor::f_run_backward(&[loss], &net.leaves(), false, false)?;
        for (sums, g) in squares.iter_mut().zip(&grads) {
            let g = g.f_contiguous()?;
            sums.iter_mut().zip(slice(&g)?).for_each(|(sum, g)| *sum += g * g / count as f32);
        }
    }
    let mut importance = Checkpoint::default();
    let saved = net.save()?;
    // A folded network has two leaves for each layer with weights, in this order.
    let layers = model.layers.iter().filter(|l| l.op.quant().is_some());
    for (l, squares) in layers.zip(squares.into_iter().step_by(2)) {
        let name = format!("{}.weight", l.name);
        let shape = saved.tensors.get(&name).map(|a| a.shape.clone()).unwrap_or_default();
        importance.insert(&name, &shape, squares)?;
    }
    Ok(importance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affine::Affine;
    use crate::data::{Split, Standardisation};
    use crate::spec::{Run, Shape};

    /// For one linear layer the gradient is (softmax − one-hot)·x, by hand.
    #[test]
    fn equals_the_closed_form_of_a_linear_layer() {
        let text = "[data]\nformat = \"csv\"\ntrain = \"-\"\ntest = \"-\"\n[model]\nlayers = [{ op = \"linear\", name = \"l\", out = 2 }]\n";
        let run = Run::parse(text, "run.toml".as_ref()).unwrap();
        let x = [[0.5_f32, -1.0, 2.0], [1.5, 0.25, -0.5]];
        let split = Split { features: x.concat(), labels: vec![0, 1] };
        let data = Dataset {
            train: split.clone(),
            test: split,
            classes: vec!["a".into(), "b".into()],
            shape: Shape::flat(3),
            standardisation: Standardisation::none(),
            input: Affine::from_range(-2.0, 2.0),
            sha256: [0; 32],
        };
        let w = [0.1_f32, 0.2, -0.3, -0.4, 0.5, 0.6];
        let mut folded = Checkpoint::default();
        folded.insert("l.weight", &[2, 3], w.to_vec()).unwrap();
        folded.insert("l.bias", &[2], vec![0.05, -0.05]).unwrap();
        let found = fisher(&run.model, &data, &folded, 99).unwrap();
        let mut wanted = [0.0_f64; 6];
        for (x, label) in x.iter().zip([0, 1]) {
            let logit = |c: usize| {
                let dot: f64 = (0..3).map(|i| f64::from(w[c * 3 + i]) * f64::from(x[i])).sum();
                dot + if c == 0 { 0.05 } else { -0.05 }
            };
            let sum = logit(0).exp() + logit(1).exp();
            for c in 0..2 {
                let error = logit(c).exp() / sum - if c == label { 1.0 } else { 0.0 };
                for i in 0..3 {
                    wanted[c * 3 + i] += (error * f64::from(x[i])).powi(2) / 2.0;
                }
            }
        }
        for (a, b) in found.get("l.weight", &[2, 3]).unwrap().iter().zip(wanted) {
            assert!((f64::from(*a) - b).abs() < 1e-6, "{a} {b}");
        }
    }
}
