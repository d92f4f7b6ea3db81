//! Places the board's memory map where the linker script of `cortex-m-rt` looks for it.

fn main() {
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    if let Err(error) = std::fs::copy("../memory-mps2.x", format!("{out}/memory.x")) {
        println!("cargo::error=memory-mps2.x: {error}");
    }
    println!("cargo::rerun-if-changed=../memory-mps2.x");
    println!("cargo::rustc-link-search={out}");
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
}
