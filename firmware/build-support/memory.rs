//! The board that a target stands for, and its memory map where the linker scripts of `cortex-m-rt` and `riscv-rt` look for
//! it. A part of the build scripts of all programs.

use std::path::Path;

/// Copies the map to `OUT_DIR` and says how to link.
pub(crate) fn place() {
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    let target = std::env::var("TARGET").unwrap_or_default();
    let board = match &*target {
        t if t.starts_with("thumbv6m") => "microbit",
        t if t.starts_with("thumbv8m") => "mps3",
        t if t.starts_with("riscv32") => "virt",
        _ => "mps2",
    };
    let map = format!("../build-support/memory-{board}.x");
    println!("cargo::rerun-if-changed={map}");
    if let Err(error) = std::fs::copy(&map, Path::new(&out).join("memory.x")) {
        println!("cargo::error={map}: {error}");
    }
    println!("cargo::rustc-link-search={out}");
    if board == "virt" {
        // The script of riscv-rt leaves it to us, the one of cortex-m-rt includes it.
        println!("cargo::rustc-link-arg-bins=-Tmemory.x");
    }
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
}
