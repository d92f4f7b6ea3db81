//! Takes in the model that `PIQ_MODEL` names, and places the board's memory map where the linker script of
//! `cortex-m-rt` looks for it.

use std::path::Path;

fn main() {
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    println!("cargo::rerun-if-env-changed=PIQ_MODEL");
    match std::env::var("PIQ_MODEL") {
        Err(_) => println!(
            "cargo::error=PIQ_MODEL must be the absolute path of a .piq file (see firmware/Cargo.toml)"
        ),
        Ok(model) => copy(Path::new(&model), &Path::new(&out).join("model.piq")),
    }
    copy(Path::new("../memory-mps2.x"), &Path::new(&out).join("memory.x"));
    println!("cargo::rustc-link-search={out}");
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
}

fn copy(from: &Path, to: &Path) {
    println!("cargo::rerun-if-changed={}", from.display());
    if let Err(error) = std::fs::copy(from, to) {
        println!("cargo::error={}: {error}", from.display());
    }
}
