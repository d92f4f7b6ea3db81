//! `cargo xtask tamper`: files that somebody has changed, by accident or with intent. Every flipped bit and every truncation
//! of the demo's files is found; of files that were changed and then given their right checksum again, those that are
//! accepted run within their bounds, on the host and on an emulated Cortex-M4F alike; signed files are accepted unchanged
//! only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use qat_benches::numbers::SplitMix64;
use qat_kernels::artifact::signature;
use qat_kernels::calibration::CalibrationArtifact;
use qat_kernels::crc32::crc32;
use qat_kernels::infer::Model;

use crate::bare_metal::{self, Toolchain};
use crate::cmd::{output, qat, root, target_dir};
use crate::emulator::{M4, emulate};
use crate::firmware::build_with;
use crate::libtorch;
use crate::panic_free::panic_paths;
use crate::probe::probes;
use crate::results::{Figure, record};
use crate::samples::Samples;
use crate::tools::ensure;

// What `firmware/intake` has room for, and its verdicts.
const SAMPLE_LEN: usize = 2048;
const ANSWER_LEN: usize = 32;
const ARENA_LEN: usize = 8192;
const REFUSED: i8 = 0;
const TOO_LARGE: i8 = 1;
const RAN: i8 = 2;

/// More than any calibration has, so that capacity is not what refuses a file.
const TENSORS: usize = 64;

/// The key of the signed files here; whoever reads this has it.
const PRIVATE_KEY: [u8; 32] = [42; 32];

/// Changed files on the host and on the board, if nobody says otherwise.
pub(crate) const COUNT: usize = 10_000_000;
pub(crate) const DEVICE_COUNT: usize = 10_000;

/// The command line: `count` changed files on the host, `device_count` on the board; writes `benches/results/faults.csv`.
pub(crate) fn command(count: usize, device_count: usize, yes: bool) -> Result<()> {
    ensure(&[M4.tool], yes)?;
    libtorch::ensure(yes)?;
    let toolchain = bare_metal::find(&[M4.target], yes)?;
    let mut figures = Vec::new();
    let mut figure = |case: &str, metric: &'static str, value: String, goal: &str| {
        figures.push(Figure::new(case.into(), metric, value, "").with_goal(goal.into()));
    };
    let (mut flips, mut cuts, mut tried) = (0, 0, [0; 2]);
    for path in demo_files()? {
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let undetected = undetected(&path, &bytes);
        println!(
            "{}: {} flipped bits, {} truncations; undetected {undetected:?}",
            path.display(),
            bytes.len() * 8,
            bytes.len()
        );
        (flips, cuts) = (flips + undetected[0], cuts + undetected[1]);
        tried = [tried[0] + bytes.len() * 8, tried[1] + bytes.len()];
    }
    figure("bitflips", "undetected", flips.to_string(), "0");
    figure("bitflips", "tried", tried[0].to_string(), "");
    figure("truncations", "undetected", cuts.to_string(), "0");
    figure("truncations", "tried", tried[1].to_string(), "");

    let accepted = on_host(count)?;
    println!("{count} changed files on the host: {accepted} accepted, all ran, none panicked");
    figure("changed_files_host", "panics", "0".into(), "0");
    figure("changed_files_host", "tried", count.to_string(), "");
    figure("changed_files_host", "accepted", accepted.to_string(), "");
    let device = on_device(&toolchain, device_count)?;
    println!("{device_count} changed files on {}: {device:?}, all as on the host", M4.name);
    figure("changed_files_m4", "faults", "0".into(), "0");
    figure("changed_files_m4", "tried", device_count.to_string(), "");
    figure("changed_files_m4", "accepted", device.accepted.to_string(), "");
    let signed = signed_on_device(&toolchain, device_count / 10)?;
    println!("{} changed signed files on {}: {signed:?}", device_count / 10, M4.name);
    figure("changed_signed_files_m4", "accepted", signed.accepted.to_string(), "0");
    figure("changed_signed_files_m4", "tried", (device_count / 10).to_string(), "");
    figure("signature_m4", "instructions", signed.instructions.to_string(), "");
    figure("signature_m4", "stack_bytes", signed.stack.to_string(), "");
    let command = format!("cargo xtask tamper --count {count} --device-count {device_count}");
    record("faults", &command, &figures)?;
    if flips + cuts > 0 {
        bail!("{flips} flipped bits and {cuts} truncations were not seen");
    }
    Ok(())
}

/// The models and calibrations of the two examples.
fn demo_files() -> Result<Vec<PathBuf>> {
    let qat = qat()?;
    let mut files = Vec::new();
    for case in ["digits", "letter"] {
        let run = root().join("runs").join(case);
        let model = run.join("model.piq");
        if !model.exists() {
            bail!("{} is not there; `cargo xtask demo` makes it", model.display());
        }
        let calibration = target_dir()?.join(format!("{case}.cal"));
        let mut command = Command::new(&qat);
        command.current_dir(root()).arg("calibrate").arg(&run).arg("--out").arg(&calibration);
        output(&mut command)?;
        files.extend([model, calibration]);
    }
    Ok(files)
}

/// How many single flipped bits and how many truncations of a `.piq` or `.cal` file are not noticed.
pub(crate) fn undetected(name: &Path, bytes: &[u8]) -> [usize; 2] {
    let calibration = name.extension().is_some_and(|ending| ending == "cal");
    let accepts = |bytes: &[u8]| match calibration {
        true => CalibrationArtifact::<TENSORS>::from_bytes(bytes).is_ok(),
        false => Model::parse(bytes).is_ok(),
    };
    if !accepts(bytes) {
        // A file that is refused as it is would make every change look detected.
        return [bytes.len() * 8, bytes.len()];
    }
    let mut changed = bytes.to_vec();
    let flips = (0..bytes.len() * 8).filter(|bit| {
        changed[bit / 8] ^= 1 << (bit % 8);
        let accepted = accepts(&changed);
        changed[bit / 8] ^= 1 << (bit % 8);
        accepted
    });
    [flips.count(), (0..bytes.len()).filter(|&len| accepts(&bytes[..len])).count()]
}

/// Parses `count` changed files, and runs those that are accepted; returns how many those are. A panic ends the program.
pub(crate) fn on_host(count: usize) -> Result<usize> {
    let files = whole_files()?;
    let halves = [(1, count / 2), (2, count - count / 2)];
    let accepted = std::thread::scope(|scope| {
        let work = halves.map(|(seed, count)| {
            let files = &files;
            scope.spawn(move || {
                let mut changes = Changes::new(seed, files);
                (0..count).filter(|_| answer(&changes.next(), parse)[0] == RAN).count()
            })
        });
        work.map(|half| half.join().map_err(|_| anyhow::anyhow!("a changed file made the engine panic")))
    });
    accepted.into_iter().sum()
}

/// What a board made of changed files.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Files that were accepted, and ran.
    pub(crate) accepted: usize,
    /// Instructions of the check of an unchanged file.
    pub(crate) instructions: u64,
    /// Bytes of stack of the deepest check.
    pub(crate) stack: u32,
}

/// The same on an emulated Cortex-M4F, which must come to the same verdicts and outputs.
pub(crate) fn on_device(toolchain: &Toolchain, count: usize) -> Result<Intake> {
    let files: Vec<_> = whole_files()?.into_iter().filter(|file| file.len() <= SAMPLE_LEN - 2).collect();
    let program = build_with(toolchain, &M4, "intake", &[], &[])?;
    let paths = panic_paths(&program)?;
    if !paths.is_empty() {
        bail!("panic paths: {}", paths.join(", "));
    }
    intake(&program, &files, count, parse)
}

/// Signed files on the board: those that were changed are refused.
pub(crate) fn signed_on_device(toolchain: &Toolchain, count: usize) -> Result<Intake> {
    let key = public_key_file()?;
    let program = build_with(toolchain, &M4, "intake", &["signed"], &[("PIQ_PUBLIC_KEY", &key)])?;
    // The library looks digits of scalars up in tables; that they lie inside is what it proves, not the compiler.
    let other: Vec<String> = panic_paths(&program)?
        .into_iter()
        .filter(|path| {
            !["panic_bounds_check", "panic_fmt", "rust_begin_unwind"].iter().any(|p| path.contains(p))
        })
        .collect();
    if !other.is_empty() {
        bail!("panic paths: {}", other.join(", "));
    }
    let signed =
        |file: Vec<u8>| signature::sign(&file, &PRIVATE_KEY).ok().filter(|f| f.len() <= SAMPLE_LEN - 2);
    let files: Vec<_> = whole_files()?.into_iter().filter_map(signed).collect();
    let public = signature::public_key(&PRIVATE_KEY);
    let intake = intake(&program, &files, count, |bytes| Model::parse_signed(bytes, &public).ok())?;
    if intake.accepted > 0 {
        bail!("{} changed files with somebody's signature were accepted", intake.accepted);
    }
    Ok(intake)
}

/// The public key, where `firmware/intake` finds it.
pub(crate) fn public_key_file() -> Result<PathBuf> {
    let path = target_dir()?.join("intake.key");
    fs::write(&path, signature::public_key(&PRIVATE_KEY)).with_context(|| path.display().to_string())?;
    Ok(path)
}

fn intake(
    program: &Path,
    files: &[Vec<u8>],
    count: usize,
    parse: impl Fn(&[u8]) -> Option<Model<'_>>,
) -> Result<Intake> {
    let first = files.first().context("no file fits into a sample")?;
    let mut changes = Changes::new(3, files);
    let files: Vec<Vec<u8>> = std::iter::once(first.clone())
        .chain((0..count).map(|_| changes.next()).filter(|file| file.len() <= SAMPLE_LEN - 2))
        .collect();
    let mut samples = Vec::new();
    for file in &files {
        let end = samples.len() + SAMPLE_LEN;
        samples.extend((file.len() as u16).to_le_bytes());
        samples.extend(file);
        samples.resize(end, 0);
    }
    let outcome = emulate(&M4, program, &Samples::new(SAMPLE_LEN, samples)?)?;
    let here = |file: &Vec<u8>| if foreign(file) { [REFUSED; ANSWER_LEN] } else { answer(file, &parse) };
    let answers: Vec<[i8; ANSWER_LEN]> = files.iter().map(here).collect();
    if outcome.logits.len() != files.len() * ANSWER_LEN || outcome.counts.len() != files.len() {
        bail!("{} files went in, {} counts came out", files.len(), outcome.counts.len());
    }
    for (index, (device, host)) in outcome.logits.chunks(ANSWER_LEN).zip(&answers).enumerate() {
        if !device.iter().eq(host.map(i8::cast_unsigned).iter()) {
            bail!("file {index}: {} answers {device:?}, the host {host:?}", M4.name);
        }
    }
    if answers.first().is_none_or(|answer| answer[0] != RAN) {
        bail!("the unchanged file is refused");
    }
    Ok(Intake {
        accepted: answers.iter().skip(1).filter(|answer| answer[0] == RAN).count(),
        instructions: outcome.counts.first().copied().unwrap_or(0),
        stack: outcome.stack.context("the program has not measured its stack")?,
    })
}

fn parse(bytes: &[u8]) -> Option<Model<'_>> {
    Model::parse(bytes).ok()
}

/// What `firmware/intake` answers.
fn answer(file: &[u8], parse: impl Fn(&[u8]) -> Option<Model<'_>>) -> [i8; ANSWER_LEN] {
    let mut answer = [0; ANSWER_LEN];
    let (verdict, output) = answer.split_at_mut(1);
    verdict[0] = match parse(file) {
        None => REFUSED,
        Some(model) => {
            let room = [model.input_len(), model.arena_len()].iter().all(|&len| len <= ARENA_LEN);
            match output.get_mut(..model.output_len()) {
                Some(output) if room => {
                    let (input, mut arena) = (vec![0; model.input_len()], vec![0; ARENA_LEN]);
                    model.run(&input, output, &mut arena).map_or(TOO_LARGE, |()| RAN)
                }
                _ => TOO_LARGE,
            }
        }
    };
    answer
}

/// Valid files of all operators, layouts and bit widths that a Cortex-M4 takes.
fn whole_files() -> Result<Vec<Vec<u8>>> {
    let golden = ["v1.piq", "v1-apart.piq"].map(|name| {
        let path = root().join("qat-kernels/tests/golden").join(name);
        fs::read(&path).with_context(|| path.display().to_string())
    });
    let mut files = golden.into_iter().collect::<Result<Vec<_>>>()?;
    let for_board = |name: &str| name.starts_with("portable") || name.starts_with("functions");
    files.extend(probes()?.into_iter().filter(|probe| for_board(&probe.name)).map(|probe| probe.file));
    Ok(files)
}

/// Changed files, one after the other: generated, the same on every machine.
struct Changes<'a> {
    random: SplitMix64,
    files: &'a [Vec<u8>],
}

impl<'a> Changes<'a> {
    fn new(seed: u64, files: &'a [Vec<u8>]) -> Self {
        Self { random: SplitMix64(seed), files }
    }

    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.random.bits()) * n as u128) >> 64) as usize
    }

    fn pick(&mut self) -> &'a [u8] {
        let index = self.below(self.files.len());
        &self.files[index]
    }

    /// One to four changes of a whole file; three times in four with length and checksum made right again, so that the
    /// checks behind them are reached.
    fn next(&mut self) -> Vec<u8> {
        loop {
            let whole = self.pick();
            let mut file = whole.to_vec();
            for _ in 0..=self.below(4) {
                self.change(&mut file);
            }
            if self.below(4) > 0 {
                reseal(&mut file);
            }
            // A zero written over a zero is no change.
            if file != whole {
                return file;
            }
        }
    }

    fn change(&mut self, file: &mut Vec<u8>) {
        // Headers and records are where most of what can go wrong goes wrong.
        let near = if self.below(2) == 0 { file.len().min(640) } else { file.len() };
        let at = self.below(near.max(1));
        match self.below(6) {
            0 => file.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (at % 8)),
            1 => {
                let value = [0x00, 0x01, 0x7F, 0x80, 0xFF][self.below(5)];
                let len = [1, 2, 4][self.below(3)];
                file.iter_mut().skip(at).take(len).for_each(|byte| *byte = value);
            }
            2 => {
                let value = self.random.bits().to_le_bytes();
                let len = [1, 2, 4, 8][self.below(4)];
                file.iter_mut().skip(at).zip(&value[..len]).for_each(|(byte, value)| *byte = *value);
            }
            // A part of another file, at the same place.
            3 => {
                let (other, len) = (self.pick(), self.below(64));
                file.iter_mut().zip(other).skip(at).take(len).for_each(|(byte, other)| *byte = *other);
            }
            4 => file.truncate(at),
            _ => {
                let len = self.below(48);
                file.splice(at..at, std::iter::repeat_n(0, len));
            }
        }
    }
}

/// Makes the length in the header and the checksum right again.
fn reseal(file: &mut [u8]) {
    let Some(body) = file.len().checked_sub(4).filter(|&body| body >= 16) else { return };
    let len = (file.len() as u32).to_le_bytes();
    file[8..12].copy_from_slice(&len);
    let crc = crc32(&file[..body]);
    file[body..].copy_from_slice(&crc.to_le_bytes());
}

/// Whether a file has layers packed for another core than the Cortex-M4: hosts take those, the board does not.
fn foreign(file: &[u8]) -> bool {
    // `docs/format.md`: the program is the first section, its offset and length are in the first entry of the table; records
    // of 64 bytes follow a header of 32, and the fourth byte of each is the layout.
    let word =
        |at: usize| file.get(at..at + 4).map(|b| b.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b)));
    let (Some(offset), Some(len)) = (word(20), word(24)) else { return false };
    let records = file.get(offset..).map_or(&[][..], |rest| &rest[..len.min(rest.len())]);
    records.get(32..).unwrap_or(&[]).chunks_exact(64).any(|record| ![0, 1].contains(&record[3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_reach_the_engine_and_the_checks() {
        let files = whole_files().unwrap();
        let mut changes = Changes::new(9, &files);
        let ran = (0..2000).filter(|_| answer(&changes.next(), parse)[0] == RAN).count();
        assert!((100..1500).contains(&ran), "{ran} of 2000 accepted");
    }

    #[test]
    fn an_undetected_change_would_be_counted() {
        let whole = fs::read(root().join("qat-kernels/tests/golden/v1.piq")).unwrap();
        assert_eq!(undetected(Path::new("v1.piq"), &whole), [0, 0]);
        assert_eq!(undetected(Path::new("v1.cal"), &whole), [whole.len() * 8, whole.len()]);
    }
}
