//! Puts the recorded figures into the tables of `README.md` and `qat-kernels/README.md`.
//!
//!     cargo run -p qat-benches --bin tables

use anyhow::{Context as _, Result};
use qat_benches::tables::pages;
use std::fs;

fn main() -> Result<()> {
    for (path, renew) in pages() {
        let name = || path.display().to_string();
        let text = fs::read_to_string(&path).with_context(name)?;
        fs::write(&path, renew(&text)?).with_context(name)?;
    }
    Ok(())
}
