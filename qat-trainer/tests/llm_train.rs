//! `qat llm train` through the real binary, on decoders that learn in a moment.
#![cfg(feature = "tch")]
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use common::{failure, success};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const SUMS: &str = r#"
[data]
format = "arithmetic"
problems = 64
held_out = 4
operations = 1
window = 24

[model]
layers = 1
hidden = 16
heads = 2
mlp = 32
context = 32

[train]
steps = 4
batch = 4
"#;

fn qat(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qat"));
    command.current_dir(dir).env("OMP_NUM_THREADS", "1").arg("llm").args(arguments).output().unwrap()
}

fn answer(output: &Output) -> Value {
    serde_json::from_str(&success(output)).unwrap()
}

#[test]
fn a_model_is_trained_from_nothing_and_from_a_folder_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("sums.toml", SUMS);
    let train = ["train", "sums.toml", "--out", "run", "--json"];
    let summary = answer(&qat(dir.path(), &train));
    assert_eq!((summary["steps"].as_u64(), summary["problems"].as_u64()), (Some(4), Some(4)));
    let loss = summary["held_out_loss"].as_f64().unwrap();
    assert!((0.5..4.0).contains(&loss), "{loss}");
    let kept = fs::read_to_string(dir.path().join("run/metrics.jsonl")).unwrap();
    assert_eq!(kept.lines().count(), 1 + 4 + 1);

    // Complete: nothing is done, and another run description is refused.
    assert_eq!(answer(&qat(dir.path(), &[&train[..], &["--resume"]].concat())), summary);
    let other = [&train[..], &["--resume", "--set", "train.lr=0.5"]].concat();
    assert!(failure(&qat(dir.path(), &other), 2).contains("another run description"));

    let solved =
        answer(&qat(dir.path(), &["exact", "run/model", "--config", "sums.toml", "--bits", "2", "--json"]));
    assert_eq!(
        (solved["problems"].as_u64(), solved["quantisation"]["weights"].as_u64()),
        (Some(4), Some(16 * 160))
    );

    // The model goes on with text of its own characters.
    write("text", &"1+2=3;4-3=1#".repeat(8));
    write("bad", "what?");
    let text = "[data]\nformat = \"text\"\ntrain = [\"text\"]\nheld_out = [\"text\"]\nwindow = 16\n\
        [model]\nfrom = \"run/model\"\n[train]\nsteps = 20\nbatch = 2\nlr = 1e-2\n";
    write("text.toml", text);
    let more = answer(&qat(dir.path(), &["train", "text.toml", "--out", "more", "--json"]));
    assert!(more["held_out_loss"].as_f64().unwrap() < loss && more["problems"].as_u64() == Some(0));
    let eval = qat(dir.path(), &["eval", "more/model", "--text", "text", "--window", "16", "--json"]);
    assert!(answer(&eval)["loss"].as_f64().unwrap() < loss);
}

#[test]
fn mistakes_are_one_line_with_a_code_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("sums.toml", SUMS);
    write("bad.jsonl", "{\"question\": 1}\n");
    for (settings, code, expected) in [
        (&["train.steps=0"][..], 2, "--set train.steps=0"),
        (&["train.batch=99"], 3, "64 examples do not fill a batch of 99"),
        (&["data.window=50"], 2, "context of 32"),
        (&["model={ from = \"none\" }"], 1, "none: cannot read this file"),
        (
            &["data={ format = \"jsonl\", train = [\"bad.jsonl\"] }"],
            3,
            "bad.jsonl: line 1: this is no example",
        ),
        (&["data={ format = \"text\", train = [\"gone\"] }"], 1, "gone: cannot read this file"),
    ] {
        let mut arguments = vec!["train", "sums.toml", "--out", "run"];
        settings.iter().for_each(|s| arguments.extend(["--set", s]));
        let e = failure(&qat(dir.path(), &arguments), code);
        assert!(e.contains(expected), "{e}\n{expected}");
        assert!(!dir.path().join("run").exists(), "{settings:?}");
    }
    let diverges = qat(dir.path(), &["train", "sums.toml", "--out", "run", "--set", "train.lr=1e30"]);
    let text = String::from_utf8(diverges.stderr).unwrap();
    assert!(diverges.status.code() == Some(5) && text.contains("step 2: the loss is NaN; lower"), "{text}");
    assert!(!dir.path().join("run").exists());
    let e = failure(&qat(dir.path(), &["exact", "none", "--config", "sums.toml"]), 1);
    assert!(e.contains("none: cannot read"), "{e}");
}
