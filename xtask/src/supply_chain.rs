//! What the dependency trees may hold: licences, sources and duplicate versions as `deny.toml` allows them, in every
//! workspace; and a stated reason for every direct dependency, in `docs/dependencies.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use spdx::{Expression, LicenseReq, ParseMode};

use crate::cmd::{cargo, output, root};

/// Folders with a lock file of their own.
pub(crate) const WORKSPACES: [&str; 4] = [".", "firmware", "firmware/peers", "fuzz"];

/// The parts of `deny.toml` that are looked at.
struct Policy {
    licenses: BTreeSet<String>,
    /// Crates that may be there twice.
    skip: BTreeSet<String>,
    /// Crates whose dependencies may be there in older versions as well.
    skip_tree: BTreeSet<String>,
}

/// A package of a dependency tree.
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// Empty for what is part of the repository.
    source: String,
    /// Identities of what it depends on.
    dependencies: Vec<String>,
    /// Names of its direct dependencies, but for those in the repository.
    direct: Vec<String>,
}

/// Checks every workspace; fails with all problems at once. Returns how many packages were looked at.
pub(crate) fn check() -> Result<usize> {
    let path = root().join("deny.toml");
    let policy = Policy::parse(&read(&path)?).with_context(|| path.display().to_string())?;
    let reasons = read(&root().join("docs/dependencies.md"))?;
    let (mut problems, mut needed, mut seen) = (Vec::new(), BTreeSet::new(), 0);
    for workspace in WORKSPACES {
        let packages = packages(workspace)?;
        seen += packages.len();
        let found = policy.problems(&packages, &mut needed).into_iter();
        problems.extend(found.map(|problem| format!("{workspace}: {problem}")));
        problems.extend(unexplained(&packages, &reasons).map(|name| {
            format!("{workspace}: `{name}` has no line in docs/dependencies.md that says what it is for")
        }));
    }
    let unneeded = policy.skip.difference(&needed);
    problems.extend(unneeded.map(|name| format!("deny.toml: `{name}` need not be skipped any more")));
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(seen)
}

impl Policy {
    fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse()?;
        let names = |section: &str, key: &str| -> Result<BTreeSet<String>> {
            let list = table.get(section).and_then(|s| s.get(key)).and_then(toml::Value::as_array);
            let name = |entry: &toml::Value| match (entry.as_str(), entry.get("crate"), entry.get("reason")) {
                (Some(name), _, _) => Ok(name.to_owned()),
                (None, Some(name), Some(_)) => Ok(name.as_str().unwrap_or_default().to_owned()),
                _ => bail!("{section}.{key}: an entry needs `crate` and `reason`"),
            };
            list.with_context(|| format!("no list {section}.{key}"))?.iter().map(name).collect()
        };
        Ok(Self {
            licenses: names("licenses", "allow")?,
            skip: names("bans", "skip")?,
            skip_tree: names("bans", "skip-tree")?,
        })
    }

    /// What is wrong with a tree; adds the entries of `skip` that it needs to `needed`.
    fn problems(&self, packages: &[Package], needed: &mut BTreeSet<String>) -> Vec<String> {
        let mut problems = Vec::new();
        for package in packages {
            let Package { name, version, license, source, .. } = package;
            if !source.is_empty()
                && !source.starts_with("registry+https://github.com/rust-lang/crates.io-index")
            {
                problems.push(format!("{name} {version} comes from {source}"));
            }
            match license.as_deref().map(|text| self.allows(text)) {
                Some(Ok(true)) => {}
                Some(Ok(false)) => problems.push(format!(
                    "{name} {version}: licence {} is not among those of deny.toml",
                    license.as_deref().unwrap_or_default()
                )),
                Some(Err(e)) => problems.push(format!("{name} {version}: {e:#}")),
                None => problems.push(format!("{name} {version} states no licence")),
            }
        }
        let old = self.below_skipped(packages);
        let mut versions: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
        packages.iter().for_each(|p| versions.entry(&p.name).or_default().push(p));
        for (name, several) in versions.iter().filter(|(_, several)| several.len() > 1) {
            let ours = several.iter().filter(|p| !old.contains(&*p.id)).count();
            if ours <= 1 {
                continue;
            }
            if self.skip.contains(*name) {
                needed.insert((*name).to_owned());
            } else {
                let list: Vec<&str> = several.iter().map(|p| &*p.version).collect();
                problems.push(format!("{name} is there in versions {}", list.join(" and ")));
            }
        }
        problems
    }

    fn allows(&self, license: &str) -> Result<bool> {
        let expression = Expression::parse_mode(license, ParseMode::LAX)
            .map_err(|e| anyhow::anyhow!("licence `{license}`: {e}"))?;
        Ok(expression.evaluate(|requirement: &LicenseReq| self.licenses.contains(&requirement.to_string())))
    }

    /// Identities of everything below the crates of `skip-tree`.
    fn below_skipped<'a>(&self, packages: &'a [Package]) -> BTreeSet<&'a str> {
        let by_id: BTreeMap<&str, &Package> = packages.iter().map(|p| (&*p.id, p)).collect();
        let mut open: Vec<&Package> = packages.iter().filter(|p| self.skip_tree.contains(&p.name)).collect();
        let mut below = BTreeSet::new();
        while let Some(package) = open.pop() {
            for id in &package.dependencies {
                if below.insert(&**id) {
                    open.extend(by_id.get(&**id));
                }
            }
        }
        below
    }
}

/// Direct dependencies of the repository's own packages without a row in the table of reasons.
fn unexplained<'a>(packages: &'a [Package], reasons: &'a str) -> impl Iterator<Item = &'a str> {
    let direct: BTreeSet<&str> =
        packages.iter().filter(|p| p.source.is_empty()).flat_map(|p| &p.direct).map(|d| &**d).collect();
    direct.into_iter().filter(|name| {
        let row = format!("| `{name}` |");
        !reasons.lines().any(|line| line.starts_with(&row))
    })
}

/// The packages of a workspace's lock file.
fn packages(workspace: &str) -> Result<Vec<Package>> {
    let mut command = cargo();
    command.current_dir(root().join(workspace)).args(["metadata", "--format-version", "1", "--locked"]);
    let metadata: Value = serde_json::from_str(&output(&mut command)?)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let nodes: BTreeMap<String, Vec<String>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| (text(&node["id"]), list(&node["dependencies"]).iter().map(text).collect()))
        .collect();
    let package = |p: &Value| Package {
        id: text(&p["id"]),
        name: text(&p["name"]),
        version: text(&p["version"]),
        license: p["license"].as_str().map(str::to_owned),
        source: text(&p["source"]),
        dependencies: nodes.get(&text(&p["id"])).cloned().unwrap_or_default(),
        // Those with a path are the repository's own.
        direct: list(&p["dependencies"])
            .iter()
            .filter(|d| d["path"].is_null())
            .map(|d| text(&d["name"]))
            .collect(),
    };
    Ok(list(&metadata["packages"]).iter().map(package).collect())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, license: Option<&str>, dependencies: &[&str]) -> Package {
        Package {
            id: format!("{name}@{version}"),
            name: name.into(),
            version: version.into(),
            license: license.map(str::to_owned),
            source: "registry+https://github.com/rust-lang/crates.io-index".into(),
            dependencies: dependencies.iter().map(|d| (*d).to_owned()).collect(),
            direct: Vec::new(),
        }
    }

    fn policy() -> Policy {
        let text = r#"
            licenses.allow = ["MIT", "Apache-2.0"]
            bans.skip = [{ crate = "syn", reason = "r" }]
            bans.skip-tree = [{ crate = "old", reason = "r" }]
        "#;
        Policy::parse(text).unwrap()
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        let mut git = package("d", "1", Some("MIT"), &[]);
        git.source = "git+https://example.org/d".into();
        let packages = [
            package("a", "1", Some("GPL-3.0-only"), &[]),
            package("b", "1", Some("MIT AND GPL-3.0-only"), &[]),
            package("c", "1", None, &[]),
            git,
            package("e", "1", Some("MIT/Apache-2.0"), &[]),
            package("f", "1", Some("GPL-3.0-only OR MIT"), &[]),
            package("g", "1", Some("MIT"), &[]),
            package("g", "2", Some("MIT"), &[]),
        ];
        let problems = policy().problems(&packages, &mut BTreeSet::new());
        let about: Vec<char> = problems.iter().filter_map(|p| p.chars().next()).collect();
        assert_eq!(about, ['a', 'b', 'c', 'd', 'g'], "{problems:?}");
    }

    #[test]
    fn duplicates_below_a_skipped_tree_count_as_its_own() {
        let packages = [
            package("old", "1", Some("MIT"), &["zip@1"]),
            package("zip", "1", Some("MIT"), &["sha@1"]),
            package("zip", "2", Some("MIT"), &["sha@2"]),
            package("sha", "1", Some("MIT"), &[]),
            package("sha", "2", Some("MIT"), &[]),
            package("syn", "1", Some("MIT"), &[]),
            package("syn", "2", Some("MIT"), &[]),
        ];
        let mut needed = BTreeSet::new();
        assert_eq!(policy().problems(&packages, &mut needed), Vec::<String>::new());
        assert_eq!(needed.into_iter().collect::<Vec<_>>(), ["syn"]);
    }

    #[test]
    fn an_exception_needs_a_reason() {
        let text = "licenses.allow = []\nbans.skip = [{ crate = \"syn\" }]\nbans.skip-tree = []";
        assert!(Policy::parse(text).is_err());
    }

    #[test]
    fn a_direct_dependency_needs_a_row() {
        let mut own = package("ours", "1", Some("MIT"), &[]);
        own.source = String::new();
        own.direct = vec!["libm".into(), "serde".into()];
        let found: Vec<&str> =
            unexplained(&[own], "| `libm` | numbers |\nserde is good\n").map(|_| "x").collect();
        assert_eq!(found.len(), 1);
    }
}
