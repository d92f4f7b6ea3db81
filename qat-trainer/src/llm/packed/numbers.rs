//! Arithmetic in f32 whose order does not depend on the machine: every sum has sixteen partial sums, term i in number i mod 16,
//! which are then added half to half.

use qat_kernels::math::{exp, sqrt};

const LANES: usize = 16;

fn total(mut sums: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}

/// Σ aᵢ·bᵢ.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a * b;
    }
    total(sums)
}

fn sum(a: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for a in a.chunks(LANES) {
        for (sum, a) in sums.iter_mut().zip(a) {
            *sum += a;
        }
    }
    total(sums)
}

/// `w·(x·(1/√(mean(x²) + ε)))`, of each row of x.
pub(super) fn norm(x: &[f32], w: &[f32], eps: f32) -> Vec<f32> {
    let row = |x: &[f32]| {
        let scale = 1.0 / sqrt(dot(x, x) / x.len() as f32 + eps);
        x.iter().zip(w).map(|(x, w)| w * (x * scale)).collect::<Vec<_>>()
    };
    x.chunks(w.len().max(1)).flat_map(row).collect()
}

/// `silu(gate)·up`, into `gate`: silu(x) = x/(1 + e⁻ˣ).
pub(super) fn gated(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

pub(super) fn add(to: &mut [f32], more: &[f32]) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to += more);
}

/// Rotates each head by its position's angles: halves a and b to `a·cos − b·sin` and `b·cos + a·sin`.
pub(super) fn rotate(heads: &mut [f32], dim: usize, angles: &[[f32; 2]]) {
    for head in heads.chunks_mut(dim.max(1)) {
        let (first, second) = head.split_at_mut(dim / 2);
        for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(angles) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// Numbers to their shares `e^(xᵢ − max)`; returns 1/Σ of them.
pub(super) fn shares(x: &mut [f32]) -> f32 {
    let largest = x.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    x.iter_mut().for_each(|x| *x = exp(*x - largest));
    1.0 / sum(x)
}

/// `to += factor·x`.
pub(super) fn add_times(to: &mut [f32], factor: f32, x: &[f32]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
}

/// −ln of the share that a softmax of the logits gives to one of them, in f64.
pub(super) fn surprise(logits: &[f32], token: usize) -> Option<f64> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    let sum: f64 = logits.iter().map(|&x| f64::from(exp(x - largest))).sum();
    Some(sum.ln() - f64::from(logits.get(token)? - largest))
}
