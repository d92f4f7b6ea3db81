//! `cargo xtask test`: all that can be checked on one machine, step by step, with times and one sum at the end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qat_kernels::artifact::Target;
use sha2::{Digest as _, Sha256};

use crate::bare_metal::{self, TARGETS, Toolchain};
use crate::cmd::{cargo, metadata, output, root, run as run_command, show, target_dir, watch};
use crate::emulator::{BOARDS, Board, M4, RV32, emulate};
use crate::mcu::{build, build_small, host_logits, mismatches, run_model, write_model};
use crate::panic_free::panic_paths;
use crate::probe::probes;
use crate::samples::Samples;
use crate::tools::{Tool, ensure};
use crate::{
    aarch64, adapt, c_reader, demo, documented, faults, fuzz, gpu, libtorch, mcu_bench, models, packaging,
    pictures, softfloat, supply_chain, tamper,
};

/// What the user asked for.
pub(crate) struct Options {
    pub(crate) yes: bool,
    pub(crate) list: bool,
    /// Only the steps whose names contain one of these; all if empty.
    pub(crate) only: Vec<String>,
}

/// Tests that passed and failed within a step. A step that is one check counts as one test.
#[derive(Clone, Copy, Default)]
struct Tally {
    passed: u64,
    failed: u64,
}

type Check = Box<dyn Fn(&Context) -> Result<Tally>>;

struct Step {
    name: String,
    check: Check,
}

/// What steps share.
struct Context {
    toolchain: Toolchain,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let steps = steps()?;
    let chosen =
        |step: &&Step| options.only.is_empty() || options.only.iter().any(|part| step.name.contains(part));
    let steps: Vec<&Step> = steps.iter().filter(chosen).collect();
    if options.list {
        steps.iter().for_each(|step| println!("{}", step.name));
        return Ok(());
    }
    if steps.is_empty() {
        bail!("no step's name contains any of {:?}; --list prints them", options.only);
    }
    let began = Instant::now();
    let tools = [Tool::Cxx, Tool::QemuArm, Tool::QemuRiscV, Tool::Aarch64, Tool::Chromium];
    ensure(&tools, options.yes)?;
    libtorch::ensure(options.yes)?;
    let context = Context { toolchain: bare_metal::find(&TARGETS, options.yes)? };
    println!("bare-metal Rust: {}", context.toolchain);

    let mut sum = Tally::default();
    let mut failures = Vec::new();
    let mut times = Vec::new();
    for step in steps {
        println!("\n== {}", step.name);
        let began = Instant::now();
        let tally = (step.check)(&context).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Tally { passed: 0, failed: 1 }
        });
        sum.passed += tally.passed;
        sum.failed += tally.failed;
        if tally.failed > 0 {
            failures.push(&*step.name);
        }
        times.push((&*step.name, tally, began.elapsed()));
    }

    println!("\n{:<58} {:>8} {:>8} {:>8}", "step", "passed", "failed", "seconds");
    for (name, tally, time) in times {
        println!("{name:<58} {:>8} {:>8} {:>8.1}", tally.passed, tally.failed, time.as_secs_f64());
    }
    println!("{:.1} minutes", began.elapsed().as_secs_f64() / 60.0);
    println!("{} passed, {} failed", sum.passed, sum.failed);
    if !failures.is_empty() {
        bail!("failed: {}", failures.join("; "));
    }
    Ok(())
}

fn steps() -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut add = |name: String, check: Check| steps.push(Step { name, check });
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();

    add("data: checksums".into(), Box::new(|_| checksums(&root().join("data"))));
    add(
        "supply chain: licences, sources, versions, and what each crate is for".into(),
        Box::new(|_| {
            println!("{} packages", supply_chain::check()?);
            Ok(PASSED)
        }),
    );
    for (name, folder) in
        [("workspace", "."), ("firmware", "firmware"), ("peers", "firmware/peers"), ("fuzz", "fuzz")]
    {
        add(
            format!("format: {name}"),
            once(move || {
                run_command(cargo().current_dir(root().join(folder)).args(["fmt", "--all", "--check"]))
            }),
        );
    }

    let kernels = feature_sets("qat-kernels")?;
    let lint = |packages: &str| words(&format!("clippy -q --locked --all-targets {packages} -- -D warnings"));
    let test = |packages: &str| words(&format!("test --locked --no-fail-fast {packages}"));
    let variants = || {
        let of_kernels = kernels.iter().map(|features| format!("-p qat-kernels {features}"));
        of_kernels.chain(["-p qat-trainer --no-default-features".to_owned()])
    };
    let with_torch = "-p qat-benches --features tch".to_owned();
    for packages in ["--workspace".to_owned(), with_torch].into_iter().chain(variants()) {
        let arguments = lint(&packages);
        add(format!("lint: {packages}"), once(move || run_command(cargo().args(&arguments))));
    }
    for packages in ["--workspace", "-p qat-kernels --all-features"] {
        let arguments = words(&format!("doc -q --locked --no-deps {packages}"));
        add(
            format!("documentation: {packages}"),
            once(move || run_command(cargo().env("RUSTDOCFLAGS", "-D warnings").args(&arguments))),
        );
    }
    for packages in ["--workspace".to_owned()].into_iter().chain(variants()) {
        let arguments = test(&packages);
        add(format!("tests: {packages}"), Box::new(move |_| cargo_test(cargo().args(&arguments))));
    }
    add(
        "tests: integer kernels on emulated AArch64".into(),
        Box::new(|_| aarch64::tests()?.map_or(Ok(Tally::default()), |mut tests| cargo_test(&mut tests))),
    );

    add(
        "format: a reader in C, written from the page alone, computes what the engine computes".into(),
        Box::new(|_| Ok(Tally { passed: c_reader::check()?, failed: 0 })),
    );

    add("gpu: checks and timings of a tiny decoder, on the CPU".into(), once(gpu::check));
    add(
        "gpu: the CUDA kernels' arithmetic equals that of qat-kernels, bit for bit".into(),
        Box::new(|_| Ok(Tally { passed: gpu::arithmetic::check()?, failed: 0 })),
    );
    add("gpu: the CUDA kernels compile, without spilling".into(), once(gpu::compiles));

    for target in TARGETS {
        for features in ["", "micromath", "alloc"] {
            let name = if features.is_empty() { "without features" } else { features };
            add(
                format!("bare metal: {target}, {name}"),
                Box::new(move |context| {
                    let crates = if features == "alloc" { "core,alloc" } else { "core" };
                    let mut command = context.toolchain.cargo("build", target, crates);
                    command.args([
                        "-q",
                        "--release",
                        "--locked",
                        "-p",
                        "qat-kernels",
                        "--no-default-features",
                    ]);
                    command
                        .args(["--features", features, "--target-dir"])
                        .arg(target_dir()?.join("bare-metal"));
                    run_command(&mut command).map(|()| PASSED)
                }),
            );
        }
    }
    add("firmware: lint".into(), Box::new(lint_firmware));
    add(
        "firmware: fixed point needs no float and cannot panic".into(),
        Box::new(|context| {
            println!("routines used: {}", softfloat::check(&context.toolchain)?.join(", "));
            Ok(PASSED)
        }),
    );
    for board in [&M4, &RV32] {
        add(
            format!("emulator: counts known by hand, samples there and back: {}", board.name),
            Box::new(|context| selftest(context, board)),
        );
    }
    add("emulator: a panic path is seen".into(), Box::new(panic_path_is_seen));
    add(
        "firmware: no panic path at opt-level s either: Cortex-M4F".into(),
        Box::new(small_firmware_cannot_panic),
    );
    for board in BOARDS {
        add(
            format!("emulator: {} equals host for every operator", board.name),
            Box::new(|context| device_equals_host(context, board)),
        );
    }
    add("emulator: a file for another core is refused by name".into(), Box::new(other_core_is_refused));
    for case in mcu_bench::cases() {
        add(
            format!("instructions: {}", case.name),
            Box::new(move |context| case.check(&context.toolchain).map(|()| PASSED)),
        );
    }
    add(
        format!("instructions: {}, features equal to the host's", mcu_bench::log_mel::CASE),
        Box::new(|context| mcu_bench::log_mel::check(&context.toolchain).map(|()| PASSED)),
    );
    add(
        "instructions: kernels of microflow and embedded-nn".into(),
        Box::new(|context| mcu_bench::peers::check(&context.toolchain).map(|()| PASSED)),
    );
    for case in models::cases() {
        add(
            format!("whole model: {}", case.name),
            Box::new(move |context| {
                let fits = case.check(&models::program()?, &context.toolchain)?;
                Ok(Tally { passed: fits.into(), failed: 0 })
            }),
        );
    }
    for board in BOARDS {
        add(
            format!("firmware: an exported module on {}", board.name),
            Box::new(|context| {
                models::check_module(&models::program()?, &context.toolchain, board).map(|()| PASSED)
            }),
        );
    }
    add("tampering: changed files on host and device, signed ones too".into(), Box::new(tampering));
    add("package: both crates, with what belongs in and nothing else".into(), once(packaging::pack));
    add("package: `cargo install` without libtorch".into(), once(packaging::install));
    add(
        "documentation: every command exists, with its options and files".into(),
        Box::new(|_| Ok(Tally { passed: documented::check()?, failed: 0 })),
    );
    add(
        "documentation: a newcomer's commands, from a table to a device".into(),
        Box::new(|context| Ok(Tally { passed: documented::newcomer(&context.toolchain)?, failed: 0 })),
    );
    add("letter: from data to device, twice the same; learns on the device".into(), Box::new(letter));
    add(format!("training: killed at {KILL_MOMENTS} random moments, resumed, nothing lost"), once(killed));
    add("report: every picture is drawn in a browser, nothing is fetched".into(), Box::new(report));
    add(
        format!("fuzz: {FUZZ_RUNS} executions of each target"),
        once(|| {
            fuzz::run(&fuzz::Options {
                only: Vec::new(),
                limit: fuzz::Limit::Executions(FUZZ_RUNS),
                asan: false,
                record: false,
                minimise: false,
            })
        }),
    );
    Ok(steps)
}

const PASSED: Tally = Tally { passed: 1, failed: 0 };
const FUZZ_RUNS: usize = 10_000;
const KILL_MOMENTS: usize = 4;
const TAMPERED: usize = 100_000;

/// A step that is one check.
fn once(check: impl Fn() -> Result<()> + 'static) -> Check {
    Box::new(move |_| check().map(|()| PASSED))
}

/// Arguments for every feature of a package alone, none, and all.
fn feature_sets(package: &str) -> Result<Vec<String>> {
    let packages = metadata()?["packages"].as_array().context("cargo metadata names no packages")?;
    let found = packages.iter().find(|p| p["name"] == package).and_then(|p| p["features"].as_object());
    let names = found.with_context(|| format!("cargo metadata names no features of {package}"))?.keys();
    let alone = names
        .filter(|name| *name != "default")
        .map(|name| format!("--no-default-features --features {name}"));
    Ok(["--no-default-features".to_owned()]
        .into_iter()
        .chain(alone)
        .chain(["--all-features".to_owned()])
        .collect())
}

/// Runs `cargo test` and adds up what its test programs report.
fn cargo_test(command: &mut Command) -> Result<Tally> {
    let mut tally = Tally::default();
    let succeeded = watch(command, |line| {
        if let Some((passed, failed)) = test_result(line) {
            tally.passed += passed;
            tally.failed += failed;
        }
    })?;
    if !succeeded && tally.failed == 0 {
        bail!("`{}` failed without a failing test", show(command));
    }
    Ok(tally)
}

/// Numbers of a line such as `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
fn test_result(line: &str) -> Option<(u64, u64)> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |name: &str| {
        let part = counts.split("; ").find_map(|part| part.strip_suffix(name))?;
        part.trim().parse().ok()
    };
    Some((number("passed")?, number("failed")?))
}

/// Compares the files of `folder` with its `SHA256SUMS`.
fn checksums(folder: &Path) -> Result<Tally> {
    let list = folder.join("SHA256SUMS");
    let text = std::fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    let mut tally = Tally::default();
    for line in text.lines() {
        let (expected, name) =
            line.split_once("  ").with_context(|| format!("`{line}` in {}", list.display()))?;
        let path = folder.join(name);
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let sum = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        if sum == expected {
            tally.passed += 1;
        } else {
            eprintln!("{}: SHA-256 {sum}, {expected} expected", path.display());
            tally.failed += 1;
        }
    }
    Ok(tally)
}

/// A model for builds that need one.
fn any_model() -> Result<PathBuf> {
    let probe = probes()?.into_iter().next().context("no probe")?;
    write_model(&probe.name, &probe.file)
}

fn lint_firmware(context: &Context) -> Result<Tally> {
    if !context.toolchain.has_clippy() {
        println!("skipped: Debian's Rust has no clippy for code without an operating system");
        return Ok(Tally::default());
    }
    let model = any_model()?;
    let mut tally = Tally::default();
    for board in BOARDS {
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
fn selftest(context: &Context, board: &Board) -> Result<Tally> {
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
fn panic_path_is_seen(context: &Context) -> Result<Tally> {
    let program = build(&context.toolchain, &M4, "selftest", None, &["panic-path"])?;
    if panic_paths(&program)?.is_empty() {
        bail!("{} indexes a slice with what it has read, and no panic path was found", program.display());
    }
    Ok(PASSED)
}

/// Firmware that the compiler makes small instead of fast cannot panic on a Cortex-M4 either: less is inlined there, and what
/// the compiler does not see through stays checked.
fn small_firmware_cannot_panic(context: &Context) -> Result<Tally> {
    let program = build_small(&context.toolchain, &M4, "infer", &any_model()?)?;
    let paths = panic_paths(&program)?;
    if !paths.is_empty() {
        bail!("panic paths: {}", paths.join(", "));
    }
    Ok(PASSED)
}

/// The logits of every probe that the board takes are the same there and here; no panic path.
fn device_equals_host(context: &Context, board: &'static Board) -> Result<Tally> {
    let mut tally = Tally::default();
    for probe in probes()?.iter().filter(|probe| [Target::Portable, board.family].contains(&probe.target)) {
        let path = write_model(&probe.name, &probe.file)?;
        let report = run_model(&context.toolchain, board, &path, &probe.samples)?;
        let host = host_logits(&probe.file, &path, &probe.samples)?;
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
fn other_core_is_refused(context: &Context) -> Result<Tally> {
    let (mut tally, probes) = (Tally::default(), probes()?);
    for board in BOARDS.into_iter().filter(|board| board.family != M4.family) {
        let probe = probes.iter().find(|probe| probe.target == board.family).context(board.name)?;
        let path = write_model(&probe.name, &probe.file)?;
        let wanted = format!("packed for {}, runs on {}", board.family, M4.family);
        match run_model(&context.toolchain, &M4, &path, &probe.samples) {
            Err(error) if format!("{error:#}").contains(&wanted) => tally.passed += 1,
            Err(error) => bail!("`{wanted}` was expected, not `{error:#}`"),
            Ok(_) => bail!("{} runs {}", M4.name, probe.name),
        }
    }
    Ok(tally)
}

/// Trains Letter with the program that the tests have built, runs it on the board, and adapts it there to a shift.
fn letter(context: &Context) -> Result<Tally> {
    // All packages, so that cargo finds the features of the tests and builds nothing again.
    run_command(cargo().args(["build", "-q", "--locked", "--workspace", "--bin", "qat"]))?;
    let (program, folder) = (target_dir()?.join("debug/qat"), target_dir()?.join("letter"));
    let model = demo::check_letter(&program, &context.toolchain, &folder)?;
    let adapted = adapt::run(&context.toolchain, &M4, &model)?;
    println!("{adapted}");
    let [_, before, after] = adapted.right;
    // Ten points of the held-out letters.
    if after < before + adapted.held_out / 10 {
        bail!("{before} of {} letters right before adaptation, {after} after", adapted.held_out);
    }
    Ok(Tally { passed: 2, failed: 0 })
}

/// Changed files are refused, or run within their bounds; changed signed ones are refused.
fn tampering(context: &Context) -> Result<Tally> {
    println!("host: {} of {TAMPERED} accepted", tamper::on_host(TAMPERED)?);
    println!("device: {:?}", tamper::on_device(&context.toolchain, TAMPERED / 100)?);
    println!("device, signed: {:?}", tamper::signed_on_device(&context.toolchain, TAMPERED / 1000)?);
    Ok(Tally { passed: 3, failed: 0 })
}

/// Trainings that are killed and resumed end with the bytes of one that ran through.
fn killed() -> Result<()> {
    match faults::killed_trainings(KILL_MOMENTS)? {
        0 => Ok(()),
        lost => bail!("{lost} of {KILL_MOMENTS} killed trainings ended with other bytes"),
    }
}

/// The report of the run that the step before trained, or of one trained now.
fn report(_: &Context) -> Result<Tally> {
    run_command(cargo().args(["build", "-q", "--locked", "--workspace", "--bin", "qat"]))?;
    let (program, folder) = (target_dir()?.join("debug/qat"), target_dir()?.join("letter"));
    if !folder.join("summary.json").exists() {
        demo::train(&program, "letter", &folder)?;
    }
    let page = folder.join("report.html");
    let mut command = Command::new(&program);
    let told =
        output(command.current_dir(root()).args(["report", "--json", "--out"]).arg(&page).arg(&folder))?;
    let told: serde_json::Value = serde_json::from_str(&told).context("qat report --json")?;
    let pictures = told["pictures"].as_u64().context("no number of pictures")?;
    pictures::check(&page, usize::try_from(pictures)?, &folder).map(|()| PASSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_test_programs_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.1s";
        assert_eq!(test_result(line), Some((12, 3)));
        assert_eq!(test_result("test result: ok. 0 passed; 0 failed; 0 ignored"), Some((0, 0)));
        assert_eq!(test_result("test tests::x ... ok"), None);
    }

    #[test]
    fn a_changed_file_fails() {
        let dir = tempfile::tempdir().unwrap();
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        std::fs::write(dir.path().join("SHA256SUMS"), format!("{sum}  file\n")).unwrap();
        std::fs::write(dir.path().join("file"), "abc").unwrap();
        assert_eq!(checksums(dir.path()).unwrap().passed, 1);
        std::fs::write(dir.path().join("file"), "abd").unwrap();
        assert_eq!(checksums(dir.path()).unwrap().failed, 1);
        std::fs::remove_file(dir.path().join("file")).unwrap();
        assert!(checksums(dir.path()).is_err());
    }
}
