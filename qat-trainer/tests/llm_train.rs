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

    let other = [&train[..], &["--resume", "--dtype", "bf16"]].concat();
    assert!(failure(&qat(dir.path(), &other), 4).contains("begun in f32, not in bf16"));

    let halves =
        answer(&qat(dir.path(), &["train", "sums.toml", "--out", "halves", "--dtype", "bf16", "--json"]));
    assert_eq!((halves["dtype"].as_str(), halves["device"].as_str()), (Some("bf16"), Some("cpu")));
    let off = (halves["held_out_loss"].as_f64().unwrap() - loss).abs();
    assert!(off > 0.0 && off < 0.05, "{off}");

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
    for (device, code, expected) in [("tpu", 2, "no device `tpu`"), ("cuda:99", 6, "no GPU for `cuda:99`: ")]
    {
        let e = failure(&qat(dir.path(), &["train", "sums.toml", "--out", "run", "--device", device]), code);
        assert!(e.contains(expected), "{e}\n{expected}");
        assert!(!dir.path().join("run").exists(), "{device}");
    }
    let diverges = qat(dir.path(), &["train", "sums.toml", "--out", "run", "--set", "train.lr=1e30"]);
    let text = String::from_utf8(diverges.stderr).unwrap();
    assert!(diverges.status.code() == Some(5) && text.contains("step 2: the loss is NaN; lower"), "{text}");
    assert!(!dir.path().join("run").exists());
    let e = failure(&qat(dir.path(), &["exact", "none", "--config", "sums.toml"]), 1);
    assert!(e.contains("none: cannot read"), "{e}");
}

#[test]
fn adapters_are_learned_on_the_codes_of_a_quantised_model_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    write("sums.toml", SUMS);
    success(&qat(dir.path(), &["train", "sums.toml", "--out", "run"]));
    write("text", &"1+2=3;4-3=1#".repeat(8));
    let quantize =
        ["quantize", "run/model", "--text", "text", "--window", "16", "--bits", "2", "--block", "16"];
    success(&qat(dir.path(), &[&quantize[..], &["--out", "ptq"]].concat()));

    let shape = SUMS.split("[model]").nth(1).unwrap().split("[train]").next().unwrap();
    let base = SUMS.replace(shape, "\nfrom = \"run/model\"\n").replace("steps = 4", "steps = 8\nlr = 1e-2");
    let quant = "[qat]\nbits = 2\nblock = 16\n";
    let packed = format!("{base}{quant}codes = \"ptq/codes.safetensors\"\n[lora]\nrank = 2\n");
    write("lora.toml", &packed);
    let summary = answer(&qat(dir.path(), &["train", "lora.toml", "--out", "lora", "--json"]));
    // D and U of rank 2 on four matrices of 16 by 16 and three between 16 and 32.
    assert_eq!(summary["parameters"].as_u64(), Some(2 * (4 * 32 + 3 * 48)));
    assert!((summary["bits_per_weight"].as_f64().unwrap() - (2.0 + 2.0 / 16.0 + 1.0)).abs() < 1e-9);
    // The codes stayed what they were, and the model beside the adapters is theirs.
    assert!(read("lora/model/codes.safetensors") == read("ptq/codes.safetensors"));
    assert!(read("lora/model/model.safetensors") == read("ptq/model.safetensors"));

    let merge = ["merge", "lora/model", "lora/adapter", "--out", "merged", "--json"];
    assert_eq!(answer(&qat(dir.path(), &merge))["rank"].as_u64(), Some(2));
    assert!(failure(&qat(dir.path(), &merge), 1).contains("nothing is overwritten"));
    let loss = |model: &str| {
        let still = base.replace("run/model", model).replace("steps = 8\nlr = 1e-2", "steps = 1\nlr = 1e-12");
        write("still.toml", &still);
        let run = ["train", "still.toml", "--out", "still", "--json"];
        answer(&qat(dir.path(), &run))["held_out_loss"].as_f64().unwrap()
    };
    let (learned, before) = (summary["held_out_loss"].as_f64().unwrap(), loss("ptq"));
    assert!((loss("merged") - learned).abs() < 1e-4 && learned < before - 0.01, "{learned} {before}");

    // Where quantisers learn, the model has all of it, and there is nothing to merge.
    for (mode, rest) in [("merged", "rank = 2\n"), ("scales", "")] {
        write("mode.toml", &format!("{base}{quant}[lora]\nmode = \"{mode}\"\n{rest}"));
        let summary = answer(&qat(dir.path(), &["train", "mode.toml", "--out", mode, "--json"]));
        let learned = summary["held_out_loss"].as_f64().unwrap();
        assert!((loss(&format!("{mode}/model")) - learned).abs() < 1e-6, "{mode}");
        assert!(dir.path().join(mode).join("model/codes.safetensors").exists());
        let adapter = format!("{mode}/adapter");
        let merge = qat(dir.path(), &["merge", "run/model", &adapter, "--out", "none"]);
        let e = String::from_utf8(merge.stderr).unwrap();
        assert!(!merge.status.success() && e.contains("learned with the quantisers"), "{e}");
        assert!(!dir.path().join("none").exists());
    }

    for (from, to, wants) in [
        ("rank = 2", "rank = 17", &["lora.toml", "q_proj", "choose a smaller rank"][..]),
        ("bits = 2", "bits = 3", &["ptq/codes.safetensors", "codes of 2 bits in blocks of 16"]),
        ("block = 16", "block = 32", &["codes of 2 bits in blocks of 16"]),
        ("rank = 2", "rnk = 2", &["lora.toml", "unknown field `rnk`"]),
    ] {
        write("lora.toml", &packed.replacen(from, to, 1));
        let e = failure(&qat(dir.path(), &["train", "lora.toml", "--out", "bad"]), 2);
        assert!(wants.iter().all(|want| e.contains(want)), "{to}: {e}");
        assert!(!dir.path().join("bad").exists());
    }
}
