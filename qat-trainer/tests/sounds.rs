//! From WAV files to a module for firmware. The sounds are generated: tones of three heights, in noise.
#![cfg(feature = "tch")]
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use qat_kernels::frontend::LogMel;
use qat_kernels::infer::{Model, argmax};
use qat_trainer::data::Dataset;
use qat_trainer::spec::Run;
use std::fs;
use std::path::Path;
use std::process::Command;

const CONFIG: &str = r#"name = "tones"
[data]
format = "wav"
train = "sounds"
sample_rate = 8000
clip = 2000
log_mel = { frame = 256, hop = 200, mels = 16, f_min = 50, f_max = 3600 }
split = { test = ["carol"], group = "_" }
[model]
layers = [
  { op = "flatten" },
  { op = "linear", out = 16, bn = true, act = "relu", bits = 4 },
  { op = "linear", out = 3, bits = 8 },
]
[train]
epochs = 15
batch = 16
lr = 0.01
[qat]
bits = 2
grid = "mid-rise"
epochs = 10
learning_rate = 0.005
"#;

const CLASSES: [(&str, f64); 3] = [("high", 1_700.0), ("low", 250.0), ("middle", 700.0)];
const LEN: usize = 2_000;

/// Numbers that look random, in −1..1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f64 / f64::from(1 << 23) - 1.0
    }

    /// A tone about as high as its class, of any loudness, in noise; some are too short or too long.
    fn sound(&mut self, pitch: f64) -> Vec<i16> {
        let (pitch, loudness) = (pitch * (1.0 + 0.25 * self.next()), 6_000.0 + 5_000.0 * self.next());
        let len = (LEN as f64 * (1.0 + 0.3 * self.next())) as usize;
        (0..len)
            .map(|i| {
                let tone = (std::f64::consts::TAU * pitch * i as f64 / 8_000.0).sin();
                (loudness * (tone + 0.5 * self.next())) as i16
            })
            .collect()
    }
}

fn wav(samples: &[i16]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    bytes.extend([8_000u32, 16_000].map(u32::to_le_bytes).concat());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

fn qat(dir: &Path, arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_qat")).current_dir(dir).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn generated_tones_are_told_apart_and_firmware_gets_the_front_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(5);
    for (class, pitch) in CLASSES {
        fs::create_dir_all(dir.path().join("sounds").join(class)).unwrap();
        for speaker in ["alice", "bob", "carol"] {
            for take in 0..25 {
                let name = format!("sounds/{class}/{speaker}_{take}.wav");
                fs::write(dir.path().join(name), wav(&numbers.sound(pitch))).unwrap();
            }
        }
    }
    fs::write(dir.path().join("run.toml"), CONFIG).unwrap();

    // Groups go as a whole, and the features are those of the front end.
    let run = Run::load(dir.path().join("run.toml")).unwrap();
    let (config, clip) = run.data.files.front_end().unwrap();
    let front_end = LogMel::new(config).unwrap();
    let data = Dataset::load(&run.data).unwrap();
    assert_eq!((data.train.len(), data.test.len()), (150, 75));
    assert_eq!((data.shape.h, data.shape.w, data.shape.c), (9, 16, 1));
    assert_eq!(data.classes, CLASSES.map(|(class, _)| class));

    qat(dir.path(), &["train", "run.toml", "--out", "run"]);
    qat(dir.path(), &["export", "run", "--rust", "module"]);
    let module = fs::read_to_string(dir.path().join("module/mod.rs")).unwrap();
    for line in [
        "    sample_rate: 8000,\n    frame: 256,\n    hop: 200,\n    mels: 16,\n    f_min: 50,\n    f_max: 3600,\n",
        "pub const CLIP_LEN: usize = 2000;",
        "pub const FRAMES: usize = 9;",
        "pub const FRONT_END_SCRATCH_LEN: usize = 256;",
    ] {
        assert!(module.contains(line), "{line}: {module}");
    }

    // As a device does it: samples, front end, standardisation, engine. Sounds that nobody has heard before.
    let file = fs::read(dir.path().join("module/model.piq")).unwrap();
    let model = Model::parse(&file).unwrap();
    let input = model.metadata().unwrap().input;
    let mut scratch = vec![0; front_end.scratch_len()];
    let mut arena = vec![0; model.arena_len()];
    let mut right = 0;
    for i in 0..150 {
        let mut samples = numbers.sound(CLASSES[i % 3].1);
        samples.resize(clip, 0);
        let (mut features, mut codes, mut logits) = ([0; 9 * 16], [0; 9 * 16], [0; 3]);
        front_end.clip(&samples, &mut scratch, &mut features).unwrap();
        let raw = features.map(f32::from);
        input.apply(model.input_scale(), model.input_zero_point(), &raw, &mut codes).unwrap();
        model.run(&codes, &mut logits, &mut arena).unwrap();
        right += usize::from(argmax(&logits) == i % 3);
    }
    assert!(right * 100 > 95 * 150, "{right} of 150");
}
