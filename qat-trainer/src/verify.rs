//! Whether a `.piq` file is whole, carries its provenance, and computes what it says it computes; and the same of quantised
//! language models.

mod decoder;
mod layouts;
mod reference;

pub use decoder::{verify_folder, verify_packed};

use crate::error::{Error, ErrorKind, Result};
use crate::export::hex;
use crate::random::{Purpose, Random};
use qat_kernels::infer::Model;
use reference::Reference;
use serde::Serialize;

/// Generated inputs that both engines run.
const GENERATED: usize = 3;

/// One thing that was checked.
///
/// ```
/// use qat_trainer::verify::Check;
/// let check = Check { name: "known answers", ok: false, found: "the file has none".into() };
/// // An element of what `qat verify --json` prints.
/// let json = r#"{"name":"known answers","ok":false,"found":"the file has none"}"#;
/// assert_eq!(serde_json::to_string(&check)?, json);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// What was found.
    pub found: String,
}

/// Checks the bytes of a file. The checks come in order; one that fails leaves out those that need it.
///
/// 1. `integrity`: header, sections, checksum, every shape, offset and range, and that no accumulator can overflow;
/// 2. `metadata`: it decodes, and names every output or none;
/// 3. `provenance` (INV-5): checkpoint, data set, calibration samples and method are stated;
/// 4. `known answers`: there is one at least, and the engine gives each of them;
/// 5. `extremes`: the engine runs on inputs at both ends of the code;
/// 6. `reference engine`: a second engine, straight loops after `docs/format.md` that share no code with the first, gives the
///    same result for every operator, on the inputs of the known answers, on both extremes and on generated inputs.
///
/// With the public key of who should have signed the file, `signature` comes first, and without it nothing else.
///
/// ```
/// use qat_trainer::{export::Options, seeded::seeded, verify::verify};
/// # let run = qat_trainer::spec::Run::parse(r#"data = { format = "none", shape = [1, 1, 2], classes = ["a", "b"] }
/// # model = { layers = [{ op = "linear", out = 2 }] }"#, "run.toml".as_ref())?;
/// let mut file = seeded(&run, 1, Options::default())?;
/// let names = |file: &[u8], signer| verify(file, signer).iter().map(|c| (c.name, c.ok)).collect::<Vec<_>>();
/// assert_eq!(names(&file, None).iter().filter(|(_, ok)| *ok).count(), 6);
/// assert_eq!(names(&file, Some(&[1; 32])), [("signature", false)]); // nobody signed it
/// file[40] ^= 1;
/// assert_eq!(names(&file, None), [("integrity", false)]);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[must_use]
pub fn verify(bytes: &[u8], signer: Option<&[u8; 32]>) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |name, result: Result<String, String>| {
        let ok = result.is_ok();
        checks.push(Check { name, ok, found: result.unwrap_or_else(|e| e) });
        ok
    };
    let text = |e: qat_kernels::Error| e.to_string();
    if let Some(key) = signer {
        let signed = Model::parse_signed(bytes, key).map(|_| format!("Ed25519, by {}", hex(key)));
        if !check("signature", signed.map_err(text)) {
            return checks;
        }
    }
    let parsed = Model::parse(bytes);
    let found = parsed
        .map(|m| format!("{} bytes, {} layers, checksum and bounds hold", bytes.len(), m.operators().count()))
        .map_err(text);
    let (true, Ok(model)) = (check("integrity", found), parsed) else { return checks };

    let metadata = model.metadata();
    let found = metadata.map_err(text).and_then(|m| match m.label_list().count() {
        // The outputs of a reconstruction have no names.
        0 => Ok(format!("`{}`, no labels", m.name)),
        n if n == model.output_len() => Ok(format!("`{}`, {n} labels", m.name)),
        n => Err(format!("{n} labels for {} outputs", model.output_len())),
    });
    check("metadata", found);
    if let Ok(m) = metadata {
        let missing: Vec<&str> = [
            ("SHA-256 of the checkpoint", m.source_sha256 == [0; 32]),
            ("SHA-256 of the data set", m.dataset_sha256 == [0; 32]),
            ("number of calibration samples", m.samples == 0),
            ("calibration method", m.method.is_empty()),
            ("tool", m.tool.is_empty()),
        ]
        .into_iter()
        .filter_map(|(what, missing)| missing.then_some(what))
        .collect();
        check(
            "provenance",
            match missing.as_slice() {
                [] => Ok(format!("{}, {} samples, by {}", m.method, m.samples, m.tool)),
                _ => Err(format!("not stated: {}", missing.join(", "))),
            },
        );
    }

    let (mut output, mut arena) = (vec![0; model.output_len()], vec![0; model.arena_len()]);
    let found = match model.self_test(&mut output, &mut arena) {
        Ok(0) => Err("the file has none".into()),
        Ok(n) => Ok(format!("{n} of {n} reproduced bit for bit")),
        Err(e) => Err(text(e)),
    };
    check("known answers", found);
    let extremes = [i8::MIN, i8::MAX]
        .iter()
        .try_for_each(|&x| model.run(&vec![x; model.input_len()], &mut output, &mut arena));
    check("extremes", extremes.map(|()| "both ends of the input run".into()).map_err(text));
    let found = match Reference::read(bytes) {
        Some(reference) => compare(&model, &reference),
        None => Err("the reference engine cannot read the file".into()),
    };
    check("reference engine", found);
    checks
}

/// The results of both engines, operator by operator.
fn compare(model: &Model<'_>, reference: &Reference<'_>) -> Result<String, String> {
    let (mut output, mut arena) = (vec![0; model.output_len()], vec![0; model.arena_len()]);
    let mut inputs: Vec<Vec<i8>> = model.known_answers().map(|known| known.input.to_vec()).collect();
    inputs.extend([i8::MIN, i8::MAX].map(|x| vec![x; model.input_len()]));
    inputs.extend((0..GENERATED).map(|i| {
        let mut random = Random::new(1, Purpose::Generated(i));
        (0..model.input_len()).map(|_| (128.0 * random.symmetric()) as i8).collect()
    }));
    for input in &inputs {
        let wanted = reference.run(input).ok_or("the reference engine cannot run the file")?;
        let mut first = None;
        let differs = |op: usize, got: &[i8]| {
            if first.is_none() && wanted.get(op).map(Vec::as_slice) != Some(got) {
                first = Some(op);
            }
        };
        model.run_observed(input, &mut output, &mut arena, differs).map_err(|e| e.to_string())?;
        if let Some(op) = first {
            let name = model.operators().nth(op).map_or("?", |operator| operator.name);
            return Err(format!("operator {op}, {name}, differs from the definition"));
        }
    }
    let operators = model.operators().count();
    Ok(format!("{} inputs, each of {operators} operators equal", inputs.len()))
}

/// The first check that failed, as an error.
///
/// # Errors
/// [`ErrorKind::Model`].
///
/// ```
/// use qat_trainer::verify::{Check, first_failure};
/// let check = |name, ok| Check { name, ok, found: format!("about {name}") };
/// assert!(first_failure(&[check("integrity", true), check("metadata", true)]).is_ok());
/// let e = first_failure(&[check("metadata", true), check("extremes", false), check("provenance", false)]);
/// assert!(e.unwrap_err().to_string().starts_with("extremes: about extremes; "));
/// ```
pub fn first_failure(checks: &[Check]) -> Result<()> {
    match checks.iter().find(|c| !c.ok) {
        None => Ok(()),
        Some(c) => Err(Error::new(ErrorKind::Model, c.found.clone())
            .place(c.name)
            .remedy("do not use this file: export the model again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qat_kernels::artifact::{InputTransform, Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
    use qat_kernels::{Grid, Levels};

    const META: Metadata<'_> = Metadata {
        name: "m",
        tool: "t",
        labels: "a\nb",
        source_sha256: [1; 32],
        dataset_sha256: [2; 32],
        samples: 3,
        method: "mse",
        created: 0,
        input: InputTransform { mean: &[], std: &[] },
    };

    fn file(meta: &Metadata<'_>, known: &[&[i8]]) -> Vec<u8> {
        let mut b = ModelBuilder::new(TensorSpec { shape: [1, 1, 2], scale: 0.5, zero_point: 0 });
        let levels = Levels::new(2, Grid::MidRise).unwrap();
        let weights = Weights { levels, codes: &[1, 0, -2, 1], steps: Steps::PerChannel(&[1.0; 2]) };
        b.linear(b.input(), &weights, &[], Output::new(0.5, 0)).unwrap();
        b.finish(meta, known).unwrap()
    }

    #[test]
    fn a_good_file_passes_every_check() {
        let checks = verify(&file(&META, &[&[3, 4]]), None);
        assert_eq!(checks.len(), 6);
        assert!(first_failure(&checks).is_ok(), "{checks:?}");
    }

    #[test]
    fn every_lack_is_named() {
        let failing = |bytes: &[u8]| {
            let checks = verify(bytes, None);
            let e = first_failure(&checks).unwrap_err().to_string();
            (checks.into_iter().find(|c| !c.ok).unwrap().name, e)
        };
        let known: &[&[i8]] = &[&[3, 4]];
        assert_eq!(failing(&file(&Metadata { labels: "a", ..META }, known)).0, "metadata");
        assert_eq!(failing(&file(&META, &[])).0, "known answers");
        for meta in [
            Metadata { source_sha256: [0; 32], ..META },
            Metadata { dataset_sha256: [0; 32], ..META },
            Metadata { samples: 0, ..META },
            Metadata { method: "", ..META },
        ] {
            let (name, e) = failing(&file(&meta, known));
            assert!(name == "provenance" && e.contains("not stated"), "{e}");
        }
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let good = file(&META, &[&[3, 4]]);
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            assert!(first_failure(&verify(&bad, None)).is_err(), "byte {i}");
            assert!(first_failure(&verify(&good[..i], None)).is_err(), "length {i}");
        }
    }

    #[test]
    fn the_signature_comes_first() {
        let good = file(&META, &[&[3, 4]]);
        let key = qat_kernels::artifact::signature::public_key(&[5; 32]);
        let checks = verify(&good, Some(&key));
        assert_eq!(checks.iter().map(|c| (c.name, c.ok)).collect::<Vec<_>>(), [("signature", false)]);
        let signed = qat_kernels::artifact::signature::sign(&good, &[5; 32]).unwrap();
        let checks = verify(&signed, Some(&key));
        assert!(checks.len() == 7 && checks.iter().all(|c| c.ok), "{checks:?}");
    }

    /// Every operator, as it comes from training.
    #[test]
    fn the_reference_engine_agrees_on_every_operator_and_target() {
        use crate::export::{About, Options, export};
        use crate::graph::{Graph, tests as nets};
        use qat_kernels::artifact::Target;
        let rotated = r#"{ op = "flatten" },
            { op = "linear", out = 6, bits = 2, incoherence = true, act = "sigmoid" },
            { op = "linear", out = 3 }, { op = "softmax" }"#;
        for layers in [nets::SMALL_CNN, rotated] {
            let (run, data) = nets::run_and_data();
            let model = nets::model(layers);
            let checkpoint = nets::checkpoint(&model, nets::SMALL_INPUT);
            let graph = Graph::from_checkpoint(&model, nets::SMALL_INPUT, 3, &checkpoint).unwrap();
            let how = run.qat.calibration;
            let network = crate::ptq::quantise(graph, data.input, &data.train.features, how).unwrap();
            for target in Target::ALL {
                let about = About::new(&run, &data, "ptq".into());
                let options = Options { target, ..Options::default() };
                let bytes = export(&network, "net", &about, [1; 32], options).unwrap();
                let checks = verify(&bytes, None);
                assert!(checks.iter().all(|c| c.ok) && checks.len() == 6, "{target}: {checks:?}");
            }
        }
    }

    /// Every order of packed weights, with rows and columns that fill nothing up.
    #[test]
    fn the_reference_engine_reads_every_layout() {
        use qat_kernels::artifact::{Target, Window};
        let mut random = Random::new(7, Purpose::Generated(0));
        for target in Target::ALL {
            for (bits, group) in [(2, 0), (3, 0), (4, 0), (8, 0), (5, 0), (2, 8), (2, 16), (2, 32), (3, 16)] {
                for depth in [32u16, 96, 40].into_iter().filter(|d| group == 0 || d % group as u16 == 0) {
                    let tensor = TensorSpec { shape: [3, 3, depth], scale: 0.02, zero_point: 3 };
                    let mut b = ModelBuilder::new(tensor).with_target(target);
                    let levels = Levels::new(bits, Grid::MidRise).unwrap();
                    let mut layer = |rows: usize, columns: usize| {
                        let half = f32::from(1u8 << (bits - 1));
                        let mut numbers = || (half * random.symmetric()).floor() as i8;
                        let codes: Vec<i8> = (0..rows * columns).map(|_| numbers()).collect();
                        let divisors: Vec<u8> = (0..codes.len() / group.max(1))
                            .map(|_| 2 + numbers().cast_unsigned() % 4)
                            .collect();
                        (codes, divisors)
                    };
                    let alpha = [0.01; 11];
                    let steps = |rows: usize, divisors| match group {
                        0 => Steps::PerChannel(&alpha[..rows]),
                        _ => Steps::PiAdaptive { alpha: &alpha[..rows], divisors, group },
                    };
                    let output = Output::new(0.2, -4);
                    let (codes, divisors) = layer(11, usize::from(depth) * 9);
                    let weights = Weights { levels, codes: &codes, steps: steps(11, &divisors) };
                    b.conv2d(b.input(), Window::square(3, 1, 1), &weights, &[], output).unwrap();
                    let (codes, divisors) = layer(9, usize::from(depth) * 9);
                    let weights = Weights { levels, codes: &codes, steps: steps(9, &divisors) };
                    b.linear(b.input(), &weights, &[], output).unwrap();
                    let file = b.finish(&META, &[]).unwrap();
                    let found = compare(&Model::parse(&file).unwrap(), &Reference::read(&file).unwrap());
                    assert!(found.is_ok(), "{target}, {bits} bits, {group}, {depth}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn a_difference_names_its_operator() {
        let model = file(&META, &[&[3, 4]]);
        let mut other = model.clone();
        // The zero point of the result, in the record of the first operator.
        let program = u32::from_le_bytes(other[20..24].try_into().unwrap()) as usize;
        other[program + 32 + 46] = 9;
        let e = compare(&Model::parse(&model).unwrap(), &Reference::read(&other).unwrap()).unwrap_err();
        assert!(e.contains("operator 0, linear"), "{e}");
    }
}
