//! `qat train` interrupted in every way, and resumed.
#![cfg(all(feature = "tch", unix))]
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use common::{CSV, Fixture, failure, success};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A training of some seconds, with all that a state can hold.
fn long() -> String {
    CSV.replace(
        "epochs = 2\nbatch = 8",
        "epochs = 300\nbatch = 8\nema = 0.9\nvalidation = 0.1\nkeep = \"best\"",
    )
    .replace("out = 8,", "out = 64,")
    .replace("bits = 4\nepochs = 1", "bits = 4\nepochs = 300\nstep = { pi-adaptive = { group = 8 } }")
    .replace("bits = 8 }", "bits = 8, step = \"uniform\" }")
}

/// Files whose bytes must not depend on interruptions.
const RESULTS: [&str; 5] =
    ["config.toml", "fp32.safetensors", "checkpoint.safetensors", "model.piq", "ptq.piq"];

fn start(f: &Fixture, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_qat"))
        .args(arguments)
        .current_dir(f.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until a file is there, which takes a training seconds at most.
fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "no {}", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

fn train<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "long.toml", "--out", out, "--checkpoint-steps", "7"], more].concat()
}

/// metrics.jsonl without the times.
fn events(f: &Fixture, run: &str) -> Vec<serde_json::Value> {
    let text = String::from_utf8(f.read(&format!("{run}/metrics.jsonl"))).unwrap();
    let line = |l: &str| {
        let mut event: serde_json::Value = serde_json::from_str(l).unwrap();
        event.as_object_mut().unwrap().remove("seconds");
        event
    };
    text.lines().map(line).collect()
}

fn assert_same(f: &Fixture, a: &str, b: &str) {
    for name in RESULTS {
        assert!(
            f.read(&format!("{a}/{name}")) == f.read(&format!("{b}/{name}")),
            "{name} of {a} and {b} differ"
        );
    }
    assert_eq!(events(f, a), events(f, b));
    let names = |run: &str| {
        let mut names: Vec<_> =
            std::fs::read_dir(f.path(run)).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(a), names(b));
}

#[test]
fn ctrl_c_saves_says_how_to_go_on_and_changes_nothing_in_the_result() {
    let f = Fixture::new(CSV);
    f.write("long.toml", long());
    success(&f.qat(&train("whole", &[])));

    let child = start(&f, &train("run", &["--checkpoint-minutes", "900"]));
    wait_for(&f.path("run/metrics.jsonl"));
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.lines().last().unwrap().starts_with("qat: run: "), "{text}");
    assert!(text.contains("stopped on request") && text.contains("--resume"), "{text}");
    assert!(f.path("run/last.safetensors").exists() && !f.path("run/model.piq").exists());

    // Without naming the run description again; another one is refused.
    f.write("other.toml", long().replace("ema = 0.9", "ema = 0.8"));
    let text = failure(&f.qat(&["train", "other.toml", "--out", "run", "--resume"]), 4);
    assert!(text.contains("last.safetensors") && text.contains("another run description"), "{text}");
    success(&f.qat(&["train", "--out", "run", "--resume"]));
    assert_same(&f, "whole", "run");

    // Nothing is left to do, and nothing is done.
    let before = f.read("run/summary.json");
    let said = success(&f.qat(&["train", "--out", "run", "--resume"]));
    assert!(said.contains("complete already"), "{said}");
    assert_eq!(f.read("run/summary.json"), before);
    let text = failure(&f.qat(&["train", "other.toml", "--out", "run", "--resume"]), 2);
    assert!(text.contains("another run description"), "{text}");
}

#[test]
fn one_writer_at_a_time() {
    let f = Fixture::new(CSV);
    f.write("long.toml", long());
    let mut child = start(&f, &train("run", &[]));
    wait_for(&f.path("run/last.safetensors"));
    let text = failure(&f.qat(&train("run", &["--resume"])), 1);
    assert!(text.contains("qat: error: run: another process"), "{text}");
    child.kill().unwrap();
    child.wait().unwrap();
    // The lock ends with its holder, and what it was writing is tidied away.
    f.write("run/last.safetensors.1.tmp", "half");
    success(&f.qat(&train("run", &["--resume"])));
    assert!(!f.path("run/last.safetensors.1.tmp").exists());
}

/// The limit on the size of files stands in for a full disk: the operating system refuses the write in the middle.
#[test]
fn a_disk_that_is_full_leaves_the_last_checkpoint_intact() {
    let f = Fixture::new(CSV);
    f.write("long.toml", long());
    success(&f.qat(&train("whole", &[])));
    let mut child = start(&f, &train("run", &[]));
    wait_for(&f.path("run/last.safetensors"));
    child.kill().unwrap();
    child.wait().unwrap();
    let state = f.read("run/last.safetensors");

    // Half of the state fits. The signal that would come with the refusal is ignored, as on a disk there is none.
    let blocks = state.len() / 2 / 512;
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_qat")])
        .args(train("run", &["--resume"]))
        .current_dir(f.path(""))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("qat: error: run/") && last.contains("free some space"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(f.read("run/last.safetensors"), state);
    success(&f.qat(&train("run", &["--resume"])));
    assert_same(&f, "whole", "run");
}
