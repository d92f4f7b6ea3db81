//! Quantised language models: packed files, and folders of dequantised weights with their codes.

use super::Check;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::packed::PackedDecoder;
use crate::llm::{QuantisedMatrix, read_codes};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::path::Path;

/// Weights and codes of a folder.
const WEIGHTS: &str = "model.safetensors";
const CODES: &str = "codes.safetensors";

/// Checks the bytes of a packed decoder. One that fails leaves out those that need it.
///
/// 1. `integrity`: header, checksum, index, the place and shape of every part, every step positive and every number finite;
///    codes and divisors of any bits are some code and some divisor;
/// 2. `known answer`: there is one, and the engine computes it bit for bit.
///
/// ```
/// use qat_trainer::verify::verify_packed;
/// let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq");
/// let mut file = std::fs::read(path)?;
/// let found = |file: &[u8]| verify_packed(file.into()).iter().map(|c| (c.name, c.ok)).collect::<Vec<_>>();
/// assert_eq!(found(&file), [("integrity", true), ("known answer", true)]);
/// file[200] ^= 1;
/// assert_eq!(found(&file), [("integrity", false)]); // nothing else is tried
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn verify_packed(bytes: Vec<u8>) -> Vec<Check> {
    let len = bytes.len();
    let decoder = match PackedDecoder::new(bytes) {
        Ok(decoder) => decoder,
        Err(e) => return vec![Check { name: "integrity", ok: false, found: e.to_string() }],
    };
    let (matrices, bits) = decoder.contents().codes();
    let found =
        format!("{len} bytes, {matrices} matrices of {bits:.3} bits a weight, checksum and shapes hold");
    let integrity = Check { name: "integrity", ok: true, found };
    let (ok, found) = match decoder.self_test() {
        Ok(Some(true)) => (true, "the logits are reproduced bit for bit".into()),
        Ok(Some(false)) => (false, "the engine computes other logits than when the file was made".into()),
        Ok(None) => (false, "the file has none".into()),
        Err(e) => (false, e.to_string()),
    };
    vec![integrity, Check { name: "known answer", ok, found }]
}

/// Checks a folder of dequantised weights.
///
/// 1. `codes`: `codes.safetensors` reads, every code is on its grid, every step positive and finite;
/// 2. `weights`: every matrix that has codes is in `model.safetensors`, in f32 or bf16, and each of its weights is the one that its
///    code stands for, bit for bit, in bf16 rounded to the nearest.
///
/// # Errors
/// [`ErrorKind::Io`] if a file cannot be read.
///
/// ```
/// # use qat_kernels::{Grid, Levels, StepRule};
/// # use qat_trainer::{checkpoint::Checkpoint, spec::WeightQuant};
/// # use qat_trainer::llm::{BlockQuant, QuantisedMatrix, write_codes};
/// use qat_trainer::verify::verify_folder;
/// # let dir = tempfile::tempdir()?;
/// # let folder = dir.path();
/// # let quant = WeightQuant { levels: Levels::new(3, Grid::MidRise)?, step: StepRule::Uniform };
/// # let matrix = QuantisedMatrix::fit(BlockQuant { quant, block: None }, &[0.1, -0.7, 0.4, 0.9], 2, None)?;
/// # let mut values = matrix.dequantise()?;
/// # write_codes(&folder.join("codes.safetensors"), &[("m".to_owned(), matrix)].into())?;
/// // A folder with the codes of a matrix `m` of 2×2, whose values these are.
/// let mut weights = Checkpoint::default();
/// for soundness in [true, false] {
///     weights.insert("m.weight", &[2, 2], values.clone())?;
///     weights.save(&folder.join("model.safetensors"))?;
///     let found: Vec<_> = verify_folder(folder)?.iter().map(|check| (check.name, check.ok)).collect();
///     assert_eq!(found, [("codes", true), ("weights", soundness)]);
///     values[3] = values[3].next_up(); // one bit of one weight
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify_folder(folder: &Path) -> Result<Vec<Check>> {
    let path = folder.join(CODES);
    if !path.is_file() {
        return Err(Error::new(ErrorKind::Model, "this folder has no codes.safetensors to check weights by")
            .file(folder)
            .remedy("make it with `qat llm quantize`"));
    }
    let codes = match read_codes(&path) {
        Ok(codes) => codes,
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(e) => return Ok(vec![Check { name: "codes", ok: false, found: e.to_string() }]),
    };
    let weights: usize = codes.values().map(|m| m.codes().len()).sum();
    let found =
        format!("{} matrices, {weights} codes on their grids, steps positive and finite", codes.len());
    let first = Check { name: "codes", ok: true, found };
    let path = folder.join(WEIGHTS);
    let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, &e))?;
    let (ok, found) = match compare(&bytes, &codes) {
        Ok(()) => (true, format!("{weights} weights are those of their codes, bit for bit")),
        Err(e) => (false, e.file(&path).to_string()),
    };
    Ok(vec![first, Check { name: "weights", ok, found }])
}

fn compare(bytes: &[u8], codes: &BTreeMap<String, QuantisedMatrix>) -> Result<()> {
    let wrong = |problem: String| Error::new(ErrorKind::Model, problem);
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| wrong(format!("no safetensors: {e}")))?;
    for (name, matrix) in codes {
        let name = format!("{name}.weight");
        let check = || -> Result<()> {
            let tensor = tensors.tensor(&name).map_err(|_| wrong("it is missing".into()))?;
            let (shape, columns) = (tensor.shape(), matrix.columns());
            let (expected, got): (_, Vec<f32>) = match tensor.dtype() {
                Dtype::F32 if shape == [matrix.rows(), columns] => {
                    let words = tensor.data().as_chunks::<4>().0.iter();
                    (matrix.dequantise()?, words.map(|&x| f32::from_le_bytes(x)).collect())
                }
                Dtype::BF16 if shape == [matrix.rows(), columns] => {
                    let halves = tensor.data().as_chunks::<2>().0.iter();
                    (
                        matrix.dequantise_bf16()?,
                        halves.map(|&[a, b]| f32::from_le_bytes([0, 0, a, b])).collect(),
                    )
                }
                dtype => {
                    let codes = matrix.rows();
                    return Err(wrong(format!(
                        "{dtype:?} of {shape:?} for codes of {codes} rows of {columns}"
                    )));
                }
            };
            match expected.iter().zip(&got).position(|(a, b)| a.to_bits() != b.to_bits()) {
                None => Ok(()),
                Some(i) => {
                    Err(wrong(format!("weight [{}, {}] is not that of its code", i / columns, i % columns)))
                }
            }
        };
        check().map_err(|e| e.place(format!("tensor `{name}`")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{BlockQuant, write_codes};
    use crate::spec::WeightQuant;
    use crate::verify::first_failure;
    use qat_kernels::config::StepRule;
    use qat_kernels::{Grid, Levels};
    use safetensors::tensor::TensorView;
    use std::fs;

    /// A folder of one matrix with these weights.
    fn folder(change: impl Fn(&mut Vec<f32>), name: &str, dtype: Dtype) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let levels = Levels::new(3, Grid::MidRise).unwrap();
        let how = BlockQuant {
            quant: WeightQuant { levels, step: StepRule::PiAdaptive { group: 8 } },
            block: Some(16),
        };
        let weights: Vec<f32> = (0..96).map(|i| (i as f32 * 0.7).sin()).collect();
        let matrix = QuantisedMatrix::fit(how, &weights, 32, None).unwrap();
        let mut weights = matrix.dequantise().unwrap();
        if dtype == Dtype::BF16 {
            weights = matrix.dequantise_bf16().unwrap();
        }
        change(&mut weights);
        write_codes(&dir.path().join(CODES), &BTreeMap::from([("m".to_owned(), matrix)])).unwrap();
        let size = if dtype == Dtype::F32 { 4 } else { 2 };
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()[4 - size..].to_vec()).collect();
        let view = TensorView::new(dtype, vec![bytes.len() / size / 32, 32], &bytes).unwrap();
        fs::write(dir.path().join(WEIGHTS), safetensors::serialize([(name, view)], None).unwrap()).unwrap();
        dir
    }

    #[test]
    fn a_folder_is_sound_if_every_weight_is_its_codes() {
        let [half, sound] = [Dtype::BF16, Dtype::F32].map(|dtype| {
            let sound = folder(|_| (), "m.weight", dtype);
            let checks = verify_folder(sound.path()).unwrap();
            assert!(checks.iter().all(|c| c.ok) && checks.len() == 2, "{checks:?}");
            sound
        });
        drop(half);
        for (bad, why) in [
            (
                folder(|w| w[70] = w[70].next_up(), "m.weight", Dtype::F32),
                "weight [2, 6] is not that of its code",
            ),
            (folder(|w| w[0] = -w[0], "m.weight", Dtype::F32), "weight [0, 0]"),
            (folder(|_| (), "n.weight", Dtype::F32), "tensor `m.weight`: it is missing"),
            (folder(|w| w.truncate(64), "m.weight", Dtype::F32), "F32 of [2, 32] for codes of 3 rows of 32"),
            (folder(|w| w[33] = -w[33], "m.weight", Dtype::BF16), "weight [1, 1] is not that of its code"),
            (folder(|_| (), "m.weight", Dtype::F16), "F16 of [3, 32]"),
        ] {
            let e = first_failure(&verify_folder(bad.path()).unwrap()).unwrap_err().to_string();
            assert!(e.contains(why), "{why}: {e}");
        }
        fs::write(sound.path().join(WEIGHTS), b"nothing").unwrap();
        let e = first_failure(&verify_folder(sound.path()).unwrap()).unwrap_err().to_string();
        assert!(e.contains("no safetensors"), "{e}");
        fs::write(sound.path().join(CODES), b"nothing").unwrap();
        let e = first_failure(&verify_folder(sound.path()).unwrap()).unwrap_err().to_string();
        assert!(e.contains("not a file of codes"), "{e}");
        fs::remove_file(sound.path().join(CODES)).unwrap();
        assert!(verify_folder(sound.path()).unwrap_err().to_string().contains("has no codes.safetensors"));
    }

    #[test]
    fn a_packed_file_is_sound_if_its_known_answer_is_computed() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq");
        let good = fs::read(golden).unwrap();
        let checks = verify_packed(good.clone());
        assert!(checks.iter().all(|c| c.ok) && checks.len() == 2, "{checks:?}");
        let failing = |bytes: Vec<u8>| first_failure(&verify_packed(bytes)).unwrap_err().to_string();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        assert!(failing(bad).contains("the checksum does not hold"));
        // Another digit of the answer, with the right checksum.
        let mut bad = good;
        let at = bad.windows(9).position(|w| w == b"\"sha256\":").unwrap() + 10;
        bad[at] = if bad[at] == b'0' { b'1' } else { b'0' };
        let (body, checksum) = bad.split_last_chunk_mut().unwrap();
        let mut crc = flate2::Crc::new();
        crc.update(body);
        *checksum = crc.sum().to_le_bytes();
        assert!(failing(bad).contains("known answer: the engine computes other logits"));
    }
}
