//! Texts that SmolLM2-135M writes of itself, to be quantised and trained on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::dtype;
use crate::cmd::{root, run};

/// The file, by its name in the run descriptions.
const FILE: &str = "smollm2-texts.txt";
/// Texts of 512 tokens: as many as a training of an hour uses.
const TEXTS: &str = "304";

/// Has them written unless that was done before.
pub(super) fn ensure(qat: &Path, model: &Path) -> Result<PathBuf> {
    let file = root().join(".cache").join(FILE);
    if !file.exists() {
        println!("writing {FILE}; two cores take some ten minutes");
        let mut write = Command::new(qat);
        write.args(["llm", "synthesize"]).arg(model).args(["--texts", TEXTS, "--batch", "152"]);
        run(write.args(["--dtype", dtype(), "--out"]).arg(&file))?;
    }
    Ok(file)
}
