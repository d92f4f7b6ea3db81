//! Whether a `.piq` file is whole, carries its provenance, and computes what it says it computes.

use crate::error::{Error, ErrorKind, Result};
use crate::export::hex;
use qat_kernels::infer::Model;
use serde::Serialize;

/// One thing that was checked.
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
/// 5. `extremes`: the engine runs on inputs at both ends of the code.
///
/// With the public key of who should have signed the file, `signature` comes first, and without it nothing else.
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
    checks
}

/// The first check that failed, as an error.
///
/// # Errors
/// [`ErrorKind::Model`].
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
        assert_eq!(checks.len(), 5);
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
        assert!(checks.len() == 6 && checks.iter().all(|c| c.ok), "{checks:?}");
    }
}
