//! Tables of trained networks: the presets, and the same networks trained by others.

use crate::results::{beside, measured, rows, value};
use anyhow::{Context as _, Result};

/// Rows of the table of presets: preset, its data and network, and the endings of its variants in the results.
const PRESETS: [(&str, &str, &[&str]); 7] = [
    ("digits", "Digits, four convolutions", &["2bit", "3bit", "mixed"]),
    ("digits-small", "Digits, six convolutions in 12 KiB, from a teacher", &["2bit"]),
    ("digits-mlp", "Digits, MLP 256-128-64-10", &["2bit", "3bit", "mixed"]),
    ("resnet8-digits", "Digits at 32×32, ResNet-8", &["2bit"]),
    ("letter", "Letter, MLP 16-128-64-26", &["2bit", "3bit", "mixed"]),
    ("imu", "watch movements, three convolutions", &["2bit", "3bit", "mixed"]),
    ("ds-cnn-imu", "watch movements, DS-CNN", &["2bit"]),
];

/// Accuracies of the presets: in floating point, rounded without training, on the integer engine. What has not been
/// measured yet is left out.
pub(super) fn presets() -> Result<String> {
    let mut table = String::from(
        "| preset | data and network | bits | FP32 | PTQ | integer engine | kept | `.piq` | MACs | seeds |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (preset, name, endings) in PRESETS {
        for ending in endings {
            let case = format!("{}_{ending}", preset.replace('-', "_"));
            let figure = |metric: &str| value("presets", &case, metric);
            if !measured("presets", &case)? {
                continue;
            }
            let (variant, bits) = match *ending {
                "2bit" => (preset.to_owned(), "2"),
                "3bit" => (format!("{preset}-3bit"), "3"),
                other => (format!("{preset}-{other}"), other),
            };
            let cells = [
                format!("`{variant}`"),
                if bits == "2" { name.to_owned() } else { String::new() },
                bits.to_owned(),
                format!("{} %", figure("fp32_accuracy_mean")?),
                format!("{} %", figure("ptq_accuracy_mean")?),
                format!("**{} %** (spread {})", figure("accuracy_mean")?, figure("accuracy_spread")?),
                format!("{} %", figure("retention_percent")?),
                format!("{} B", figure("file_bytes")?),
                figure("macs")?,
                figure("seeds")?,
            ];
            table += &format!("| {} |\n", cells.join(" | "));
        }
    }
    Ok(table)
}

/// The two examples from data to device, and where they were measured.
pub(super) fn demo() -> Result<String> {
    let mut table = String::from(
        "| data | FP32 | PTQ 2-bit | QAT 2-bit, float graph | QAT 2-bit, integer engine | `.piq` | arena | MACs | \
         instructions per inference | host/device mismatches |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (case, name) in [("digits", "Digits"), ("letter", "Letter")] {
        let figure = |metric: &str| value("demo", case, metric);
        let cells = [
            name.to_owned(),
            format!("{} %", figure("fp32_accuracy")?),
            format!("{} %", figure("ptq_accuracy")?),
            format!("{} %", figure("qat_float_accuracy")?),
            format!("**{} %**", figure("int_accuracy")?),
            format!("{} B", figure("file_bytes")?),
            format!("{} B", figure("arena_bytes")?),
            figure("macs")?,
            figure("instructions")?,
            format!("{} of {}", figure("mismatches")?, figure("device_samples")?),
        ];
        table += &format!("| {} |\n", cells.join(" | "));
    }
    let row =
        rows("demo")?.into_iter().find(|row| row.metric == "int_accuracy").context("no row of the demo")?;
    table += &format!("\n(`cargo xtask demo`, {}, {})\n", row.machine.replace("; ", ", "), row.date);
    Ok(table)
}

/// The same networks trained with other quantisers.
pub(super) fn peers() -> Result<String> {
    let steps = beside("presets", "step_milliseconds_beside_peers")?;
    let mut table = String::from(
        "| preset | ours | rival | its accuracy | our step / its step |\n|---|---|---|---|---|\n",
    );
    for [case, ours, rival, theirs] in beside("presets", "accuracy_beside_peers")? {
        let ratio = match steps.iter().find(|row| row[0] == case && row[2] == rival) {
            Some([_, ours, _, theirs]) => format!("{:.2}", ours.parse::<f64>()? / theirs.parse::<f64>()?),
            None => String::new(),
        };
        let preset = case.trim_end_matches("_2bit").replace('_', "-");
        table += &format!("| `{preset}` | {ours} % | {rival} | {theirs} % | {ratio} |\n");
    }
    Ok(table)
}
