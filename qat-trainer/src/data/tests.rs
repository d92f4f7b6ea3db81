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
fn what_cannot_be_standardised_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let load = |test: &str, more: &str| {
        fs::write(dir.path().join("a.csv"), "x,y,l\n0.1,1,A\n0.2,2,B\n").unwrap();
        fs::write(dir.path().join("b.csv"), test).unwrap();
        let text = format!("format = \"csv\"\ntrain = \"a.csv\"\ntest = \"b.csv\"\nlabel = \"l\"\n{more}");
        Dataset::load(&run(dir.path(), &text).data)
    };
    let far = "x,y,l\n0.1,1,A\n3e38,2,B\n";
    let e = load(far, "").unwrap_err().to_string();
    assert!(e.contains("b.csv: line 3: feature 0 is too far") && e.contains("standardise = false"), "{e}");
    assert_eq!(load(far, "standardise = false").unwrap().test.features[2], 3e38);
    assert!(load("x,y,l\n1e37,2,B\n", "").is_ok());
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

/// One file, divided: what is standardised, what is hashed, and that `qat eval` sees the same test half.
#[test]
fn one_file_is_divided_the_same_way_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let line = |i: usize| format!("{},{i},s{}\n", ["x", "y"][i % 2], i % 5);
    fs::write(dir.path().join("a.csv"), "l,v,who\n".to_owned() + &(0..50).map(line).collect::<String>())
        .unwrap();
    let spec = |split: &str| {
        run(dir.path(), &format!("format = \"csv\"\ntrain = \"a.csv\"\nfeatures = \"v\"\nsplit = {split}"))
            .data
    };
    let by_share = spec("{ share = 0.2, seed = 4 }");
    let data = Dataset::load(&by_share).unwrap();
    assert_eq!((data.train.len(), data.test.len(), data.shape.c), (40, 10, 1));
    assert!(data.train.features.iter().sum::<f32>().abs() < 1e-4, "standardised by the training half");
    let (test, _) = load_test(&by_share, 1, &data.classes, &data.standardisation).unwrap();
    assert_eq!(test, data.test);
    assert_eq!(data.sha256, <[u8; 32]>::from(Sha256::digest(fs::read(dir.path().join("a.csv")).unwrap())));

    let by_group = spec("{ test = [\"s3\"], group = \"who\" }");
    let data = Dataset::load(&by_group).unwrap();
    let raw: Vec<f32> = data
        .test
        .features
        .iter()
        .map(|x| x * data.standardisation.std[0] + data.standardisation.mean[0])
        .collect();
    let want: Vec<f32> = (0..50).filter(|i| i % 5 == 3).map(|i| i as f32).collect();
    assert!(raw.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-3), "{raw:?}");
    assert_eq!(data.test.len(), want.len());
}

#[test]
fn mistakes_in_a_split_name_their_line() {
    for (keys, want) in [
        ("split = { share = 1.5 }", "share of 1.5"),
        ("split = { seed = 3 }", "needs a share"),
        ("split = { test = [\"a\"] }", "not what makes them"),
        ("split = { test = [], group = \"w\" }", "no group is named"),
        ("split = { share = 0.1 }\ntest = \"b.csv\"", "`split` makes a test half too"),
    ] {
        let text = format!(
            "[data]\nformat = \"csv\"\ntrain = \"a.csv\"\n{keys}\n[model]\nlayers = [{{ op = \"linear\", out = 2 }}]\n"
        );
        let e = Run::parse(&text, Path::new("run.toml")).unwrap_err().to_string();
        assert!(e.contains("run.toml: line ") && e.contains(want), "{e}");
    }
    let e = Run::parse(
        "[data]\nformat = \"idx\"\nsplit = { share = 0.1, group = \"w\" }\n[model]\nlayers = []",
        Path::new("r"),
    )
    .unwrap_err();
    assert!(e.to_string().contains("knows no groups"), "{e}");
    for (format, key) in [
        ("csv", "layout = \"tc\""),
        ("npz", "header = true"),
        ("cifar10", "label = \"fine\""),
        ("jsonl", "resize = [1, 1]"),
        ("images", "features = \"x\""),
    ] {
        let text = format!(
            "[data]\nformat = \"{format}\"\ntrain = \"a\"\ntest = \"b\"\n{key}\n[model]\nlayers = []"
        );
        let e = Run::parse(&text, Path::new("r.toml")).unwrap_err().to_string();
        assert!(e.contains("line 5, ") && e.contains("has no meaning"), "{e}");
    }
}

#[test]
fn every_format_gives_a_data_set() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let labels = |i: usize| ["up", "down"][i % 2];
    let lines = |n: usize| {
        (0..n)
            .map(|i| format!("{{\"label\": \"{}\", \"features\": [{i}, 0.5]}}\n", labels(i)))
            .collect::<String>()
    };
    fs::write(path("a.jsonl"), lines(20)).unwrap();
    fs::write(path("b.jsonl"), lines(6)).unwrap();
    let record = |i: usize| [vec![(i % 2) as u8], vec![(i * 9) as u8; 3072]].concat();
    fs::write(path("a.bin"), (0..20).flat_map(record).collect::<Vec<u8>>()).unwrap();
    fs::write(path("b.bin"), (0..6).flat_map(record).collect::<Vec<u8>>()).unwrap();
    for i in 0..20 {
        for (half, n) in [("a", 20), ("b", 6)] {
            let folder = path(half).join(labels(i));
            fs::create_dir_all(&folder).unwrap();
            if i < n {
                let mut file = Vec::new();
                let mut encoder = png::Encoder::new(&mut file, 2, 2);
                encoder.set_color(png::ColorType::Grayscale);
                encoder.write_header().unwrap().write_image_data(&[i as u8 * 10; 4]).unwrap();
                fs::write(folder.join(format!("{i:02}.png")), file).unwrap();
            }
        }
    }
    for (keys, shape, images) in [
        ("format = \"jsonl\"\ntrain = \"a.jsonl\"\ntest = \"b.jsonl\"", Shape::flat(2), false),
        (
            "format = \"cifar10\"\ntrain = [\"a.bin\"]\ntest = \"b.bin\"\nresize = [4, 4]",
            Shape { h: 4, w: 4, c: 3 },
            true,
        ),
        ("format = \"images\"\ntrain = \"a\"\ntest = \"b\"", Shape { h: 2, w: 2, c: 1 }, true),
    ] {
        let data = Dataset::load(&run(dir.path(), keys).data).unwrap();
        assert_eq!(
            (data.train.len(), data.test.len(), data.shape, data.classes.len()),
            (20, 6, shape, 2),
            "{keys}"
        );
        assert_eq!(data.standardisation.mean.len(), if images { 1 } else { 2 });
        assert!(data.test.labels.contains(&0) && data.test.labels.contains(&1));
    }
}

#[test]
fn sounds_become_the_features_of_the_front_end() {
    use super::wav::tests::wav;
    use qat_kernels::frontend::LogMel;
    let dir = tempfile::tempdir().unwrap();
    let sound = |n: usize, k: usize| (0..n).map(|i| ((i * k) % 2000) as i16 - 1000).collect::<Vec<_>>();
    for (name, bytes) in [
        ("train/a/x.wav", wav(1, 8_000, &sound(500, 7))),
        ("train/b/y.wav", wav(2, 8_000, &sound(900, 31))),
        ("test/b/z.wav", wav(1, 8_000, &sound(10, 3))),
    ] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let keys = "format = \"wav\"\ntrain = \"train\"\ntest = \"test\"\nsample_rate = 8000\nclip = 400\n\
        log_mel = { frame = 128, hop = 100, mels = 6 }\nstandardise = false";
    let run = run(dir.path(), keys);
    let (config, clip) = run.data.files.front_end().unwrap();
    assert_eq!((config.f_min, config.f_max, clip), (20, 3_600, 400));
    let data = Dataset::load(&run.data).unwrap();
    assert_eq!(data.shape, Shape { h: 3, w: 6, c: 1 });
    let front_end = LogMel::new(config).unwrap();
    let features = |samples: &[i16]| {
        let mut out = [0; 18];
        front_end.clip(samples, &mut [0; 128], &mut out).unwrap();
        out.map(f32::from)
    };
    assert_eq!(data.train.features[..18], features(&sound(500, 7)[..400]));
    let mean: Vec<i16> = sound(900, 31).chunks(2).map(|p| (p[0] + p[1]) >> 1).collect();
    assert_eq!(data.train.features[18..], features(&mean[..400]));
    let mut short = sound(10, 3);
    short.resize(400, 0);
    assert_eq!(data.test.features, features(&short));

    fs::write(dir.path().join("train/a/w.wav"), wav(1, 16_000, &[1, 2])).unwrap();
    let e = Dataset::load(&run.data).unwrap_err().to_string();
    assert!(
        e.contains("w.wav") && e.contains("16000 samples a second") && e.contains("`sample_rate`"),
        "{e}"
    );
}

#[test]
fn impossible_front_ends_are_refused_with_their_key() {
    let parse = |keys: &str| {
        let data = format!("format = \"wav\"\ntrain = \"a\"\ntest = \"b\"\n{keys}");
        let text = format!("[data]\n{data}\n[model]\nlayers = [{{ op = \"linear\", out = 2 }}]\n");
        Run::parse(&text, Path::new("run.toml")).map_err(|e| e.to_string())
    };
    assert!(parse("").is_ok());
    for (keys, wanted) in [
        ("sample_rate = 5", "`log_mel`"),
        ("log_mel = { mels = 100 }", "fewer bands"),
        ("log_mel = { f_max = 9000 }", "`log_mel`"),
        ("log_mel = { window = 9 }", "window"),
        ("clip = 479", "`clip`"),
        ("clip = 99999999999", "`clip`"),
        ("resize = [2, 2]", "no meaning"),
    ] {
        let e = parse(keys).unwrap_err();
        assert!(e.contains(wanted), "{keys}: {e}");
    }
}
