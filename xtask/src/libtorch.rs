//! libtorch 2.11.0: the user's own if `LIBTORCH` is set, else the few files of it that a CPU program needs, out of the
//! wheels on PyPI (544 MB to download, 499 MB kept). The wheels are pinned by version and SHA-256.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cmd::{root, run};
use crate::tools::{Tool, ensure as ensure_tools};

/// What tch 0.24.0 was generated for.
const VERSION: [u32; 3] = [2, 11, 0];

/// A wheel: requirement, SHA-256, file name.
struct Wheel {
    requirement: &'static str,
    sha256: &'static str,
    file: &'static str,
}

const WHEELS: [Wheel; 3] = [
    Wheel {
        requirement: "torch==2.11.0",
        sha256: "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
        file: "torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    },
    Wheel {
        requirement: "nvidia-cuda-runtime==13.0.96",
        sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    },
    Wheel {
        requirement: "nvidia-cuda-cupti==13.0.85",
        sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
    },
];

/// The libraries that are kept, besides torch's headers. libtorch_cpu.so of this build needs libcudart and
/// libcupti to load, even where there is no GPU.
const LIBRARIES: [&str; 6] = [
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libtorch.so",
    "torch/lib/libc10.so",
    "torch/lib/libgomp.so.1",
    "nvidia/cu13/lib/libcudart.so.13",
    "nvidia/cu13/lib/libcupti.so.13",
];

/// Unpacks from the wheels in folder 1 into folder 2: the named files and torch's headers.
const UNPACK: &str = r"
import pathlib, sys, zipfile
source, target, *keep = sys.argv[1:]
for wheel in pathlib.Path(source).glob('*.whl'):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name in keep or name.startswith('torch/include/'):
                archive.extract(name, target)
";

/// Makes sure there is a libtorch and returns its folder; fetches it if need be.
pub(crate) fn ensure(yes: bool) -> Result<PathBuf> {
    let folder = root().join(".libtorch");
    let default = folder.join("torch");
    // Cargo sets the variable too, from `.cargo/config.toml`; only another value is the user's.
    if let Some(own) = std::env::var_os("LIBTORCH").map(PathBuf::from).filter(|own| *own != default) {
        check(&own).with_context(|| format!("LIBTORCH={}", own.display()))?;
        return Ok(own);
    }
    remove_leftovers(root());
    if complete(&folder) {
        return Ok(default);
    }
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        bail!("libtorch can be fetched for x86_64 Linux only; set LIBTORCH to a libtorch 2.11.0 of your own");
    }
    ensure_tools(&[Tool::Pip], yes)?;
    // A name of our own until all is there: an interrupted run leaves nothing that looks finished.
    let temporary = root().join(format!("{TEMPORARY}{}", std::process::id()));
    let fetched = fetch(&temporary).and_then(|unpacked| {
        if !complete(&unpacked) {
            bail!("the wheels lack some of {LIBRARIES:?}");
        }
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::rename(&unpacked, &folder).context("moving libtorch to its place")
    });
    let removed = fs::remove_dir_all(&temporary);
    fetched?;
    removed.with_context(|| temporary.display().to_string())?;
    Ok(default)
}

const TEMPORARY: &str = ".libtorch.tmp-";

/// Removes the temporary folders of runs that were killed.
fn remove_leftovers(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.strip_prefix(TEMPORARY)) else { continue };
        if !Path::new("/proc").join(process).exists() && fs::remove_dir_all(entry.path()).is_ok() {
            println!("removed the leftovers of an interrupted download: {}", entry.path().display());
        }
    }
}

fn complete(folder: &Path) -> bool {
    LIBRARIES.iter().all(|file| folder.join(file).is_file()) && check(&folder.join("torch")).is_ok()
}

/// Checks that `torch` is a libtorch of the right version.
fn check(torch: &Path) -> Result<()> {
    let header = torch.join("include/torch/headeronly/version.h");
    let text = fs::read_to_string(&header).with_context(|| format!("no libtorch: {}", header.display()))?;
    let found = ["MAJOR", "MINOR", "PATCH"].map(|part| {
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("#define TORCH_VERSION_{part} ")));
        line.and_then(|number| number.trim().parse().ok())
    });
    if found != VERSION.map(Some) {
        bail!("libtorch {} is needed, found {found:?}", VERSION.map(|n: u32| n.to_string()).join("."));
    }
    Ok(())
}

/// Downloads and unpacks below `temporary`; returns the folder with the result.
fn fetch(temporary: &Path) -> Result<PathBuf> {
    let wheels = temporary.join("wheels");
    fs::create_dir_all(&wheels).with_context(|| wheels.display().to_string())?;
    let requirements = temporary.join("requirements.txt");
    let lines = WHEELS.map(|w| format!("{} --hash=sha256:{}\n", w.requirement, w.sha256));
    fs::write(&requirements, lines.concat())?;
    println!("fetching libtorch {} (544 MB, once)", VERSION.map(|n| n.to_string()).join("."));
    // The wheels hold C++ libraries: which Python they were built for does not matter, as long as it is always the same.
    let downloaded = run(Command::new("python3")
        .args(["-m", "pip", "--disable-pip-version-check", "download", "--no-cache-dir", "--no-deps"])
        .args(["--only-binary=:all:", "--implementation", "cp", "--python-version", "311"])
        .args(["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_25_x86_64"])
        .args(["--platform", "manylinux2014_x86_64", "--require-hashes", "-r"])
        .args([&requirements, Path::new("-d"), &wheels]));
    downloaded.with_context(|| {
        let files = WHEELS.map(|w| format!("\n    {}  (sha256 {})", w.file, w.sha256)).concat();
        format!(
            "could not download libtorch. Wanted from PyPI:{files}\nWithout a network, put these files into a folder \
             and repeat with PIP_NO_INDEX=1 PIP_FIND_LINKS=<folder>, or set LIBTORCH to a libtorch 2.11.0 of your own"
        )
    })?;
    let unpacked = temporary.join("unpacked");
    run(Command::new("python3").args(["-c", UNPACK]).args([&wheels, &unpacked]).args(LIBRARIES))
        .context("unpacking the wheels")?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_version_passes() {
        let dir = tempfile::tempdir().unwrap();
        let header = dir.path().join("include/torch/headeronly/version.h");
        fs::create_dir_all(header.parent().unwrap()).unwrap();
        assert!(check(dir.path()).unwrap_err().to_string().contains("version.h"));
        let write = |patch: u32| {
            let parts = [("MAJOR", 2), ("MINOR", 11), ("PATCH", patch)];
            fs::write(&header, parts.map(|(p, n)| format!("#define TORCH_VERSION_{p} {n}\n")).concat())
                .unwrap();
        };
        write(0);
        check(dir.path()).unwrap();
        write(1);
        assert!(check(dir.path()).unwrap_err().to_string().contains("2.11.0"));
    }

    #[test]
    fn leftovers_of_dead_processes_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let [dead, alive, other] = [
            format!("{TEMPORARY}999999999"),
            format!("{TEMPORARY}{}", std::process::id()),
            ".libtorch".into(),
        ]
        .map(|name| dir.path().join(name));
        for folder in [&dead, &alive, &other] {
            fs::create_dir(folder).unwrap();
        }
        remove_leftovers(dir.path());
        assert!(!dead.exists() && alive.exists() && other.exists());
    }
}
