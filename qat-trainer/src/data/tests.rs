//! Whole data sets, from generated files.

use super::*;
use crate::spec::Run;
use std::fs;

fn run(dir: &Path, data: &str) -> Run {
    let text = format!("[data]\n{data}\n[model]\nlayers = [{{ op = \"linear\", out = 2 }}]\n");
    Run::parse(&text, &dir.join("run.toml")).unwrap()
}

fn idx_images(images: &[[u8; 4]]) -> Vec<u8> {
    let n = (images.len() as u32).to_be_bytes();
    [&[0, 0, 8, 3], &n[..], &[0, 0, 0, 2, 0, 0, 0, 2], &images.concat()].concat()
}

fn idx_labels(labels: &[u8]) -> Vec<u8> {
    [&[0, 0, 8, 1], &(labels.len() as u32).to_be_bytes()[..], labels].concat()
}

const IDX: &str = r#"format = "idx"
train_images = "a"
train_labels = "b"
test_images = "c"
test_labels = "d""#;

#[test]
fn idx_pixels_become_their_own_codes() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: Vec<u8>| fs::write(dir.path().join(name), bytes).unwrap();
    write("a", idx_images(&[[0, 255, 7, 9], [1, 2, 3, 200]]));
    write("b", idx_labels(&[0, 2]));
    write("c", idx_images(&[[13, 0, 255, 128]]));
    write("d", idx_labels(&[1]));
    let data = Dataset::load(&run(dir.path(), IDX).data).unwrap();
    assert_eq!(data.classes, ["0", "1", "2"]);
    assert_eq!((data.train.labels.as_slice(), data.test.labels.as_slice()), (&[0, 2][..], &[1][..]));
    assert_eq!(data.shape, Shape { h: 2, w: 2, c: 1 });
    let codes: Vec<i8> = data.test.features.iter().map(|&x| data.input.quantize(x)).collect();
    assert_eq!(codes, [13, 0, 255, 128].map(|p: i32| (p - 128) as i8));
    assert_eq!(data.background(), data.test.features[1]);

    let hash = Sha256::new().chain_update(fs::read(dir.path().join("a")).unwrap());
    let hash = hash.chain_update(fs::read(dir.path().join("b")).unwrap());
    assert_eq!(data.sha256, <[u8; 32]>::from(hash.finalize()));

    let huge = run(dir.path(), &format!("{IDX}\nresize = [4096, 4096]"));
    write("a", idx_images(&[[0; 4]; 65]));
    assert!(Dataset::load(&huge.data).unwrap_err().to_string().contains("more than fit"));
    write("a", idx_images(&[[0, 255, 7, 9], [1, 2, 3, 200]]));
    let resized = run(dir.path(), &format!("{IDX}\nresize = [1, 1]\nstandardise = false"));
    let data = Dataset::load(&resized.data).unwrap();
    assert_eq!(data.train.features, [68.0, 52.0]); // (0+255+7+9)/4 = 67¾, (1+2+3+200)/4 = 51½
    assert_eq!(data.input.quantize(0.0), -128);
}

#[test]
fn every_pixel_value_keeps_its_code() {
    for mean in 0..=255u16 {
        let s = Standardisation { mean: vec![mean.into()], std: vec![77.31] };
        let a = Affine::from_range(s.apply_one(0, 0.0), s.apply_one(0, 255.0));
        for p in 0..=255i32 {
            assert_eq!(i32::from(a.quantize(s.apply_one(0, p as f32))), p - 128, "{mean}");
        }
    }
}

#[test]
fn disagreeing_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: Vec<u8>| fs::write(dir.path().join(name), bytes).unwrap();
    let load = || Dataset::load(&run(dir.path(), IDX).data).unwrap_err().to_string();
    write("a", idx_images(&[[0; 4]; 2]));
    write("b", idx_labels(&[0, 1]));
    write("c", idx_images(&[[0; 4]]));
    write("d", idx_labels(&[2]));
    let e = load();
    assert!(e.contains("d: byte 8, label 0: the label `2` is none of 0, 1"), "{e}");
    write("d", idx_labels(&[1, 1]));
    assert!(load().contains("2 labels for 1 images"), "{}", load());
    write("b", idx_labels(&[1, 1]));
    write("d", idx_labels(&[1]));
    assert!(Dataset::load(&run(dir.path(), IDX).data).is_ok()); // classes 0 and 1
    write("b", idx_labels(&[0, 0]));
    assert!(load().contains("all labels are equal"), "{}", load());
}

#[test]
fn csv_labels_are_names_or_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let load = |train: &str, test: &str, more: &str| {
        fs::write(dir.path().join("a.csv"), train).unwrap();
        fs::write(dir.path().join("b.csv"), test).unwrap();
        let text = format!("format = \"csv\"\ntrain = \"a.csv\"\ntest = \"b.csv\"\n{more}");
        Dataset::load(&run(dir.path(), &text).data)
    };
    let error = |train: &str, test: &str, more: &str| load(train, test, more).unwrap_err().to_string();
    let d = load("l,x\nB,1\nA,2\n", "l,x\nA,3\n", "").unwrap();
    assert_eq!(
        (d.classes, d.train.labels, d.test.labels),
        (vec!["A".into(), "B".into()], vec![1, 0], vec![0])
    );
    let d = load("l,x\n2,1\n00,2\n", "l,x\n1,3\n", "").unwrap();
    assert_eq!((d.classes.len(), d.train.labels, d.test.labels), (3, vec![2, 0], vec![1]));
    let d = load("l,x\nB,1\nA,2\n", "l,x\nC,3\n", "classes = [\"C\", \"B\", \"A\"]").unwrap();
    assert_eq!((d.train.labels, d.test.labels), (vec![1, 2], vec![0]));

    assert!(
        error("l,x\nA,1\nB,2\n", "l,x\nA,1\nC,3\n", "")
            .contains("b.csv: line 3: the label `C` is none of A, B")
    );
    assert!(
        error("l,x\n1,1\n2.5,2\n", "l,x\n1,1\n", "")
            .contains("a.csv: line 3: the label `2.5` is not a whole")
    );
    assert!(error("l,x\n1,1\nB,2\n", "l,x\n1,1\n", "").contains("line 3: the label `B` is not a whole"));
    assert!(error("l,x\n1,1\n-1,2\n", "l,x\n1,1\n", "").contains("line 3: the label `-1`"));
    assert!(error("l,x\n1,1\n9999,2\n", "l,x\n1,1\n", "").contains("too large"));
    assert!(error("l,x\nA,1\nB,2\n", "l,y\nA,1\n", "").contains("`y`"));
    assert!(error("l,x\nA,1\nB,2\n", "l,x,y\nA,1,2\n", "").contains("shape"));
}

#[test]
fn the_test_split_alone_uses_what_the_model_brings() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("b.csv"), "l,x,y\nB,3,8\nA,1,8\n").unwrap();
    let spec = run(dir.path(), "format = \"csv\"\ntrain = \"missing.csv\"\ntest = \"b.csv\"").data;
    let s = Standardisation { mean: vec![1.0, 8.0], std: vec![2.0, 1.0] };
    let (split, shape) = load_test(&spec, 2, &["A".into(), "B".into()], &s).unwrap();
    assert_eq!(
        (split.features.as_slice(), split.labels.as_slice()),
        (&[1.0, 0.0, 0.0, 0.0][..], &[1, 0][..])
    );
    assert_eq!((shape, split.examples().len()), (Shape::flat(2), 2));
    assert!(
        load_test(&spec, 3, &["A".into(), "B".into()], &s).unwrap_err().to_string().contains("2 features")
    );
}
