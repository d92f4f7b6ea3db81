//! Every kind of bad model folder and file, and what is said about it.

use super::*;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::fs;
use std::path::Path;

fn load(path: &Path) -> String {
    let e = LanguageModel::load(path, Kind::Float, CPU).unwrap_err();
    assert!(e.to_string().lines().count() == 1);
    e.to_string()
}

/// The folder's weights in two shards and an index; the second holds the last norm alone.
fn shard(folder: &Path) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let part =
        |last: bool| all.tensors().into_iter().filter(move |(name, _)| (name == "model.norm.weight") == last);
    let mut map = serde_json::Map::new();
    for (file, last) in [("a.safetensors", false), ("b.safetensors", true)] {
        fs::write(folder.join(file), serialize(part(last), None).unwrap()).unwrap();
        map.extend(part(last).map(|(name, _)| (name, file.into())));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    fs::remove_file(path).unwrap();
}

/// Changes a text file.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Writes the folder's weights with one more tensor, or another in place of one.
fn put(folder: &Path, name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = all.tensors().into_iter().filter(|(there, _)| there != name).collect();
    tensors.push((name.into(), TensorView::new(dtype, shape.to_vec(), data).unwrap()));
    fs::write(&path, serialize(tensors, None).unwrap()).unwrap();
}

#[test]
fn shards_are_found_by_their_index() {
    let config = tiny(Architecture::Llama);
    let (_dir, _, folder) = files(&config);
    shard(&folder);
    let ids = tokens(1, 1, 9);
    let model = LanguageModel::load(&folder, Kind::Float, CPU).unwrap();
    assert!(model.decoder.forward(&ids).unwrap().equal(&decoder(&config).forward(&ids).unwrap()));
    // A shard that holds something else than the index says, a place outside the folder, a shard missing.
    let index = folder.join("model.safetensors.index.json");
    let good = fs::read_to_string(&index).unwrap();
    edit(&index, "\"model.norm.weight\":\"b.", "\"model.norm.weight\":\"a.");
    assert!(load(&folder).contains("a.safetensors: tensor `model.norm.weight`: this tensor is missing"));
    fs::write(&index, good.replace("b.safetensors", "../b.safetensors")).unwrap();
    assert!(load(&folder).contains("`../b.safetensors` is no file name"));
    fs::write(&index, "{}").unwrap();
    assert!(load(&folder).contains("index.json: not an index of shards"));
    fs::write(&index, good).unwrap();
    fs::remove_file(folder.join("b.safetensors")).unwrap();
    let e = load(&folder);
    assert!(e.contains("b.safetensors: cannot read this file"), "{e}");
}

#[test]
fn bad_folders_are_refused_with_file_and_place() {
    type Change = fn(&Path);
    let cases: [(Change, &str); 13] = [
        (|f| fs::remove_file(f.join("config.json")).unwrap(), "config.json: cannot read this file"),
        (
            |f| edit(&f.join("config.json"), "\"llama\"", "\"bert\""),
            "`model_type` is bert, which is not supported",
        ),
        (
            |f| edit(&f.join("config.json"), "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"),
            "the network has no place for this tensor",
        ),
        (
            |f| edit(&f.join("config.json"), "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
            "tensor `model.layers.2.self_attn.q_proj.weight`: this tensor is missing",
        ),
        (
            |f| edit(&f.join("config.json"), "\"intermediate_size\": 64", "\"intermediate_size\": 65"),
            "gate_proj.weight`: its shape is [64, 32], the configuration asks for [65, 32]",
        ),
        (
            |f| edit(&f.join("config.json"), "\"vocab_size\": 270", "\"vocab_size\": 100"),
            "tokenizer.json: the tokenizer's token 261 (`<|im_end|>`) is beyond the model's 100 tokens",
        ),
        (|f| fs::remove_file(f.join("tokenizer.json")).unwrap(), "tokenizer.json: cannot read this file"),
        (|f| fs::write(f.join("tokenizer.json"), "{}").unwrap(), "tokenizer.json: not a tokenizer"),
        (|f| fs::write(f.join("tokenizer_config.json"), "[").unwrap(), "not the settings of a tokenizer"),
        (
            |f| fs::remove_file(f.join("model.safetensors")).unwrap(),
            "model.safetensors: cannot read this file",
        ),
        (
            |f| put(f, "model.norm.weight", Dtype::I32, &[32], &[0; 128]),
            "model.safetensors: tensor `model.norm.weight`: its type is I32, not F32, F16 or BF16",
        ),
        (
            |f| put(f, "extra", Dtype::F32, &[1], &[0; 4]),
            "tensor `extra`: the network has no place for this tensor",
        ),
        (
            |f| put(f, "model.norm.weight", Dtype::F32, &[31], &[0; 124]),
            "its shape is [31], the configuration asks for [32]",
        ),
    ];
    let (_dir, _, folder) = files(&tiny(Architecture::Llama));
    for (i, (change, expected)) in cases.into_iter().enumerate() {
        let copy = folder.with_file_name(format!("copy{i}"));
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(&folder).unwrap() {
            let from = entry.unwrap().path();
            fs::copy(&from, copy.join(from.file_name().unwrap())).unwrap();
        }
        change(&copy);
        let e = load(&copy);
        assert!(e.contains(expected), "{e}\n{expected}");
    }
    assert!(load(&folder.join("nowhere")).contains("nowhere: cannot read this file"));
}

#[test]
fn weights_cut_anywhere_are_refused() {
    let (_dir, _, folder) = files(&tiny(Architecture::Llama));
    let path = folder.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    for (len, expected) in [
        (0, "too short for a header"),
        (7, "too short for a header"),
        (8, "does not fit into the file"),
        (8 + header - 1, "does not fit into the file"),
        (8 + header, "its header asks for"),
        (whole.len() - 1, "its header asks for"),
    ] {
        fs::write(&path, &whole[..len]).unwrap();
        let e = load(&folder);
        assert!(e.contains("model.safetensors") && e.contains(expected), "{len}: {e}");
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(load(&folder).contains("its header asks for"));
    let mut damaged = whole;
    damaged[8] = b'[';
    fs::write(&path, damaged).unwrap();
    assert!(load(&folder).contains("byte 8: the header is not one of safetensors"));
}

#[test]
fn bad_gguf_models_are_refused_with_key_or_tensor() {
    let config = tiny(Architecture::Llama);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let message = |w: Writer| {
        fs::write(&path, w.bytes()).unwrap();
        load(&path)
    };
    let good = || gguf(&decoder(&config));
    let w = || vocabulary(Writer::default(), "smollm");
    for (w, expected) in [
        (w().text("general.architecture", "mamba"), "`mamba` is not supported"),
        (w().text("general.architecture", "llama"), "key `llama.embedding_length`: this key is missing"),
        (good().text("llama.rope.scaling.type", "yarn"), "the rotary scaling `yarn` is not supported"),
        (
            good().u32("llama.rope.dimension_count", 4),
            "key `llama.rope.dimension_count`: it is 4 for heads of 8",
        ),
        (
            good().tensor("rope_freqs.weight", &[4], &[1.0; 4]),
            "tensor `rope_freqs.weight`: the network has no place",
        ),
        (good().tensor("blk.2.attn_q.weight", &[1], &[1.0]), "the network has no place for this tensor"),
        (
            good().u32("llama.attention.key_length", 16),
            "its shape is [32, 32], the configuration asks for [64, 32]",
        ),
    ] {
        let e = message(w);
        assert!(e.contains("m.gguf: ") && e.contains(expected), "{e}\n{expected}");
    }
    // The last matrix lost: the counts of tensors and the layers disagree.
    let mut short = config.clone();
    short.layers = 1;
    let bytes = gguf(&decoder(&short)).bytes();
    let key = b"llama.block_count";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    let mut bytes = bytes;
    bytes[at] = 2;
    fs::write(&path, bytes).unwrap();
    assert!(load(&path).contains("tensor `model.layers.1.self_attn.q_proj.weight`: this tensor is missing"));
}
