//! Programs that come from the operating system: is each there, and which Debian package brings it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cmd::{output, run, succeeds};

/// A program from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// A C++ compiler: torch's bindings are C++.
    Cxx,
    /// Python's package installer: libtorch comes from wheels.
    Pip,
    /// Node's package manager: texts come from its registry.
    Npm,
    /// QEMU with Arm boards.
    QemuArm,
    /// QEMU with RISC-V machines.
    QemuRiscV,
    /// A linker for AArch64 Linux, its C library, and QEMU for single programs.
    Aarch64,
    /// A linker for every target, where Rust brings none.
    Lld,
    /// A browser that runs without a screen.
    Chromium,
    /// Debian's Rust with the source of its core library.
    DebianRust,
}

impl Tool {
    pub(crate) fn there(self) -> bool {
        match self {
            Tool::Cxx => {
                let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
                succeeds(Command::new(compiler).arg("--version"))
            }
            Tool::Pip => succeeds(Command::new("python3").args(["-m", "pip", "--version"])),
            Tool::Npm => succeeds(Command::new("npm").arg("--version")),
            Tool::QemuArm => succeeds(Command::new("qemu-system-arm").arg("--version")),
            Tool::QemuRiscV => succeeds(Command::new("qemu-system-riscv32").arg("--version")),
            Tool::Aarch64 => ["aarch64-linux-gnu-gcc", "qemu-aarch64-static"]
                .iter()
                .all(|program| succeeds(Command::new(program).arg("--version"))),
            Tool::Lld => succeeds(Command::new("ld.lld").arg("--version")),
            Tool::Chromium => succeeds(Command::new("chromium").arg("--version")),
            Tool::DebianRust => {
                ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/lib/rustlib/src/rust/library/core/Cargo.toml"]
                    .iter()
                    .all(|file| Path::new(file).exists())
            }
        }
    }

    /// What a reader is told that it is.
    fn name(self) -> &'static str {
        match self {
            Tool::Cxx => "a C++ compiler",
            Tool::Pip => "pip",
            Tool::Npm => "npm",
            Tool::QemuArm => "QEMU for Arm",
            Tool::QemuRiscV => "QEMU for RISC-V",
            Tool::Aarch64 => "a linker and QEMU for AArch64 programs",
            Tool::Lld => "lld",
            Tool::Chromium => "Chromium",
            Tool::DebianRust => "Debian's Rust with its source",
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Tool::Cxx => &["g++"],
            Tool::Pip => &["python3-pip"],
            Tool::Npm => &["npm"],
            Tool::QemuArm => &["qemu-system-arm"],
            Tool::QemuRiscV => &["qemu-system-misc"],
            Tool::Aarch64 => &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user-static"],
            Tool::Lld => &["lld"],
            Tool::Chromium => &["chromium"],
            Tool::DebianRust => &["rustc-web", "cargo-web", "rust-web-src"],
        }
    }
}

/// Makes sure that all of `tools` are there: installs what is missing if `yes`, and says how otherwise.
pub(crate) fn ensure(tools: &[Tool], yes: bool) -> Result<()> {
    let missing = |tools: &[Tool]| tools.iter().copied().filter(|tool| !tool.there()).collect::<Vec<_>>();
    let absent = missing(tools);
    if absent.is_empty() {
        return Ok(());
    }
    let named = names(&absent);
    let packages: Vec<&str> = absent.iter().flat_map(|tool| tool.packages()).copied().collect();
    let install = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !yes {
        bail!(
            "missing on this machine: {named}. On Debian, as root:\n    apt-get update && {install}\nor repeat the command with --yes"
        );
    }
    if !succeeds(Command::new("apt-get").arg("--version")) {
        bail!(
            "missing on this machine: {named}; --yes can install them with apt-get only, and there is none"
        );
    }
    if output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("missing on this machine: {named}; --yes installs them as root only:\n    sudo {install}");
    }
    println!("installing {}", packages.join(" "));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
        command
    };
    // A stale list of packages is the usual reason for a failure, and a failing mirror of something else is none.
    if let Err(error) = run(apt().arg("update")) {
        eprintln!("note: {error:#}");
    }
    run(apt().args(["install", "-y", "--no-install-recommends"]).args(&packages)).context(install)?;
    let absent = missing(tools);
    if !absent.is_empty() {
        bail!("{} installed, but still missing: {}", packages.join(" "), names(&absent));
    }
    Ok(())
}

fn names(tools: &[Tool]) -> String {
    tools.iter().map(|tool| tool.name()).collect::<Vec<_>>().join(", ")
}
