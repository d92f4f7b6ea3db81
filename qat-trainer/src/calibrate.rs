//! Ranges of activations: measured on training examples, kept in a `.cal` file with their provenance.

use crate::affine::Affine;
use crate::data::Dataset;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::{Graph, Node};
use crate::spec::{Calibration, Run};
use qat_kernels::calibration::{
    AffineParams, Calibrated, CalibrationArtifact, CalibrationConfig, CalibrationEngine, ClipRange, Domains,
    MAX_DOMAIN_NAME, MAX_DOMAINS, Observer, Parts, Provenance, QuantScheme, TensorCalibration,
};
use rayon::prelude::*;

/// Bins of a calibration's histogram.
pub const BINS: usize = 2048;
/// Examples per unit of parallel work. Histograms merge exactly, so the split does not show in the result.
const UNIT: usize = 32;
/// Most tensors of a `.cal` file that are read or written here.
const MAX_TENSORS: usize = 512;
/// The tensor of a `.cal` file that is the model's input.
const INPUT: &str = "input";

/// What was seen of each layer that has a range of its own.
pub type Engines = Vec<Option<CalibrationEngine<BINS>>>;

/// Watches the output of every layer that has a range of its own, on the first examples of `features` (as
/// [`crate::data::Split::features`]), with the input rounded to `input`.
///
/// # Errors
/// [`ErrorKind::Data`] without examples; [`ErrorKind::Checkpoint`] naming the layer whose output is not finite.
///
/// ```
/// # use qat_trainer::{ErrorKind, affine::Affine, calibrate::observe, checkpoint::Checkpoint, graph::Graph};
/// # use qat_trainer::spec::{Calibration, Run, Shape};
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 2] }
/// # model = { layers = [{ op = "linear", name = "fc", out = 1 }] }"#, "run.toml".as_ref())?;
/// # let mut c = Checkpoint::default();
/// # c.insert("fc.weight", &[1, 2], vec![1.0, 1.0])?;
/// # c.insert("fc.bias", &[1], vec![0.0])?;
/// # let graph = Graph::from_checkpoint(&run.model, Shape::flat(2), 1, &c)?;
/// // A network that adds two numbers, and three examples, of which two are looked at.
/// let (code, how) = (Affine { scale: 0.5, zero_point: 0 }, Calibration { samples: 2, ..Calibration::default() });
/// let engines = observe(&graph, code, &[1.0, 2.0, -1.0, -3.1, 9.0, 9.0], how)?;
/// let seen = engines[0].as_ref().and_then(|engine| engine.parts()[0].extremes());
/// assert_eq!(seen.map(|range| (range.lo(), range.hi())), Some((-4.0, 3.0))); // −3.1 has become −3
/// assert_eq!(observe(&graph, code, &[], how).unwrap_err().kind(), ErrorKind::Data);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn observe(graph: &Graph, input: Affine, features: &[f32], how: Calibration) -> Result<Engines> {
    let config = config(how);
    let start = || {
        let engine = |n: &Node| CalibrationEngine::<BINS>::new(config.with_bits(n.act_bits));
        let engines = graph.nodes.iter().map(|n| n.op.has_range().then(|| engine(n)).transpose());
        engines.collect::<Result<Vec<_>, _>>()
    };
    let width = graph.input.len();
    let examples = &features[..features.len().min(how.samples.saturating_mul(width))];
    if width == 0 || examples.len() < width {
        return Err(Error::new(ErrorKind::Data, "there is no example to calibrate on"));
    }
    let units: Vec<_> = examples
        .par_chunks(UNIT * width)
        .map(|unit| -> Result<_> {
            let mut engines = start()?;
            let mut failed = None;
            for example in unit.chunks_exact(width) {
                let x: Vec<f32> = example.iter().map(|&x| input.fake_quantize(x)).collect();
                graph.forward(&x, |i, out| {
                    if let Some(engine) = &mut engines[i]
                        && let Err(e) = engine.observe(out)
                    {
                        failed = Some(e);
                    }
                })?;
            }
            failed.map_or(Ok(engines), |e| Err(e.into()))
        })
        .collect::<Result<_>>()?;
    let mut total = start()?;
    for unit in &units {
        for (sum, part) in total.iter_mut().zip(unit) {
            if let (Some(sum), Some(part)) = (sum, part) {
                sum.merge(part)?;
            }
        }
    }
    for (engine, node) in total.iter().zip(&graph.nodes) {
        let lost = engine.as_ref().map_or(0, |e| e.stats().non_finite);
        if lost > 0 {
            return Err(Error::new(
                ErrorKind::Checkpoint,
                format!("{lost} of its outputs are NaN or infinite"),
            )
            .place(format!("layer `{}`", node.name))
            .remedy("the training diverged: lower the learning rate"));
        }
    }
    Ok(total)
}

fn config(how: Calibration) -> CalibrationConfig {
    CalibrationConfig::default().with_method(how.method).with_bits(8)
}

/// The range of every layer that was observed. The search takes its time: see [`CalibrationEngine`].
///
/// # Errors
/// [`ErrorKind::Model`] if nothing was observed.
///
/// ```
/// use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, CalibrationMethod};
/// use qat_trainer::calibrate::{BINS, Engines, ranges};
/// let config = CalibrationConfig::default().with_method(CalibrationMethod::MinMax).with_bits(8);
/// let mut engine = CalibrationEngine::<BINS>::new(config)?;
/// engine.observe(&[0.5, -1.0, 7.0])?;
/// let engines: Engines = vec![None, Some(engine)]; // a flatten, say, and a layer with a range of its own
/// let found: Vec<_> = ranges(&engines)?.iter().map(|r| r.map(|r| (r.range.lo(), r.range.hi()))).collect();
/// assert_eq!(found, [None, Some((-1.0, 7.0))]);
/// assert!(ranges(&vec![Some(CalibrationEngine::new(config)?)]).is_err()); // it has seen nothing
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn ranges(engines: &Engines) -> Result<Vec<Option<Calibrated>>> {
    let range = |engine: &Option<CalibrationEngine<BINS>>| {
        engine.as_ref().map(|engine| Ok(engine.calibrated(0)?)).transpose()
    };
    engines.par_iter().map(range).collect()
}

/// The ranges of a network, as a `.cal` file holds them.
///
/// ```
/// use qat_trainer::{affine::Affine, calibrate::Ranges};
/// let pixels = Affine { scale: 1.0 / 64.0, zero_point: -128 };
/// let ranges = Ranges { input: pixels, layers: vec![Some(pixels), None], samples: 512, method: "mse" };
/// // A layer without a range of its own, such as a pooling, keeps the one before it.
/// assert_eq!(ranges.layers.iter().flatten().count(), 1);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Ranges {
    /// The code of the input.
    pub input: Affine,
    /// The range of each layer that has one of its own.
    pub layers: Vec<Option<Affine>>,
    /// Examples that were looked at.
    pub samples: usize,
    /// The method in words.
    pub method: &'static str,
}

/// A `.cal` file of the ranges that were measured for `graph`; `unix_time` in seconds.
///
/// The domains of its provenance are the classes of the examples, or, where those are too many or their names too long,
/// the whole data set under the name of the run.
///
/// # Errors
/// [`ErrorKind::Model`] for what the format cannot hold: more than 511 ranges, no time.
///
/// ```
/// # use qat_trainer::{affine::Affine, calibrate::write, data::{Dataset, Split, Standardisation}, graph::Graph};
/// # use qat_trainer::spec::{Run, Shape};
/// use qat_kernels::calibration::CalibrationArtifact;
/// # let run = Run::parse(r#"data = { format = "none", shape = [1, 1, 1] }
/// # model = { layers = [{ op = "linear", out = 2 }] }"#, "run.toml".as_ref())?;
/// # let graph = Graph { input: Shape::flat(1), nodes: vec![], softmax: false };
/// # let data = Dataset {
/// #     train: Split { features: vec![0.0; 3], labels: vec![1, 0, 1] }, test: Split::default(), sha256: [7; 32],
/// #     classes: vec!["still".into(), "moving".into()], shape: Shape::flat(1),
/// #     standardisation: Standardisation::none(), input: Affine::from_range(-1.0, 1.0),
/// # };
/// // Three examples, two of them of the class `moving`.
/// let file = write(&run, &data, &graph, &[], 1_700_000_000)?;
/// let artifact: CalibrationArtifact<'_> = CalibrationArtifact::from_bytes(&file)?;
/// let domains: Vec<_> = artifact.provenance().domains.iter().map(|d| (d.name, d.examples)).collect();
/// assert_eq!(domains, [("moving", 2), ("still", 1)]);
/// assert!(write(&run, &data, &graph, &[], 0).is_err()); // a file says when it was made
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn write(
    run: &Run,
    data: &Dataset,
    graph: &Graph,
    ranges: &[Option<Calibrated>],
    unix_time: u64,
) -> Result<Vec<u8>> {
    let how = run.qat.calibration;
    let domains = domains(run, data, how.samples)?;
    let [lo, hi] = data.input.range();
    let params = AffineParams { scale: data.input.scale, zero_point: data.input.zero_point };
    let input = Calibrated { range: ClipRange::new(lo, hi)?, params };
    let all = [(INPUT, 8, input)].into_iter().chain(
        graph
            .nodes
            .iter()
            .zip(ranges)
            .filter_map(|(node, range)| Some((node.name.as_str(), node.act_bits, (*range)?))),
    );
    let mut packed: Vec<_> =
        all.map(|(name, bits, range)| (name, bits, range, vec![0; Parts::packed_len(1)])).collect();
    let mut artifact: Box<CalibrationArtifact<'_, MAX_TENSORS>> =
        Box::new(CalibrationArtifact::new(Provenance::new(data.sha256, unix_time, how.method, &domains)));
    for (name, bits, range, bytes) in &mut packed {
        let parts = Parts::pack(&[*range], bytes)?;
        let tensor = TensorCalibration { name, config: config(how).with_bits(*bits), parts };
        artifact.push(tensor).map_err(|e| Error::from(e).place(format!("layer `{name}`")))?;
    }
    let mut file = vec![0; artifact.file_len()?];
    artifact.to_slice(&mut file)?;
    Ok(file)
}

fn domains(run: &Run, data: &Dataset, samples: usize) -> Result<Domains> {
    let mut domains = Domains::new();
    let labels = &data.train.labels[..samples.min(data.train.len())];
    if data.classes.len() <= MAX_DOMAINS && data.classes.iter().all(|name| name.len() <= MAX_DOMAIN_NAME) {
        for &label in labels {
            domains.add(&data.classes[label as usize], 1)?;
        }
    } else {
        let end = run.name.floor_char_boundary(MAX_DOMAIN_NAME);
        domains.add(&run.name[..end], labels.len() as u64)?;
    }
    Ok(domains)
}

/// Reads the ranges for `graph` from a `.cal` file.
///
/// # Errors
/// [`ErrorKind::Model`] for a damaged file; [`ErrorKind::Checkpoint`] if it lacks a layer, or holds another kind of
/// range than affine codes of the layers' bits.
///
/// ```
/// # use qat_trainer::{affine::Affine, calibrate::{read, write}, data::{Dataset, Split, Standardisation}};
/// # use qat_trainer::{ErrorKind, graph::Graph, spec::{Run, Shape}};
/// # let toml = r#"data = { format = "none", shape = [1, 1, 1] }
/// # model = { layers = [{ op = "linear", out = 2 }] }
/// # qat = { calibration = { method = "min-max" } }"#;
/// # let run = Run::parse(toml, "run.toml".as_ref())?;
/// # let graph = Graph { input: Shape::flat(1), nodes: vec![], softmax: false };
/// # let data = Dataset {
/// #     train: Split { features: vec![0.0; 2], labels: vec![0, 1] }, test: Split::default(), sha256: [7; 32],
/// #     classes: vec!["a".into(), "b".into()], shape: Shape::flat(1), standardisation: Standardisation::none(),
/// #     input: Affine { scale: 0.25, zero_point: 3 },
/// # };
/// let file = write(&run, &data, &graph, &[], 1_700_000_000)?; // two examples, `method = "min-max"`
/// let back = read(&file, &graph)?;
/// assert_eq!((back.input, back.samples, back.method), (data.input, 2, "min-max"));
/// assert_eq!(read(&file[1..], &graph).unwrap_err().kind(), ErrorKind::Model);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn read(bytes: &[u8], graph: &Graph) -> Result<Ranges> {
    let artifact: Box<CalibrationArtifact<'_, MAX_TENSORS>> =
        Box::new(CalibrationArtifact::from_bytes(bytes).map_err(|e| {
            Error::new(ErrorKind::Model, format!("not a usable .cal file: {e}"))
                .remedy("the file is damaged or something else; calibrate again")
        })?);
    let range = |name: &str, bits: u8| -> Result<Affine> {
        let refuse = |problem: &str| {
            Error::new(ErrorKind::Checkpoint, problem)
                .place(format!("tensor `{name}`"))
                .remedy("calibrate again with this run description")
        };
        let tensor = artifact.tensor(name).ok_or_else(|| refuse("this tensor is missing"))?;
        match (tensor.config.bits, tensor.config.scheme, tensor.parts.get(0), tensor.parts.len()) {
            (b, QuantScheme::Affine, Some(part), 1) if b == bits => Ok(part.params.into()),
            _ => Err(refuse(&format!("its range is not one affine code of {bits} bits"))),
        }
    };
    let layers = graph
        .nodes
        .iter()
        .map(|node| node.op.has_range().then(|| range(&node.name, node.act_bits)).transpose())
        .collect::<Result<_>>()?;
    let provenance = artifact.provenance();
    let samples = usize::try_from(provenance.samples).unwrap_or(usize::MAX);
    Ok(Ranges { input: range(INPUT, 8)?, layers, samples, method: provenance.method.name() })
}

/// The smallest and largest value that an observer saw, 0 and 0 before the first.
///
/// ```
/// use qat_kernels::calibration::{CalibrationConfig, CalibrationEngine, Observer};
/// use qat_trainer::calibrate::{BINS, extremes};
/// assert_eq!(extremes(&Observer::new()), [0.0, 0.0]);
/// let mut engine = CalibrationEngine::<BINS>::new(CalibrationConfig::default())?;
/// engine.observe(&[2.0, f32::NAN, 5.0])?;
/// assert_eq!(extremes(&engine.parts()[0]), [2.0, 5.0]); // of what is finite; 0 need not be among it
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[must_use]
pub fn extremes(observer: &Observer<BINS>) -> [f32; 2] {
    observer.extremes().map_or([0.0; 2], |range| [range.lo(), range.hi()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests as nets;
    use crate::spec::CalibrationMethod;

    #[test]
    fn a_file_gives_the_ranges_back_and_knows_its_layers() {
        let graph = nets::small_cnn();
        let (run, data) = nets::run_and_data();
        let how = Calibration { method: CalibrationMethod::Percentile { share: 0.999 }, samples: 20 };
        let run = Run { qat: crate::spec::QatSpec { calibration: how, ..run.qat }, ..run };
        let engines = observe(&graph, data.input, &data.train.features, how).unwrap();
        let found = ranges(&engines).unwrap();
        let file = write(&run, &data, &graph, &found, 1_700_000_000).unwrap();
        let back = read(&file, &graph).unwrap();
        assert_eq!(back.input, data.input);
        assert_eq!(back.layers, found.iter().map(|r| r.map(|c| c.params.into())).collect::<Vec<_>>());
        assert_eq!((back.samples, back.method), (20, "percentile"));

        let artifact: CalibrationArtifact<'_, MAX_TENSORS> = CalibrationArtifact::from_bytes(&file).unwrap();
        let counts: Vec<_> = artifact.provenance().domains.iter().map(|d| (d.name, d.examples)).collect();
        assert_eq!(counts, [("a", 7), ("b", 7), ("c", 6)]);
        assert_eq!(artifact.provenance().unix_time, 1_700_000_000);

        let mut other = graph.clone();
        other.nodes[0].name = "elsewhere".into();
        let e = read(&file, &other).unwrap_err().to_string();
        assert!(e.contains("tensor `elsewhere`") && e.contains("calibrate again"), "{e}");
        for n in 0..file.len() {
            assert_eq!(read(&file[..n], &graph).unwrap_err().kind(), ErrorKind::Model, "{n}");
        }
        // INV-5: no time, no file.
        assert!(write(&run, &data, &graph, &found, 0).is_err());
    }

    #[test]
    fn many_classes_are_one_domain() {
        let (run, mut data) = nets::run_and_data();
        data.classes = (0..40).map(|i| format!("class {i}")).collect();
        let domains = domains(&run, &data, 9).unwrap();
        assert_eq!(domains.iter().collect::<Vec<_>>(), [("run", 9)]);
    }
}
