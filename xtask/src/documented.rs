//! The commands of the documentation: every one exists with its options and files, and those of a newcomer's way from a
//! table to a device are run as they stand.
//!
//! Commands are the lines of the fenced blocks marked `sh` in all pages. A block after a line `<!-- run -->` is run, in a
//! folder that has what the page speaks of: generated data, and the run description of the front page.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use qat_benches::numbers::SplitMix64;

use crate::bare_metal::Toolchain;
use crate::cmd::{metadata, output, qat, root, run, succeeds, target_dir};
use crate::emulator::{M4, emulate};
use crate::firmware::build_with;
use crate::mcu::host_logits;
use crate::panic_free::panic_paths;
use crate::samples::Samples;

/// Folders with pages for people.
const PAGES_IN: [&str; 10] = [
    "",
    "docs",
    "benches",
    "benches/peers",
    "data",
    "firmware",
    "fuzz",
    "qat-kernels",
    "qat-trainer",
    "xtask",
];
/// Programs of others, whose options are their own.
const OTHERS: [&str; 9] =
    [".", "docker", "export", "pip", "python3", "python3.11", "qemu-system-arm", "rustup", "git"];
/// Folders of the repository: what begins with one of them has to be there.
const FOLDERS: [&str; 8] =
    ["qat-kernels", "qat-trainer", "benches", "firmware", "fuzz", "xtask", "data", "docs"];
/// Options of cargo that the pages may use; those with a value come with an equals sign.
const CARGO_OPTIONS: [&str; 16] = [
    "--release",
    "--locked",
    "--workspace",
    "--all-features",
    "--no-default-features",
    "--lib",
    "-q",
    "-p=",
    "--bin=",
    "--bench=",
    "--test=",
    "--example=",
    "--features=",
    "--target=",
    "--path=",
    "--exclude=",
];

/// A line of a page that is to be typed.
#[derive(Debug, PartialEq)]
struct Line {
    page: String,
    words: Vec<String>,
    run: bool,
}

/// All commands of all pages.
fn lines() -> Result<Vec<Line>> {
    let mut pages = Vec::new();
    for folder in PAGES_IN {
        for entry in fs::read_dir(root().join(folder)).with_context(|| folder.to_owned())? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "md") {
                pages.push(path);
            }
        }
    }
    // The front page comes first: capitals do.
    pages.sort_unstable();
    let mut lines = Vec::new();
    for path in pages {
        let page = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        let text = fs::read_to_string(&path).with_context(|| page.clone())?;
        lines.extend(commands(&page, &text)?);
    }
    Ok(lines)
}

fn commands(page: &str, text: &str) -> Result<Vec<Line>> {
    let (mut found, mut inside, mut run, mut open) = (Vec::new(), false, false, String::new());
    for line in text.lines() {
        match line.trim() {
            "<!-- run -->" => run = true,
            "```sh" if !inside => inside = true,
            "```" if inside => (inside, run) = (false, false),
            command if inside => {
                if let Some(part) = command.strip_suffix('\\') {
                    open += part;
                    continue;
                }
                let words = words(&(std::mem::take(&mut open) + command)).with_context(|| page.to_owned())?;
                if !words.is_empty() {
                    found.push(Line { page: page.to_owned(), words, run });
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The words of a command, without a comment at its end and variables at its begin.
fn words(line: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(q), c) if c == q => quote = None,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    ensure!(quote.is_none(), "`{line}` opens a quotation and does not close it");
    words.extend(word);
    let variable = |word: &String| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        })
    };
    let variables = words.iter().take_while(|word| variable(word)).count();
    Ok(words.split_off(variables))
}

/// Holds every command against what there is; returns how many there are.
pub(crate) fn check() -> Result<u64> {
    let qat = qat()?;
    let mut checked = 0;
    for line in lines()? {
        // Two commands in one line.
        for words in line.words.split(|word| word == "&&") {
            exists(&qat, words).with_context(|| format!("{}: `{}`", line.page, words.join(" ")))?;
            checked += 1;
        }
    }
    Ok(checked)
}

fn exists(qat: &Path, words: &[String]) -> Result<()> {
    for word in words {
        let in_repository = word.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder));
        ensure!(!in_repository || root().join(word).exists(), "there is no {word}");
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["qat", words @ ..] => known_to_qat(qat, words),
        ["cargo", "xtask", words @ ..] => crate::task(words.iter().map(ToString::to_string)).map(drop),
        ["cargo", _, words @ ..] => {
            let own = words.iter().position(|word| *word == "--").unwrap_or(words.len());
            let (words, rest) = words.split_at(own);
            known_to_cargo(words)?;
            // Its benchmarks have options of their own.
            let is_qat = words.contains(&"qat-trainer") && !words.contains(&"--bench");
            match (is_qat, rest) {
                (true, ["--", rest @ ..]) => known_to_qat(qat, rest),
                _ => Ok(()),
            }
        }
        ["python", script, words @ ..] => {
            let text = fs::read_to_string(root().join(script)).with_context(|| (*script).to_owned())?;
            let unknown =
                words.iter().find(|word| word.starts_with("--") && !text.contains(&format!("\"{word}\"")));
            unknown.map_or(Ok(()), |word| bail!("{script} has no option {word}"))
        }
        [other, ..] if OTHERS.contains(other) => Ok(()),
        [other, ..] => bail!("nobody knows the program {other}"),
        [] => bail!("no command"),
    }
}

/// Whether the parser takes these words: it refuses the first wrong one before it comes to the question for help.
fn known_to_qat(qat: &Path, words: &[&str]) -> Result<()> {
    let mut command = Command::new(qat);
    command.args(words).arg("--help");
    if !succeeds(&mut command) {
        // Once more, for its complaint.
        output(&mut command)?;
    }
    Ok(())
}

/// Whether packages, programs and options exist.
fn known_to_cargo(words: &[&str]) -> Result<()> {
    let packages = metadata()?["packages"].as_array().context("cargo metadata names no packages")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let targets = packages.iter().flat_map(|p| p["targets"].as_array().into_iter().flatten());
    let targets: Vec<(String, String)> =
        targets.map(|target| (text(&target["kind"][0]), text(&target["name"]))).collect();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let takes_value = CARGO_OPTIONS.contains(&&*format!("{word}="));
        if !word.starts_with('-') || CARGO_OPTIONS.contains(word) {
            continue;
        }
        ensure!(takes_value, "cargo's option {word} is not one that the pages use");
        let value = *words.next().with_context(|| format!("{word} needs a value"))?;
        let there = match word.trim_start_matches('-') {
            "p" => {
                packages.iter().any(|p| p["name"] == value) || root().join("firmware").join(value).exists()
            }
            "path" => root().join(value).exists(),
            kind @ ("bin" | "bench" | "test" | "example") => {
                targets.iter().any(|(k, name)| k == kind && name == value)
            }
            _ => true,
        };
        ensure!(there, "there is no {word} {value}");
    }
    Ok(())
}

/// Runs the marked commands of the pages, from a table to an emulated device; returns how many there were.
pub(crate) fn newcomer(toolchain: &Toolchain) -> Result<u64> {
    let qat = qat()?;
    let folder = target_dir()?.join("newcomer");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    furnish(&folder)?;
    let mut done = 0;
    for line in lines()?.iter().filter(|line| line.run) {
        println!("$ {}", line.words.join(" "));
        let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
        let mut command = match words.as_slice() {
            ["qat", words @ ..] => {
                let mut command = Command::new(&qat);
                command.args(words);
                command
            }
            ["cargo", "xtask", words @ ..] => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(words);
                command
            }
            _ => bail!("{}: only commands of this project can be marked", line.page),
        };
        let shown = || format!("{}: `{}`", line.page, line.words.join(" "));
        output(command.current_dir(&folder).env("OMP_NUM_THREADS", "1")).with_context(shown)?;
        done += 1;
    }
    ensure!(done > 0, "no page has a marked block");
    exported(toolchain, &folder)?;
    own_program(toolchain, &folder)?;
    Ok(done + 2)
}

/// Writes what a newcomer has: two tables, and the run description that the front page shows.
fn furnish(folder: &Path) -> Result<()> {
    let page = fs::read_to_string(root().join("README.md"))?;
    let description = page.split_once("```toml\n").and_then(|(_, rest)| rest.split_once("```"));
    let (description, _) = description.context("README.md shows no run description")?;
    fs::write(folder.join("my.toml"), description)?;
    let mut random = SplitMix64(1);
    for (name, rows) in [("train.csv", 600), ("test.csv", 200)] {
        let mut table = String::from("class,a,b,c,d\n");
        for _ in 0..rows {
            let class = (random.bits() % 3) as usize;
            write!(table, "{}", ["low", "middle", "high"][class])?;
            for sign in [-1.0, 1.0, -1.0, 1.0] {
                write!(table, ",{:.4}", 2.0 * sign * (class as f32 - 1.0) + random.bell())?;
            }
            table.push('\n');
        }
        fs::write(folder.join(name), table)?;
    }
    Ok(())
}

/// Builds the program around the exported module, as `docs/microcontroller.md` has it, and runs it.
fn exported(toolchain: &Toolchain, folder: &Path) -> Result<()> {
    let module = folder.join("src/model");
    let samples = Samples::parse(&fs::read(folder.join("samples.bin"))?)?;
    let path = module.join("model.piq");
    let program = build_with(toolchain, &M4, "exported", &[], &[("PIQ_MODULE", &module)])?;
    let logits = emulate(&M4, &program, &samples)?.logits;
    ensure!(logits == host_logits(&fs::read(&path)?, &path, &samples)?, "the device computes something else");
    Ok(())
}

/// The page that shows a whole program, file by file.
const PROGRAM: &str = "docs/microcontroller.md";

/// Builds the program that [`PROGRAM`] shows around the exported module; it must not be able to panic, as the page says.
fn own_program(toolchain: &Toolchain, folder: &Path) -> Result<()> {
    let page = fs::read_to_string(root().join(PROGRAM))?;
    for (name, text) in files_of(&page)? {
        // The one line that depends on where things lie. Within the repository the program is no member of its workspace.
        let text = match name {
            "Cargo.toml" => {
                let place = format!("path = {:?}", root().join("qat-kernels"));
                let there = text.replace("path = \"../qat-kernels/qat-kernels\"", &place);
                ensure!(there != text, "{PROGRAM}: Cargo.toml does not name the kernels' folder");
                format!("{there}\n[workspace]\n")
            }
            _ => text.to_owned(),
        };
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, text)?;
    }
    // The versions that all firmware has.
    fs::copy(root().join("firmware/Cargo.lock"), folder.join("Cargo.lock"))?;
    let target_dir = target_dir()?.join("newcomer-program");
    let mut command = toolchain.cargo("build", M4.target, "core");
    run(command.current_dir(folder).args(["-q", "--release", "--target-dir"]).arg(&target_dir))?;
    let paths = panic_paths(&target_dir.join(M4.target).join("release/device"))?;
    ensure!(paths.is_empty(), "{PROGRAM}: the program can panic: {}", paths.join(", "));
    Ok(())
}

/// The blocks of a page whose first line is a comment with a file's name, by name.
fn files_of(page: &str) -> Result<Vec<(&str, &str)>> {
    const FILES: [&str; 4] = ["Cargo.toml", ".cargo/config.toml", "memory.x", "src/main.rs"];
    let blocks = || page.split("\n```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    let found = |name| {
        let mut with_name = blocks().filter(|(_, text)| {
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches(['#', '/', '*', ' ']).split([':', ' ']).next() == Some(name)
        });
        with_name.next().map(|(_, text)| (name, text)).with_context(|| format!("{PROGRAM} shows no {name}"))
    };
    FILES.into_iter().map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_with_their_marks() {
        let text = "```sh\nA=1 qat train 'a b' --x \\\n  y   # why\n```\n```text\nno\n```\n<!-- run -->\n```sh\n# all\nqat z\n```\n";
        let line = |words: &[&str], run| Line {
            page: "README.md".into(),
            words: words.iter().map(ToString::to_string).collect(),
            run,
        };
        let expected = [line(&["qat", "train", "a b", "--x", "y"], false), line(&["qat", "z"], true)];
        assert_eq!(commands("README.md", text).unwrap(), expected);
        assert!(words("qat 'a").is_err());
    }

    #[test]
    fn files_are_found_by_their_first_line() {
        let page = fs::read_to_string(root().join(PROGRAM)).unwrap();
        let files = files_of(&page).unwrap();
        assert_eq!(files.len(), 4);
        assert!(files[2].1.contains("ORIGIN") && files[3].1.ends_with('}'));
        assert!(files_of("\n```toml\n# Cargo.toml\n[package]\n```\n").is_err());
    }

    #[test]
    fn wrong_commands_are_seen() {
        let wrong = |line: &str| exists(Path::new("false"), &words(line).unwrap()).unwrap_err().to_string();
        assert!(wrong("cargo xtask demo --fast").contains("--fast"));
        assert!(wrong("cargo run -p qat-benches --bin tabels").contains("tabels"));
        assert!(wrong("cargo test -p qat-kernel").contains("qat-kernel"));
        assert!(wrong("cargo build --relaese").contains("--relaese"));
        assert!(wrong("python benches/peers/train.py letter --sees 1").contains("--sees"));
        assert!(wrong("cat benches/peers/trian.py").contains("trian"));
        assert!(wrong("make all").contains("make"));
        exists(Path::new("true"), &words("qat inspect a.piq").unwrap()).unwrap();
    }

    /// All but the options of `qat`, which the step asks the program for.
    #[test]
    fn programs_options_and_files_of_the_pages_exist() {
        let lines = lines().unwrap();
        assert!(lines.iter().any(|line| line.run));
        for line in lines {
            for words in line.words.split(|word| word == "&&") {
                exists(Path::new("true"), words)
                    .unwrap_or_else(|e| panic!("{}: {words:?}: {e:#}", line.page));
            }
        }
    }
}
