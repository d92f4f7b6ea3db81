//! Checks of programs for microcontrollers, on emulated boards.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use qat_kernels::artifact::Target;

use super::{Context, PASSED, Tally};
use crate::bare_metal::TARGETS;
use crate::cmd::root;
use crate::cmd::{run as run_command, target_dir};
use crate::emulator::{BOARDS, Board, M4, RV32, emulate};
use crate::firmware::{build, build_small};
use crate::mcu::{host_logits, mismatches, write_model};
use crate::panic_free::panic_paths;
use crate::probe::probes;
use crate::samples::Samples;
use crate::slot::Slot;
use crate::tamper;

/// The core builds for every target with its features for them. Without features it does in every program of `firmware/`.
pub(super) fn bare_metal(context: &Context) -> Result<Tally> {
    let [first, others @ ..] = TARGETS;
    let mut command = context.toolchain.cargo("build", first, "core,alloc");
    // In one call, so that they are built side by side.
    others.iter().for_each(|target| {
        command.args(["--target", target]);
    });
    command.args(["-q", "--release", "--locked", "-p", "qat-kernels", "--no-default-features"]);
    command.args(["--features", "alloc,micromath", "--target-dir"]).arg(target_dir()?.join("bare-metal"));
    run_command(&mut command)?;
    Ok(Tally { passed: TARGETS.len() as u64, failed: 0 })
}

/// A model for builds that need one.
fn any_model() -> Result<PathBuf> {
    let probe = probes()?.into_iter().next().context("no probe")?;
    write_model(&probe.name, &probe.file)
}

pub(super) fn lint_firmware(context: &Context) -> Result<Tally> {
    if !context.toolchain.has_clippy() {
        println!("skipped: Debian's Rust has no clippy for code without an operating system");
        return Ok(Tally::default());
    }
    let model = any_model()?;
    let mut tally = Tally::default();
    // Their sources know of two architectures; boards differ in the kernels, which are not linted here.
    for board in [&M4, &RV32] {
        // The other programs are for one board, the example is for all.
        let packages: &[&str] = if board.target == M4.target {
            &["--workspace", "--exclude", "exported"]
        } else {
            &["-p", "infer", "-p", "harness"]
        };
        let mut command = context.toolchain.cargo("clippy", board.target, "core");
        command.current_dir(root().join("firmware")).env("PIQ_MODEL", &model);
        command.args(["-q", "--release", "--locked"]).args(packages);
        if board.target == M4.target {
            command.arg("--all-features").env("PIQ_PUBLIC_KEY", tamper::public_key_file()?);
        }
        command.arg("--target-dir").arg(target_dir()?.join("firmware")).args(["--", "-D", "warnings"]);
        run_command(&mut command)?;
        tally.passed += 1;
    }
    Ok(tally)
}

/// Instructions of the regions of `firmware/selftest`, counted by hand in its comments.
const SELFTEST_COUNTS: [u64; 3] = [0, 3001, 5];

/// Counts come out as known by hand, samples negated, every time; and the program has no panic path.
pub(super) fn selftest(context: &Context, board: &Board) -> Result<Tally> {
    let program = build(&context.toolchain, board, "selftest", None, &[])?;
    let samples = Samples::new(8, (0..=255).collect())?;
    let expected: Vec<u8> = samples.iter().flatten().map(|x| x.saturating_neg().cast_unsigned()).collect();
    for _ in 0..2 {
        let outcome = emulate(board, &program, &samples)?;
        // The regions come before the samples, in every one of the emulators that share them.
        let repeated = SELFTEST_COUNTS.repeat(outcome.counts.len() / SELFTEST_COUNTS.len());
        if outcome.counts.is_empty() || outcome.counts != repeated {
            bail!("counts {:?}, {SELFTEST_COUNTS:?} expected", outcome.counts);
        }
        if outcome.logits != expected {
            bail!("samples {:?}, {expected:?} expected", outcome.logits);
        }
    }
    let paths = panic_paths(&program)?;
    if !paths.is_empty() {
        bail!("panic paths: {}", paths.join(", "));
    }
    Ok(Tally { passed: 3, failed: 0 })
}

/// The search for panic paths finds one that is there.
pub(super) fn panic_path_is_seen(context: &Context) -> Result<Tally> {
    let program = build(&context.toolchain, &M4, "selftest", None, &["panic-path"])?;
    if panic_paths(&program)?.is_empty() {
        bail!("{} indexes a slice with what it has read, and no panic path was found", program.display());
    }
    Ok(PASSED)
}

/// Firmware that the compiler makes small instead of fast cannot panic on a Cortex-M4 either: less is inlined there, and what
/// the compiler does not see through stays checked.
pub(super) fn small_firmware_cannot_panic(context: &Context) -> Result<Tally> {
    let program = build_small(&context.toolchain, &M4, "infer", &any_model()?)?;
    let paths = panic_paths(&program)?;
    if !paths.is_empty() {
        bail!("panic paths: {}", paths.join(", "));
    }
    Ok(PASSED)
}

/// The logits of every probe that the board takes are the same there and here; no panic path.
pub(super) fn device_equals_host(context: &Context, board: &'static Board) -> Result<Tally> {
    let (mut tally, slot) = (Tally::default(), Slot::of(&context.toolchain, board)?);
    for probe in probes()?.iter().filter(|probe| [Target::Portable, board.family].contains(&probe.target)) {
        let report = slot.run(&probe.name, &probe.file, &probe.samples)?;
        let host = host_logits(&probe.file, probe.name.as_ref(), &probe.samples)?;
        let wrong = mismatches(&report.logits, &host, probe.samples.count());
        let mut problems = Vec::new();
        if wrong > 0 {
            problems.push(format!("{wrong} of {} samples differ from the host", probe.samples.count()));
        }
        if !report.panic_paths.is_empty() {
            problems.push(format!("panic paths {}", report.panic_paths.join(", ")));
        }
        let [_, median, _] = report.spread();
        let stack = report.stack;
        println!("{:<28} {median:>8} instructions, {stack:>5} B stack  {}", probe.name, problems.join("; "));
        if problems.is_empty() { tally.passed += 1 } else { tally.failed += 1 }
    }
    Ok(tally)
}

/// A device refuses the files of other devices' families, and says whose they are and what it is itself.
pub(super) fn other_core_is_refused(context: &Context) -> Result<Tally> {
    let (mut tally, probes, slot) = (Tally::default(), probes()?, Slot::of(&context.toolchain, &M4)?);
    for board in BOARDS.into_iter().filter(|board| board.family != M4.family) {
        let probe = probes.iter().find(|probe| probe.target == board.family).context(board.name)?;
        let wanted = format!("packed for {}, runs on {}", board.family, M4.family);
        match slot.run(&probe.name, &probe.file, &probe.samples) {
            Err(error) if format!("{error:#}").contains(&wanted) => tally.passed += 1,
            Err(error) => bail!("`{wanted}` was expected, not `{error:#}`"),
            Ok(_) => bail!("{} runs {}", M4.name, probe.name),
        }
    }
    Ok(tally)
}
