//! Causal attention with shared key-value heads, over the keys and values of a text.

use super::numbers::{add_times, dot, shares};
use crate::llm::config::LlmConfig;
use qat_kernels::math::{cos_sin, sqrt};
use rayon::prelude::*;

/// Products from which on threads share the work: less would not pay for waking them.
const WORTH_SHARING: usize = 1 << 20;

/// Keys and values of the tokens so far, `[layer, kv head, room, dim]`.
#[derive(Debug)]
pub(super) struct Memory {
    keys: Vec<f32>,
    values: Vec<f32>,
    pub(super) len: usize,
    pub(super) room: usize,
    /// Cosine and sine of every position's angles, `[room, dim/2]`.
    angles: Vec<[f32; 2]>,
    shape: Shape,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl Memory {
    pub(super) fn new(config: &LlmConfig, room: usize) -> Self {
        let LlmConfig { heads, kv_heads, head_dim: dim, layers, .. } = *config;
        let all = layers * kv_heads * room * dim;
        // Zeros from the system take no memory until they are written.
        let (keys, values) = (vec![0.0; all], vec![0.0; all]);
        let frequencies = config.frequencies();
        let of = |position: usize| {
            let turned = move |&frequency: &f64| cos_sin(position as f64 * frequency).map(|x| x as f32);
            frequencies.iter().map(turned).collect::<Vec<_>>()
        };
        let angles = (0..room).flat_map(of).collect();
        Self { keys, values, len: 0, room, angles, shape: Shape { heads, kv_heads, dim } }
    }

    /// The angles of each position from the next one on.
    pub(super) fn angles(&self) -> impl Iterator<Item = &[[f32; 2]]> {
        self.angles.chunks(self.shape.dim / 2).skip(self.len)
    }

    /// Puts the keys and values of tokens, `[token, kv head, dim]`, behind those so far. There is room for them.
    pub(super) fn store(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let Shape { kv_heads, dim, .. } = self.shape;
        for (all, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (i, head) in new.chunks_exact(dim).enumerate() {
                let (token, kv) = (i / kv_heads, i % kv_heads);
                let at = ((layer * kv_heads + kv) * self.room + self.len + token) * dim;
                all[at..at + dim].copy_from_slice(head);
            }
        }
    }

    /// What the queries of tokens, `[token, head, dim]`, make of the values: of the tokens so far and, of those stored after
    /// them, up to their own.
    pub(super) fn attend(&self, layer: usize, queries: &[f32]) -> Vec<f32> {
        let Shape { heads, kv_heads, dim } = self.shape;
        let scale = 1.0 / sqrt(dim as f32);
        let mut out = vec![0.0; queries.len()];
        let one = |scores: &mut Vec<f32>, (i, (query, out)): (usize, (&[f32], &mut [f32]))| {
            let (token, head) = (i / heads, i % heads);
            let start = (layer * kv_heads + head / (heads / kv_heads)) * self.room * dim;
            let seen = start..start + (self.len + token + 1) * dim;
            scores.clear();
            scores.extend(self.keys[seen.clone()].chunks_exact(dim).map(|key| dot(query, key) * scale));
            let share = shares(scores);
            for (&score, value) in scores.iter().zip(self.values[seen].chunks_exact(dim)) {
                add_times(out, score, value);
            }
            out.iter_mut().for_each(|x| *x *= share);
        };
        if queries.len() * (self.len + 1) < WORTH_SHARING {
            let mut scores = Vec::new();
            let each = queries.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate();
            each.for_each(|work| one(&mut scores, work));
        } else {
            let each = queries.par_chunks_exact(dim).zip(out.par_chunks_exact_mut(dim)).enumerate();
            each.for_each_init(Vec::new, one);
        }
        out
    }
}
