//! Says for which core family the crate is compiled, because stable Rust does not show the features of Arm's
//! microcontrollers to `cfg(target_feature)`.
//!
//! | `core_family` | cores |
//! |---|---|
//! | `cortex-m4` | Armv7E-M, with DSP instructions |
//! | `cortex-m0` | Armv6-M, Armv7-M and Armv8-M baseline |
//! | `cortex-m55` | Armv8.1-M with Helium, if the compiler was asked for that core |
//! | `riscv32` | RV32 with multiplication |
//!
//! Within `cortex-m0`, `thumb1` or `thumb2` tells Armv7-M's whole instruction set from the small one of the others.

fn main() {
    let families = ["cortex-m4", "cortex-m0", "cortex-m55", "riscv32"];
    let values = families.map(|family| format!("{family:?}")).join(", ");
    println!("cargo::rustc-check-cfg=cfg(core_family, values({values}))");
    println!("cargo::rustc-check-cfg=cfg(thumb1, thumb2)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let target = std::env::var("TARGET").unwrap_or_default();
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let bare_metal = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    let family = match &*target {
        t if t.starts_with("thumbv7em-") => "cortex-m4",
        t if ["thumbv6m-", "thumbv7m-", "thumbv8m.base-"].iter().any(|name| t.starts_with(name)) => {
            "cortex-m0"
        }
        t if t.starts_with("thumbv8m.main-") && flags.contains("cortex-m55") => "cortex-m55",
        t if t.starts_with("riscv32im") && bare_metal => "riscv32",
        _ => return,
    };
    println!("cargo::rustc-cfg=core_family={family:?}");
    if family == "cortex-m0" {
        println!("cargo::rustc-cfg={}", if target.starts_with("thumbv7m-") { "thumb2" } else { "thumb1" });
    }
}
