//! Tables of trained networks: the presets, and the same networks trained by others.

use crate::results::{beside, measured, value};
use anyhow::Result;

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
