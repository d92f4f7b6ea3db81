//! The steps of `cargo xtask test`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::{Check, Context, PASSED, Place, Step, Tally, devices};
use crate::cmd::{cargo, metadata, output, qat, root, run as run_command, show, target_dir, watch};
use crate::emulator::{BOARDS, M4, RV32};
use crate::{
    aarch64, adapt, c_reader, demo, documented, examples, faults, fuzz, gpu, mcu_bench, models, packaging,
    pictures, softfloat, supply_chain, tamper,
};

const FUZZ_RUNS: usize = 10_000;
const KILL_MOMENTS: usize = 4;
const TAMPERED: usize = 100_000;

/// Steps with their names, as they are put together.
type Steps = Vec<(String, Check)>;

/// All steps, in the order of the report.
pub(super) fn all() -> Result<Vec<Step>> {
    let placed =
        |place, steps: Steps| steps.into_iter().map(move |(name, check)| Step { name, place, check });
    Ok(placed(Place::Host, host()?)
        .chain(placed(Place::Beside, beside()))
        .chain(placed(Place::Both, both()))
        .collect())
}

/// The features of the kernels that tests run with besides the workspace's, which are `alloc`, `signature`, and `std`: each
/// is on in one of the two and off in the other. Every other choice compiles with its tests when it is linted.
const TESTED: &str = "--no-default-features --features micromath";

/// The trainer for machines without libtorch.
const WITHOUT_TORCH: &str = "qat-trainer --no-default-features";

/// What builds in the workspace's own folder, where programs and their features replace each other.
fn host() -> Result<Steps> {
    let mut steps = Steps::new();
    let mut add = |name: String, check: Check| steps.push((name, check));
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
    let linted = ["--workspace --features qat-benches/tch".to_owned()]
        .into_iter()
        .chain(kernels.iter().map(|features| format!("-p qat-kernels {features}")))
        .chain([format!("-p {WITHOUT_TORCH}")]);
    for packages in linted {
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
    for packages in [
        "--workspace --tests".to_owned(),
        format!("-p qat-kernels {TESTED}"),
        // What is different without libtorch is what the commands do; the library only has less, and its units were tested.
        format!("-p {WITHOUT_TORCH} --bins --test *"),
        format!("-p {WITHOUT_TORCH} --doc"),
    ] {
        let arguments = test(&packages);
        add(format!("tests: {packages}"), Box::new(move |_| cargo_test(cargo().args(&arguments))));
    }
    add(
        "tests: examples of --workspace --doc but those that the step before ran".into(),
        Box::new(examples_with_torch),
    );
    add(
        "tests: integer kernels on emulated AArch64".into(),
        Box::new(|_| aarch64::tests()?.map_or(Ok(Tally::default()), |mut tests| cargo_test(&mut tests))),
    );

    add("gpu: checks and timings of a tiny decoder, on the CPU".into(), once(gpu::check));
    add(
        "gpu: the CUDA kernels' arithmetic equals that of qat-kernels, bit for bit".into(),
        Box::new(|_| Ok(Tally { passed: gpu::arithmetic::check()?, failed: 0 })),
    );
    add("gpu: the CUDA kernels compile, without spilling".into(), once(gpu::compiles));
    add("package: both crates, with what belongs in and nothing else".into(), once(packaging::pack));
    add("package: `cargo install` without libtorch".into(), once(packaging::install));
    add(
        "documentation: every command exists, with its options and files".into(),
        Box::new(|_| Ok(Tally { passed: documented::check()?, failed: 0 })),
    );
    add(
        "documentation: every public item has an example".into(),
        Box::new(|_| Ok(Tally { passed: examples::check()?, failed: 0 })),
    );
    add(format!("training: killed at {KILL_MOMENTS} random moments, resumed, nothing lost"), once(killed));
    Ok(steps)
}

/// What builds in folders of its own (for microcontrollers, for fuzzing) and uses no program of the workspace's.
fn beside() -> Steps {
    let mut steps = Steps::new();
    let mut add = |name: String, check: Check| steps.push((name, check));

    add(
        "bare metal: Cortex-M0, M3, M4F, M55, RV32IMC, alloc and micromath".into(),
        Box::new(devices::bare_metal),
    );
    add(
        "format: a reader in C, written from the page alone, computes what the engine computes".into(),
        Box::new(|_| Ok(Tally { passed: c_reader::check()?, failed: 0 })),
    );

    add("firmware: lint".into(), Box::new(devices::lint_firmware));
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
            Box::new(|context| devices::selftest(context, board)),
        );
    }
    add("emulator: a panic path is seen".into(), Box::new(devices::panic_path_is_seen));
    add(
        "firmware: no panic path at opt-level s either: Cortex-M4F".into(),
        Box::new(devices::small_firmware_cannot_panic),
    );
    for board in BOARDS {
        add(
            format!("emulator: {} equals host for every operator", board.name),
            Box::new(|context| devices::device_equals_host(context, board)),
        );
    }
    add(
        "emulator: a file for another core is refused by name".into(),
        Box::new(devices::other_core_is_refused),
    );
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
    steps
}

/// What uses the workspace's programs and those for microcontrollers.
fn both() -> Steps {
    let mut steps = Steps::new();
    let mut add = |name: String, check: Check| steps.push((name, check));

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
    add(
        "documentation: a newcomer's commands, from a table to a device".into(),
        Box::new(|context| Ok(Tally { passed: documented::newcomer(&context.toolchain)?, failed: 0 })),
    );
    add("letter: from data to device, twice the same; learns on the device".into(), Box::new(letter));
    add("report: every picture is drawn in a browser, nothing is fetched".into(), Box::new(report));
    steps
}

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

/// The examples in the workspace's documentation, but for files of the trainer whose examples all run without libtorch as well:
/// every one is a process, which libtorch takes most of a second to start.
fn examples_with_torch(_: &Context) -> Result<Tally> {
    let examples = |arguments: &[&str]| {
        let mut command = cargo();
        command.args(["test", "-q", "--locked", "--no-fail-fast", "--doc"]).args(arguments);
        command
    };
    let list = |arguments: &[&str]| {
        let listed = output(examples(arguments).args(["--", "--list"]))?;
        let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok::<_, anyhow::Error>(names.map(str::to_owned).collect::<BTreeSet<_>>())
    };
    let (all, done) = (list(&["--workspace"])?, list(&["-p", "qat-trainer", "--no-default-features"])?);
    let wanted: Vec<&String> = all.difference(&done).collect();
    // A name is the file, the item and the line; rustdoc takes what is between spaces for a filter.
    let files: BTreeSet<&str> = wanted.iter().filter_map(|name| name.split(' ').next()).collect();
    let tally = cargo_test(examples(&["--workspace", "--"]).args(files))?;
    let run = tally.passed + tally.failed;
    ensure!(run >= wanted.len() as u64, "{run} examples ran, {} are wanted", wanted.len());
    Ok(tally)
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

/// Trains Letter with the program that the tests have built, runs it on the board, and adapts it there to a shift.
fn letter(context: &Context) -> Result<Tally> {
    let (program, folder) = (qat()?, target_dir()?.join("letter"));
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
    let (program, folder) = (qat()?, target_dir()?.join("letter"));
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
