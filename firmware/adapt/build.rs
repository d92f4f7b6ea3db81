//! Takes in the model that `PIQ_MODEL` names, and the board's memory map.

#[path = "../build-support/memory.rs"]
mod memory;

use std::path::Path;

fn main() {
    memory::place();
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    println!("cargo::rerun-if-env-changed=PIQ_MODEL");
    match std::env::var("PIQ_MODEL") {
        Err(_) => println!(
            "cargo::error=PIQ_MODEL must be the absolute path of a .piq file (see firmware/Cargo.toml)"
        ),
        Ok(model) => {
            println!("cargo::rerun-if-changed={model}");
            if let Err(error) = std::fs::copy(&model, Path::new(&out).join("model.piq")) {
                println!("cargo::error={model}: {error}");
            }
        }
    }
}
