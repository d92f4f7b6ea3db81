//! `cargo xtask gpu`: the program that checks and times the trainer on a GPU, packed with the command line for a machine that has
//! CUDA and torch but no Rust; and what it measured there, brought home.

pub(crate) mod arithmetic;
mod pieces;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use qat_benches::results::adopt;
use serde_json::Value;

use crate::cmd::{cargo, output, root, run as run_command, succeeds, target_dir};
use crate::libtorch;
use crate::package::{self, Member, Package};
use crate::tools::{Tool, ensure as ensure_tools};

const SCRIPT: &str = include_str!("gpu/run.sh");
/// What a machine may ask of the folder's size.
const LARGEST: u64 = 60_000_000;
/// Processors of the last ten years, all that stand beside the GPUs in question. Flags of this machine's own do not leak in.
const FLAGS: &str = "-C target-cpu=x86-64-v3";

/// The checks and timings, and the command line, to train there.
const PROGRAMS: [&str; 2] = ["gpu", "qat"];

/// Packs the programs and the script that runs them.
pub(crate) fn pack(yes: bool) -> Result<()> {
    ensure_tools(&[Tool::Cxx], yes)?;
    let libtorch = libtorch::ensure(yes)?;
    let messages = build(&libtorch)?;
    let folder = target_dir()?.join("gpu");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut bytes = 0;
    for name in PROGRAMS {
        let (built, program) = (built(&messages, name)?, folder.join(name));
        fs::copy(&built, &program).with_context(|| built.display().to_string())?;
        run_command(Command::new("strip").arg(&program))?;
        has_no_path(&program, &libtorch)?;
        bytes += fs::metadata(&program)?.len();
    }
    let script = folder.join("run.sh");
    fs::write(&script, SCRIPT).with_context(|| script.display().to_string())?;
    executable(&script)?;
    ensure!(bytes <= LARGEST, "the programs have {bytes} bytes, more than {LARGEST}");
    println!(
        "{}: gpu, qat ({:.1} MB) and run.sh. Copy the folder to a machine with a GPU and torch 2.11.0, run `./run.sh` there, copy \
         gpu.csv back and run `cargo xtask gpu --record gpu.csv`; `./run.sh qat …` trains there",
        folder.display(),
        bytes as f64 / 1e6
    );
    Ok(())
}

/// Takes the figures of a run into `benches/results/gpu.csv`.
pub(crate) fn record(file: &Path) -> Result<()> {
    let count = adopt("gpu", file)?;
    println!(
        "{count} figures in benches/results/gpu.csv; `cargo run -p qat-benches --bin tables` makes the tables anew"
    );
    Ok(())
}

/// Builds the programs; returns what cargo says of them.
fn build(libtorch: &Path) -> Result<String> {
    let commit = output(in_workspace("git").args(["rev-parse", "--short", "HEAD"])).unwrap_or_default();
    let mut command = cargo();
    command
        .args(["build", "--release", "--locked", "-p", "qat-trainer", "--bench", "gpu", "--bin", "qat"])
        .args(["--message-format", "json-render-diagnostics", "--target-dir"])
        .arg(target_dir()?.join("gpu-build"))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", FLAGS)
        .env("LIBTORCH", libtorch)
        .env("QAT_COMMIT", commit.trim())
        // The script says where libtorch lies: on that machine it lies elsewhere.
        .env("QAT_RUN_PATH", "");
    output(&mut command)
}

/// Where the program of this name lies, by what cargo says.
fn built(messages: &str, name: &str) -> Result<PathBuf> {
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == name;
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    });
    program.with_context(|| format!("cargo names no program `{name}`"))
}

/// A program that works in the workspace.
fn in_workspace(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The program must not know where libtorch lies on this machine.
fn has_no_path(program: &Path, libtorch: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| program.display().to_string())?;
    let path = libtorch.join("lib").display().to_string().into_bytes();
    if bytes.windows(path.len()).any(|window| window == path) {
        bail!("{} would look for libtorch at {}", program.display(), String::from_utf8_lossy(&path));
    }
    Ok(())
}

fn executable(script: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(script, fs::Permissions::from_mode(0o755))
        .with_context(|| script.display().to_string())
}

/// The program's checks and timings, of a tiny decoder on the CPU: all that there is to test but the device. Its figures are
/// of the right schema, and without a GPU it says so.
pub(crate) fn check() -> Result<()> {
    ensure!(succeeds(Command::new("sh").args(["-n", "-c", SCRIPT])), "run.sh is no shell script");
    let file = target_dir()?.join("gpu-tiny.csv");
    run_command(&mut tiny(&["--device", "cpu", "--rounds", "2", "--out", &file.display().to_string()]))?;
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    for case in ["quantisers,unequal,0,", "tiny_full,step_ms,", "tiny_lora_merged,step_ms,"] {
        ensure!(text.contains(&format!("gpu,{case}")), "{}: no row `{case}`", file.display());
    }
    fs::remove_file(&file)?;
    let refused = tiny(&["--device", "cuda:999"]).output()?;
    let message = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        !refused.status.success() && message.contains("Error: no GPU for `cuda:999`: "),
        "a missing GPU is answered with: {message}"
    );
    Ok(())
}

/// CUDA's run-time compiler, in the version that torch 2.11.0 brings along.
const NVRTC: Package = Package {
    requirement: "nvidia-cuda-nvrtc==13.0.88",
    archive: "nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
    sha256: "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
    size: "90 MB",
    files: &[
        Member {
            path: "nvidia/cu13/lib/libnvrtc.so.13",
            sha256: "a49e67e8e74590f1e98de55c39c6287efd3f59e3c3797464d7bbe0fe01349b11",
        },
        Member {
            path: "nvidia/cu13/lib/libnvrtc-builtins.so.13.0",
            sha256: "91dcd944d01da9c0f08fff5d779db136a47f6d62bdb63bae900d2f481e92c3a2",
        },
    ],
};

/// The CUDA kernels compile for two families of GPUs, and need no memory for registers that do not suffice: the program says how
/// many bytes, as it compiles them at their first use.
pub(crate) fn compiles() -> Result<()> {
    package::ensure(&NVRTC, false)?;
    for architecture in ["sm_80", "sm_90"] {
        let said = output(tiny(&["--compile", architecture]).env("LD_LIBRARY_PATH", root().join(".cache")))?;
        println!("{}", said.trim());
        let expected = format!("{architecture}: 53 kernels, 0 bytes spilled");
        ensure!(said.starts_with(&expected), "`{expected}` is expected");
    }
    Ok(())
}

/// The program as the tests build everything else: of the whole workspace, so that cargo finds the same features.
fn tiny(arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["bench", "-q", "--locked", "--profile", "dev", "--workspace", "--bench", "gpu", "--"]);
    command.args(["--shape", "tiny"]).args(arguments);
    command
}
