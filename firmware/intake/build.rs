//! Takes in the board's memory map, and the public key that `PIQ_PUBLIC_KEY` names: a file of 32 bytes.

#[path = "../build-support/memory.rs"]
mod memory;

use std::path::Path;

fn main() {
    memory::place();
    println!("cargo::rerun-if-env-changed=PIQ_PUBLIC_KEY");
    if std::env::var_os("CARGO_FEATURE_SIGNED").is_none() {
        return;
    }
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    match std::env::var("PIQ_PUBLIC_KEY") {
        Err(_) => println!("cargo::error=PIQ_PUBLIC_KEY must be the absolute path of a file of 32 bytes"),
        Ok(key) => {
            println!("cargo::rerun-if-changed={key}");
            if let Err(error) = std::fs::copy(&key, Path::new(&out).join("key.bin")) {
                println!("cargo::error={key}: {error}");
            }
        }
    }
}
