//! The format's page suffices: `qat-kernels/docs/reader.c`, which was written from it, computes what the engine computes.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use qat_kernels::artifact::Target;

use crate::cmd::{root, run as run_command, target_dir};
use crate::mcu::{host_logits, write_model};
use crate::probe::probes;

/// Builds the reader with the C compiler and runs every portable probe through it; returns how many there were.
pub(crate) fn check() -> Result<u64> {
    let program = target_dir()?.join("reader");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let source = root().join("qat-kernels/docs/reader.c");
    run_command(
        Command::new(compiler)
            .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-o"])
            .args([&program, &source]),
    )?;
    let mut checked = 0;
    for probe in probes()?.iter().filter(|probe| probe.target == Target::Portable) {
        let path = write_model(&probe.name, &probe.file)?;
        let inputs: Vec<u8> = probe.samples.iter().flatten().map(i8::cast_unsigned).collect();
        let mut child = Command::new(&program)
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| program.display().to_string())?;
        // Samples are few: they fit into the pipe.
        child.stdin.take().context("no way in")?.write_all(&inputs)?;
        let outcome = child.wait_with_output()?;
        if !outcome.status.success() || outcome.stdout != host_logits(&probe.file, &path, &probe.samples)? {
            bail!("{}: the reader in C computes something else than the engine", probe.name);
        }
        checked += 1;
    }
    fs::remove_file(&program)?;
    Ok(checked)
}
