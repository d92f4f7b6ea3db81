//! `qat llm` through the real binary, on a small decoder with generated weights.
#![cfg(feature = "tch")]
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use common::{failure, success};
use qat_trainer::llm::config::LlmConfig;
use qat_trainer::llm::{ChatTemplate, Decoder, LanguageModel, Tokenizer};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A tokenizer of single bytes, as `tokenizer.json` has it.
fn tokenizer() -> String {
    let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let hidden = (0..256).filter(|b| !printable(b)).enumerate().map(|(i, _)| 256 + i as u32);
    let characters = (0..256).filter(printable).chain(hidden).filter_map(char::from_u32);
    let vocabulary: serde_json::Map<String, Value> =
        characters.enumerate().map(|(id, c)| (c.to_string(), id.into())).collect();
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": bytes,
        "decoder": bytes,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    })
    .to_string()
}

/// A folder with a model, and a text beside it.
fn fixture() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokenizer.json");
    std::fs::write(&file, tokenizer()).unwrap();
    let config = r#"{"model_type": "qwen2", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": true}"#;
    let template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}";
    let model = LanguageModel {
        decoder: Decoder::generated(&LlmConfig::from_json(config).unwrap(), 1).unwrap(),
        tokenizer: Tokenizer::from_file(&file).unwrap(),
        chat: Some(ChatTemplate::new(template, "", "")),
        ends: Vec::new(),
    };
    let folder = dir.path().join("model");
    model.save(&folder).unwrap();
    let text: String = (0..40).map(|i| format!("line {i}\r\n")).collect();
    std::fs::write(dir.path().join("text"), text).unwrap();
    (dir, folder)
}

fn qat(dir: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qat"));
    command.current_dir(dir).env("OMP_NUM_THREADS", "1").arg("llm").args(arguments);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn answers(output: &Output) -> Vec<Value> {
    success(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn perplexity_as_it_is_and_rounded() {
    let (dir, _) = fixture();
    let eval = ["eval", "model", "--text", "text", "--chars", "0..200", "--window", "50", "--json"];
    let run = |more: &[&str]| answers(&qat(dir.path(), &[&eval[..], more].concat(), "")).remove(0);
    let plain = run(&[]);
    assert_eq!((plain["predictions"].as_u64(), plain["quantisation"].is_null()), (Some(4 * 49), true));
    let perplexity = plain["perplexity"].as_f64().unwrap();
    assert!((100.0..1000.0).contains(&perplexity));
    assert_eq!(run(&["--windows", "2", "--threads", "1"])["predictions"], 2 * 49);
    let near = |more: &[&str]| (run(more)["loss"].as_f64().unwrap() - perplexity.ln()).abs();
    assert!(near(&["--bits", "8", "--scheme", "rtn", "--group", "32"]) < 0.02);
    assert!(near(&["--dtype", "bf16"]) < 0.05);
    let two = run(&["--bits", "2"]);
    assert_eq!(two["quantisation"]["weights"], 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32));
    assert_ne!(two["perplexity"], plain["perplexity"]);
    let text =
        success(&qat(dir.path(), &["eval", "model", "--text", "text", "--window", "9", "--bits", "3"], ""));
    assert!(
        text.contains("weights rounded to 3.569") && text.contains("perplexity") && text.contains('…'),
        "{text}"
    );
}

#[test]
fn text_is_the_same_streamed_or_in_json_and_for_every_run_of_a_seed() {
    let (dir, _) = fixture();
    let arguments = [
        "generate",
        "model",
        "The",
        "--tokens",
        "20",
        "--temperature",
        "1",
        "--top-p",
        "0.95",
        "--seed",
        "7",
    ];
    let json = answers(&qat(dir.path(), &[&arguments[..], &["--json"]].concat(), "")).remove(0);
    assert_eq!((json["tokens"].as_u64(), json["end"].as_str()), (Some(20), Some("tokens")));
    let streamed = success(&qat(dir.path(), &arguments, ""));
    assert_eq!(streamed, format!("{}\n", json["text"].as_str().unwrap()));
    assert_eq!(success(&qat(dir.path(), &arguments, "")), streamed);
}

#[test]
fn a_model_writes_texts_of_its_own_the_same_for_every_run_of_a_seed() {
    let (dir, folder) = fixture();
    let write = |out: &str, more: &[&str]| {
        let arguments = ["synthesize", "model", "--texts", "3", "--tokens", "20", "--out", out, "--json"];
        qat(dir.path(), &[&arguments[..], more].concat(), "")
    };
    let answer = answers(&write("one", &["--begin", "T", "--batch", "2"])).remove(0);
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    // One of the twenty tokens is given.
    assert_eq!(answer["tokens"], 3 * 19);
    assert_eq!(answer["bytes"], read("one").len());
    assert!(read("one").starts_with('T') && !read("one").contains("<|"), "{}", read("one"));
    answers(&write("two", &["--begin", "T"]));
    assert_eq!(read("one"), read("two"));
    answers(&write("other", &["--begin", "T", "--seed", "2"]));
    assert_ne!(read("one"), read("other"));
    let there = failure(&write("one", &["--begin", "T"]), 1);
    assert!(there.contains("one: there is something already"), "{there}");
    let hot = failure(&write("hot", &["--begin", "T", "--temperature", "0"]), 2);
    assert!(hot.contains("temperature 0") && !dir.path().join("hot").exists(), "{hot}");
    let endless = failure(&write("endless", &[]), 2);
    assert!(endless.contains("no token that ends a text; give --begin"), "{endless}");
    std::fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    failure(&write("none", &["--begin", "T"]), 4);
}

#[test]
fn every_line_of_a_conversation_is_answered() {
    let (dir, folder) = fixture();
    let arguments = ["chat", "model", "--tokens", "5", "--json", "--system", "Be brief"];
    let two = answers(&qat(dir.path(), &arguments, "Hi\n\nWho are you?\n"));
    assert_eq!(two.len(), 2);
    // The second answer is that of a model which sees the whole conversation at once.
    let text =
        format!("<system>Be brief<user>Hi<assistant>{}<user>Who are you?", two[0]["text"].as_str().unwrap());
    let at_once = answers(&qat(dir.path(), &["generate", "model", &text, "--tokens", "5", "--json"], ""));
    if !text.contains('\u{fffd}') {
        assert_eq!(at_once[0]["text"], two[1]["text"]);
    }
    std::fs::remove_file(folder.join("tokenizer_config.json")).unwrap();
    let e = failure(&qat(dir.path(), &arguments, "Hi\n"), 4);
    assert!(e.contains("no chat template"), "{e}");
}

#[test]
fn mistakes_are_one_line_with_a_code() {
    let (dir, folder) = fixture();
    let eval = ["eval", "model", "--text", "text"];
    for (arguments, code, expected) in [
        (vec!["eval", "none", "--text", "text"], 1, "none: cannot read this file"),
        (vec!["eval", "model", "--text", "none"], 1, "none: cannot read this file"),
        ([&eval[..], &["--chars", "0..9999"]].concat(), 3, "text: the text has"),
        ([&eval[..], &["--chars", "9..3"]].concat(), 2, "does not come after"),
        ([&eval[..], &["--window", "130"]].concat(), 3, "context of 128"),
        ([&eval[..], &["--window", "1"]].concat(), 2, "predict nothing"),
        ([&eval[..], &["--bits", "2", "--group", "7"]].concat(), 2, "no groups of 7"),
        (
            [&eval[..], &["--bits", "2", "--scheme", "rtn", "--group", "7"]].concat(),
            2,
            "groups of 7 do not divide",
        ),
        (vec!["generate", "model", ""], 3, "the prompt is empty"),
        (vec!["generate", "model", "x", "--temperature", "NaN"], 2, "temperature NaN"),
        (vec!["generate", "model", "x", "--top-p", "0"], 2, "top-p 0"),
    ] {
        let output = qat(dir.path(), &arguments, "");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let e = String::from_utf8(output.stderr).unwrap();
        assert!(e.contains(expected), "{e}\n{expected}");
    }
    std::fs::write(folder.join("config.json"), "{").unwrap();
    let e = failure(&qat(dir.path(), &eval, ""), 4);
    assert!(e.contains("config.json: not the configuration of a decoder"), "{e}");
}
