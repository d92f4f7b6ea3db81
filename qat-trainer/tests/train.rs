//! `qat train`, through the real binary.
#![cfg(feature = "tch")]
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use common::{CSV, Fixture, IDX, json, success};
use serde_json::Value;

#[test]
fn a_run_folder_is_complete_and_agrees_with_itself() {
    let adaptive =
        CSV.replace("bits = 4 }", "bits = 4, step = { pi-adaptive = { group = 8 } }, act_bits = 6 }");
    for config in [CSV, IDX, &adaptive] {
        let f = Fixture::new(config);
        let summary = json(&success(&f.qat(&[
            "train",
            "run.toml",
            "--out",
            "new/run",
            "--json",
            "--seed",
            "5",
            "--tensorboard",
            "curves",
        ])));
        assert_eq!(summary, json(&String::from_utf8(f.read("new/run/summary.json")).unwrap()));
        assert_eq!(summary["seed"], 5);
        let curves = f.files().into_iter().filter(|p| p.starts_with(f.path("curves")));
        assert!(curves.into_iter().any(|p| std::fs::metadata(p).unwrap().len() > 500));
        for (file, key) in [("model.piq", "int_accuracy"), ("ptq.piq", "ptq_accuracy")] {
            let path = format!("new/run/{file}");
            success(&f.qat(&["verify", &path]));
            let eval = json(&success(&f.qat(&["eval", &path, "--config", "new/run/config.toml", "--json"])));
            assert_eq!(eval["accuracy"], summary[key]);
        }
        assert_eq!(summary["file_bytes"], f.read("new/run/model.piq").len());
        for key in ["fp32_accuracy", "qat_float_accuracy"] {
            assert!((0.0..=1.0).contains(&summary[key].as_f64().unwrap()), "{summary}");
        }
        let metrics = String::from_utf8(f.read("new/run/metrics.jsonl")).unwrap();
        let events: Vec<Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(events.iter().filter(|e| e["event"] == "epoch-done").count(), 3);
        assert!(events.iter().all(|e| e["seconds"].is_number()));
        // Exporting again, without the data, gives the same bytes.
        std::fs::rename(f.path("run.toml"), f.path("elsewhere.toml")).unwrap();
        success(&f.qat(&["export", "new/run", "--out", "again.piq"]));
        assert_eq!(f.read("again.piq"), f.read("new/run/model.piq"));
    }
}

#[test]
fn a_budget_of_bytes_is_kept_by_the_model() {
    let f = Fixture::new(CSV);
    let train = ["train", "run.toml", "--out", "new", "--json"];
    let bytes =
        |more: &[&str]| json(&success(&f.qat(&[&train, more].concat())))["file_bytes"].as_u64().unwrap();
    let (small, large) = (
        bytes(&["--set", "model.layers.linear0.bits=2", "--set", "model.layers.linear1.bits=2"]),
        bytes(&[]),
    );
    assert!(small < large);
    let budget = (small + large) / 2;
    let text = budget.to_string();
    let chosen = bytes(&["--max-bytes", &text]);
    assert!(chosen <= budget && chosen > small - 16, "{chosen} of {budget}");
    // The copy says what was chosen, and stands for itself.
    let copy = String::from_utf8(f.read("new/config.toml")).unwrap();
    assert!(copy.contains("bits = ") && !copy.contains("max_bytes"), "{copy}");
    let model = f.read("new/model.piq");
    success(&f.qat(&["export", "new", "--out", "again.piq"]));
    assert_eq!(f.read("again.piq"), model);
    let resume = [&train[..], &["--resume", "--max-bytes", &text]].concat();
    assert_eq!(json(&success(&f.qat(&resume)))["file_bytes"], chosen);
    let output = f.qat(&[&train[..], &["--max-bytes", "100"]].concat());
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.lines().last().unwrap().contains("`max_bytes` of [qat]"), "{text}");
}

#[test]
fn what_fails_leaves_no_folder() {
    let f = Fixture::new(CSV);
    let config = CSV.replace("out = 3", "out = 4");
    f.write("wide.toml", config);
    f.write("hot.toml", CSV.replace("batch = 8", "batch = 8\nlr = 1e30"));
    f.write("bad.toml", CSV.replace("train.csv", "missing.csv"));
    let before = f.files();
    for (config, code) in [("wide.toml", 2), ("hot.toml", 5), ("bad.toml", 1)] {
        let output = f.qat(&["train", config, "--out", "new"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{config}: {error}");
        assert!(error.lines().last().unwrap().starts_with("qat: error: "), "{error}");
        assert!(!f.path("new").exists() && !error.contains("panicked"), "{error}");
        assert_eq!(f.files(), before);
    }
}
