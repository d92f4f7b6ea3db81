//! The integer kernels on AArch64, emulated: what has instructions of its own there must compute what the portable one does.

use std::process::Command;

use anyhow::Result;

use crate::bare_metal;
use crate::cmd::cargo;

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Tests whose names begin so.
const TESTS: [&str; 3] = ["arch::", "infer::kernels::host::", "matrix::"];

/// The command that runs the tests; `None`, after saying why, where they cannot or need not be run.
pub(crate) fn tests() -> Result<Option<Command>> {
    if cfg!(target_arch = "aarch64") {
        println!("skipped: this machine runs them all by itself");
        return Ok(None);
    }
    if !bare_metal::rustup(&[TARGET]) {
        println!(
            "skipped: no standard library for {TARGET}; `rustup target add {TARGET}` does not work here"
        );
        return Ok(None);
    }
    let mut command = cargo();
    command
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", "qemu-aarch64-static -L /usr/aarch64-linux-gnu")
        .args(["test", "--locked", "--no-fail-fast", "-p", "qat-kernels", "--features", "alloc", "--lib"])
        .args(["--target", TARGET, "--"])
        .args(TESTS);
    Ok(Some(command))
}
