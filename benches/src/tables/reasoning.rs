//! Table of what a teacher and a loss on its steps bring to a model that reasons.

use crate::results::value;
use anyhow::Result;

/// Rows: what is minimised.
const LOSSES: [&str; 3] =
    ["cross-entropy", "the same and the divergence from the teacher", "the same and the loss on the steps"];

/// Columns: updates, and how the cases of the losses are called for them, in the order of the rows.
const UPDATES: [(&str, [&str; 3]); 3] = [
    ("100", ["100_steps_ce", "100_steps_kd", "100_steps_kd_reasoning"]),
    ("300", ["300_steps_ce", "300_steps_kd", "300_steps_kd_reasoning"]),
    ("1000", ["ce", "kd", "qat"]),
];

/// Mean of the exact answers at 2 bits, and how far the seeds lie apart.
pub(super) fn ablation() -> Result<String> {
    let mut table = String::from("| minimised |");
    UPDATES.iter().for_each(|(updates, _)| table += &format!(" {updates} updates |"));
    table += "\n|---|---|---|---|\n";
    for (row, loss) in LOSSES.iter().enumerate() {
        table += &format!("| {loss} |");
        for (_, cases) in UPDATES {
            let case = format!("reasoning_2bit_{}", cases[row]);
            let [mean, spread] = ["exact_percent", "exact_spread"].map(|metric| value("llm", &case, metric));
            table += &format!(" {} % ({}) |", mean?, spread?);
        }
        table.push('\n');
    }
    Ok(table)
}
