//! Data sets whose files hold a fuzzer's bytes.

use qat_trainer::data::{Dataset, Split};
use qat_trainer::spec::Run;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Where the files are put: a folder of this process's own, in memory if there is such a place.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let folder = parent.join(format!("qat-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("there is room for a folder");
    folder
});

/// Reads a data set, described by the keys of `[data]` but `split`, of these files; what comes of it is finite, complete,
/// and divided without loss.
pub fn check(keys: &str, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let path = FOLDER.join(name);
        let folder = path.parent().expect("a file is in a folder");
        fs::create_dir_all(folder).expect("there is room for a folder");
        fs::write(&path, bytes).expect("there is room for a file");
    }
    let text = format!(
        "[data]\n{keys}\nsplit = {{ share = 0.5 }}\n[model]\nlayers = [{{ op = \"linear\", out = 2 }}]\n"
    );
    let run = Run::parse(&text, &FOLDER.join("run.toml")).expect("the description is in order");
    let loaded = Dataset::load(&run.data);
    // Of another format, a file of this one must not be left.
    for (name, _) in files {
        fs::remove_file(FOLDER.join(name)).expect("the file is there");
    }
    match loaded {
        Ok(data) => {
            for split in [&data.train, &data.test] {
                whole(split, data.shape.len(), data.classes.len());
            }
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

fn whole(split: &Split, features: usize, classes: usize) {
    assert_eq!(split.features.len(), split.len() * features);
    assert!(split.features.iter().all(|x| x.is_finite()));
    assert!(split.labels.iter().all(|&label| (label as usize) < classes));
}
