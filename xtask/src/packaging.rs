//! The two crates as others get them: packed, with what belongs in and nothing else; installed, without libtorch.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cmd::{cargo, output, run as run_command, target_dir};

/// What a package may have: folders and files of its root.
const CONTENT: [&str; 11] = [
    ".cargo_vcs_info.json",
    "Cargo.lock",
    "Cargo.toml",
    "Cargo.toml.orig",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "build.rs",
    "docs",
    "examples",
    "src",
];
/// The same for one of them: its tests with the files that lock the formats; what presets and the bridge to torch need.
const PACKAGES: [(&str, &[&str]); 2] =
    [("qat-kernels", &["tests"]), ("qat-trainer", &["configs", "csrc", "cuda"])];

/// Packs both crates, and builds the kernels from their package. The trainer's is not built again: it names the kernels
/// of the same version, which a registry has only after they were published, and all of its sources are built by the
/// other steps.
pub(crate) fn pack() -> Result<()> {
    let package = |words: &[&str]| {
        let mut command = cargo();
        command.args(["package", "-q", "--locked", "--allow-dirty"]).args(words);
        command
    };
    run_command(&mut package(&["-p", "qat-kernels"]))?;
    run_command(&mut package(&["--no-verify", "-p", "qat-kernels", "-p", "qat-trainer"]))?;
    for (name, own) in PACKAGES {
        let files = output(&mut package(&["--list", "-p", name]))?;
        for file in files.lines() {
            let first = file.split(['/', '\\']).next().unwrap_or(file);
            ensure!(CONTENT.contains(&first) || own.contains(&first), "{name}: {file} is not for a package");
        }
        for file in ["LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
            ensure!(files.lines().any(|line| line == file), "{name}: {file} is not in the package");
        }
    }
    Ok(())
}

/// Installs `qat` without training, and asks it for what it can do, on a machine that might have no libtorch. It is built as
/// the tests are, so that little of it is built anew.
pub(crate) fn install() -> Result<()> {
    let folder = target_dir()?.join("installed");
    let mut command = cargo();
    command.args(["install", "-q", "--debug", "--locked", "--force", "--path", "qat-trainer"]);
    run_command(command.args(["--no-default-features", "--root"]).arg(&folder))?;
    let qat = folder.join("bin/qat");
    let mut alone = Command::new(&qat);
    alone.env_remove("LIBTORCH").env_remove("LD_LIBRARY_PATH");
    let presets = output(alone.arg("presets"))?;
    ensure!(presets.contains("letter"), "the installed program lists no presets: {presets}");
    links_no_torch(&qat)?;
    fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())
}

/// Nothing of torch is among the libraries that the program needs.
fn links_no_torch(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| program.display().to_string())?;
    for library in ["libtorch.so", "libtorch_cpu.so"] {
        if bytes.windows(library.len()).any(|window| window == library.as_bytes()) {
            bail!("{} needs {library}", program.display());
        }
    }
    Ok(())
}
