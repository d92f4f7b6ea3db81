//! tmp
mod adaptive_search;
mod divisors;
mod half;
mod search;
pub use adaptive_search::{DEAD_ALPHA, choose_divisors, fit_adaptive};
pub use divisors::{group_factor, pack_divisors, packed_divisors_len, unpack_divisors, DIVISORS};
pub use half::F16;
pub use search::{DEAD_STEP, fit_step};

#[cfg(test)]
pub(crate) fn samples(seed: u64, len: usize, heavy: bool) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len)
        .map(|_| {
            let x: f32 = (0..12).map(|_| uniform()).sum();
            if heavy { x * x * x } else { x }
        })
        .collect()
}
