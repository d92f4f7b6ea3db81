//! The measured figures, `benches/results/<suite>.csv`: one schema for all suites, one row for each figure.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use crate::cmd::{output, root};

const HEADER: &str = "suite,case,metric,value,unit,goal,rival,rival_value,command,machine,date,commit";
/// Columns that a new measurement leaves alone where it has nothing to say: goal, rival and the rival's value.
const KEPT: std::ops::Range<usize> = 5..8;

/// One figure.
pub(crate) struct Figure {
    /// What was measured, such as `digits`.
    pub(crate) case: String,
    /// Which quantity.
    pub(crate) metric: &'static str,
    /// Its value, as it is to stand in the file.
    pub(crate) value: String,
    /// Its unit; empty for a plain count.
    pub(crate) unit: &'static str,
}

/// Puts `figures` into the suite's file, each in place of the row of the same case and metric if there is one.
pub(crate) fn record(suite: &str, command: &str, figures: &[Figure]) -> Result<()> {
    let commit = output(Command::new("git").current_dir(root()).args(["rev-parse", "--short", "HEAD"]));
    // A source archive has no history; the figure then has no commit.
    let commit = commit.unwrap_or_default();
    let stamp = [command.to_owned(), machine(), today()?, commit.trim().to_owned()];
    let path = root().join("benches/results").join(format!("{suite}.csv"));
    let old = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => format!("{HEADER}\n"),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let new = merge(&old, suite, figures, &stamp).with_context(|| path.display().to_string())?;
    write_atomically(&path, &new).with_context(|| path.display().to_string())
}

/// The committed value of a figure.
pub(crate) fn value(suite: &str, case: &str, metric: &str) -> Result<String> {
    let path = root().join("benches/results").join(format!("{suite}.csv"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    find(&text, &[suite, case, metric]).with_context(|| path.display().to_string())
}

/// The value in the row that begins with `key`.
fn find(text: &str, key: &[&str; 3]) -> Result<String> {
    for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
        let row = parse(line)?;
        if row[..3] == *key {
            return Ok(row[3].clone());
        }
    }
    bail!("no row {}", key.join(","))
}

/// The text of a results file with `figures` in it.
fn merge(old: &str, suite: &str, figures: &[Figure], stamp: &[String; 4]) -> Result<String> {
    let mut lines = old.lines();
    if lines.next() != Some(HEADER) {
        bail!("the first line is not `{HEADER}`");
    }
    let mut rows = lines.filter(|line| !line.is_empty()).map(parse).collect::<Result<Vec<_>>>()?;
    for figure in figures {
        let Figure { case, metric, value, unit } = figure;
        let mut row =
            vec![suite.to_owned(), case.clone(), (*metric).to_owned(), value.clone(), (*unit).to_owned()];
        row.resize(KEPT.end, String::new());
        row.extend(stamp.iter().cloned());
        match rows.iter_mut().find(|known| known[..3] == row[..3]) {
            Some(known) => {
                row[KEPT].clone_from_slice(&known[KEPT]);
                *known = row;
            }
            None => rows.push(row),
        }
    }
    let lines = rows.iter().map(|row| row.iter().map(|field| quote(field)).collect::<Vec<_>>().join(","));
    Ok([HEADER.to_owned()].into_iter().chain(lines).fold(String::new(), |text, line| text + &line + "\n"))
}

/// The fields of a line; a quoted field may contain commas and doubled quotes.
fn parse(line: &str) -> Result<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => push(&mut fields, '"'),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => push(&mut fields, c),
        }
    }
    let expected = HEADER.split(',').count();
    if quoted || fields.len() != expected {
        bail!("not a row of {expected} fields: {line}");
    }
    Ok(fields)
}

fn push(fields: &mut [String], c: char) {
    if let Some(field) = fields.last_mut() {
        field.push(c);
    }
}

fn quote(field: &str) -> String {
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
}

/// Either the old file or the new one is there at any time.
fn write_atomically(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("csv.tmp");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    Ok(())
}

/// Processor and number of cores.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.trim_start().strip_prefix(':'));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}; {cores} cores", model.unwrap_or(std::env::consts::ARCH).trim())
}

/// Today in UTC, as `YYYY-MM-DD`.
fn today() -> Result<String> {
    let seconds =
        SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    Ok(date(seconds / 86_400))
}

/// The date `days` after 1970-01-01.
fn date(days: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(case: &str, value: &str) -> Figure {
        Figure { case: case.into(), metric: "macs", value: value.into(), unit: "" }
    }

    fn stamp() -> [String; 4] {
        ["cargo x, y", "a \"fast\" one", "2024-01-01", "abc"].map(str::to_owned)
    }

    #[test]
    fn a_new_figure_replaces_its_row_and_keeps_goal_and_rival() {
        let other = "demo,letter,macs,5,,,,,c,m,d,h";
        let old = format!("{HEADER}\ndemo,digits,macs,1,,9,them,7,c,m,d,h\n{other}\n");
        let new = merge(&old, "demo", &[figure("digits", "2"), figure("third", "3")], &stamp()).unwrap();
        let tail = "\"cargo x, y\",\"a \"\"fast\"\" one\",2024-01-01,abc";
        let expected =
            format!("{HEADER}\ndemo,digits,macs,2,,9,them,7,{tail}\n{other}\ndemo,third,macs,3,,,,,{tail}\n");
        assert_eq!(new, expected);
        assert_eq!(find(&new, &["demo", "third", "macs"]).unwrap(), "3");
        assert!(find(&new, &["demo", "fourth", "macs"]).is_err());
        // What was written reads back as itself.
        assert_eq!(merge(&new, "demo", &[], &stamp()).unwrap(), new);
    }

    #[test]
    fn files_of_another_schema_are_refused() {
        assert!(merge("suite,case\n", "demo", &[], &stamp()).is_err());
        assert!(merge(&format!("{HEADER}\na,b,c\n"), "demo", &[], &stamp()).is_err());
        assert!(merge(&format!("{HEADER}\na,b,c,d,e,f,g,h,i,j,k,\"l\n"), "demo", &[], &stamp()).is_err());
    }

    #[test]
    fn dates_of_leap_years_and_centuries() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (789, "1972-02-29"),
            (11_016, "2000-02-29"),
            (19_722, "2023-12-31"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(date(days), expected);
        }
    }
}
