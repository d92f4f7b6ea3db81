//! A network that has learned nothing: what a model costs on a device does not depend on what its weights say.

use crate::affine::Affine;
use crate::checkpoint::Checkpoint;
use crate::data::{Dataset, Standardisation};
use crate::error::Result;
use crate::export::{About, Options, export};
use crate::graph::Graph;
use crate::ptq;
use crate::random::{Purpose, Random};
use crate::spec::{Act, Files, Op, Run, Shape, WeightInit};
use sha2::{Digest, Sha256};

/// Generated inputs that the ranges are measured on.
const EXAMPLES: usize = 16;
/// Generated inputs whose answers the file holds: for an image they are a good part of it.
const KNOWN_ANSWERS: usize = 1;

/// The `.piq` file of `run`'s network as training begins: weights drawn from `seed`, biases 0, ranges measured on
/// generated inputs, uniform in −1..1. Name and method in its metadata say so.
///
/// # Errors
/// Those of [`Dataset::load`] if the run description names data, of [`Graph::from_checkpoint`] if the network does not
/// fit its input, of [`export`] if the integer engine cannot run it.
///
/// ```
/// use qat_kernels::infer::Model;
/// use qat_trainer::{export::Options, seeded::seeded, spec::Run};
/// let toml = r#"
/// name = "tiny"
/// data = { format = "none", shape = [1, 1, 4], classes = ["no", "yes"] }
/// model = { layers = [{ op = "linear", out = 8, act = "relu" }, { op = "linear", out = 2 }] }
/// "#;
/// let run = Run::parse(toml, "tiny.toml".as_ref())?;
/// let file = seeded(&run, 1, Options::default())?;
/// let model = Model::parse(&file)?;
/// assert_eq!((model.metadata()?.name, model.macs()), ("tiny (untrained)", 4 * 8 + 8 * 2));
/// assert_ne!(seeded(&run, 2, Options::default())?, file);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn seeded(run: &Run, seed: u64, options: Options) -> Result<Vec<u8>> {
    let (shape, classes) = match &run.data.files {
        Files::None { shape } => (*shape, run.data.classes.clone().unwrap_or_default()),
        _ => Dataset::load(&run.data).map(|data| (data.shape, data.classes))?,
    };
    let checkpoint = initial(run, shape, classes.len(), seed)?;
    let graph = Graph::from_checkpoint(&run.model, shape, classes.len(), &checkpoint)?;
    let examples: Vec<Vec<f32>> = (0..EXAMPLES + KNOWN_ANSWERS)
        .map(|i| {
            let mut random = Random::new(seed, Purpose::Generated(i));
            (0..shape.len()).map(|_| random.symmetric()).collect()
        })
        .collect();
    let (known_inputs, examples) = (examples[EXAMPLES..].to_vec(), examples[..EXAMPLES].concat());
    let calibration = run.qat.calibration;
    let network = ptq::quantise(graph, Affine::from_range(-1.0, 1.0), &examples, calibration)?;
    let bytes: Vec<u8> = examples.iter().flat_map(|x| x.to_le_bytes()).collect();
    let about = About {
        shape,
        classes,
        dataset_sha256: Sha256::digest(bytes).into(),
        standardisation: Standardisation::none(),
        samples: calibration.samples.min(EXAMPLES),
        method: format!(
            "untrained: weights and inputs generated, seed {seed}, {}",
            calibration.method.name()
        ),
        known_inputs,
    };
    let name = format!("{} (untrained)", run.name);
    export(&network, &name, &about, Sha256::digest(checkpoint.to_bytes()?).into(), options)
}

/// The weights that training starts from, with normalisations that change nothing left out.
fn initial(run: &Run, shape: Shape, classes: usize, seed: u64) -> Result<Checkpoint> {
    let shapes = run.model.check(shape, classes)?;
    let mut checkpoint = Checkpoint::default();
    for (i, layer) in run.model.layers.iter().enumerate() {
        let Some(weights) = layer.op.weight_shape(layer.input.of(shape, &shapes)) else { continue };
        let values = initial_weights(&layer.op, &weights, run.train.init, seed, i);
        checkpoint.insert(&format!("{}.weight", layer.name), &weights, values)?;
        checkpoint.insert(&format!("{}.bias", layer.name), &weights[..1], vec![0.0; weights[0]])?;
    }
    Ok(checkpoint)
}

/// Random weights of the layer of this index.
pub(crate) fn initial_weights(
    op: &Op,
    shape: &[usize],
    init: WeightInit,
    seed: u64,
    layer: usize,
) -> Vec<f32> {
    let (len, fan_in) = (shape.iter().product(), shape.iter().skip(1).product::<usize>());
    let gain: f32 = match init {
        WeightInit::He if op.act() == Act::None => 3.0,
        WeightInit::He => 6.0,
        WeightInit::Torch => 1.0,
    };
    let bound = (gain / fan_in as f32).sqrt();
    let mut random = Random::new(seed, Purpose::Weights(layer));
    (0..len).map(|_| bound * random.symmetric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Layers, WeightQuant};
    use crate::verify::{first_failure, verify};
    use qat_kernels::artifact::Target;
    use qat_kernels::config::StepRule;
    use qat_kernels::infer::Model;
    use qat_kernels::{Grid, Levels};

    fn preset(name: &str) -> Run {
        Run::layered(Layers { preset: Some(name), ..Layers::default() }).unwrap()
    }

    fn file(name: &str, seed: u64, target: Target) -> Vec<u8> {
        seeded(&preset(name), seed, Options { created: 0, target }).unwrap()
    }

    /// MLPerf Tiny v1.2: multiply-accumulates and weights as its reference networks have them, and an arena no larger
    /// than any plan could do with.
    #[test]
    fn the_reference_architectures_have_their_sizes() {
        for (name, macs, weights) in [
            ("ds-cnn", 2_656_768, 22_016),
            ("resnet8", 12_501_632, 77_360),
            ("mobilenet", 7_489_664, 208_112),
            ("autoencoder", 264_192, 264_192),
        ] {
            for target in Target::ALL {
                let file = file(name, 1, target);
                let model = Model::parse(&file).unwrap();
                assert_eq!(model.macs(), macs, "{name}");
                assert_eq!(model.operators().map(|o| o.weights).sum::<usize>(), weights, "{name}");
                let arena = model.arena_use();
                assert_eq!(arena.arena_bytes, arena.largest_live_set(), "{name} for {target}");
            }
        }
    }

    #[test]
    fn weights_fill_the_range_of_their_distribution() {
        let levels = Levels::new(2, Grid::MidRise).unwrap();
        let quant = WeightQuant { levels, step: StepRule::Uniform };
        let op = |act| Op::Linear { out: 50, bn: false, act, quant };
        for (init, act, bound) in [
            (WeightInit::He, Act::Relu, 0.06_f32.sqrt()),
            (WeightInit::He, Act::None, 0.03_f32.sqrt()),
            (WeightInit::Torch, Act::Relu, 0.1),
            (WeightInit::Torch, Act::None, 0.1),
        ] {
            let weights = initial_weights(&op(act), &[50, 100], init, 1, 0);
            let largest = weights.iter().fold(0.0_f32, |max, w| max.max(w.abs()));
            assert!(largest <= bound && largest > 0.99 * bound, "{init:?} {act:?}: {largest}");
        }
    }

    #[test]
    fn a_file_says_that_it_is_untrained_and_passes_every_check() {
        let bytes = file("autoencoder", 7, Target::Portable);
        assert!(first_failure(&verify(&bytes, None)).is_ok(), "{:?}", verify(&bytes, None));
        let model = Model::parse(&bytes).unwrap();
        let metadata = model.metadata().unwrap();
        assert_eq!(metadata.name, "autoencoder (untrained)");
        assert!(metadata.method.starts_with("untrained: ") && metadata.method.contains("seed 7"));
        assert_eq!(file("autoencoder", 7, Target::Portable), bytes);
        assert_ne!(file("autoencoder", 8, Target::Portable), bytes);
        // A network whose answers do not depend on its input would cost the same and show nothing.
        let known = model.known_answers().next().unwrap();
        let (mut output, mut arena) = (vec![0; model.output_len()], vec![0; model.arena_len()]);
        let reversed: Vec<i8> = known.input.iter().rev().copied().collect();
        model.run(&reversed, &mut output, &mut arena).unwrap();
        assert_ne!(output, known.output);
    }
}
