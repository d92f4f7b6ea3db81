//! Takes in the model that `PIQ_MODEL` names with the memory that it needs, and the board's memory map.

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
            if let Err(error) = take_in(Path::new(&model), Path::new(&out)) {
                println!("cargo::error={model}: {error}");
            }
        }
    }
}

/// Copies the model, and writes what it needs as constants.
fn take_in(model: &Path, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = std::fs::read(model)?;
    // The file is for the board's core; only the sizes matter here, and a workstation's engine reads every family's files.
    let parsed = qat_kernels::infer::Model::parse(&bytes).map_err(|e| e.to_string())?;
    std::fs::write(out.join("model.piq"), &bytes)?;
    let sizes = [
        ("ARENA_LEN", "Bytes for activations", parsed.arena_len()),
        ("INPUT_LEN", "Values of an input", parsed.input_len()),
        ("OUTPUT_LEN", "Values of an output", parsed.output_len()),
    ];
    let constants = sizes.map(|(name, what, value)| format!("/// {what}.\nconst {name}: usize = {value};\n"));
    Ok(std::fs::write(out.join("sizes.rs"), constants.concat())?)
}
