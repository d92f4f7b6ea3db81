//! Small networks for the tests of this crate, and tests of the reference forward pass.

use super::*;
use crate::spec::{Act, Run, WeightQuant};
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels};
use std::path::Path;

/// Numbers that look random, in −1.5..1.5.
pub(crate) fn examples(count: usize, width: usize) -> Vec<f32> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    (0..count * width)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 * 3.0 - 1.5
        })
        .collect()
}

pub(crate) fn model(layers: &str) -> ModelSpec {
    let text = format!(
        "[data]\nformat = \"csv\"\ntrain = \"a\"\ntest = \"b\"\n[model]\nlayers = [{layers}]\n[qat]\nbits = 3\n"
    );
    Run::parse(&text, Path::new("run.toml")).unwrap().model
}

/// Every operator but `linear` alone: 6×5×2 in, 3 classes out.
pub(crate) const SMALL_CNN: &str = r#"
    { op = "conv", name = "c", out = 8, kernel = 3, pad = 1, stride = 1, act = "relu", bits = 8 },
    { op = "depthwise", name = "d", kernel = [3, 1], pad = [1, 0], grid = "mid-rise", step = { pi = { k = 3 } } },
    { op = "add", name = "a", from = "c", act = "relu6" },
    { op = "max-pool", kernel = [2, 1] },
    { op = "conv", name = "p", out = 16, kernel = 1, bn = true, bits = 4, step = { pi-adaptive = { group = 8 } } },
    { op = "avg-pool", kernel = [1, 2], stride = [1, 2] },
    { op = "conv", name = "s", out = 4, kernel = 2, pad = "same", act = "relu", bits = 2, grid = "mid-rise" },
    { op = "flatten" },
    { op = "linear", name = "l", out = 3, bits = 8 }"#;

/// Sigmoids on maps and on vectors, before every operator that can follow one.
pub(crate) const SIGMOIDS: &str = r#"
    { op = "conv", name = "c", out = 4, kernel = 3, pad = 1, bits = 8, act = "sigmoid" },
    { op = "depthwise", name = "d", kernel = 3, pad = 1, bits = 8 },
    { op = "sigmoid" },
    { op = "add", from = "c", act = "sigmoid" },
    { op = "max-pool", kernel = 2 },
    { op = "avg-pool", kernel = [1, 2] },
    { op = "flatten" },
    { op = "linear", out = 5, bits = 8, act = "sigmoid" },
    { op = "linear", out = 3, bits = 8 },
    { op = "softmax" }"#;

pub(crate) const SMALL_INPUT: Shape = Shape { h: 6, w: 5, c: 2 };

/// A checkpoint with numbers for every tensor of a model.
pub(crate) fn checkpoint(model: &ModelSpec, input: Shape) -> Checkpoint {
    let shapes = model.shapes(input).unwrap();
    let mut c = Checkpoint::default();
    for (i, layer) in model.layers.iter().enumerate() {
        let Some(shape) = layer.op.weight_shape(layer.input.of(input, &shapes)) else { continue };
        let (len, out): (usize, usize) = (shape.iter().product(), shape[0]);
        let fan_in = (len / out) as f32;
        let mut numbers = examples(1, len + 5 * out + i).split_off(i).into_iter();
        let mut take = |n: usize| numbers.by_ref().take(n).collect::<Vec<f32>>();
        let name = |part: &str| format!("{}.{part}", layer.name);
        let weight = take(len).iter().map(|w| w / fan_in.sqrt()).collect();
        c.insert(&name("weight"), &shape, weight).unwrap();
        if layer.op.bn() {
            let positive = |v: Vec<f32>| v.into_iter().map(|x| x.abs() + 0.1).collect();
            c.insert(&name("bn.weight"), &[out], positive(take(out))).unwrap();
            c.insert(&name("bn.bias"), &[out], take(out)).unwrap();
            c.insert(&name("bn.running_mean"), &[out], take(out)).unwrap();
            c.insert(&name("bn.running_var"), &[out], positive(take(out))).unwrap();
        } else {
            c.insert(&name("bias"), &[out], take(out)).unwrap();
        }
    }
    c
}

pub(crate) fn small_cnn() -> Graph {
    let model = model(SMALL_CNN);
    Graph::from_checkpoint(&model, SMALL_INPUT, 3, &checkpoint(&model, SMALL_INPUT)).unwrap()
}

/// One linear layer.
pub(crate) fn linear_graph(weights: Weights, quant: WeightQuant) -> Graph {
    let input = Shape::flat(weights.fan_in);
    let op = Op::Linear { out: weights.channels, bn: false, act: Act::None, quant };
    let shape = Shape::flat(weights.channels);
    let node = Node {
        name: "l".into(),
        input: Value::Input,
        input_shape: input,
        op,
        shape,
        act_bits: 8,
        weights: Some(weights),
    };
    Graph { input, nodes: vec![node], softmax: false }
}

/// The network straight from torch's tensors: loops over batch-free C×H×W arrays, no folding, no reordering.
fn naive(model: &ModelSpec, c: &Checkpoint, input: Shape, hwc: &[f32]) -> Vec<f32> {
    type Map = (Vec<f64>, [usize; 3]);
    let mut x = vec![0.0; input.len()];
    for (i, &v) in hwc.iter().enumerate() {
        x[i % input.c * input.h * input.w + i / input.c] = f64::from(v);
    }
    let start: Map = (x, [input.c, input.h, input.w]);
    let mut values: Vec<Map> = Vec::new();
    for layer in &model.layers {
        let get = |v: Value| match v {
            Value::Input => &start,
            Value::Layer(i) => &values[i],
        };
        let (x, [cin, h, w]) = get(layer.input);
        let tensor = |part: &str| c.tensors.get(&format!("{}.{part}", layer.name)).map(|a| &a.data);
        let window = match &layer.op {
            Op::Conv { window, .. }
            | Op::Depthwise { window, .. }
            | Op::MaxPool(window)
            | Op::AvgPool(window) => *window,
            _ => crate::spec::Window::whole(Shape { h: *h, w: *w, c: *cin }),
        };
        let pads = window.pads(Shape { h: *h, w: *w, c: *cin });
        let size = |n: usize, i: usize| (n + pads[i] + pads[i + 2] - window.kernel[i]) / window.stride[i] + 1;
        let tap = |ch: usize, y: usize, x_: usize, ky: usize, kx: usize| -> Option<f64> {
            let y = (y * window.stride[0] + ky).checked_sub(pads[0])?;
            let x_ = (x_ * window.stride[1] + kx).checked_sub(pads[1])?;
            (y < *h && x_ < *w).then(|| x[(ch * h + y) * w + x_])
        };
        let taps = window.kernel[0] * window.kernel[1];
        let (mut out, dims): Map = match &layer.op {
            Op::Add { from, .. } => {
                (x.iter().zip(&get(*from).0).map(|(a, b)| a + b).collect(), [*cin, *h, *w])
            }
            Op::Sigmoid => (x.iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect(), [*cin, *h, *w]),
            Op::Flatten => (x.clone(), [x.len(), 1, 1]),
            Op::Linear { out, .. } => {
                let wt = tensor("weight").unwrap();
                let row = |o: usize| x.iter().zip(&wt[o * x.len()..]).map(|(a, &b)| a * f64::from(b)).sum();
                ((0..*out).map(row).collect(), [*out, 1, 1])
            }
            op => {
                let cout = if let Op::Conv { out, .. } = op { *out } else { *cin };
                let (oh, ow) = (size(*h, 0), size(*w, 1));
                let mut out = Vec::new();
                for o in 0..cout {
                    for y in 0..oh {
                        for x_ in 0..ow {
                            let all = |ch: usize| {
                                (0..taps).map(move |t| {
                                    (t, tap(ch, y, x_, t / window.kernel[1], t % window.kernel[1]))
                                })
                            };
                            out.push(match op {
                                Op::MaxPool(_) => all(o).filter_map(|(_, v)| v).fold(f64::MIN, f64::max),
                                Op::AvgPool(_) | Op::GlobalAvgPool => {
                                    all(o).filter_map(|(_, v)| v).sum::<f64>() / taps as f64
                                }
                                Op::Depthwise { .. } => all(o)
                                    .map(|(t, v)| {
                                        v.unwrap_or(0.0) * f64::from(tensor("weight").unwrap()[o * taps + t])
                                    })
                                    .sum(),
                                _ => (0..*cin)
                                    .flat_map(|ch| all(ch).map(move |(t, v)| (ch, t, v)))
                                    .map(|(ch, t, v)| {
                                        let at = (o * cin + ch) * taps + t;
                                        v.unwrap_or(0.0) * f64::from(tensor("weight").unwrap()[at])
                                    })
                                    .sum(),
                            });
                        }
                    }
                }
                (out, [cout, oh, ow])
            }
        };
        let area = dims[1] * dims[2];
        let at = |part: &str, o: usize, default: f64| tensor(part).map_or(default, |t| f64::from(t[o]));
        for (i, v) in out.iter_mut().enumerate() {
            let o = i / area;
            if layer.op.quant().is_some() {
                *v += at("bias", o, 0.0);
                if layer.op.bn() {
                    *v = (*v - at("bn.running_mean", o, 0.0))
                        / (at("bn.running_var", o, 1.0) + BN_EPS).sqrt()
                        * at("bn.weight", o, 1.0)
                        + at("bn.bias", o, 0.0);
                }
            }
            *v = f64::from(layer.op.act().apply(*v as f32));
        }
        values.push((out, dims));
    }
    values.pop().unwrap().0.into_iter().map(|v| v as f32).collect()
}

#[test]
fn the_reference_equals_torchs_definitions() {
    let global = r#"
        { op = "conv", out = 6, kernel = [2, 3], pad = [1, 2], stride = [2, 1], bn = true, act = "relu" },
        { op = "global-avg-pool" },
        { op = "linear", out = 5, bn = true, act = "relu" },
        { op = "linear", out = 3 }"#;
    for layers in
        [SMALL_CNN, SIGMOIDS, global, r#"{ op = "flatten" }, { op = "flatten" }, { op = "linear", out = 3 }"#]
    {
        let model = model(layers);
        let c = checkpoint(&model, SMALL_INPUT);
        let graph = Graph::from_checkpoint(&model, SMALL_INPUT, 3, &c).unwrap();
        for x in examples(5, SMALL_INPUT.len()).chunks_exact(SMALL_INPUT.len()) {
            let (got, want) = (graph.forward(x, |_, _| {}).unwrap(), naive(&model, &c, SMALL_INPUT, x));
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() < 1e-4 * w.abs().max(1.0), "{got:?} {want:?}");
            }
        }
        for len in [0, SMALL_INPUT.len() - 1, SMALL_INPUT.len() + 1] {
            let error = graph.forward(&vec![0.0; len], |_, _| {}).unwrap_err();
            assert!(error.to_string().contains(&format!("an example of {len} numbers")), "{error}");
        }
    }
}

#[test]
fn missing_tensors_are_named() {
    let model = model(SMALL_CNN);
    let full = checkpoint(&model, SMALL_INPUT);
    for name in full.tensors.keys() {
        let mut c = full.clone();
        c.tensors.remove(name);
        let e = Graph::from_checkpoint(&model, SMALL_INPUT, 3, &c).unwrap_err().to_string();
        // Without `bn.weight` the layer looks folded, and then it is the bias that it lacks.
        let named = if name == "p.bn.weight" { "p.bias" } else { name };
        assert!(e.contains(&format!("`{named}`")), "{e}");
    }
}

#[test]
fn quantisers_come_back_from_a_checkpoint() {
    let model = model(SMALL_CNN);
    let mut c = checkpoint(&model, SMALL_INPUT);
    let graph = small_cnn();
    for node in &graph.nodes {
        if let (Some(w), Some(quant)) = (&node.weights, node.op.quant()) {
            let alpha = (1..=w.channels).map(|i| i as f32 / 64.0).collect();
            c.insert(&format!("{}.alpha", node.name), &[w.channels], alpha).unwrap();
            if let StepRule::PiAdaptive { group } = quant.step {
                let count = w.rows.len() / group;
                let ks = (0..count).map(|i| (2 + i % 4) as f32).collect();
                c.insert(&format!("{}.divisors", node.name), &[count], ks).unwrap();
            }
        }
        if node.op.has_range() {
            c.insert(&format!("{}.act.scale", node.name), &[1], vec![0.5]).unwrap();
            c.insert(&format!("{}.act.zero_point", node.name), &[1], vec![-3.0]).unwrap();
        }
    }
    c.insert("input.scale", &[1], vec![0.25]).unwrap();
    c.insert("input.zero_point", &[1], vec![7.0]).unwrap();
    let q = Quantised::from_checkpoint(graph.clone(), &c).unwrap();
    assert_eq!(q.input, crate::affine::Affine { scale: 0.25, zero_point: 7 });
    assert_eq!(q.outputs.len(), graph.nodes.len());
    assert_eq!(q.steps[0], Some(Steps::PerChannel((1..=8).map(|i| i as f32 / 64.0).collect())));
    let Some(Steps::PiAdaptive { divisors, group: 8, .. }) = &q.steps[4] else { panic!("{:?}", q.steps[4]) };
    assert_eq!(divisors[..5], [2, 3, 4, 5, 2]);

    for (tensor, value) in [
        ("c.alpha", 0.0),
        ("d.alpha", -1.0),
        ("p.divisors", 6.0),
        ("l.act.scale", 0.0),
        ("input.zero_point", 0.5),
    ] {
        let mut bad = c.clone();
        bad.tensors.get_mut(tensor).unwrap().data[0] = value;
        let e = Quantised::from_checkpoint(graph.clone(), &bad).unwrap_err().to_string();
        let prefix = tensor.split('.').next().unwrap();
        assert!(e.contains(prefix), "{tensor}: {e}");
    }
}

#[test]
fn codes_are_those_of_the_shared_contract() {
    let levels = Levels::new(2, Grid::MidRise).unwrap();
    let quant = WeightQuant { levels, step: StepRule::PiAdaptive { group: 8 } };
    let weights = Weights { channels: 2, fan_in: 16, rows: examples(2, 16), bias: vec![0.0; 2] };
    let steps = Steps::new(quant.step, &[0.5, 0.75], &[2, 3, 4, 5]).unwrap();
    let found = codes(&weights, quant, &steps).unwrap();
    for (i, (&w, &q)) in weights.rows.iter().zip(&found).enumerate() {
        let step = qat_kernels::pi_step([0.5, 0.75][i / 16], [2, 3, 4, 5][i / 8]).unwrap();
        assert_eq!(i32::from(q), levels.quantize(w, step));
    }
}

/// A run description and a data set for [`small_cnn`].
pub(crate) fn run_and_data() -> (Run, crate::data::Dataset) {
    let text = format!(
        "[data]\nformat = \"csv\"\ntrain = \"a\"\ntest = \"b\"\n[model]\nlayers = [{SMALL_CNN}]\n[qat]\nbits = 3\n"
    );
    let split = |n: usize| crate::data::Split {
        features: examples(n, SMALL_INPUT.len()),
        labels: (0..n as u32).map(|i| i % 3).collect(),
    };
    let data = crate::data::Dataset {
        train: split(30),
        test: split(9),
        classes: ["a", "b", "c"].map(String::from).into(),
        shape: SMALL_INPUT,
        standardisation: crate::data::Standardisation::none(),
        input: crate::affine::Affine::from_range(-1.5, 1.5),
        sha256: [7; 32],
    };
    (Run::parse(&text, Path::new("run.toml")).unwrap(), data)
}
