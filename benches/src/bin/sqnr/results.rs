//! `benches/results/sqnr.csv`, in the schema of all results.

use anyhow::{Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const HEADER: &str = "suite,case,metric,value,unit,goal,rival,rival_value,command,machine,date,commit";
const COMMAND: &str = "cargo run --release -p qat-benches --bin sqnr";

/// One figure.
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) metric: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) goal: Option<f64>,
    /// Name and value of what it is compared with.
    pub(crate) rival: Option<(String, f64)>,
}

/// Replaces the file: every figure of the suite comes from this program.
pub(crate) fn write(rows: &[Row]) -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let date = output(Command::new("date").args(["-u", "+%F"]))?;
    // A source archive has no history; the figures then have no commit.
    let commit = output(Command::new("git").current_dir(&root).args(["rev-parse", "--short", "HEAD"]))
        .unwrap_or_default();
    let machine = machine();
    let mut text = format!("{HEADER}\n");
    for Row { case, metric, value, unit, goal, rival } in rows {
        let goal = goal.map_or(String::new(), |goal| format!("{goal:.2}"));
        let (name, beaten) = rival
            .as_ref()
            .map_or((String::new(), String::new()), |(name, value)| (name.clone(), format!("{value:.3}")));
        text += &format!(
            "sqnr,{case},{metric},{value:.3},{unit},{goal},{name},{beaten},{COMMAND},{machine},{date},{commit}\n"
        );
    }
    let (file, temporary) = (root.join("results/sqnr.csv"), root.join("results/sqnr.csv.tmp"));
    fs::create_dir_all(root.join("results"))?;
    fs::write(&temporary, text)?;
    fs::rename(&temporary, &file)?;
    println!("wrote {}", file.strip_prefix(&root).unwrap_or(&file).display());
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Processor and number of cores.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.trim_start().strip_prefix(':'));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}; {cores} cores", model.unwrap_or(std::env::consts::ARCH).trim().replace(',', " "))
}
