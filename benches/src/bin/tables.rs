//! Puts the recorded figures into the tables of `qat-kernels/README.md`.
//!
//!     cargo run -p qat-benches --bin tables

use anyhow::{Context as _, Result};
use qat_benches::tables::{readme, renew};
use std::fs;

fn main() -> Result<()> {
    let path = readme();
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    fs::write(&path, renew(&text)?).with_context(|| path.display().to_string())
}
