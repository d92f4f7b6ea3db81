//! Takes in the module in the folder that `PIQ_MODULE` names, and the board's memory map. A program of your own needs no
//! such step: it has the module among its sources.

#[path = "../build-support/memory.rs"]
mod memory;

use std::path::Path;

fn main() {
    memory::place();
    println!("cargo::rerun-if-env-changed=PIQ_MODULE");
    let (Ok(module), Ok(out)) = (std::env::var("PIQ_MODULE"), std::env::var("OUT_DIR")) else {
        println!(
            "cargo::error=PIQ_MODULE must be the absolute path of a folder that `qat export --rust` has written"
        );
        return;
    };
    for name in ["mod.rs", "model.piq"] {
        let from = Path::new(&module).join(name);
        println!("cargo::rerun-if-changed={}", from.display());
        if let Err(error) = std::fs::copy(&from, Path::new(&out).join(name)) {
            println!("cargo::error={}: {error}", from.display());
        }
    }
}
