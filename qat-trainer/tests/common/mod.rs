//! A small data set with a run folder as training leaves it, and the real binary to try on them.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod packed;

use flate2::{Compression, write::GzEncoder};
use qat_trainer::checkpoint::Checkpoint;
use qat_trainer::data::Dataset;
use qat_trainer::export::About;
use qat_trainer::graph::{Graph, Steps};
use qat_trainer::ptq;
use qat_trainer::spec::{Run, Value};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use wait4::Wait4;

/// `run.toml` for CSV: four features, three classes.
pub(crate) const CSV: &str = r#"name = "tiny"
[data]
format = "csv"
train = "train.csv"
test = "test.csv"
[model]
layers = [
  { op = "linear", out = 8, bn = true, act = "relu", bits = 8 },
  { op = "linear", out = 3, bits = 4 },
]
[train]
epochs = 2
batch = 8
[qat]
bits = 4
epochs = 1
calibration = { samples = 20 }
"#;

/// `run.toml` for IDX: 4×4 images, three classes.
pub(crate) const IDX: &str = r#"name = "tiny"
[data]
format = "idx"
train_images = "train-images.gz"
train_labels = "train-labels"
test_images = "test-images"
test_labels = "test-labels"
[model]
layers = [
  { op = "conv", out = 4, kernel = 3, pad = 1, act = "relu", bits = 8 },
  { op = "max-pool", kernel = 2 },
  { op = "flatten" },
  { op = "linear", out = 3, bits = 2, grid = "mid-rise", step = "uniform" },
]
[train]
epochs = 2
batch = 8
[qat]
bits = 4
epochs = 1
calibration = { samples = 20 }
"#;

/// A folder with `run.toml`, its data, and a run folder `run` beside them.
pub(crate) struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    /// A sound data set and run folder.
    pub(crate) fn new(config: &str) -> Self {
        let fixture = Self { dir: tempfile::tempdir().unwrap() };
        fixture.write("run.toml", config);
        if config.contains("\"csv\"") {
            fixture.write("train.csv", csv(60));
            fixture.write("test.csv", csv(21));
        } else {
            fixture.write("train-images.gz", gzip(&idx_images(60)));
            fixture.write("train-labels", idx_labels(60));
            fixture.write("test-images", idx_images(21));
            fixture.write("test-labels", idx_labels(21));
        }
        fixture.make_run();
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Every file below the folder, sorted.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, out) } else { out.push(path) }
            }
        }
        let mut out = Vec::new();
        walk(self.dir.path(), &mut out);
        out.sort();
        out
    }

    /// Runs `qat` in the folder.
    pub(crate) fn qat(&self, arguments: &[&str]) -> Output {
        self.qat_with(arguments, &[])
    }

    pub(crate) fn qat_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qat"));
        command.args(arguments).current_dir(self.dir.path()).env_remove("SOURCE_DATE_EPOCH");
        for (name, value) in environment {
            command.env(name, value);
        }
        command.output().unwrap()
    }

    /// Runs `qat` in the folder; also the most memory that it had at any time, in bytes.
    pub(crate) fn qat_with_peak(&self, arguments: &[&str]) -> (Output, u64) {
        // Short texts: the pipes hold them until it has ended.
        let mut child = Command::new(env!("CARGO_BIN_EXE_qat"))
            .args(arguments)
            .current_dir(self.dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let used = child.wait4().unwrap();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        out.read_to_end(&mut stdout).unwrap();
        err.read_to_end(&mut stderr).unwrap();
        (Output { status: used.status, stdout, stderr }, used.rusage.maxrss)
    }

    /// The run folder: untrained weights, quantisers by search.
    fn make_run(&self) {
        fs::create_dir_all(self.path("run")).unwrap();
        let run = Run::load(self.path("run.toml")).unwrap();
        self.write("run/config.toml", run.text_for(&self.path("run")).unwrap());
        let data = Dataset::load(&run.data).unwrap();
        let shapes = run.model.check(data.shape, data.classes.len()).unwrap();
        let mut float = Checkpoint::default();
        let mut random =
            (1..).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0);
        for layer in &run.model.layers {
            let input = match layer.input {
                Value::Input => data.shape,
                Value::Layer(i) => shapes[i],
            };
            let Some(shape) = layer.op.weight_shape(input) else { continue };
            let out = [shape[0]];
            let weight = random.by_ref().take(shape.iter().product()).collect();
            let mut put = |part: &str, shape: &[usize], data| {
                float.insert(&format!("{}.{part}", layer.name), shape, data).unwrap();
            };
            put("weight", &shape, weight);
            if layer.op.bn() {
                put("bn.weight", &out, vec![0.9; out[0]]);
                put("bn.bias", &out, vec![0.1; out[0]]);
                put("bn.running_mean", &out, vec![0.2; out[0]]);
                put("bn.running_var", &out, vec![1.3; out[0]]);
            } else {
                put("bias", &out, vec![0.05; out[0]]);
            }
        }
        let graph = Graph::from_checkpoint(&run.model, data.shape, data.classes.len(), &float).unwrap();
        let network = ptq::quantise(graph, data.input, &data.train.features, run.qat.calibration).unwrap();

        let mut quantised = float.clone();
        let mut number = |name: String, x: f32| quantised.insert(&name, &[1], vec![x]).unwrap();
        number("input.scale".into(), network.input.scale);
        number("input.zero_point".into(), network.input.zero_point.into());
        for (node, code) in network.graph.nodes.iter().zip(&network.outputs) {
            if node.op.has_range() {
                number(format!("{}.act.scale", node.name), code.scale);
                number(format!("{}.act.zero_point", node.name), code.zero_point.into());
            }
        }
        for (node, steps) in network.graph.nodes.iter().zip(&network.steps) {
            if let Some(Steps::PerChannel(steps)) = steps {
                quantised.insert(&format!("{}.alpha", node.name), &[steps.len()], steps.clone()).unwrap();
            }
        }
        for (name, mut checkpoint) in [("fp32", float), ("checkpoint", quantised)] {
            About::new(&run, &data, "test".into()).store(&mut checkpoint).unwrap();
            checkpoint.save(&self.path(&format!("run/{name}.safetensors"))).unwrap();
        }
    }
}

/// The error of a failed command, after checking that it is one line behind warnings, tells of no panic, and comes with
/// this exit code.
pub(crate) fn failure(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    let mut lines = text.lines().skip_while(|line| line.starts_with("qat: warning: "));
    let text = lines.by_ref().take(1).fold(String::new(), |text, line| text + line + "\n")
        + &lines.collect::<String>();
    assert!(text.starts_with("qat: error: ") && text.trim_end().lines().count() == 1, "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// Standard output of a successful command.
pub(crate) fn success(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A table whose label follows from its features.
pub(crate) fn csv(rows: usize) -> String {
    let mut text = String::from("label,a,b,c,d\n");
    for i in 0..rows {
        let label = i % 3;
        let x = |k: usize| (label * 3 + (i * 7 + k * 5) % 4) as f32 / 2.0;
        text.push_str(&format!("{},{},{},{},{}\n", ["x", "y", "z"][label], x(0), -x(1), x(2), i % 5));
    }
    text
}

pub(crate) fn idx_images(count: u32) -> Vec<u8> {
    let mut file = vec![0, 0, 8, 3];
    for n in [count, 4, 4] {
        file.extend(n.to_be_bytes());
    }
    file.extend((0..count * 16).map(|i| if i / 16 % 3 == i % 16 / 5 { 200 } else { (i * 37 % 90) as u8 }));
    file
}

pub(crate) fn idx_labels(count: u32) -> Vec<u8> {
    let mut file = vec![0, 0, 8, 1];
    file.extend(count.to_be_bytes());
    file.extend((0..count).map(|i| (i % 3) as u8));
    file
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The one line of JSON that a command has printed.
pub(crate) fn json(text: &str) -> serde_json::Value {
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    serde_json::from_str(text).unwrap()
}
