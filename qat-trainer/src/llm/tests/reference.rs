//! The decoder's definition in plain loops of f64.

use super::*;
use std::collections::HashMap;

type Matrix = Vec<Vec<f64>>;

struct Weights(HashMap<String, Matrix>);

impl Weights {
    fn of(decoder: &Decoder) -> Self {
        let rows = |t: &Tensor| -> Matrix {
            let t = if t.dim() == 1 { t.unsqueeze(0) } else { t.shallow_clone() };
            Vec::<Vec<f64>>::try_from(t.to_kind(Kind::Double)).unwrap()
        };
        Self(decoder.tensors().unwrap().iter().map(|(name, t)| (name.clone(), rows(t))).collect())
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let bias = self.0.get(&format!("{name}.bias"));
        let rows = self.0[&format!("{name}.weight")].iter().enumerate();
        let dot = |row: &[f64]| -> f64 { row.iter().zip(x).map(|(w, x)| w * x).sum() };
        rows.map(|(i, row)| dot(row) + bias.map_or(0.0, |b| b[0][i])).collect()
    }

    fn norm(&self, name: &str, eps: f64, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let weight = &self.0[&format!("{name}.weight")][0];
        x.iter().zip(weight).map(|(x, w)| w * x / (mean + eps).sqrt()).collect()
    }
}

/// Rotates the heads of one position: numbers i and i + half by the angle p·base^(−i/half).
fn rotate(x: &mut [f64], config: &LlmConfig, position: usize) {
    let half = config.head_dim / 2;
    for head in x.chunks_mut(config.head_dim) {
        for i in 0..half {
            let angle = position as f64 * config.rope_base.powf(-(i as f64) / half as f64);
            let (a, b) = (head[i], head[i + half]);
            head[i] = a * angle.cos() - b * angle.sin();
            head[i + half] = b * angle.cos() + a * angle.sin();
        }
    }
}

fn attention(w: &Weights, prefix: &str, c: &LlmConfig, x: &Matrix) -> Matrix {
    let project = |name: &str, rotated: bool| -> Matrix {
        let one = |(position, x): (usize, &Vec<f64>)| {
            let mut y = w.linear(&format!("{prefix}.self_attn.{name}"), x);
            if rotated {
                rotate(&mut y, c, position);
            }
            y
        };
        x.iter().enumerate().map(one).collect()
    };
    let (q, k, v) = (project("q_proj", true), project("k_proj", true), project("v_proj", false));
    let d = c.head_dim;
    let mut out = Vec::new();
    for (i, q) in q.iter().enumerate() {
        let mut y = vec![0.0; c.heads * d];
        for head in 0..c.heads {
            let shared = head / (c.heads / c.kv_heads);
            let scores: Vec<f64> = (0..=i)
                .map(|j| {
                    (0..d).map(|n| q[head * d + n] * k[j][shared * d + n]).sum::<f64>() / (d as f64).sqrt()
                })
                .map(f64::exp)
                .collect();
            let total: f64 = scores.iter().sum();
            for (j, score) in scores.iter().enumerate() {
                for n in 0..d {
                    y[head * d + n] += score / total * v[j][shared * d + n];
                }
            }
        }
        out.push(w.linear(&format!("{prefix}.self_attn.o_proj"), &y));
    }
    out
}

fn add(x: &mut Matrix, y: &Matrix) {
    x.iter_mut().flatten().zip(y.iter().flatten()).for_each(|(x, y)| *x += y);
}

/// The logits of every position.
fn logits(decoder: &Decoder, tokens: &[i64]) -> Matrix {
    let (w, c) = (Weights::of(decoder), decoder.config());
    let embedding = &w.0["model.embed_tokens.weight"];
    let mut x: Matrix = tokens.iter().map(|&t| embedding[t as usize].clone()).collect();
    for layer in 0..c.layers {
        let prefix = format!("model.layers.{layer}");
        let normed = |norm: &str, x: &Matrix| -> Matrix {
            x.iter().map(|x| w.norm(&format!("{prefix}.{norm}"), c.norm_eps, x)).collect()
        };
        let y = attention(&w, &prefix, c, &normed("input_layernorm", &x));
        add(&mut x, &y);
        let mlp = |x: &Vec<f64>| {
            let [gate, up] =
                ["gate_proj", "up_proj"].map(|name| w.linear(&format!("{prefix}.mlp.{name}"), x));
            let gated: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            w.linear(&format!("{prefix}.mlp.down_proj"), &gated)
        };
        let y: Matrix = normed("post_attention_layernorm", &x).iter().map(mlp).collect();
        add(&mut x, &y);
    }
    let head = if c.tied { "model.embed_tokens" } else { "lm_head" };
    x.iter().map(|x| w.linear(head, &w.norm("model.norm", c.norm_eps, x))).collect()
}

#[test]
fn logits_equal_the_definition_in_plain_loops() {
    for architecture in BOTH {
        for (heads, kv_heads) in [(4, 2), (4, 4), (6, 2), (3, 1)] {
            let config = LlmConfig { heads, kv_heads, output_bias: heads == 6, ..tiny(architecture) };
            let decoder = decoder(&config);
            let ids = tokens(heads as u64, 2, 11);
            let ours = decoder.forward(&ids).unwrap();
            for row in 0..2 {
                let wanted = logits(&decoder, &Vec::<i64>::try_from(ids.get(row)).unwrap());
                let wanted = Tensor::from_slice2(&wanted);
                assert!(wanted.abs().max().double_value(&[]) > 0.5);
                let off = difference(&ours.get(row).to_kind(Kind::Double), &wanted);
                assert!(off < 2e-5, "{architecture:?} {heads} {kv_heads}: {off}");
            }
        }
    }
}
