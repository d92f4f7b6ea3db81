//! The Walsh–Hadamard transform of 64 f32 at a time: the stages of a longer transform that are shorter than a vector or
//! little longer, where compilers need the shuffles spelt out.

#[cfg(target_arch = "x86_64")]
use super::Isa;
use super::{Backend, Kernel};

/// Multiplies each block by `scale`, negates what `signs` says of the block's number (bit i: number i), then transforms
/// it: h = 16, 32, 8, 4, 2, 1. Every backend adds the same numbers in the same order.
pub(crate) fn wht64(backend: Backend, blocks: &mut [[f32; 64]], scale: f32, signs: impl Fn(usize) -> u64) {
    match backend.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Vnni => super::x86_wht64::avx512(backend, blocks, scale, signs),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => super::x86_wht64::avx2(backend, blocks, scale, signs),
        _ => backend.run(Portable { blocks, scale, signs }),
    }
}

struct Portable<'a, S> {
    blocks: &'a mut [[f32; 64]],
    scale: f32,
    signs: S,
}

impl<S: Fn(usize) -> u64> Kernel for Portable<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (i, block) in self.blocks.iter_mut().enumerate() {
            let word = (self.signs)(i);
            for (half, signs) in
                block.as_chunks_mut::<32>().0.iter_mut().zip([word as u32, (word >> 32) as u32])
            {
                for (i, x) in half.iter_mut().enumerate() {
                    *x = f32::from_bits((*x * self.scale).to_bits() ^ (signs << (31 - i) & 0x8000_0000));
                }
            }
            let rows = block.as_chunks_mut::<8>().0;
            for h in [2, 4, 1] {
                for i in (0..8).filter(|i| i & h == 0) {
                    let (upper, lower) = rows.split_at_mut(i + h);
                    for (a, b) in upper[i].iter_mut().zip(&mut lower[0]) {
                        (*a, *b) = (*a + *b, *a - *b);
                    }
                }
            }
            rows.iter_mut().for_each(|row| *row = within(*row));
        }
    }
}

/// h = 4, 2, 1 within eight numbers, as vectors of eight: the other of each pair, plus or minus this one.
#[inline(always)]
fn within([a, b, c, d, e, f, g, h]: [f32; 8]) -> [f32; 8] {
    let [a, b, c, d, e, f, g, h] = add([e, f, g, h, a, b, c, d], [a, b, c, d, -e, -f, -g, -h]);
    let [a, b, c, d, e, f, g, h] = add([c, d, a, b, g, h, e, f], [a, b, -c, -d, e, f, -g, -h]);
    add([b, a, d, c, f, e, h, g], [a, -b, c, -d, e, -f, g, -h])
}

#[inline(always)]
fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
    let mut sum = [0.0; 8];
    for i in 0..8 {
        sum[i] = a[i] + b[i];
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_gives_the_bits_of_the_definition() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 1e6 - 8.0
        };
        let blocks: Vec<[f32; 64]> = (0..5).map(|_| core::array::from_fn(|_| next())).collect();
        let signs = |block: usize| 0x9E37_79B9_7F4A_7C15u64.rotate_left(block as u32 * 7);
        let mut expected = blocks.clone();
        for (number, block) in expected.iter_mut().enumerate() {
            block.iter_mut().for_each(|x| *x *= 0.3);
            let negated = block.iter_mut().enumerate().filter(|(i, _)| signs(number) >> i & 1 == 1);
            negated.for_each(|(_, x)| *x = -*x);
            for h in [16, 32, 8, 4, 2, 1] {
                for i in (0..64).filter(|i| i & h == 0) {
                    (block[i], block[i + h]) = (block[i] + block[i + h], block[i] - block[i + h]);
                }
            }
        }
        for backend in Backend::available() {
            let mut found = blocks.clone();
            wht64(backend, &mut found, 0.3, signs);
            assert_eq!(found, expected, "{}", backend.isa().name());
        }
    }
}
