//! Files that claim more than they hold, nest without end, or unpack to far more than their size, through the real binary:
//! each is refused by one line, in bounded memory. `docs/hostile-files.md` is the table of them; with RENEW_TABLE set, this
//! test writes it anew. As `commands`, without libtorch.
#![cfg(not(feature = "tch"))]
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use common::packed::{reworded, sealed};
use common::{CSV, Fixture, failure, gzip};
use std::fs;
use std::path::Path;

const DATA: i32 = 3;
const SPEC: i32 = 2;
const MODEL: i32 = 4;

/// Peak memory that refusing a file may take, in bytes. Without libtorch: to map that alone takes more.
const MEMORY: u64 = 64 << 20;

/// A hostile file, and how a user would meet it.
struct Hostile {
    /// What is hostile in it.
    what: &'static str,
    file: &'static str,
    bytes: Vec<u8>,
    /// `[data]` of the run description that names it, or the arguments of another command.
    met: Met,
    code: i32,
}

enum Met {
    Data(&'static str),
    Command(&'static [&'static str]),
}

fn hostile(what: &'static str, file: &'static str, bytes: Vec<u8>, met: Met) -> Hostile {
    let code = match met {
        Met::Data(_) => DATA,
        Met::Command(_) => MODEL,
    };
    Hostile { what, file, bytes, met, code }
}

#[test]
fn each_is_refused_in_bounded_memory_and_listed() {
    let fixture = Fixture::new(CSV);
    let description = fixture.read("run/config.toml");
    assert!(fixture.qat(&["export", "run", "--out", "sound.piq"]).status.success());
    let mut rows = String::new();
    for Hostile { what, file, bytes, met, code } in files(&fixture.read("sound.piq")) {
        let size = bytes.len();
        fixture.write(file, bytes);
        let arguments = match met {
            Met::Command(arguments) => arguments,
            Met::Data(keys) => {
                let start = CSV.find("[model]").unwrap();
                fixture.write("run/config.toml", format!("[data]\n{keys}\n{}", &CSV[start..]));
                &["export", "run", "--ptq", "--out", "out.piq"]
            }
        };
        let (output, peak) = fixture.qat_with_peak(arguments);
        let text = failure(&output, code);
        assert!(text.len() < 1000, "{what}: {text}");
        assert!(peak < MEMORY, "{what}: {peak} bytes");
        assert!(!fixture.path("out.piq").exists());
        let text = text.trim_end().trim_start_matches("qat: error: ").replace("run/../", "");
        let text = text.replace(fixture.path("").to_str().unwrap(), "").replace('|', "\\|");
        rows += &format!("| {what} | {size} | {text} |\n");
        fs::remove_file(fixture.path(file)).unwrap();
        fixture.write("run/config.toml", &description);
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/hostile-files.md");
    let text = fs::read_to_string(&page).unwrap();
    let (head, _) = text.split_once("|---|---|---|\n").unwrap();
    let renewed = format!("{head}|---|---|---|\n{rows}");
    if std::env::var_os("RENEW_TABLE").is_some() {
        fs::write(&page, renewed).unwrap();
    } else {
        assert!(
            text == renewed,
            "docs/hostile-files.md is not what was just seen; set RENEW_TABLE=1 and look at the change"
        );
    }
}

fn files(sound: &[u8]) -> Vec<Hostile> {
    let idx = |name: &str, labels: &str| -> &'static str {
        let keys = format!(
            "format = \"idx\"\ntrain_images = \"../{name}\"\ntrain_labels = \"../{labels}\"\nsplit = {{ share = 0.5 }}"
        );
        Box::leak(keys.into_boxed_str())
    };
    let csv = Met::Data("format = \"csv\"\ntrain = \"../hostile.csv\"\nsplit = { share = 0.5 }");
    let gz = Met::Data("format = \"csv\"\ntrain = \"../hostile.csv.gz\"\nsplit = { share = 0.5 }");
    let jsonl = || Met::Data("format = \"jsonl\"\ntrain = \"../hostile.jsonl\"\nsplit = { share = 0.5 }");
    let npz = Met::Data("format = \"npz\"\ntrain = \"../hostile.npz\"\nsplit = { share = 0.5 }");
    let cifar = Met::Data("format = \"cifar10\"\ntrain = [\"../hostile.bin\"]\nsplit = { share = 0.5 }");
    let images = || Met::Data("format = \"images\"\ntrain = \"../hostile\"\nsplit = { share = 0.5 }");
    let wav = Met::Data("format = \"wav\"\ntrain = \"../hostile\"\nsplit = { share = 0.5 }");
    let weights: &[&str] = &["quantize", "hostile.safetensors", "--by-weight"];
    let model: &[&str] = &["inspect", "hostile.piq"];
    let verify: &[&str] = &["verify", "hostile.piq"];
    let decoder = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/packed-v1.piq")).unwrap();
    let all_ones = |at: usize| {
        let mut bytes = sound.to_vec();
        bytes[at..at + 4].fill(0xff);
        // With the right checksum: what lies behind it is to be reached.
        sealed(bytes)
    };
    let description = |text: String| Hostile {
        code: SPEC,
        ..hostile(
            "",
            "hostile.toml",
            text.into_bytes(),
            Met::Command(&["seeded", "hostile.toml", "--out", "out.piq"]),
        )
    };
    let named = |what, file: Hostile| Hostile { what, ..file };
    let network = |layers: &str| {
        format!(
            "name = \"x\"\ndata = {{ format = \"none\", shape = [8, 8, 1] }}\n[model]\nlayers = [{layers}]\n"
        )
    };
    vec![
        hostile(
            "IDX: 4,294,967,295 images of 65,536 × 65,536 pixels",
            "hostile-images",
            [&[0, 0, 8, 3][..], &[0xff; 4], &[0, 1, 0, 0, 0, 1, 0, 0]].concat(),
            Met::Data(idx("hostile-images", "hostile-images")),
        ),
        hostile(
            "CSV: a quote that never ends",
            "hostile.csv",
            [b"label,a\nx,\"".to_vec(), vec![b'1'; 1 << 20]].concat(),
            csv,
        ),
        hostile("gzip: 256 MiB of zeros", "hostile.csv.gz", gzip(&vec![0; 256 << 20]), gz),
        hostile(
            "JSON lines: a hundred thousand brackets",
            "hostile.jsonl",
            [b"{\"label\": 0, \"features\": ".to_vec(), vec![b'['; 100_000]].concat(),
            jsonl(),
        ),
        hostile(
            "JSON lines: a number of a hundred thousand digits",
            "hostile.jsonl",
            [b"{\"label\": 0, \"features\": [".to_vec(), vec![b'9'; 100_000], b"]}\n".to_vec()].concat(),
            jsonl(),
        ),
        hostile("NPZ: an array of 2^40 numbers in 8 bytes", "hostile.npz", npz_file("(1099511627776,)"), npz),
        hostile("CIFAR: five bytes", "hostile.bin", vec![1; 5], cifar),
        hostile("PNG: 65,535 × 65,535 pixels in 60 bytes", "hostile/a/x.png", png_header(65_535), images()),
        hostile(
            "JPEG: 65,535 × 65,535 pixels, then nothing",
            "hostile/a/x.jpg",
            b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00\xff\xd9".to_vec(),
            images(),
        ),
        hostile(
            "WAV: a chunk of 4,294,967,295 bytes",
            "hostile/a/x.wav",
            [&b"RIFF\xff\xff\xff\xffWAVEfmt "[..], &[0xff; 4]].concat(),
            wav,
        ),
        hostile(
            "safetensors: a header of 2^63 bytes",
            "hostile.safetensors",
            (1u64 << 63).to_le_bytes().to_vec(),
            Met::Command(weights),
        ),
        hostile(
            "safetensors: a tensor of 2^62 numbers",
            "hostile.safetensors",
            safetensors(r#"{"w":{"dtype":"F32","shape":[2147483648,2147483648],"data_offsets":[0,8]}}"#),
            Met::Command(weights),
        ),
        hostile(
            "safetensors: ten thousand brackets in the header",
            "hostile.safetensors",
            safetensors(&"[".repeat(10_000)),
            Met::Command(weights),
        ),
        hostile(".piq: it claims 4 GiB", "hostile.piq", all_ones(8), Met::Command(model)),
        hostile(".piq: a section at 4 GiB", "hostile.piq", all_ones(24), Met::Command(model)),
        hostile(".piq: cut in half", "hostile.piq", sound[..sound.len() / 2].to_vec(), Met::Command(model)),
        hostile(
            "packed decoder: cut in half",
            "hostile.piq",
            decoder[..decoder.len() / 2].to_vec(),
            Met::Command(verify),
        ),
        hostile(
            "packed decoder: an index of 4 GiB",
            "hostile.piq",
            {
                let mut bytes = decoder.clone();
                bytes[12..16].fill(0xff);
                sealed(bytes)
            },
            Met::Command(verify),
        ),
        hostile(
            "packed decoder: a million layers",
            "hostile.piq",
            reworded(&decoder, "\"num_hidden_layers\":2", "\"num_hidden_layers\":1000000"),
            Met::Command(verify),
        ),
        hostile(
            "packed decoder: a matrix of 10^18 rows",
            "hostile.piq",
            reworded(&decoder, "\"rows\":20", "\"rows\":1000000000000000000"),
            Met::Command(verify),
        ),
        named("TOML: a hundred thousand brackets", description(format!("data = {}", "[".repeat(100_000)))),
        named(
            "TOML: a layer of 2^62 channels",
            description(network("{ op = \"linear\", out = 4611686018427387904 }")),
        ),
        named(
            "TOML: a window of 2^31 × 2^31",
            description(network("{ op = \"conv\", out = 4, kernel = 2147483648, pad = 2147483647 }")),
        ),
    ]
}

fn safetensors(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat()
}

/// A NumPy archive whose array `x` claims this shape.
fn npz_file(shape: &str) -> Vec<u8> {
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let header = format!("{dict:<117}\n");
    let array = [&b"\x93NUMPY\x01\x00"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), &[0; 8]]
        .concat();
    let mut file = std::io::Cursor::new(Vec::new());
    let mut archive = zip::ZipWriter::new(&mut file);
    for name in ["x.npy", "y.npy"] {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut archive, &array).unwrap();
    }
    archive.finish().unwrap();
    file.into_inner()
}

/// A grey PNG of this many pixels squared that ends before its pixels.
fn png_header(side: u32) -> Vec<u8> {
    let mut file = Vec::new();
    png::Encoder::new(&mut file, side, side).write_header().unwrap();
    file
}
