//! Builds the bridge to libtorch and tells the linker where libtorch lies. Does nothing without the feature `tch`.

#[cfg(feature = "tch")]
use std::path::{Path, PathBuf};
#[cfg(feature = "tch")]
use std::process::exit;

#[cfg(feature = "tch")]
const REMEDY: &str = "run `cargo xtask setup` once, set LIBTORCH to a libtorch 2.11.0 of your own, \
                      or build with `--no-default-features` to go without training";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "tch")]
    bridge();
}

#[cfg(feature = "tch")]
fn bridge() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-changed=csrc/bridge.cpp");
    let torch = libtorch();
    let include = torch.join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false) // torch's own headers are noisy
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .opt_level(2)
        .file("csrc/bridge.cpp")
        .compile("qat_bridge");
    // The wheels' libraries are not on the loader's path, and torch-sys cannot set the run path of our binaries:
    // link arguments reach only the package whose build script prints them.
    // `QAT_RUN_PATH` names another folder, or none if it is empty: for programs that are to run on another machine.
    println!("cargo::rerun-if-env-changed=QAT_RUN_PATH");
    let run_path = std::env::var_os("QAT_RUN_PATH").map_or_else(|| torch.join("lib"), PathBuf::from);
    if !run_path.as_os_str().is_empty() {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", run_path.display());
    }
}

/// The folder of libtorch, with the files that the build and the programs need.
#[cfg(feature = "tch")]
fn libtorch() -> PathBuf {
    let Some(dir) = std::env::var_os("LIBTORCH").map(PathBuf::from) else {
        fail("LIBTORCH is not set");
    };
    // Relative to the package, cargo's working directory for build scripts, so the run path must be made absolute.
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(e) => fail(&format!("LIBTORCH={}: {e}", dir.display())),
    };
    for needed in ["lib/libtorch_cpu.so", "lib/libc10.so", "include/ATen/ATen.h"] {
        if !Path::new(&dir).join(needed).exists() {
            fail(&format!("LIBTORCH={} holds no {needed}", dir.display()));
        }
    }
    dir
}

#[cfg(feature = "tch")]
fn fail(problem: &str) -> ! {
    println!("cargo::error=no libtorch: {problem}; {REMEDY}");
    exit(1)
}
