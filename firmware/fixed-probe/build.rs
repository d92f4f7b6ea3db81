//! Places the board's memory map where the linker script of `cortex-m-rt` looks for it.

use std::path::Path;

fn main() {
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    let map = "../memory-mps2.x";
    println!("cargo::rerun-if-changed={map}");
    if let Err(error) = std::fs::copy(map, Path::new(&out).join("memory.x")) {
        println!("cargo::error={map}: {error}");
    }
    println!("cargo::rustc-link-search={out}");
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
}
