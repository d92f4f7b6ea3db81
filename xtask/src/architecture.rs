//! `docs/architecture.md` against the sources: crates, modules and the rooms with `unsafe` are what it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::cmd::root;

const PAGE: &str = "docs/architecture.md";
/// Workspaces, and the members of the main one, by the folders that the page names.
const CRATES: [(&str, &str); 6] = [
    ("qat-kernels", "qat-kernels"),
    ("qat-trainer", "qat-trainer"),
    ("benches", "qat-benches"),
    ("xtask", "xtask"),
    ("firmware", ""),
    ("fuzz", ""),
];

type Edges = BTreeSet<(String, String)>;

fn page() -> String {
    fs::read_to_string(root().join(PAGE)).unwrap()
}

/// What stands between two markers of the page.
fn part(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!("<!-- {name}:begin -->")).unwrap();
    rest.split_once(&format!("<!-- {name}:end -->")).unwrap().0.to_owned()
}

fn drawn(part: &str) -> Edges {
    let arrows = part.lines().filter_map(|line| line.split_once("-->"));
    arrows.map(|(from, to)| (from.trim().to_owned(), to.trim().to_owned())).collect()
}

/// The first two cells of every row of a table, its head left out.
fn rows(part: &str) -> Vec<[String; 2]> {
    let lines = part.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |line: &str| {
        let mut cells = line.split('|').skip(1).map(|cell| cell.trim().to_owned());
        [cells.next().unwrap(), cells.next().unwrap()]
    };
    lines.map(cells).collect()
}

/// All files below a folder that end so; what was built is left out.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match path.is_dir() {
            true if name == "target" || name.starts_with('.') => {}
            true => found.extend(files(&path, ending)),
            false if name.ends_with(ending) => found.push(path),
            false => {}
        }
    }
    found
}

/// The code of a file: no comments, and nothing from its tests on, which stand at its foot.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("\nmod tests {").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn crates_depend_on_what_is_drawn() {
    let mut found = Edges::new();
    for (folder, _) in CRATES {
        let manifests = files(&root().join(folder), "Cargo.toml");
        // Python's bridge and the emulator's plugin are crates of their own.
        let own =
            |path: &PathBuf| !["ffi", "insn-plugin"].iter().any(|name| path.iter().any(|part| part == *name));
        for manifest in manifests.into_iter().filter(own) {
            let table = toml::Value::Table(fs::read_to_string(manifest).unwrap().parse().unwrap());
            let of_targets =
                table.get("target").and_then(|t| t.as_table()).into_iter().flat_map(|t| t.values());
            let tables = of_targets.chain([&table]).filter_map(|t| t.get("dependencies"));
            for name in tables.filter_map(toml::Value::as_table).flat_map(toml::Table::keys) {
                if let Some((to, _)) = CRATES.iter().find(|(_, package)| package == name) {
                    found.insert((folder.to_owned(), (*to).to_owned()));
                }
            }
        }
    }
    assert_eq!(drawn(&part(&page(), "crates")), found);
}

#[test]
fn modules_of_the_kernels_use_what_is_drawn() {
    let page = page();
    let mut group_of = BTreeMap::new();
    for [group, modules] in rows(&part(&page, "groups")) {
        for module in modules.split('`').skip(1).step_by(2) {
            assert_eq!(group_of.insert(module.to_owned(), group.clone()), None, "{module} is in two groups");
        }
    }
    let source = root().join("qat-kernels/src");
    let contents = code(&source.join("lib.rs"));
    let modules = contents.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let modules: BTreeSet<&str> = modules.collect();
    assert_eq!(modules, group_of.keys().map(String::as_str).collect());
    let mut found = Edges::new();
    for module in modules {
        let single = source.join(format!("{module}.rs"));
        let folder = source.join(module);
        let folder = if folder.is_dir() { files(&folder, ".rs") } else { Vec::new() };
        // A file of tests says so at its top.
        let of_tests = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap();
            path.ends_with("tests.rs") || path.ends_with("equality.rs") || text.contains("#![cfg(test)]")
        };
        for path in folder.into_iter().chain(single.exists().then_some(single)).filter(|path| !of_tests(path))
        {
            for used in uses(&code(&path)) {
                // Names that the crate re-exports are those of its errors and grids.
                if let Some(to) = group_of.get(&used).filter(|to| **to != group_of[module]) {
                    found.insert((group_of[module].clone(), to.clone()));
                }
            }
        }
    }
    assert_eq!(drawn(&part(&page, "modules")), found);
}

/// The first names of all paths that start at the crate.
fn uses(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for rest in code.split("crate::").skip(1) {
        // A group of paths: the names at its first level.
        let (mut depth, mut name) = (0, String::new());
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                c if c.is_alphanumeric() || c == '_' => {
                    name.push(c);
                    continue;
                }
                _ => {}
            }
            if !name.is_empty() {
                names.push(std::mem::take(&mut name));
            }
            if depth == 0 {
                break;
            }
        }
        names.extend((!name.is_empty()).then_some(name));
    }
    names
}

#[test]
fn rooms_with_unsafe_are_those_of_the_page() {
    let listed = rows(&part(&page(), "unsafe"));
    let listed: BTreeSet<String> =
        listed.iter().map(|[folder, _]| folder.trim_matches('`').to_owned()).collect();
    let mut found = BTreeSet::new();
    for path in files(root(), ".rs") {
        let code = code(&path);
        if !["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|word| code.contains(word)) {
            continue;
        }
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        match listed.iter().find(|folder| name.starts_with(&format!("{folder}/"))) {
            Some(folder) => drop(found.insert(folder.clone())),
            // Text about the word, such as that in quotation marks above.
            None if name == "xtask/src/architecture.rs" => {}
            None => panic!("{name} has unsafe code, and {PAGE} does not list its folder"),
        }
    }
    assert_eq!(found, listed, "a listed room has none");
}

#[test]
fn paths_are_taken_apart() {
    assert_eq!(
        uses("use crate::grid::Levels; crate::{error::Result, pack};"),
        ["grid", "error", "Result", "pack"]
    );
    assert_eq!(uses("crate::fixed"), ["fixed"]);
}
