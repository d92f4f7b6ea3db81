//! The measured figures, `benches/results/<suite>.csv`: one schema for all suites, one row for each figure.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};

const HEADER: &str = "suite,case,metric,value,unit,goal,rival,rival_value,command,machine,date,commit";
/// Columns that a new measurement leaves alone where it has nothing to say: goal, rival and the rival's value.
const KEPT: std::ops::Range<usize> = 5..8;

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    case: String,
    metric: &'static str,
    value: String,
    unit: &'static str,
    goal: Option<String>,
    rival: Option<[String; 2]>,
}

impl Figure {
    /// What was measured, such as `digits`; which quantity; its value as it is to stand in the file; its unit, empty for
    /// a plain count. Goal, rival and the rival's value stay what they were in the file.
    #[must_use]
    pub const fn new(case: String, metric: &'static str, value: String, unit: &'static str) -> Self {
        Self { case, metric, value, unit, goal: None, rival: None }
    }

    /// Sets the goal.
    #[must_use]
    pub fn with_goal(self, goal: String) -> Self {
        Self { goal: Some(goal), ..self }
    }

    /// Sets what it is compared with, and its value.
    #[must_use]
    pub fn with_rival(self, name: String, value: String) -> Self {
        Self { rival: Some([name, value]), ..self }
    }
}

/// Puts `figures` into the suite's file, each in place of the row of the same case and metric if there is one.
///
/// # Errors
/// A file of another schema, a failing file operation; nothing is changed then.
pub fn record(suite: &str, command: &str, figures: &[Figure]) -> Result<()> {
    put(suite, command, figures, false)
}

/// Replaces the suite's file by `figures`, for a suite that one run of one program measures.
///
/// # Errors
/// As [`record`].
pub fn replace(suite: &str, command: &str, figures: &[Figure]) -> Result<()> {
    put(suite, command, figures, true)
}

/// Writes `figures` into a file of the suite's schema at `file`, on a machine that has no repository; [`adopt`] brings them
/// home. `machine` and `commit` say where they were measured and what was built.
///
/// # Errors
/// A failing file operation.
pub fn export(
    file: &Path,
    suite: &str,
    [command, machine, commit]: [&str; 3],
    figures: &[Figure],
) -> Result<()> {
    let stamp = [command.to_owned(), machine.to_owned(), today()?, commit.to_owned()];
    let text = merge(&format!("{HEADER}\n"), suite, figures, &stamp)?;
    write_atomically(file, &text).with_context(|| file.display().to_string())
}

/// Takes the rows of a file that [`export`] wrote into the suite's own, each in place of the row of the same case and metric if
/// there is one; returns how many there were.
///
/// # Errors
/// A file of another schema, a row of another suite or none at all, a failing file operation; nothing is changed then.
pub fn adopt(suite: &str, file: &Path) -> Result<usize> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let path = path(suite);
    let old = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => format!("{HEADER}\n"),
        old => old.with_context(|| path.display().to_string())?,
    };
    let (new, count) = join(&old, suite, &text).with_context(|| file.display().to_string())?;
    write_atomically(&path, &new).with_context(|| path.display().to_string())?;
    Ok(count)
}

/// The text of a results file with the rows of another in it, and how many those are.
fn join(old: &str, suite: &str, text: &str) -> Result<(String, usize)> {
    let read = |text: &str| -> Result<Vec<Vec<String>>> {
        let mut lines = text.lines();
        ensure!(lines.next() == Some(HEADER), "the first line is not `{HEADER}`");
        lines.filter(|line| !line.is_empty()).map(parse).collect()
    };
    let (mut rows, new) = (read(old)?, read(text)?);
    ensure!(!new.is_empty(), "no figures");
    let count = new.len();
    for row in new {
        ensure!(row[0] == suite, "a figure of `{}`, not of `{suite}`", row[0]);
        match rows.iter_mut().find(|known| known[..3] == row[..3]) {
            Some(known) => *known = row,
            None => rows.push(row),
        }
    }
    Ok((table(&rows), count))
}

fn put(suite: &str, command: &str, figures: &[Figure], anew: bool) -> Result<()> {
    // A source archive has no history; the figure then has no commit.
    let commit = commit().unwrap_or_default();
    let stamp = [command.to_owned(), machine(), today()?, commit];
    let path = path(suite);
    let old = match fs::read_to_string(&path) {
        Ok(text) if !anew => text,
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| path.display().to_string());
        }
        _ => format!("{HEADER}\n"),
    };
    let new = merge(&old, suite, figures, &stamp).with_context(|| path.display().to_string())?;
    write_atomically(&path, &new).with_context(|| path.display().to_string())
}

fn path(suite: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(format!("{suite}.csv"))
}

/// The commit that is checked out, in short.
fn commit() -> Result<String> {
    let mut git = Command::new("git");
    git.current_dir(env!("CARGO_MANIFEST_DIR")).args(["rev-parse", "--short", "HEAD"]).stderr(Stdio::null());
    let output = git.output()?;
    ensure!(output.status.success(), "no repository");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The committed value of a figure.
///
/// # Errors
/// A file that is not there or has another schema, or no such row in it.
pub fn value(suite: &str, case: &str, metric: &str) -> Result<String> {
    field(suite, case, metric, VALUE)
}

/// The committed value of a figure, `None` if there is no such row.
///
/// # Errors
/// A file that is not there or has another schema.
pub fn value_if_any(suite: &str, case: &str, metric: &str) -> Result<Option<String>> {
    let (path, text) = read(suite)?;
    find(&text, &[suite, case, metric], VALUE).with_context(|| path.display().to_string())
}

/// The rival's value in a suite's file, empty if it has none there.
///
/// # Errors
/// As [`value`].
pub fn rival(suite: &str, case: &str, metric: &str) -> Result<String> {
    field(suite, case, metric, RIVAL_VALUE)
}

/// Whether a suite's file has figures of a case.
///
/// # Errors
/// As [`value`], but for a missing row.
pub fn measured(suite: &str, case: &str) -> Result<bool> {
    Ok(rows(suite)?.iter().any(|row| row.case == case))
}

/// The cases of a suite's file, in its order; none if there is no file.
///
/// # Errors
/// A file that has another schema.
pub fn cases(suite: &str) -> Result<Vec<String>> {
    let path = path(suite);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| path.display().to_string())?,
    };
    let mut cases = Vec::new();
    for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
        let case = parse(line).with_context(|| path.display().to_string())?.swap_remove(1);
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    Ok(cases)
}

/// All rows of a metric that have a rival: case, value, rival and the rival's value.
///
/// # Errors
/// As [`value`], but no rows are no error.
pub fn beside(suite: &str, metric: &str) -> Result<Vec<[String; 4]>> {
    let rows = rows(suite)?.into_iter().filter(|row| row.metric == metric && !row.rival.is_empty());
    Ok(rows.map(|row| [row.case, row.value, row.rival, row.rival_value]).collect())
}

/// A row of a suite's file; fields are empty where it says nothing.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub case: String,
    /// Which quantity.
    pub metric: String,
    /// Its value.
    pub value: String,
    /// Of the value; empty for plain numbers.
    pub unit: String,
    /// What the value is to reach.
    pub goal: String,
    /// What it is compared with.
    pub rival: String,
    /// The rival's value, in the same unit.
    pub rival_value: String,
    /// Processor and number of cores.
    pub machine: String,
    /// `YYYY-MM-DD`.
    pub date: String,
    /// What was checked out, in short.
    pub commit: String,
}

/// All rows of a suite, in the order of its file.
///
/// # Errors
/// As [`value`], but for a missing row.
pub fn rows(suite: &str) -> Result<Vec<Row>> {
    let (path, text) = read(suite)?;
    let rows = text.lines().skip(1).filter(|line| !line.is_empty()).map(|line| {
        let mut fields = parse(line)?.into_iter().skip(1);
        let mut next = || fields.next().unwrap_or_default();
        let [case, metric, value, unit, goal, rival, rival_value] = [(); 7].map(|()| next());
        let [_, machine, date, commit] = [(); 4].map(|()| next());
        Ok(Row { case, metric, value, unit, goal, rival, rival_value, machine, date, commit })
    });
    rows.collect::<Result<_>>().with_context(|| path.display().to_string())
}

/// The suites that have a file, sorted.
///
/// # Errors
/// A folder that cannot be read.
pub fn suites() -> Result<Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let mut suites = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "csv") {
            suites.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    suites.sort_unstable();
    Ok(suites)
}

/// Columns of the schema.
const VALUE: usize = 3;
const RIVAL_VALUE: usize = 7;

fn field(suite: &str, case: &str, metric: &str, column: usize) -> Result<String> {
    let (path, text) = read(suite)?;
    let key = [suite, case, metric];
    let found = find(&text, &key, column).with_context(|| path.display().to_string())?;
    found.with_context(|| format!("{}: no row {}", path.display(), key.join(",")))
}

fn read(suite: &str) -> Result<(PathBuf, String)> {
    let path = path(suite);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok((path, text))
}

/// The column of the row that begins with `key`, if there is one.
fn find(text: &str, key: &[&str; 3], column: usize) -> Result<Option<String>> {
    for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
        let row = parse(line)?;
        if row[..3] == *key {
            return Ok(Some(row[column].clone()));
        }
    }
    Ok(None)
}

/// The text of a results file with `figures` in it.
fn merge(old: &str, suite: &str, figures: &[Figure], stamp: &[String; 4]) -> Result<String> {
    let mut lines = old.lines();
    if lines.next() != Some(HEADER) {
        bail!("the first line is not `{HEADER}`");
    }
    let mut rows = lines.filter(|line| !line.is_empty()).map(parse).collect::<Result<Vec<_>>>()?;
    for Figure { case, metric, value, unit, goal, rival } in figures {
        let key = [suite, case, metric];
        let known = rows.iter_mut().find(|row| row[..3] == key);
        let mut row = key.map(str::to_owned).to_vec();
        row.extend([value.clone(), (*unit).to_owned()]);
        match &known {
            Some(known) => row.extend_from_slice(&known[KEPT]),
            None => row.resize(KEPT.end, String::new()),
        }
        if let Some(goal) = goal {
            row[KEPT.start].clone_from(goal);
        }
        if let Some(rival) = rival {
            row[KEPT.start + 1..KEPT.end].clone_from_slice(rival);
        }
        row.extend(stamp.iter().cloned());
        match known {
            Some(known) => *known = row,
            None => rows.push(row),
        }
    }
    Ok(table(&rows))
}

/// The text of a results file.
fn table(rows: &[Vec<String>]) -> String {
    let lines = rows.iter().map(|row| row.iter().map(|field| quote(field)).collect::<Vec<_>>().join(","));
    [HEADER.to_owned()].into_iter().chain(lines).fold(String::new(), |text, line| text + &line + "\n")
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
#[must_use]
pub fn machine() -> String {
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
        Figure::new(case.into(), "macs", value.into(), "")
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
        assert_eq!(find(&new, &["demo", "third", "macs"], VALUE).unwrap().as_deref(), Some("3"));
        assert_eq!(find(&new, &["demo", "fourth", "macs"], VALUE).unwrap(), None);
        // What was written reads back as itself.
        assert_eq!(merge(&new, "demo", &[], &stamp()).unwrap(), new);
    }

    #[test]
    fn a_figure_sets_the_goal_and_rival_that_it_brings() {
        let old = format!("{HEADER}\ndemo,digits,macs,1,,9,them,7,c,m,d,h\n");
        let goal = figure("digits", "2").with_goal("8".into());
        let both = figure("letter", "3").with_goal("1".into()).with_rival("it".into(), "4".into());
        let new = merge(&old, "demo", &[goal, both], &["c", "m", "d", "h"].map(str::to_owned)).unwrap();
        let rows = ["demo,digits,macs,2,,8,them,7,c,m,d,h", "demo,letter,macs,3,,1,it,4,c,m,d,h"];
        assert_eq!(new, format!("{HEADER}\n{}\n", rows.join("\n")));
    }

    #[test]
    fn figures_from_elsewhere_keep_where_they_come_from() {
        let old = format!("{HEADER}\ngpu,a,ms,1,,9,,,c,m,d,h\ngpu,b,ms,2,,,,,c,m,d,h\n");
        let new = format!("{HEADER}\ngpu,b,ms,5,,4,,,x,y,z,i\ngpu,c,ms,6,,,,,x,y,z,i\n");
        let (joined, count) = join(&old, "gpu", &new).unwrap();
        let rows = ["gpu,a,ms,1,,9,,,c,m,d,h", "gpu,b,ms,5,,4,,,x,y,z,i", "gpu,c,ms,6,,,,,x,y,z,i"];
        assert_eq!((joined, count), (format!("{HEADER}\n{}\n", rows.join("\n")), 2));
        assert!(join(&old, "llm", &new).unwrap_err().to_string().contains("`gpu`, not of `llm`"));
        assert!(join(&old, "gpu", &format!("{HEADER}\n")).unwrap_err().to_string().contains("no figures"));
        assert!(join(&old, "gpu", "case,metric\n").is_err());
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
