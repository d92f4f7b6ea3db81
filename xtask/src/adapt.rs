//! On-device adaptation: the last layer of a Letter model learns a shift of its inputs, on the host and on an emulated
//! Cortex-M4F, and both must end at the same weights.
//!
//! The data are real (the Letter test split, which no training has seen); the shift is generated: every attribute gets a
//! gain and an offset of its own, as from a sensor that was replaced, and is cut off at the ends of its scale. The first
//! 2,000 samples are the stream, the other 2,000 are held out and judge the layer before and after.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use qat_kernels::fixed::{Adaptation, Head, HeadBuffers, Q32};
use qat_kernels::infer::Model;

use crate::bare_metal::{self, Toolchain};
use crate::cmd::{output, root};
use crate::emulator::{Board, M4, emulate};
use crate::firmware::build;
use crate::panic_free::panic_paths;
use crate::results::{Figure, record};
use crate::samples::Samples;
use crate::tools::{Tool, ensure};

/// Records of a chunk, as in `firmware/adapt`.
const RECORDS: usize = 375;
/// Samples of the stream, and as many held out.
const STREAM: usize = 2000;
/// Attributes of a letter.
const ATTRIBUTES: usize = 16;

/// What adaptation did.
pub(crate) struct Report {
    /// Held-out samples.
    pub(crate) held_out: usize,
    /// How many of them came out right on the unshifted inputs, on the shifted ones, and on those after adaptation.
    pub(crate) right: [usize; 3],
    /// CRC-32 of the learned weights and biases, on host and device alike.
    pub(crate) digest: u32,
    /// Instructions of a learning step, the model's own run not included: smallest, median, largest.
    pub(crate) instructions: [u64; 3],
}

impl Report {
    /// [`Self::right`] in percent.
    fn accuracy(&self) -> [f64; 3] {
        self.right.map(|right| 100.0 * right as f64 / self.held_out.max(1) as f64)
    }

    fn figures(&self) -> Vec<Figure> {
        let names = ["unshifted_accuracy", "shifted_accuracy", "adapted_accuracy"];
        let accuracy =
            names.into_iter().zip(self.accuracy()).map(|(m, value)| (m, format!("{value:.2}"), "%"));
        let [_, median, _] = self.instructions;
        let figures = accuracy.chain([("instructions", median.to_string(), "")]);
        let case = || "letter_shifted".to_owned();
        figures.map(|(metric, value, unit)| Figure::new(case(), metric, value, unit)).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [unshifted, shifted, adapted] = self.accuracy();
        let [least, median, most] = self.instructions;
        let held_out = self.held_out;
        writeln!(
            f,
            "held out       {held_out} letters, {STREAM} others to learn from; the shift is generated"
        )?;
        writeln!(
            f,
            "accuracy       {unshifted:.2} % unshifted, {shifted:.2} % shifted, {adapted:.2} % after adaptation"
        )?;
        writeln!(f, "digest         {:08x}, the same on host and device", self.digest)?;
        write!(f, "instructions   a learning step: least {least}, median {median}, most {most}")
    }
}

/// `cargo xtask adapt`.
pub(crate) fn command(model: &Path, yes: bool) -> Result<()> {
    ensure(&[Tool::QemuArm], yes)?;
    let toolchain = bare_metal::find(&[M4.target], yes)?;
    println!("bare-metal Rust: {toolchain}");
    let report = run(&toolchain, &M4, model)?;
    record("demo", "cargo xtask adapt --model runs/letter/model.piq", &report.figures())?;
    println!("board          {}\n{report}\nfigures in benches/results/demo.csv", M4.name);
    Ok(())
}

/// Adapts `model` on host and board; fails if they differ in one prediction or one bit of the weights.
pub(crate) fn run(toolchain: &Toolchain, board: &Board, model: &Path) -> Result<Report> {
    let bytes = std::fs::read(model).with_context(|| model.display().to_string())?;
    let parsed = Model::parse(&bytes).with_context(|| model.display().to_string())?;
    let letters = letters()?;
    let (stream, held_out) = letters.split_at_checked(STREAM).context("too few letters")?;
    let plain = chunks(&parsed, &[(held_out, 0)], &unshifted())?;
    let shifted = chunks(&parsed, &[(held_out, 0), (stream, 127), (held_out, 0)], &shift())?;

    let before = host(&parsed, &plain)?;
    let host = host(&parsed, &shifted)?;
    let program = build(toolchain, board, "adapt", Some(model), &[])?;
    let panics = panic_paths(&program)?;
    if !panics.is_empty() {
        bail!("the program can panic: {}", panics.join(", "));
    }
    // One chunk is one sample to the emulator; so few are not spread over several.
    let device = emulate(board, &program, &shifted)?;
    if device.logits != host {
        let at = device.logits.iter().zip(&host).position(|(a, b)| a != b);
        bail!("host and device differ in byte {at:?} of {} and {} answers", host.len(), device.logits.len());
    }

    let guesses = |answers: &[u8]| -> Vec<u8> {
        answers.chunks(RECORDS + 4).flat_map(|c| &c[..RECORDS]).copied().collect()
    };
    let right = |guesses: &[u8]| {
        guesses.iter().zip(held_out).filter(|(guess, letter)| **guess == letter.label).count()
    };
    let (before, during) = (guesses(&before), guesses(&host));
    let after = during.get(held_out.len() + STREAM..).context("too few answers")?;
    let digest = host.last_chunk::<4>().context("no digest")?;
    let mut counts = device.counts;
    counts.sort_unstable();
    let count = |at: usize| counts.get(at).copied().context("no learning step was counted");
    Ok(Report {
        held_out: held_out.len(),
        right: [right(&before), right(&during), right(after)],
        digest: u32::from_le_bytes(*digest),
        instructions: [count(0)?, count(counts.len() / 2)?, count(counts.len().saturating_sub(1))?],
    })
}

/// The host's part: the same functions in the same order as `firmware/adapt`.
fn host(model: &Model<'_>, chunks: &Samples) -> Result<Vec<u8>> {
    let layer = model.last_linear()?;
    let (classes, weights) = (layer.classes(), layer.classes() * layer.features());
    let (mut steps, mut shadow) =
        (vec![Q32::<24>::default(); weights / layer.group()], vec![Q32::default(); weights]);
    let (mut codes, mut bias) = (vec![0; weights], vec![Q32::default(); classes]);
    let (mut logits, mut gradient) = (vec![Q32::default(); classes], vec![Q32::default(); classes]);
    let mut head = Head::from_layer(
        &layer,
        HeadBuffers {
            steps: &mut steps,
            weights: &mut shadow,
            codes: &mut codes,
            bias: &mut bias,
            logits: &mut logits,
            gradient: &mut gradient,
        },
    )?;
    let (mut output, mut arena) = (vec![0; model.output_len()], vec![0; model.arena_len()]);
    let mut answers = Vec::new();
    for chunk in chunks.iter() {
        for record in chunk.chunks_exact(model.input_len() + 2) {
            let (input, order) = record.split_at(model.input_len());
            let features = model.features(input, &mut output, &mut arena)?;
            let class = match u32::try_from(order[1]) {
                Ok(remaining @ 1..) => {
                    let how = Adaptation::default().decayed(127 - remaining, 127);
                    head.learn(&how, features, usize::from(order[0].cast_unsigned()))?
                }
                _ => head.predict(features)?,
            };
            answers.push(class as u8);
        }
        answers.extend(head.digest().to_le_bytes());
    }
    Ok(answers)
}

/// A letter of the data set: 16 attributes on a scale of 0 to 15.
struct Letter {
    label: u8,
    attributes: [i32; ATTRIBUTES],
}

fn letters() -> Result<Vec<Letter>> {
    let path = root().join("data/letter-test.csv.gz");
    let text = output(std::process::Command::new("gzip").arg("-dc").arg(&path))?;
    text.lines().skip(1).map(letter).collect::<Result<_>>().with_context(|| path.display().to_string())
}

fn letter(line: &str) -> Result<Letter> {
    let mut fields = line.split(',');
    let name = fields.next().and_then(|name| name.bytes().next()).context("no letter")?;
    let numbers: Vec<i32> =
        fields.map(|n| n.trim().parse().context("an attribute")).collect::<Result<_>>()?;
    let attributes = numbers.try_into().ok().context("16 attributes")?;
    Ok(Letter { label: name.checked_sub(b'A').context("a letter from A to Z")?, attributes })
}

/// Gain in sixteenths and offset of every attribute.
type Shift = [(i32, i32); ATTRIBUTES];

fn unshifted() -> Shift {
    [(16, 0); ATTRIBUTES]
}

/// Gains of 11/16 to 19/16 and offsets of −1 to 1, from a linear congruential generator with a fixed seed.
fn shift() -> Shift {
    let mut state = 1_u32;
    std::array::from_fn(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (gain, offset) = ((state >> 16) % 9, (state >> 24) % 3);
        (11 + gain as i32, offset as i32 - 1)
    })
}

fn shifted(attributes: &[i32; ATTRIBUTES], shift: &Shift) -> [f32; ATTRIBUTES] {
    std::array::from_fn(|i| {
        let (gain, offset) = shift[i];
        ((attributes[i] * gain + 8).div_euclid(16) + offset).clamp(0, 15) as f32
    })
}

/// The records of `parts` in chunks. A part's number is what remains of the learning rate at its first sample, in 127ths; it
/// falls linearly over the part, and 0 means that nothing is learned.
fn chunks(model: &Model<'_>, parts: &[(&[Letter], usize)], shift: &Shift) -> Result<Samples> {
    if model.input_len() != ATTRIBUTES {
        bail!("the model takes {} values, a letter has {ATTRIBUTES}", model.input_len());
    }
    let transform = model.metadata()?.input;
    let mut values = Vec::new();
    for (letters, rate) in parts {
        for (i, letter) in letters.iter().enumerate() {
            let mut input = [0; ATTRIBUTES];
            let raw = shifted(&letter.attributes, shift);
            transform.apply(model.input_scale(), model.input_zero_point(), &raw, &mut input)?;
            values.extend(input.map(i8::cast_unsigned));
            let remaining = (rate * (letters.len() - i)).div_ceil(letters.len());
            values.extend([letter.label, remaining as u8]);
        }
    }
    let len = RECORDS * (ATTRIBUTES + 2);
    // The last chunk is filled up with its last record, which must not learn.
    let last = values.len() - 1;
    if !values.len().is_multiple_of(len) && values[last] == 0 {
        let record = values[values.len() - (ATTRIBUTES + 2)..].to_vec();
        values.extend(record.iter().cycle().take(len - values.len() % len));
    }
    Samples::new(len, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_letter() {
        let letter = letter("C,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,0").unwrap();
        assert_eq!((letter.label, letter.attributes[9]), (2, 10));
        assert!(super::letter("C,1,2").is_err());
        assert!(super::letter("").is_err());
    }

    #[test]
    fn the_shift_is_what_it_says_and_always_the_same() {
        let shift = shift();
        assert!(shift.iter().all(|(gain, offset)| (11..=19).contains(gain) && (-1..=1).contains(offset)));
        let (low, high) = (shifted(&[0; 16], &shift), shifted(&[15; 16], &shift));
        assert!(low.iter().chain(&high).all(|v| (0.0..=15.0).contains(v)));
        assert_eq!(shifted(&[7; 16], &unshifted()), [7.0; 16]);
        assert_eq!(shift[0], self::shift()[0]);
    }
}
