//! Moments in 8 bits each, block by block (after Dettmers et al. 2022, with another code).
//!
//! In a block of [`BLOCK`] numbers the largest |m| is `a` and the largest √v is `b`; then
//!
//! ```text
//! m = a·sign(c)·(c/127)²       c ∈ −127..=127
//! √v = b·(d/255)²              d ∈ 0..=255
//! ```
//!
//! so that levels lie closer together near zero. Codes are drawn at random between the two neighbours such that m and v are
//! right in the mean: a mean with β₂ = 0.999 moves by less than half a level, and would stand still if it were rounded to
//! nearest. The draw depends on the number of the update and of the parameter alone. A v that is not zero never becomes
//! zero, which would make its step huge: it becomes the smallest level.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::nn::state;

/// Numbers that share their largest values.
pub(super) const BLOCK: usize = 256;

const FIRST_CODES: &str = "m8";
const SECOND_CODES: &str = "v8";
const LARGEST: &str = "largest";

/// The moments of one parameter.
#[derive(Debug)]
pub(in crate::llm) struct EightBits {
    m: Vec<i8>,
    v: Vec<u8>,
    /// `[a, b]` of every block.
    largest: Vec<[f32; 2]>,
    /// Numbers in a part; blocks start anew with each.
    part: usize,
}

/// Codes of a part.
pub(in crate::llm) struct Part<'a> {
    m: &'a mut [i8],
    v: &'a mut [u8],
    largest: &'a mut [[f32; 2]],
    /// Start of the random numbers.
    seed: u64,
}

impl EightBits {
    /// Zeros.
    pub(super) fn new(len: usize, part: usize) -> Self {
        let blocks = len / part * part.div_ceil(BLOCK) + (len % part).div_ceil(BLOCK);
        Self { m: vec![0; len], v: vec![0; len], largest: vec![[0.0; 2]; blocks], part }
    }

    pub(super) fn bytes(&self) -> usize {
        2 * self.m.len() + 8 * self.largest.len()
    }

    pub(super) fn parts(&mut self, update: u32) -> impl Iterator<Item = Part<'_>> {
        let part = self.part;
        let codes = self.m.chunks_mut(part).zip(self.v.chunks_mut(part));
        codes.zip(self.largest.chunks_mut(part.div_ceil(BLOCK))).enumerate().map(
            move |(i, ((m, v), largest))| Part {
                m,
                v,
                largest,
                seed: (u64::from(update) << 40) + (i * part) as u64,
            },
        )
    }

    pub(super) fn save(&self, name: &str, to: &mut Checkpoint) -> Result<()> {
        let m: Vec<f32> = self.m.iter().map(|&c| c.into()).collect();
        let v: Vec<f32> = self.v.iter().map(|&c| c.into()).collect();
        state::put(to, name, FIRST_CODES, &m)?;
        state::put(to, name, SECOND_CODES, &v)?;
        state::put(to, name, LARGEST, self.largest.as_flattened())
    }

    pub(super) fn load(&mut self, name: &str, from: &Checkpoint) -> Result<()> {
        let n = self.m.len();
        let largest = state::get(from, name, LARGEST, 2 * self.largest.len())?;
        self.largest = largest.as_chunks().0.to_vec();
        self.m = state::get(from, name, FIRST_CODES, n)?.iter().map(|&c| c as i8).collect();
        self.v = state::get(from, name, SECOND_CODES, n)?.iter().map(|&c| c as u8).collect();
        Ok(())
    }
}

impl Part<'_> {
    /// Lets `update` change the moments.
    pub(super) fn with<R>(self, update: impl FnOnce(&mut [f32], &mut [f32]) -> R) -> R {
        let Self { m, v, largest, seed } = self;
        let (mut ms, mut vs) = (Vec::with_capacity(m.len()), Vec::with_capacity(v.len()));
        for ((m, v), [a, b]) in m.chunks(BLOCK).zip(v.chunks(BLOCK)).zip(&*largest) {
            ms.extend(m.iter().map(|&c| first(c, *a)));
            vs.extend(v.iter().map(|&d| second(d, *b)));
        }
        let result = update(&mut ms, &mut vs);
        let blocks = ms.chunks(BLOCK).zip(vs.chunks(BLOCK)).zip(m.chunks_mut(BLOCK).zip(v.chunks_mut(BLOCK)));
        for (i, (((ms, vs), (m, v)), largest)) in blocks.zip(largest).enumerate() {
            let a = ms.iter().fold(0.0, |a: f32, m| a.max(m.abs()));
            let b = vs.iter().fold(0.0, |b: f32, &v| b.max(v)).sqrt();
            *largest = [a, b];
            for (j, (((&x, &y), m), v)) in ms.iter().zip(vs).zip(m).zip(v).enumerate() {
                let draw = mix(seed + (i * BLOCK + j) as u64);
                // 24 bits each: what an f32 in [0, 1) holds.
                let [u, w] =
                    [draw >> 40, draw & 0xFF_FFFF].map(|bits| bits as f32 * (1.0 / (1 << 24) as f32));
                *m = first_code(x, a, u);
                *v = second_code(y, b, w);
            }
        }
        result
    }
}

fn first(c: i8, a: f32) -> f32 {
    let t = f32::from(c) / 127.0;
    a * t * t.abs()
}

fn second(d: u8, b: f32) -> f32 {
    let t = f32::from(d) / 255.0;
    let root = b * t * t;
    root * root
}

/// The code of `m`, for a draw in [0, 1).
fn first_code(m: f32, a: f32, draw: f32) -> i8 {
    if a == 0.0 {
        return 0;
    }
    let t = 127.0 * (m.abs() / a).sqrt();
    let low = t.floor();
    let up = draw * (2.0 * low + 1.0) < t * t - low * low;
    let size = (low + f32::from(u8::from(up))).min(127.0);
    (if m < 0.0 { -size } else { size }) as i8
}

/// The code of `v`, for a draw in [0, 1).
fn second_code(v: f32, b: f32, draw: f32) -> u8 {
    if v == 0.0 || b == 0.0 {
        return 0;
    }
    let t = 255.0 * (v.sqrt() / b).sqrt();
    let low = t.floor();
    let fourth = |x: f32| (x * x) * (x * x);
    let up = draw * (fourth(low + 1.0) - fourth(low)) < fourth(t) - fourth(low);
    (low + f32::from(u8::from(up))).clamp(1.0, 255.0) as u8
}

/// SplitMix64's output function (Steele et al. 2014): every bit of the result depends on every bit of `x`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(codes: &mut EightBits) -> (Vec<f32>, Vec<f32>) {
        let (mut m, mut v) = (Vec::new(), Vec::new());
        for part in codes.parts(0) {
            part.with(|ms, vs| {
                m.extend_from_slice(ms);
                v.extend_from_slice(vs);
            });
        }
        (m, v)
    }

    #[test]
    fn levels_survive_and_everything_between_is_right_in_the_mean() {
        for c in -127..=127i8 {
            assert_eq!(first_code(first(c, 0.3), 0.3, 0.5), c);
        }
        for d in 1..=255u8 {
            assert_eq!(second_code(second(d, 0.3), 0.3, 0.5), d);
        }
        let n = 20_000;
        let draws = || (0..n).map(|i| (i as f32 + 0.5) / n as f32);
        for i in 1..40 {
            let m = -0.3 * (i as f32 / 40.0).powi(3);
            let mean =
                draws().map(|u| f64::from(first(first_code(m, 0.3, u), 0.3))).sum::<f64>() / f64::from(n);
            assert!((mean - f64::from(m)).abs() < 1e-5, "{m} {mean}");
            let v = m * m;
            let mean =
                draws().map(|u| f64::from(second(second_code(v, 0.3, u), 0.3))).sum::<f64>() / f64::from(n);
            assert!((mean - f64::from(v)).abs() < 1e-5, "{v} {mean}");
        }
    }

    #[test]
    fn the_smallest_square_does_not_vanish() {
        assert_eq!(second_code(1e-30, 1.0, 0.99), 1);
        assert_eq!((second_code(0.0, 1.0, 0.0), second_code(0.0, 0.0, 0.0)), (0, 0));
    }

    #[test]
    fn blocks_start_anew_with_each_part_and_codes_survive_a_checkpoint() {
        // Two parts of 300 and a rest of 10: 2 blocks each, and 1.
        let mut codes = EightBits::new(610, 300);
        assert_eq!((codes.largest.len(), codes.bytes()), (5, 2 * 610 + 8 * 5));
        for part in codes.parts(7) {
            part.with(|m, v| {
                m.iter_mut().enumerate().for_each(|(i, m)| *m = (i as f32 * 0.7).sin());
                v.iter_mut().enumerate().for_each(|(i, v)| *v = (i as f32 * 0.3).cos().powi(2) + 1e-3);
            });
        }
        let mut file = Checkpoint::default();
        codes.save("w", &mut file).unwrap();
        let mut again = EightBits::new(610, 300);
        again.load("w", &file).unwrap();
        assert_eq!(decoded(&mut codes), decoded(&mut again));
        assert!(again.load("x", &file).is_err());
    }

    #[test]
    fn a_slow_mean_moves_on() {
        // β₂ = 0.999 towards 4 from 1: after 2000 updates 1 + 3·(1 − 0.999²⁰⁰⁰) = 3.59, in the mean over 1024 numbers.
        let mut codes = EightBits::new(1024, 1024);
        for part in codes.parts(0) {
            part.with(|_, v| v.fill(1.0));
        }
        for update in 1..=2000 {
            for part in codes.parts(update) {
                part.with(|_, v| {
                    // The first number keeps the scale of its block larger than all others.
                    v.iter_mut().for_each(|v| *v += 0.001 * (4.0 - *v));
                    v.iter_mut().step_by(BLOCK).for_each(|v| *v = 16.0);
                });
            }
        }
        let (_, v) = decoded(&mut codes);
        let others: Vec<f64> =
            v.iter().enumerate().filter(|(i, _)| i % BLOCK != 0).map(|(_, &v)| v.into()).collect();
        let mean = others.iter().sum::<f64>() / others.len() as f64;
        assert!((mean - 3.594).abs() < 0.05, "{mean}");
    }
}
