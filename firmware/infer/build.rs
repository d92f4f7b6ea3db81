//! Takes in the model that `PIQ_MODEL` names with the memory that it needs, or leaves room for others as `PIQ_ROOM` says; and
//! the board's memory map.

#[path = "../build-support/memory.rs"]
mod memory;

use std::env::var;
use std::error::Error;
use std::path::Path;

/// What flash holds where it is erased.
const ERASED: u8 = 0xFF;

fn main() {
    memory::place();
    println!("cargo::rerun-if-env-changed=PIQ_MODEL");
    println!("cargo::rerun-if-env-changed=PIQ_ROOM");
    let done = match (var("PIQ_MODEL"), var("PIQ_ROOM")) {
        (Ok(model), Err(_)) => take_in(Path::new(&model)).map_err(|error| format!("{model}: {error}")),
        (Err(_), Ok(room)) => leave(&room).map_err(|error| format!("PIQ_ROOM={room}: {error}")),
        _ => Err("set either PIQ_MODEL, to the absolute path of a .piq file (see firmware/Cargo.toml), or PIQ_ROOM, to bytes \
                  of the file, the arena, the input and the output"
            .into()),
    };
    if let Err(error) = done {
        println!("cargo::error={error}");
    }
}

/// Takes in a model, and just the memory that it needs.
fn take_in(model: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", model.display());
    let bytes = std::fs::read(model)?;
    // The file is for the board's core; only the sizes matter here, and a workstation's engine reads every family's files.
    let parsed = qat_kernels::infer::Model::parse(&bytes).map_err(|e| e.to_string())?;
    write(&bytes, [parsed.arena_len(), parsed.input_len(), parsed.output_len()])
}

/// Leaves room for a file, an arena, an input and an output of these sizes.
fn leave(room: &str) -> Result<(), Box<dyn Error>> {
    let sizes = room.split(' ').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let [file, memory @ ..]: [usize; 4] = sizes.try_into().map_err(|_| "four numbers are wanted")?;
    write(&vec![ERASED; file], memory)
}

/// Writes what lies in flash, and the sizes as constants.
fn write(flash: &[u8], [arena, input, output]: [usize; 3]) -> Result<(), Box<dyn Error>> {
    let out = var("OUT_DIR")?;
    let out = Path::new(&out);
    std::fs::write(out.join("flash.bin"), flash)?;
    let sizes = [
        ("FLASH_LEN", "Bytes of flash for a model", flash.len()),
        ("ARENA_LEN", "Bytes for activations", arena),
        ("INPUT_LEN", "Values of an input", input),
        ("OUTPUT_LEN", "Values of an output", output),
    ];
    let constants = sizes.map(|(name, what, value)| format!("/// {what}.\nconst {name}: usize = {value};\n"));
    Ok(std::fs::write(out.join("sizes.rs"), constants.concat())?)
}
