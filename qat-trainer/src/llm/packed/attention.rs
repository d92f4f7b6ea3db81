//! Causal attention with shared key-value heads, over the keys and values of a text.

use super::numbers::{add_times, dot, shares};
use crate::llm::config::LlmConfig;
use qat_kernels::math::{cos_sin, sqrt};
use rayon::prelude::*;

/// Products from which on threads share the work: less would not pay for waking them.
const WORTH_SHARING: usize = 1 << 20;

/// Keys and values of the tokens so far. It grows with them: what a file says of its context is not allocated ahead.
#[derive(Debug)]
pub(super) struct Memory {
    /// Of each layer's key-value heads, `[token, dim]`.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    pub(super) len: usize,
    pub(super) room: usize,
    /// Radians per position of each pair.
    frequencies: Vec<f64>,
    /// Cosine and sine of the positions' angles so far, `[position, dim/2]`.
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
        let heads_of_all = vec![Vec::new(); layers * kv_heads];
        Self {
            keys: heads_of_all.clone(),
            values: heads_of_all,
            len: 0,
            room,
            frequencies: config.frequencies(),
            angles: Vec::new(),
            shape: Shape { heads, kv_heads, dim },
        }
    }

    /// Computes the angles of the `count` positions from the next one on.
    pub(super) fn prepare(&mut self, count: usize) {
        for position in self.angles.len() / (self.shape.dim / 2)..self.len + count {
            let turned = |&frequency: &f64| cos_sin(position as f64 * frequency).map(|x| x as f32);
            self.angles.extend(self.frequencies.iter().map(turned));
        }
    }

    /// The angles of each prepared position from the next one on.
    pub(super) fn angles(&self) -> impl Iterator<Item = &[[f32; 2]]> {
        self.angles.chunks_exact(self.shape.dim / 2).skip(self.len)
    }

    /// Puts the keys and values of tokens, `[token, kv head, dim]`, behind those so far.
    pub(super) fn store(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let Shape { kv_heads, dim, .. } = self.shape;
        let len = self.len * dim;
        for (all, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            let heads = &mut all[layer * kv_heads..(layer + 1) * kv_heads];
            // What is left of a text that was cut, or of tokens that came to nothing.
            heads.iter_mut().for_each(|head| head.truncate(len));
            for token in new.chunks_exact(kv_heads * dim) {
                heads.iter_mut().zip(token.chunks_exact(dim)).for_each(|(head, new)| head.extend(new));
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
            let (shared, seen) = (layer * kv_heads + head / (heads / kv_heads), self.len + token + 1);
            let [keys, values] =
                [&self.keys, &self.values].map(|all| all[shared].chunks_exact(dim).take(seen));
            scores.clear();
            scores.extend(keys.map(|key| dot(query, key) * scale));
            let share = shares(scores);
            for (&score, value) in scores.iter().zip(values) {
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
