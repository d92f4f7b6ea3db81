//! Tells the loader where libtorch lies, for the programs that link it: it is not on the loader's path.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if std::env::var_os("CARGO_FEATURE_TCH").is_none() {
        return;
    }
    // Without it, torch-sys says what is missing. A relative one is relative to the package.
    if let Some(torch) = std::env::var_os("LIBTORCH").and_then(|dir| std::fs::canonicalize(dir).ok()) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", torch.join("lib").display());
    }
}
