//! The front end on an emulated core: the features of generated sounds must be the host's, and are counted.

use anyhow::{Context as _, Result, bail};
use qat_kernels::frontend::{LogMel, LogMelConfig};

use super::{SUITE, TOLERANCE};
use crate::bare_metal::Toolchain;
use crate::emulator::{M4, emulate};
use crate::firmware::build;
use crate::panic_free::panic_paths;
use crate::probe::Numbers;
use crate::results::{Figure, value};
use crate::samples::Samples;

/// Its row in the table: samples of a frame, bands.
pub(crate) const CASE: &str = "m4_logmel_480x40";
const METRIC: &str = "insns_per_frame";
/// As in `firmware/log-mel`.
const CONFIG: LogMelConfig =
    LogMelConfig { sample_rate: 16_000, frame: 480, hop: 320, mels: 40, f_min: 20, f_max: 7_600 };
/// Frames of each loudness.
const FRAMES: usize = 4;

/// Noise, from silence to the loudest, and square waves between both ends of the range.
fn sounds() -> Vec<i16> {
    let mut numbers = Numbers(3);
    let frame = usize::from(CONFIG.frame);
    let mut sounds = vec![0; frame];
    for quieter in [0, 3, 8, 12, 15] {
        sounds.extend((0..FRAMES * frame).map(|_| {
            let bytes = [numbers.int8(), numbers.int8()].map(i8::cast_unsigned);
            i16::from_le_bytes(bytes) >> quieter
        }));
    }
    sounds.extend((0..FRAMES * frame).map(|i| if i / 37 % 2 == 0 { i16::MIN } else { i16::MAX }));
    sounds
}

/// Instructions of the dearest frame, after a look at every feature.
fn measure(toolchain: &Toolchain) -> Result<u64> {
    let (frame, front_end) = (usize::from(CONFIG.frame), LogMel::new(CONFIG)?);
    let (sounds, mut scratch) = (sounds(), vec![0; front_end.scratch_len()]);
    let mut host = Vec::new();
    for samples in sounds.chunks(frame) {
        let mut features = vec![0; CONFIG.mels.into()];
        front_end.frame(samples, &mut scratch, &mut features)?;
        host.extend(features.iter().flat_map(|y| y.to_le_bytes()));
    }
    let program = build(toolchain, &M4, "log-mel", None, &[])?;
    let bytes = sounds.iter().flat_map(|x| x.to_le_bytes()).collect();
    let outcome = emulate(&M4, &program, &Samples::new(2 * frame, bytes)?)?;
    if outcome.logits != host {
        bail!("{CASE}: {} computes other features than the host", M4.name);
    }
    let paths = panic_paths(&program)?;
    if !paths.is_empty() {
        bail!("{CASE}: panic paths {}", paths.join(", "));
    }
    outcome.counts.into_iter().max().context("no frame was counted")
}

/// Measures for the table.
pub(super) fn figure(toolchain: &Toolchain) -> Result<Figure> {
    let count = measure(toolchain)?;
    println!("{CASE:<32} {count} {METRIC}");
    Ok(Figure::new(CASE.to_owned(), METRIC, count.to_string(), ""))
}

/// Measures again and compares with the committed table.
pub(crate) fn check(toolchain: &Toolchain) -> Result<()> {
    let committed: u64 = value(SUITE, CASE, METRIC)?.parse().context(CASE)?;
    let measured = measure(toolchain)?;
    println!("{CASE:<32} {measured} {METRIC}, {committed} committed");
    if measured as f64 > committed as f64 * (1.0 + TOLERANCE) {
        bail!("{CASE}: {measured} {METRIC}, {committed} were committed");
    }
    Ok(())
}
