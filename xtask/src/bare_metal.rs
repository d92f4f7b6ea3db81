//! Rust for machines without an operating system: rustup's targets where they are or can be had, else Debian's compiler,
//! which builds the core library from source.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cmd::{cargo, output, root, succeeds};
use crate::tools::{Tool, ensure};

/// Everything the core has to build for: Cortex-M0, M3, M4F, M55, RV32IMC.
pub(crate) const TARGETS: [&str; 5] = [
    "thumbv6m-none-eabi",
    "thumbv7m-none-eabi",
    "thumbv7em-none-eabihf",
    "thumbv8m.main-none-eabihf",
    "riscv32imc-unknown-none-elf",
];

/// A Rust that can build for [`TARGETS`].
pub(crate) enum Toolchain {
    /// The one that runs us, with its precompiled core library.
    Rustup,
    /// Debian's, with a linker for every target.
    Debian { linker: PathBuf },
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup => write!(f, "the active toolchain, with precompiled targets"),
            Self::Debian { linker } => {
                write!(
                    f,
                    "Debian's /usr/bin/cargo, core library from source, linked with {}",
                    linker.display()
                )
            }
        }
    }
}

impl Toolchain {
    /// `cargo <subcommand> --target <target>`, with the crates that have to be built from source.
    pub(crate) fn cargo(&self, subcommand: &str, target: &str, std_crates: &str) -> Command {
        match self {
            Self::Rustup => {
                let mut command = cargo();
                command.args([subcommand, "--target", target]);
                command
            }
            Self::Debian { linker } => {
                let variable =
                    format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace(['-', '.'], "_"));
                let mut command = Command::new("/usr/bin/cargo");
                command
                    .current_dir(root())
                    // The loader path is ours, for the other toolchain's libraries.
                    .env_remove("LD_LIBRARY_PATH")
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env(variable, linker)
                    .args([subcommand, "--target", target, &format!("-Zbuild-std={std_crates}")]);
                command
            }
        }
    }

    /// Whether this toolchain can lint what it builds.
    pub(crate) fn has_clippy(&self) -> bool {
        matches!(self, Self::Rustup)
    }
}

/// Finds a toolchain for `targets`; installs Debian's if `yes` and nothing else helps.
pub(crate) fn find(targets: &[&str], yes: bool) -> Result<Toolchain> {
    let wanted = std::env::var("BARE_METAL").ok();
    match wanted.as_deref() {
        None => {}
        Some("rustup") if rustup(targets) => return Ok(Toolchain::Rustup),
        Some("rustup") => bail!("BARE_METAL=rustup, but its targets are not there and cannot be fetched"),
        Some("debian") => return debian(yes),
        Some(other) => bail!("BARE_METAL={other}: only `rustup` and `debian` mean something"),
    }
    if rustup(targets) {
        return Ok(Toolchain::Rustup);
    }
    debian(yes).context(format!(
        "no Rust for {}: `rustup target add {0}` did not work here, and Debian's Rust is the other way",
        targets.join(" ")
    ))
}

/// Whether the toolchain that runs us has `targets`, if need be after asking rustup for them.
pub(crate) fn rustup(targets: &[&str]) -> bool {
    let missing: Vec<_> = targets.iter().filter(|target| !installed(target)).collect();
    missing.is_empty()
        || (succeeds(Command::new("rustup").args(["target", "add"]).args(&missing))
            && targets.iter().all(|target| installed(target)))
}

fn rustc() -> Command {
    // Cargo names the compiler for build scripts only; beside it lies the one it uses.
    let beside = std::env::var_os("CARGO").map(|cargo| Path::new(&cargo).with_file_name("rustc"));
    Command::new(beside.filter(|rustc| rustc.exists()).unwrap_or_else(|| "rustc".into()))
}

fn installed(target: &str) -> bool {
    let Ok(libdir) = output(rustc().args(["--print", "target-libdir", "--target", target])) else {
        return false;
    };
    std::fs::read_dir(libdir.trim())
        .is_ok_and(|files| files.flatten().any(|f| f.file_name().to_string_lossy().starts_with("libcore-")))
}

fn debian(yes: bool) -> Result<Toolchain> {
    ensure(&[Tool::DebianRust], yes)?;
    let beside_std = |sysroot: &str| {
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin/rust-lld")
    };
    let ours = output(rustc().args(["--print", "sysroot"])).map(|sysroot| beside_std(&sysroot));
    let found = ours.into_iter().chain([beside_std("/usr")]).find(|linker| linker.exists());
    let linker = match found {
        Some(linker) => linker,
        None => {
            ensure(&[Tool::Lld], yes)?;
            PathBuf::from("ld.lld")
        }
    };
    Ok(Toolchain::Debian { linker })
}
