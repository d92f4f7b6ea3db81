//! Every public function, method and type of the libraries has an example, which runs as a test.
//!
//! The sources are read, not rustdoc's pages: its own lint overlooks what private modules re-export. `pub` means public here,
//! because the lint `unreachable_pub` refuses it elsewhere.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::cmd::root;

const LIBRARIES: [&str; 2] = ["qat-kernels/src", "qat-trainer/src"];
/// What a fence may say that begins an example; any other word makes it a text.
const RUST: [&str; 4] = ["rust", "no_run", "should_panic", "compile_fail"];

/// A public item.
#[derive(Debug, PartialEq)]
struct Item {
    line: usize,
    kind: &'static str,
    name: String,
    /// The type that it is a method of.
    of: Option<String>,
    example: bool,
}

/// Counts the items; fails if one has no example. That of a method serves its type, too.
pub(crate) fn check() -> Result<u64> {
    let (mut count, mut missing) = (0, Vec::new());
    for library in LIBRARIES {
        each_source(&root().join(library), &mut |path| {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let items = items(&text);
            count += items.len() as u64;
            let path = path.strip_prefix(root()).unwrap_or(path).display();
            let without = items.iter().filter(|item| !has_example(item, &items));
            missing
                .extend(without.map(|Item { line, kind, name, .. }| format!("{path}:{line}: {kind} {name}")));
            Ok(())
        })?;
    }
    if !missing.is_empty() {
        bail!("{} public items without an example:\n{}", missing.len(), missing.join("\n"));
    }
    Ok(count)
}

fn each_source(folder: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            each_source(&path, visit)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            visit(&path)?;
        }
    }
    Ok(())
}

fn has_example(item: &Item, items: &[Item]) -> bool {
    item.example
        || item.kind != "fn"
            && items.iter().any(|method| method.example && method.of.as_ref() == Some(&item.name))
}

/// The public items of a source, in rustfmt's layout.
fn items(text: &str) -> Vec<Item> {
    let (mut items, mut example, mut fenced, mut of) = (Vec::new(), false, false, None);
    let mut quoted = false;
    for (i, line) in text.lines().enumerate() {
        // Sources may lie in raw strings: those of generated modules.
        let ends = if quoted { Some(line) } else { line.split_once("r#\"").map(|(_, rest)| rest) };
        if let Some(ends) = ends.filter(|_| !line.trim_start().starts_with("//")) {
            quoted = !ends.contains("\"#");
            continue;
        }
        if line.starts_with("impl") {
            of = implemented(line);
        } else if line.starts_with('}') {
            of = None;
        }
        let line = line.trim();
        if let Some(doc) = line.strip_prefix("///") {
            if let Some(words) = doc.trim().strip_prefix("```") {
                fenced = !fenced;
                example |= fenced && words.split(',').all(|word| word.is_empty() || RUST.contains(&word));
            }
            continue;
        }
        if let Some((kind, name)) = line.strip_prefix("pub ").and_then(declared) {
            items.push(Item { line: i + 1, kind, name: name.to_owned(), of: of.clone(), example });
        }
        // Attributes stand between an item and its documentation, those of several lines in brackets of their own.
        if !(line.starts_with('#') || line.starts_with(')') || line.ends_with(',') || line.ends_with('"')) {
            example = false;
        }
    }
    items
}

/// What is declared, and its name. Constants, modules and aliases need no example.
fn declared(line: &str) -> Option<(&'static str, &str)> {
    let mut words =
        line.split(' ').filter(|word| !["const", "unsafe", "async", "extern", "\"C\""].contains(word));
    let kind = words.next()?;
    let kind = ["fn", "struct", "enum", "trait", "union"].into_iter().find(|known| *known == kind)?;
    let name = words.next()?;
    Some((kind, name.split(|c: char| !c.is_alphanumeric() && c != '_').next()?))
}

/// The type of an `impl` line that is no trait's.
fn implemented(line: &str) -> Option<String> {
    let mut depth = 0;
    let after = line.strip_prefix("impl")?.trim_start_matches(|c| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        depth > 0 || c == '>'
    });
    let after = after.trim();
    let name = after.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').next()?;
    (!after.contains(" for ")).then(|| name.rsplit(':').next().unwrap_or(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r##"
/// A pair.
#[derive(
    Clone,
    Debug
)]
pub struct Pair<T>(T, T);

impl<T: Into<f32>, const N: usize> Pair<T> {
    /// Doubles.
    ///
    /// ```
    /// assert_eq!(1 + 1, 2);
    /// ```
    #[must_use]
    pub const fn twice(self) -> Self {
        self
    }

    /// Text is no example.
    ///
    /// ```text
    /// 2 = 1 + 1
    /// ```
    pub fn half(self) {}
}

/// Alone.
pub trait Alone {}

pub(crate) struct Hidden;
pub const LEN: usize = 1;
const MODULE: &str = r#"
pub fn generated() {}
"#;
"##;

    #[test]
    fn an_example_is_a_block_of_rust_right_above() {
        let items = items(SOURCE);
        let told: Vec<_> =
            items.iter().map(|item| (item.kind, &*item.name, item.of.as_deref(), item.example)).collect();
        assert_eq!(
            told,
            [
                ("struct", "Pair", None, false),
                ("fn", "twice", Some("Pair"), true),
                ("fn", "half", Some("Pair"), false),
                ("trait", "Alone", None, false),
            ]
        );
        let found: Vec<bool> = items.iter().map(|item| has_example(item, &items)).collect();
        assert_eq!(found, [true, true, false, false]);
    }
}
