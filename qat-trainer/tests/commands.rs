//! What the commands do when all is well, through the real binary: they are the same with libtorch, which only takes longer
//! to start than most of them to end.
#![cfg(not(feature = "tch"))]
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use common::{CSV, Fixture, IDX, failure, json, success};
use qat_kernels::artifact::Target;
use qat_kernels::calibration::CalibrationArtifact;
use qat_kernels::infer::Model;

#[test]
fn export_inspect_verify_eval() {
    for config in [CSV, IDX] {
        let f = Fixture::new(config);
        let said = success(&f.qat(&["export", "run"]));
        let bytes = f.read("run/model.piq");
        assert_eq!(said.trim_end(), format!("run/model.piq: {} bytes", bytes.len()));
        let model = Model::parse(&bytes).unwrap();
        assert_eq!(model.known_answers().count(), 2);

        let report = json(&success(&f.qat(&["inspect", "run/model.piq", "--json"])));
        assert_eq!(report["name"], "tiny");
        assert_eq!(report["file_bytes"], bytes.len());
        assert_eq!(report["arena_bytes"], model.arena_len());
        assert_eq!(report["macs"], model.macs());
        assert_eq!(report["labels"].as_array().unwrap().len(), 3);
        assert_eq!(report["samples"], 20);
        assert_eq!(report["created"], 0);
        let table = success(&f.qat(&["inspect", "run/model.piq"]));
        assert!(
            table.contains("tiny (3 classes)") && table.contains(&format!("{} MACs", model.macs())),
            "{table}"
        );

        let verdict = json(&success(&f.qat(&["verify", "run/model.piq", "--json"])));
        assert_eq!(verdict["ok"], true);
        let text = success(&f.qat(&["verify", "run/model.piq"]));
        assert_eq!(text.lines().filter(|l| l.starts_with("ok ")).count(), 6, "{text}");

        // The run folder's own copy of the run description finds the data as well.
        let dump = ["--json", "--dump-samples", "s.bin", "--dump-logits", "l.bin"];
        let answer =
            success(&f.qat(&[&["eval", "run/model.piq", "--config", "run/config.toml"], &dump[..]].concat()));
        let answer = json(&answer);
        assert_eq!(answer["examples"], 21);
        let sum: u64 = answer["confusion"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap())
            .map(|n| n.as_u64().unwrap())
            .sum();
        assert_eq!(sum, 21);
        let share = answer["correct"].as_f64().unwrap() / 21.0;
        assert_eq!(answer["accuracy"].as_f64().unwrap(), share);
        let text = success(&f.qat(&["eval", "run/model.piq", "--config", "run.toml"]));
        assert!(text.starts_with(&format!("accuracy {:.2} % ", 100.0 * share)), "{text}");

        // The dumped samples, run by the engine, give the dumped logits.
        let (samples, logits) = (f.read("s.bin"), f.read("l.bin"));
        assert_eq!(samples[..4], *b"QSMP");
        let number = |i: usize| u32::from_le_bytes(samples[4 * i..][..4].try_into().unwrap()) as usize;
        assert_eq!([number(1), number(2), number(3)], [1, 21, model.input_len()]);
        let (mut out, mut arena) = (vec![0; model.output_len()], vec![0; model.arena_len()]);
        let inputs = samples[16..].chunks_exact(model.input_len());
        assert_eq!(inputs.len(), 21);
        for (x, want) in inputs.zip(logits.chunks_exact(model.output_len())) {
            let x: Vec<i8> = x.iter().map(|b| b.cast_signed()).collect();
            model.run(&x, &mut out, &mut arena).unwrap();
            assert_eq!(out, want.iter().map(|b| b.cast_signed()).collect::<Vec<_>>());
        }
    }
}

/// A file for any core family computes the same, and firmware gets what it needs to hold it.
#[test]
fn files_for_cores_and_modules_for_firmware() {
    let f = Fixture::new(IDX);
    let run = |file: &[u8]| {
        let model = Model::parse(file).unwrap();
        let input: Vec<i8> = (0..model.input_len()).map(|i| (i * 29 % 256) as u8 as i8).collect();
        let (mut output, mut arena) = (vec![0; model.output_len()], vec![0; model.arena_len()]);
        model.run(&input, &mut output, &mut arena).unwrap();
        output
    };
    success(&f.qat(&["export", "run"]));
    let portable = f.read("run/model.piq");
    for target in Target::ALL {
        success(&f.qat(&["export", "run", "--target", target.name(), "--out", "core.piq"]));
        let file = f.read("core.piq");
        assert_eq!(run(&file), run(&portable), "{target}");
        // Families without an order of their own for these layers get the portable one.
        assert!(file == portable || target != Target::Portable, "{target}");
        assert!(file != portable || target != Target::CortexM4, "{target}");
    }
    assert_eq!(f.qat(&["export", "run", "--target", "z80"]).status.code(), Some(2));

    let said = success(&f.qat(&["export", "run", "--rust", "firmware/model"]));
    assert!(said.starts_with("firmware/model: mod.rs and model.piq"), "{said}");
    assert_eq!(f.read("firmware/model/model.piq"), portable);
    let source = String::from_utf8(f.read("firmware/model/mod.rs")).unwrap();
    let model = Model::parse(&portable).unwrap();
    for line in [
        format!("pub const INPUT_LEN: usize = {};", model.input_len()),
        format!("pub const ARENA_LEN: usize = {};", model.arena_len()),
        "pub const LABELS: [&str; 3] = [\"0\", \"1\", \"2\"];".to_owned(),
    ] {
        assert!(source.contains(&line), "{line} in {source}");
    }
}

#[test]
fn exports_are_reproducible() {
    let f = Fixture::new(CSV);
    let export = |out: &str, more: &[&str], environment: &[(&str, &str)]| {
        success(&f.qat_with(&[&["export", "run", "--out", out], more].concat(), environment));
        f.read(out)
    };
    let first = export("a.piq", &[], &[]);
    assert_eq!(export("b.piq", &[], &[]), first);
    let dated = export("c.piq", &["--timestamp", "1700000000"], &[]);
    assert_eq!(export("d.piq", &[], &[("SOURCE_DATE_EPOCH", "1700000000")]), dated);
    assert_ne!(dated, first);
    assert_eq!(Model::parse(&dated).unwrap().metadata().unwrap().created, 1_700_000_000);
    assert_eq!(export("e.piq", &["--ptq"], &[]), export("f.piq", &["--ptq"], &[]));
    // The fixture's quantisers come from the same search.
    let ptq = f.read("e.piq");
    let (ptq, qat) = (Model::parse(&ptq).unwrap(), Model::parse(&first).unwrap());
    assert_eq!(ptq.operators().collect::<Vec<_>>(), qat.operators().collect::<Vec<_>>());
    assert_eq!(ptq.metadata().unwrap().method, "ptq, calibrated ranges, mse");
}

#[test]
fn signed_files_are_told_from_others() {
    let f = Fixture::new(CSV);
    success(&f.qat(&["keygen", "--out", "ours.pem"]));
    success(&f.qat(&["keygen", "--out", "theirs.pem"]));
    success(&f.qat(&["export", "run"]));
    let verify = |key: &str| f.qat(&["verify", "run/model.piq", "--key", key]);
    assert!(failure(&verify("ours.pub.pem"), 4).contains("the file is not signed"));
    let answer = json(&success(&f.qat(&["sign", "run/model.piq", "--key", "ours.pem", "--json"])));
    assert_eq!(answer["bytes"], f.read("run/model.piq").len());
    success(&verify("ours.pub.pem"));
    success(&f.qat(&["verify", "run/model.piq"]));
    assert!(failure(&verify("theirs.pub.pem"), 4).contains("signed with another key"));
    let report = json(&success(&f.qat(&["inspect", "run/model.piq", "--json"])));
    assert_eq!(report["signer"], answer["public_key"]);

    // Signed at export: the same bytes, and a module that takes nothing else.
    success(&f.qat(&["export", "run", "--sign", "ours.pem", "--out", "s.piq"]));
    assert_eq!(f.read("s.piq"), f.read("run/model.piq"));
    success(&f.qat(&["export", "run", "--sign", "ours.pem", "--rust", "module"]));
    let module = String::from_utf8(f.read("module/mod.rs")).unwrap();
    assert!(module.contains("PUBLIC_KEY: [u8; 32]") && module.contains("parse_signed"), "{module}");

    assert!(failure(&f.qat(&["keygen", "--out", "ours.pem"]), 1).contains("this file exists"));
    assert!(failure(&f.qat(&["sign", "run/model.piq", "--key", "ours.pub.pem"]), 2).contains("public key"));
    assert!(failure(&verify("run/model.piq"), 1).contains("cannot read"));
}

#[test]
fn help_names_every_command_and_flag() {
    let f = Fixture::new(CSV);
    let help = success(&f.qat(&["--help"]));
    for command in [
        "train",
        "export",
        "eval",
        "inspect",
        "verify",
        "presets",
        "calibrate",
        "quantize",
        "report",
        "compare",
    ] {
        assert!(help.contains(command), "{help}");
        // A flag's line is followed by, or ends with, what it does.
        let help = success(&f.qat(&[command, "--help"]));
        let lines: Vec<&str> = help.lines().collect();
        let flags: Vec<usize> =
            (0..lines.len()).filter(|&i| lines[i].trim_start().starts_with("--")).collect();
        assert!(!flags.is_empty(), "{help}");
        for i in flags {
            let beside = lines[i].split_once("  ").is_some_and(|_| lines[i].trim_start().contains("  "));
            let below = lines.get(i + 1).is_some_and(|l| l.starts_with("          "));
            assert!(beside || below, "{}", lines[i]);
        }
    }
    assert_eq!(f.qat(&[]).status.code(), Some(2));
    assert_eq!(f.qat(&["frobnicate"]).status.code(), Some(2));
}

#[test]
fn calibrate_and_quantize_equal_the_export_without_training() {
    for config in [CSV, IDX] {
        let f = Fixture::new(config);
        let said = json(&success(&f.qat(&["calibrate", "run", "--json", "--timestamp", "1700000000"])));
        assert_eq!((&said["samples"], &said["method"]), (&20.into(), &"mse".into()));
        let bytes = f.read("run/model.cal");
        assert_eq!(said["bytes"], bytes.len());
        let artifact: CalibrationArtifact<'_> = CalibrationArtifact::from_bytes(&bytes).unwrap();
        assert_eq!((artifact.provenance().samples, artifact.provenance().unix_time), (20, 1_700_000_000));
        assert_eq!(artifact.tensors().len(), 3); // the input and two layers
        let table = success(&f.qat(&["calibrate", "run", "--out", "again.cal"]));
        assert!(table.contains("mse on 20 examples") && table.contains("linear"), "{table}");

        success(&f.qat(&["export", "run", "--ptq", "--out", "export.piq"]));
        success(&f.qat(&["quantize", "run"]));
        assert_eq!(f.read("run/ptq.piq"), f.read("export.piq"));
        // With the ranges at hand, the data is not needed.
        for file in ["train.csv", "test.csv", "train-images.gz", "test-images"] {
            let _ = std::fs::remove_file(f.path(file));
        }
        let said =
            success(&f.qat(&["quantize", "run", "--calibration", "run/model.cal", "--out", "cal.piq"]));
        assert!(said.contains("ptq, calibrated ranges, mse"), "{said}");
        assert_eq!(f.read("cal.piq"), f.read("export.piq"));
        // A range of another network, and no file of ranges at all.
        let other = Fixture::new(if config == CSV { IDX } else { CSV });
        success(&other.qat(&["calibrate", "run"]));
        f.write("other.cal", other.read("run/model.cal"));
        let text = failure(&f.qat(&["quantize", "run", "--calibration", "other.cal"]), 4);
        assert!(text.contains("other.cal: tensor `"), "{text}");
        let text = failure(&f.qat(&["quantize", "run", "--calibration", "run/config.toml"]), 4);
        assert!(text.contains("config.toml: not a usable .cal file"), "{text}");
    }
}

/// A checkpoint that another program wrote: other names, half precision, a counter.
#[test]
fn checkpoints_of_other_programs_are_quantised() {
    let f = Fixture::new(CSV);
    let own = qat_trainer::checkpoint::Checkpoint::load(&f.path("run/fp32.safetensors")).unwrap();
    let half = |x: &f32| qat_kernels::quantizer::F16::from_f32(*x).to_bits().to_le_bytes();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = own
        .tensors
        .iter()
        .filter(|(name, _)| name.starts_with("linear"))
        .map(|(name, a)| {
            (name.replace("linear0.bn", "norm"), a.shape.clone(), a.data.iter().flat_map(half).collect())
        })
        .collect();
    let view = |dtype, shape: &[usize], bytes| {
        safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap()
    };
    let mut views: Vec<_> =
        tensors.iter().map(|(n, s, b)| (n.as_str(), view(safetensors::Dtype::F16, s, b))).collect();
    views.push(("norm.num_batches_tracked", view(safetensors::Dtype::I64, &[], &[0; 8])));
    f.write("torch.safetensors", safetensors::serialize(views, None).unwrap());

    let quantize = ["quantize", "torch.safetensors", "--config", "run.toml", "--out", "m.piq"];
    let text = failure(&f.qat(&quantize), 4);
    assert!(text.contains("torch.safetensors: tensor `linear0.bias`"), "{text}");
    success(&f.qat(&[&quantize[..], &["--rename", "norm=linear0.bn"]].concat()));
    success(&f.qat(&["verify", "m.piq"]));
    let text = failure(&f.qat(&[&quantize[..], &["--rename", "nom=linear0.bn"]].concat()), 4);
    assert!(text.contains("`nom`") && text.contains("linear0.weight"), "{text}");

    let by_weight =
        |more: &[&str]| f.qat(&[&["quantize", "torch.safetensors", "--by-weight"], more].concat());
    let table = json(&success(&by_weight(&["--json", "--step", "pi", "--out", "q.safetensors"])));
    assert_eq!(table["quantised"], 4 * 8 + 8 * 3);
    assert!(table["sqnr_db"].as_f64().unwrap() > 5.0, "{table}");
    let quantised = qat_trainer::checkpoint::Checkpoint::load(&f.path("q.safetensors")).unwrap();
    let row: std::collections::BTreeSet<u32> =
        quantised.tensors["linear1.weight"].data[..8].iter().map(|w| w.to_bits()).collect();
    assert!(row.len() <= 4);
    let text = success(&by_weight(&["--bits", "3", "--group", "8"]));
    assert!(text.contains("linear1.weight") && text.contains("kept") && text.contains("SQNR"), "{text}");
}

#[test]
fn exported_weights_are_the_values_of_the_codes() {
    let f = Fixture::new(IDX);
    let said = json(&success(&f.qat(&["export", "run", "--safetensors", "q.safetensors", "--json"])));
    assert_eq!(said["bytes"], f.read("q.safetensors").len());
    let weights = qat_trainer::checkpoint::Checkpoint::load(&f.path("q.safetensors")).unwrap();
    let linear = &weights.tensors["linear3.weight"];
    assert_eq!(linear.shape, [3, 16]);
    // Two bits, mid-rise: four values symmetric about 0.
    for row in linear.data.chunks(16) {
        let values: std::collections::BTreeSet<u32> = row.iter().map(|w| w.abs().to_bits()).collect();
        assert!(values.len() <= 2 && !row.contains(&0.0), "{row:?}");
    }
    assert_eq!(json(&success(&f.qat(&["export", "run", "--json"])))["bytes"], f.read("run/model.piq").len());
}

/// Completes the fixture's run folder to what a finished training leaves.
fn finish(f: &Fixture, int_accuracy: f64) {
    success(&f.qat(&["export", "run"]));
    success(&f.qat(&["quantize", "run"]));
    let summary = format!(
        r#"{{"name":"tiny","seed":1,"fp32_accuracy":0.9,"ptq_accuracy":0.5,"qat_float_accuracy":0.8,"int_accuracy":{int_accuracy},"file_bytes":{},"arena_bytes":64,"macs":56,"seconds":1.5}}"#,
        f.read("run/model.piq").len()
    );
    f.write("run/summary.json", summary);
    let events = r#"{"event":"phase-started","phase":"float","steps_per_epoch":2}
{"event":"step-done","epoch":1,"step":1,"loss":1.5}
{"event":"step-done","epoch":1,"step":2,"loss":0.5}
{"event":"epoch-done","epoch":1,"test_accuracy":0.75}
"#;
    f.write("run/metrics.jsonl", events);
}

#[test]
fn a_report_holds_every_picture_and_fetches_nothing() {
    for (config, layers) in [(CSV, 2), (IDX, 2)] {
        let f = Fixture::new(config);
        finish(&f, 0.75);
        let said = json(&success(&f.qat(&["report", "run", "--json"])));
        let html = String::from_utf8(f.read("run/report.html")).unwrap();
        // Loss, accuracy, SQNR, bytes, confusion, accuracy against bytes; two for each layer.
        assert_eq!(said["pictures"], 6 + 2 * layers);
        assert_eq!(html.matches("</svg>").count(), 6 + 2 * layers);
        assert_eq!(said["bytes"], html.len());
        for forbidden in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "NaN", "\"inf"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        assert!(html.contains("75 %") || html.contains("75.00 %"), "the accuracy is shown");
        // Beside itself under another name, and without the data.
        std::fs::create_dir(f.path("other")).unwrap();
        for file in ["model.piq", "ptq.piq", "summary.json"] {
            f.write(&format!("other/{file}"), f.read(&format!("run/{file}")));
        }
        let more = ["report", "run", "--no-data", "--against", "other", "--out", "r.html"];
        success(&f.qat(&more));
        let html = String::from_utf8(f.read("r.html")).unwrap();
        assert_eq!(html.matches("</svg>").count(), 5 + layers);
        assert!(html.contains(">other<") && html.contains(">run<"));
        f.write("run/metrics.jsonl", "not an event");
        let text = failure(&f.qat(&["report", "run"]), 4);
        assert!(text.contains("metrics.jsonl: line 1: this is no event"), "{text}");
    }
}

#[test]
fn runs_are_compared_and_inspected() {
    let f = Fixture::new(IDX);
    finish(&f, 0.75);
    let rows = json(&success(&f.qat(&["compare", "run", "--json"])));
    assert!((rows[0]["retention"].as_f64().unwrap() - 0.75 / 0.9).abs() < 1e-12, "{rows}");
    let table = success(&f.qat(&["compare", "run", "run"]));
    assert!(table.lines().count() == 3 && table.contains("83.33"), "{table}");
    assert!(failure(&f.qat(&["compare", "nowhere"]), 1).contains("nowhere/summary.json"));
    f.write("run/summary.json", "{}");
    assert!(failure(&f.qat(&["compare", "run"]), 4).contains("no summary of a run"));

    let report = json(&success(&f.qat(&["inspect", "run", "--json"])));
    let layers = report["analysis"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    assert!(layers[0]["sqnr_db"].as_f64().unwrap() > 35.0 && layers[1]["sqnr_db"].as_f64().unwrap() < 15.0);
    assert_eq!(layers[1]["codes"].as_array().unwrap().len(), 4);
    let text = success(&f.qat(&["inspect", "run"]));
    assert!(text.contains("SQNR dB") && text.contains("known answers"), "{text}");
}

#[test]
fn presets_are_listed_and_printed_complete() {
    let f = Fixture::new(CSV);
    let list = success(&f.qat(&["presets"]));
    let entries = json(&success(&f.qat(&["presets", "--json"])));
    for entry in entries.as_array().unwrap() {
        let (name, summary) = (entry["name"].as_str().unwrap(), entry["summary"].as_str().unwrap());
        assert!(list.lines().any(|l| l.starts_with(name) && l.ends_with(summary)), "{list}");
        // What is printed is a run description of its own.
        f.write("preset.toml", success(&f.qat(&["presets", name])));
        qat_trainer::spec::Run::load(f.path("preset.toml")).unwrap();
    }
    let text = failure(&f.qat(&["presets", "none"]), 2);
    assert!(text.contains("`none`") && text.contains("letter"), "{text}");
}

#[test]
fn values_from_the_command_line_and_the_run_folders_own_description() {
    let f = Fixture::new(CSV);
    success(&f.qat(&["export", "run"]));
    let eval = |more: &[&str]| f.qat(&[&["eval", "run/model.piq", "--json"], more].concat());
    let own = json(&success(&eval(&[])));
    assert_eq!(own, json(&success(&eval(&["--config", "run.toml"]))));
    // Another test file, named from the working directory.
    f.write("few.csv", common::csv(6));
    assert_eq!(json(&success(&eval(&["--set", "data.test=few.csv"])))["examples"], 6);
    f.write("top.toml", "extends = \"run.toml\"\n[data]\ntest = \"few.csv\"\n");
    assert_eq!(json(&success(&eval(&["--config", "top.toml"])))["examples"], 6);
    let text = failure(&eval(&["--set", "data.tset=few.csv"]), 2);
    assert!(text.contains("--set data.tset=few.csv: unknown field `tset`"), "{text}");
    std::fs::remove_file(f.path("run/config.toml")).unwrap();
    assert!(failure(&eval(&[]), 2).contains("--preset"));
}

#[test]
fn completions_know_every_command() {
    let f = Fixture::new(CSV);
    for shell in ["bash", "zsh", "fish"] {
        let script = success(&f.qat(&["completions", shell]));
        assert!(["train", "export", "presets", "dump-logits"].iter().all(|word| script.contains(word)));
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let f = Fixture::new(CSV);
    success(&f.qat(&["export", "run"]));
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_qat"))
        .args(["inspect", "run/model.piq"])
        .current_dir(f.path(""))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn without_libtorch_train_says_so() {
    let f = Fixture::new(CSV);
    let text = failure(&f.qat(&["train", "run.toml", "--out", "new"]), 6);
    assert!(text.contains("feature `tch`"), "{text}");
    assert!(!f.path("new").exists());
}
