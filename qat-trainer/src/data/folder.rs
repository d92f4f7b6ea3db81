//! Files in folders, one folder for each class.

use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// Most files of a data set: more is a folder that was not meant.
const MAX_FILES: usize = 1 << 22;

/// A file with its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labelled {
    pub(super) path: PathBuf,
    /// The name of its folder.
    pub(super) class: String,
    /// The text before the separator in its name, where groups are asked for.
    pub(super) group: Option<String>,
}

/// The files with one of these endings in the folders of `root`, by folder and name. Hidden ones, and what lies beside
/// the folders, are left out.
pub(super) fn files(root: &Path, endings: &[&str], separator: Option<&str>) -> Result<Vec<Labelled>> {
    let mut found = Vec::new();
    for folder in entries(root)? {
        if !folder.is_dir() {
            continue;
        }
        let class = text(&folder)?;
        for path in entries(&folder)? {
            let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
            if !ending.is_some_and(|ending| endings.contains(&ending.as_str())) || path.is_dir() {
                continue;
            }
            let name = text(&path)?;
            let group = separator.map(|s| name.split(s).next().unwrap_or_default().to_owned());
            found.push(Labelled { path, class: class.clone(), group });
            if found.len() > MAX_FILES {
                return Err(bad(root, format!("there are more than {MAX_FILES} files"))
                    .remedy("name the folder that holds a folder for each class"));
            }
        }
    }
    if found.is_empty() {
        return Err(bad(root, format!("there is no {} file in a folder of it", endings.join(" or ")))
            .remedy("name the folder that holds a folder for each class"));
    }
    Ok(found)
}

fn text(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str()).map(String::from);
    name.ok_or_else(|| bad(path, "this name is not UTF-8".into()).remedy("rename it"))
}

/// What a folder holds, in the order of the names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::Io, format!("cannot read this folder: {e}"))
            .file(folder)
            .remedy("check `[data]` of the run description; paths start at its folder")
    };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    let hidden =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    paths.retain(|path| !hidden(path));
    paths.sort();
    Ok(paths)
}

fn bad(path: &Path, problem: String) -> Error {
    Error::new(ErrorKind::Data, problem).file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_come_in_order_with_class_and_group() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b/2_x.PNG", "b/1_y.jpg", "a/10_z.png", "a/notes.txt", ".cache/0_q.png", "beside.png"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = files(dir.path(), &["png", "jpg"], Some("_")).unwrap();
        let shown: Vec<_> = found.iter().map(|f| (f.class.as_str(), f.group.as_deref().unwrap())).collect();
        assert_eq!(shown, [("a", "10"), ("b", "1"), ("b", "2")]);
        let e = files(dir.path(), &["wav"], None).unwrap_err().to_string();
        assert!(e.contains("no wav file") && e.contains("a folder for each class"), "{e}");
        assert_eq!(files(&dir.path().join("none"), &["wav"], None).unwrap_err().kind(), ErrorKind::Io);
    }
}
