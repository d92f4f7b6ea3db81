//! Every kind of bad input, through the real binary: one line that names file, place and remedy, the right exit code,
//! and no file left behind. As `commands`, without libtorch.
#![cfg(not(feature = "tch"))]
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use common::{CSV, Fixture, IDX, csv, failure, gzip, idx_images, idx_labels};

const IO: i32 = 1;
const SPEC: i32 = 2;
const DATA: i32 = 3;
const MODEL: i32 = 4;

/// A replacement for one file of a sound fixture, and what the error has to say.
struct Case {
    file: &'static str,
    /// The file that the error has to name.
    named: &'static str,
    /// `None` removes the file.
    content: Option<Vec<u8>>,
    code: i32,
    /// Parts of the message; the file's name is expected besides.
    says: &'static [&'static str],
}

impl Case {
    /// The error shows in another file than the one that was replaced.
    fn named(self, named: &'static str) -> Self {
        Self { named, ..self }
    }
}

fn case(file: &'static str, content: impl Into<Vec<u8>>, code: i32, says: &'static [&'static str]) -> Case {
    Case { file, named: file, content: Some(content.into()), code, says }
}

fn missing(file: &'static str, code: i32, says: &'static [&'static str]) -> Case {
    Case { file, named: file, content: None, code, says }
}

/// Runs `arguments` once per case; every case starts from the fixture's own files.
fn check(fixture: &Fixture, arguments: &[&str], cases: Vec<Case>) {
    let before = fixture.files();
    for case in cases {
        let sound = fixture.read(case.file);
        match &case.content {
            Some(content) => fixture.write(case.file, content),
            None => std::fs::remove_file(fixture.path(case.file)).unwrap(),
        }
        let output = fixture.qat(arguments);
        let text = failure(&output, case.code);
        assert!(output.stdout.is_empty(), "{text}");
        assert!(text.contains(case.named), "{text} does not name {}", case.named);
        assert!(text.contains("; "), "{text} has no remedy");
        for part in case.says {
            assert!(text.contains(part), "{text} lacks `{part}`");
        }
        fixture.write(case.file, sound);
        assert_eq!(fixture.files(), before, "{text} left a file behind");
    }
    assert!(fixture.qat(arguments).status.success(), "the fixture itself is sound");
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    let out = text.replacen(from, to, 1);
    assert_ne!(out, text, "{from}");
    out
}

#[test]
fn csv_files() {
    let fixture = Fixture::new(CSV);
    let sound = csv(60);
    let third = sound.lines().nth(3).unwrap();
    let line4 = |new: &str| replaced(&sound, third, new);
    let mut cut = gzip(sound.as_bytes());
    cut.truncate(cut.len() - 9);
    check(
        &fixture,
        &["export", "run", "--ptq", "--out", "out.piq"],
        vec![
            missing("train.csv", IO, &["cannot read", "check `[data]`"]),
            case("train.csv", "", DATA, &["empty"]),
            case("train.csv", "label,a,b,c,d\n", DATA, &["line 1", "the data set is empty"]),
            case(
                "train.csv",
                line4("z,1,two,3,4"),
                DATA,
                &["line 4, column 3 (`b`)", "`two` is not a number"],
            ),
            case("train.csv", line4("z,1,,3,4"), DATA, &["line 4, column 3 (`b`)", "empty"]),
            case("train.csv", line4("z,1,NaN,3,4"), DATA, &["line 4, column 3 (`b`)", "not a finite"]),
            case("train.csv", line4("z,1,inf,3,4"), DATA, &["line 4, column 3 (`b`)", "not a finite"]),
            case("train.csv", line4("z,1,2,3"), DATA, &["line 4", "4 cells where 5"]),
            case("train.csv", line4("z,1,2,3,4,5"), DATA, &["line 4", "6 cells where 5"]),
            case("train.csv", line4(",1,2,3,4"), DATA, &["line 4, column 1 (`label`)", "empty"]),
            case("train.csv", "label,a\nx,1\nx,2\n", DATA, &["nothing to tell apart"]),
            case("train.csv", "label,a\n1,1\n0.5,2\n", DATA, &["line 3", "`0.5` is not a whole number"]),
            case("train.csv", "label,a\n1,1\n-2,2\n", DATA, &["line 3", "`-2` is not a whole number"]),
            case("train.csv", "label,a\n1,1\n99999,2\n", DATA, &["line 3", "99999 is too large"]),
            case("train.csv", b"label,a\nx,\xff\n".to_vec(), DATA, &["byte 10", "UTF-8"]),
            case("train.csv", cut, DATA, &["cut short", "fetch the file again"]),
            case("test.csv", "label,a,b,c,d\nw,1,2,3,4\n", DATA, &["line 2", "`w` is none of x, y, z"]),
            case("test.csv", "label,a,b,c\nx,1,2,3\n", DATA, &["shape 3", "train.csv"]),
            case("test.csv", "label,a,b,d,c\nx,1,2,3,4\n", DATA, &["`d`", "`c`"]),
        ],
    );
}

#[test]
fn idx_files() {
    let fixture = Fixture::new(IDX);
    let (images, labels) = (idx_images(60), idx_labels(60));
    let with = |bytes: &[u8], at: usize, new: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    let mut cut = gzip(&images);
    cut.truncate(cut.len() / 2);
    let mut damaged = gzip(&images);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    check(
        &fixture,
        &["export", "run", "--ptq", "--out", "out.piq"],
        vec![
            missing("train-images.gz", IO, &["cannot read"]),
            case("train-images.gz", cut, DATA, &["cut short", "decompressed"]),
            case("train-images.gz", damaged, DATA, &["the gzip stream is"]),
            case("train-images.gz", "no gzip at all", DATA, &["byte 0", "not gzip"]),
            case("train-images.gz", gzip(&images[..9]), DATA, &["byte 9", "header"]),
            case(
                "train-images.gz",
                gzip(&images[..500]),
                DATA,
                &["byte 4", "claims 60 x 4 x 4", "484 follow"],
            ),
            case("train-images.gz", gzip(&with(&images, 4, &[0xff; 4])), DATA, &["claims 4294967295"]),
            case("train-images.gz", gzip(&with(&images, 4, &[0xff; 12])), DATA, &["cut short"]),
            case("train-images.gz", gzip(&idx_images(0)), DATA, &["the data set is empty"]),
            case("train-images.gz", gzip(&labels), DATA, &["byte 0", "0x00000801", "file of labels"]),
            case(
                "train-images.gz",
                gzip(&with(&images, 2, &[0x0d])),
                DATA,
                &["0x00000d03", "unsigned bytes"],
            ),
            case("train-images.gz", gzip(b"PK\x03\x04 and so on"), DATA, &["not an IDX file"]),
            case("train-labels", images.clone(), DATA, &["file of images"]),
            case("train-labels", idx_labels(59), DATA, &["59 labels for 60 images"]),
            case("train-labels", &labels[..20], DATA, &["claims 60", "12 follow"]),
            case("train-labels", with(&labels, 8, &[0; 60]), DATA, &["nothing to tell apart"]),
            case(
                "test-labels",
                with(&idx_labels(21), 10, &[7]),
                DATA,
                &["byte 10, label 2", "`7` is none of 0, 1, 2"],
            ),
            case("test-labels", idx_labels(0), DATA, &["empty"]),
        ],
    );
}

#[test]
fn run_descriptions() {
    let fixture = Fixture::new(CSV);
    assert!(fixture.qat(&["export", "run"]).status.success());
    let edit = |from: &str, to: &str| replaced(CSV, from, to).into_bytes();
    check(
        &fixture,
        &["eval", "run/model.piq", "--config", "run.toml"],
        vec![
            missing("run.toml", IO, &["cannot read"]),
            case("run.toml", "[data", SPEC, &["line 1"]),
            case("run.toml", b"\xff\xfe".to_vec(), SPEC, &["byte 0", "UTF-8"]),
            case("run.toml", edit("epochs = 2", "epoch = 2"), SPEC, &["line 12", "unknown field `epoch`"]),
            case("run.toml", edit("out = 8", "outs = 8"), SPEC, &["line 8", "unknown field `outs`"]),
            case("run.toml", edit("[qat]", "[qat2]"), SPEC, &["unknown field `qat2`"]),
            case("run.toml", edit("bits = 4\n", "bits = 1\n"), SPEC, &["line 15", "2 to 8 are possible"]),
            case("run.toml", edit("batch = 8", "batch = 0"), SPEC, &["line 13", "`batch` of [train]"]),
            case("run.toml", edit("\"linear\", out = 3", "\"lineal\", out = 3"), SPEC, &["line 9", "lineal"]),
            case("run.toml", edit("format = \"csv\"", "format = \"xls\""), SPEC, &["line 3", "xls"]),
            case("run.toml", edit("test = \"test.csv\"", ""), SPEC, &["`test` is missing"]),
            case(
                "run.toml",
                edit("[model]", "label = \"nobody\"\n[model]"),
                DATA,
                &["`nobody`", "label, a, b"],
            )
            .named("test.csv"),
        ],
    );
}

#[test]
fn networks_that_do_not_fit_the_data() {
    let fixture = Fixture::new(CSV);
    let config = String::from_utf8(fixture.read("run/config.toml")).unwrap();
    let edit = |from: &str, to: &str| replaced(&config, from, to).into_bytes();
    check(
        &fixture,
        &["export", "run", "--out", "out.piq"],
        vec![
            case(
                "run/config.toml",
                edit("out = 3", "out = 4"),
                SPEC,
                &["layer `linear1`", "3 classes", "out = 3"],
            )
            .named("checkpoint.safetensors"),
            case(
                "run/config.toml",
                edit("{ op = \"linear\", out = 8", "{ op = \"conv\", kernel = 3, out = 8"),
                SPEC,
                &["layer `conv0`", "larger than its input"],
            )
            .named("checkpoint.safetensors"),
            case("run/config.toml", edit("out = 8", "out = 9"), MODEL, &["tensor `linear0.", "[9"])
                .named("checkpoint.safetensors"),
        ],
    );
}

#[test]
fn checkpoints() {
    let fixture = Fixture::new(CSV);
    let sound = fixture.read("run/checkpoint.safetensors");
    let edited = |edit: &dyn Fn(&mut qat_trainer::checkpoint::Checkpoint)| {
        let mut c = qat_trainer::checkpoint::Checkpoint::from_bytes(&sound).unwrap();
        edit(&mut c);
        c.to_bytes().unwrap()
    };
    let set =
        |name: &'static str, value: f32| edited(&move |c| c.tensors.get_mut(name).unwrap().data[0] = value);
    let file = "run/checkpoint.safetensors";
    check(
        &fixture,
        &["export", "run", "--out", "out.piq"],
        vec![
            missing(file, IO, &["cannot read"]),
            case(file, "", MODEL, &["not a checkpoint"]),
            case(file, &sound[..sound.len() - 5], MODEL, &["not a checkpoint"]),
            case(file, [&[0xff; 8][..], &sound[8..]].concat(), MODEL, &["not a checkpoint"]),
            case(file, edited(&|c| c.metadata.clear()), MODEL, &["metadata `about`", "missing"]),
            case(
                file,
                edited(&|c| drop(c.tensors.remove("linear1.alpha"))),
                MODEL,
                &["tensor `linear1.alpha`"],
            ),
            case(
                file,
                set("linear1.alpha", -1.0),
                MODEL,
                &["layer `linear1`", "the step of channel 0 is -1"],
            ),
            case(file, set("linear1.weight", f32::NAN), MODEL, &["`linear1.weight`", "diverged"]),
            case(file, set("linear0.act.scale", 0.0), MODEL, &["`linear0.act.scale`"]),
            case(file, set("linear0.bn.running_var", -1.0), MODEL, &["variance of channel 0"]),
        ],
    );
    let before = fixture.files();
    let text = failure(&fixture.qat(&["export", "run", "--out", "no/such/folder/out.piq"]), IO);
    assert!(text.contains("no/such/folder/out.piq"), "{text}");
    let text = failure(&fixture.qat_with(&["export", "run"], &[("SOURCE_DATE_EPOCH", "yesterday")]), SPEC);
    assert!(text.contains("`yesterday`"), "{text}");
    assert_eq!(fixture.files().len(), before.len());
}

#[test]
fn models() {
    let fixture = Fixture::new(CSV);
    assert!(fixture.qat(&["export", "run", "--out", "m.piq"]).status.success());
    let sound = fixture.read("m.piq");
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = || {
        vec![
            missing("m.piq", IO, &["cannot read"]),
            case("m.piq", "", MODEL, &[]),
            case("m.piq", "label,a,b\n", MODEL, &[]),
            case("m.piq", &sound[..sound.len() - 1], MODEL, &[]),
            case("m.piq", flipped(0), MODEL, &[]),
            case("m.piq", flipped(sound.len() / 2), MODEL, &[]),
            case("m.piq", flipped(sound.len() - 1), MODEL, &[]),
        ]
    };
    check(&fixture, &["inspect", "m.piq"], cases());
    check(&fixture, &["inspect", "m.piq", "--json"], cases());
    check(&fixture, &["eval", "m.piq", "--config", "run.toml"], cases());
    for case in cases().into_iter().skip(1) {
        fixture.write("m.piq", case.content.unwrap());
        let output = fixture.qat(&["verify", "m.piq"]);
        let text = failure(&output, MODEL);
        assert!(text.contains("m.piq: integrity: "), "{text}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("FAIL integrity"));
        let output = fixture.qat(&["verify", "m.piq", "--json"]);
        assert_eq!(output.status.code(), Some(MODEL));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(r#"{"ok":false,"#));
    }
}

#[test]
fn dumps_are_written_both_or_none() {
    let fixture = Fixture::new(CSV);
    assert!(fixture.qat(&["export", "run", "--out", "m.piq"]).status.success());
    let before = fixture.files();
    let arguments =
        ["eval", "m.piq", "--config", "run.toml", "--dump-samples", "s.bin", "--dump-logits", "no/l.bin"];
    let text = failure(&fixture.qat(&arguments), IO);
    assert!(text.contains("no/l.bin"), "{text}");
    assert_eq!(fixture.files(), before);
}

#[test]
fn a_model_and_data_of_different_shape() {
    let (images, tables) = (Fixture::new(IDX), Fixture::new(CSV));
    assert!(images.qat(&["export", "run", "--out", "m.piq"]).status.success());
    tables.write("m.piq", images.read("m.piq"));
    let text = failure(&tables.qat(&["eval", "m.piq", "--config", "run.toml"]), DATA);
    assert!(text.contains("test.csv") && text.contains("the model reads 16"), "{text}");
}

#[test]
fn what_is_missing_is_named_first() {
    let fixture = Fixture::new(CSV);
    for (arguments, says) in [
        (&["eval", "nope.piq"][..], "nope.piq: cannot read this file"),
        (&["calibrate", "nope.safetensors"], "nope.safetensors: cannot read this file"),
        (&["export", "nope"], "nope: this is no run folder: it has no config.toml"),
        (&["report", "nope"], "nope: this is no run folder: it has no config.toml"),
    ] {
        let text = failure(&fixture.qat(arguments), IO);
        assert!(text.contains(says), "{text} lacks `{says}`");
    }
}
