//! SmolLM2-135M quantised without training, on windows of State of the Union addresses.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cmd::{root, run};

/// A quantisation of the matrices of all blocks: α for each 64 weights, k for each 16 of them.
pub(super) struct Compensated {
    /// The end of the case's name, and the name of its folder.
    pub(super) name: &'static str,
    bits: &'static str,
    /// What rounding to nearest at this width is called.
    pub(super) rounded: &'static [&'static str],
}

/// All there are.
pub(super) const COMPENSATED: [Compensated; 2] = [
    Compensated {
        name: "ptq_compensated_g16_3bit",
        bits: "3",
        rounded: &["--bits", "3", "--scheme", "rtn", "--group", "32"],
    },
    Compensated {
        name: "ptq_compensated_g16_2bit",
        bits: "2",
        rounded: &["--bits", "2", "--scheme", "rtn", "--group", "32"],
    },
];

/// Quantises unless that was done before; returns the folder of the model.
pub(super) fn ensure(how: &Compensated, qat: &Path, model: &Path, speeches: &Path) -> Result<PathBuf> {
    let folder = root().join(".cache").join(format!("smollm2-{}", how.name));
    // Written last.
    if folder.join("codes.safetensors").exists() {
        return Ok(folder);
    }
    println!("quantising {}; one core takes some minutes", how.name);
    run(Command::new(qat)
        .args(["llm", "quantize"])
        .arg(model)
        .args([Path::new("--text"), speeches, Path::new("--out"), &folder])
        .args(["--bits", how.bits, "--windows", "8"]))?;
    Ok(folder)
}
