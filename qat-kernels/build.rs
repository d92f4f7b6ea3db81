//! Says for which core family the crate is compiled, because stable Rust does not show the features of Arm's
//! microcontrollers to `cfg(target_feature)`: `core_family = "cortex-m4"` for cores with Armv7E-M's DSP instructions.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(core_family, values(\"cortex-m4\"))");
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    if target.starts_with("thumbv7em-") {
        println!("cargo::rustc-cfg=core_family=\"cortex-m4\"");
    }
}
