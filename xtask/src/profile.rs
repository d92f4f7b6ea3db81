//! `cargo xtask mcu --profile MODEL`: the instructions of every layer of a whole model, as a table and as a bar chart.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qat_kernels::infer::Model;

use crate::bare_metal;
use crate::emulator::{Board, emulate};
use crate::firmware::build;
use crate::models::{program, samples, untrained};
use crate::tools::ensure;

/// A layer.
struct Row {
    operator: &'static str,
    bits: u8,
    shape: String,
    macs: u64,
    instructions: u64,
}

/// Profiles `model`, a file or the name of a preset (with generated weights then), on `board`; the chart goes to `svg`.
pub(crate) fn command(board: &Board, model: &str, svg: Option<&Path>, yes: bool) -> Result<()> {
    ensure(&[board.tool], yes)?;
    let toolchain = bare_metal::find(&[board.target], yes)?;
    let path = match Path::new(model) {
        path if path.extension().is_some_and(|ending| ending == "piq") => path.to_path_buf(),
        _ => untrained(&program()?, model, board)?,
    };
    let file = fs::read(&path).with_context(|| path.display().to_string())?;
    let model = Model::parse(&file).with_context(|| path.display().to_string())?;
    let mut samples = samples(&model)?;
    samples.truncate(1);
    let firmware = build(&toolchain, board, "infer", Some(&path), &["profile"])?;
    let outcome = emulate(board, &firmware, &samples)?;

    // A region for each operator and one for what remains.
    let Some((rest, counts)) = outcome.counts.split_last() else { bail!("nothing was counted") };
    let operators: Vec<_> = model.operators().collect();
    if counts.len() != operators.len() {
        bail!("{} operators, {} counts", operators.len(), counts.len());
    }
    let rows: Vec<Row> = operators
        .iter()
        .zip(counts)
        .map(|(operator, &instructions)| {
            let [h, w, c] = operator.output_shape;
            Row {
                operator: operator.name,
                bits: operator.bits,
                shape: if (h, w) == (1, 1) { c.to_string() } else { format!("{h}×{w}×{c}") },
                macs: operator.macs,
                instructions,
            }
        })
        .collect();
    let name = model.metadata()?.name;
    println!("{name} on {}, one inference", board.name);
    print!("{}", table(&rows, *rest));
    let svg = match svg {
        Some(path) => path.to_path_buf(),
        None => default_chart(&path)?,
    };
    fs::write(&svg, chart(&format!("{name}, {}", board.name), &rows))
        .with_context(|| svg.display().to_string())?;
    println!("chart: {}", svg.display());
    Ok(())
}

fn default_chart(model: &Path) -> Result<PathBuf> {
    let folder = crate::cmd::root().join("runs");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let stem = model.file_stem().context("a model without a name")?.to_string_lossy().into_owned();
    Ok(folder.join(format!("profile-{stem}.svg")))
}

fn total(rows: &[Row]) -> u64 {
    rows.iter().map(|row| row.instructions).sum()
}

fn per_mac(instructions: u64, macs: u64) -> String {
    if macs == 0 { String::new() } else { format!("{:.3}", instructions as f64 / macs as f64) }
}

fn table(rows: &[Row], rest: u64) -> String {
    let all = total(rows) + rest;
    let mut text = format!(
        "{:>4}  {:<16} {:>4} {:>10} {:>10} {:>12} {:>7} {:>7}\n",
        "", "operator", "bits", "output", "MACs", "instructions", "per MAC", "share"
    );
    let mut line = |index: &str, operator: &str, bits: u8, shape: &str, macs: u64, instructions: u64| {
        let bits = if bits == 0 { String::new() } else { bits.to_string() };
        let share = 100.0 * instructions as f64 / all.max(1) as f64;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{index:>4}  {operator:<16} {bits:>4} {shape:>10} {macs:>10} {instructions:>12} {:>7} {share:>6.1}%",
            per_mac(instructions, macs)
        );
    };
    for (i, row) in rows.iter().enumerate() {
        line(&i.to_string(), row.operator, row.bits, &row.shape, row.macs, row.instructions);
    }
    line("", "between and after", 0, "", 0, rest);
    line("", "whole model", 0, "", rows.iter().map(|row| row.macs).sum(), all);
    text
}

/// Height of a bar with its gap, width of the labels, and of the longest bar.
const LINE: usize = 22;
const LABELS: usize = 230;
const LONGEST: f64 = 380.0;

/// A bar for each layer, its length the instructions; beside it the instructions for each multiply-accumulate.
fn chart(title: &str, rows: &[Row]) -> String {
    let longest = rows.iter().map(|row| row.instructions).max().unwrap_or(1).max(1);
    let (width, height) = (LABELS + LONGEST as usize + 190, (rows.len() + 2) * LINE + 8);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-size=\"14\">{}: {} instructions</text>\n",
        escape(title),
        total(rows)
    );
    for (i, row) in rows.iter().enumerate() {
        let (y, length) = ((i + 1) * LINE + 8, LONGEST * row.instructions as f64 / longest as f64);
        let bits = if row.bits == 0 { String::new() } else { format!(" {} bit", row.bits) };
        let share = 100.0 * row.instructions as f64 / total(rows).max(1) as f64;
        let per_mac = match per_mac(row.instructions, row.macs) {
            text if text.is_empty() => text,
            text => format!(", {text} per MAC"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{} {}{bits}, {}</text>\
             <rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{share:.1} %{per_mac}</text>",
            LABELS - 8,
            y + 13,
            i,
            escape(row.operator),
            row.shape,
            LINE - 6,
            colour(row.bits),
            LABELS as f64 + length + 6.0,
            y + 13,
        );
    }
    svg + "</svg>\n"
}

/// A shade for each width, grey for layers without weights.
const fn colour(bits: u8) -> &'static str {
    match bits {
        0 => "#9a9a9a",
        2 => "#0072b2",
        3 => "#56b4e9",
        4 => "#009e73",
        _ => "#d55e00",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |operator, bits, macs, instructions| Row {
            operator,
            bits,
            shape: "8".into(),
            macs,
            instructions,
        };
        vec![row("conv2d", 2, 1000, 750), row("add", 0, 0, 250)]
    }

    #[test]
    fn the_table_adds_up() {
        let text = table(&rows(), 5);
        assert!(text.contains("0.750") && text.contains("1005"), "{text}");
        assert!(
            text.lines()
                .next_back()
                .is_some_and(|line| line.contains("whole model") && line.ends_with("100.0%"))
        );
    }

    #[test]
    fn bars_are_as_long_as_their_counts() {
        let svg = chart("a < b", &rows());
        assert!(svg.contains("a &lt; b: 1000 instructions"));
        assert!(svg.contains("width=\"380.0\"") && svg.contains("width=\"126.7\""), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 3);
    }
}
