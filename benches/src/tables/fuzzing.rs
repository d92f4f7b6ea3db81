//! Table of what fuzzing has reached.

use crate::results::{cases, value};
use anyhow::Result;

/// Time, executions and coverage of each target that has been recorded.
pub(super) fn targets() -> Result<String> {
    let mut table = String::from(
        "| target | minutes | executions | findings | edges | of | inputs | peak memory |\n|---|---|---|---|---|---|---|---|\n",
    );
    for target in cases("fuzz")? {
        let figure = |metric: &str| value("fuzz", &target, metric);
        let cells = [
            format!("`{target}`"),
            format!("{:.0}", figure("seconds")?.parse::<f64>()? / 60.0),
            figure("executions")?,
            figure("findings")?,
            figure("edges_covered")?,
            figure("edges")?,
            figure("inputs")?,
            format!("{} MiB", figure("peak_memory")?),
        ];
        table += &format!("| {} |\n", cells.join(" | "));
    }
    Ok(table)
}
