//! The Walsh–Hadamard transform of 64 f32 at a time: the stages of a longer transform that are shorter than a vector or
//! little longer, where compilers need the shuffles spelt out.

#[cfg(target_arch = "x86_64")]
use super::Isa;
use super::{Backend, Kernel};

/// Multiplies each block by `scale`, then transforms it: h = 8, 16, 32, and then 4, 2, 1. Every backend adds the same
/// numbers in the same order.
pub(crate) fn wht64(backend: Backend, blocks: &mut [[f32; 64]], scale: f32) {
    match backend.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Vnni => super::x86_wht64::avx512(backend, blocks, scale),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => super::x86_wht64::avx2(backend, blocks, scale),
        _ => backend.run(Portable { blocks, scale }),
    }
}

struct Portable<'a> {
    blocks: &'a mut [[f32; 64]],
    scale: f32,
}

impl Kernel for Portable<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for block in self.blocks {
            let rows = block.as_chunks_mut::<8>().0;
            rows.iter_mut().flatten().for_each(|x| *x *= self.scale);
            for h in [1, 2, 4] {
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
        let mut expected = blocks.clone();
        for block in &mut expected {
            block.iter_mut().for_each(|x| *x *= 0.3);
            for h in [8, 16, 32, 4, 2, 1] {
                for i in (0..64).filter(|i| i & h == 0) {
                    (block[i], block[i + h]) = (block[i] + block[i + h], block[i] - block[i + h]);
                }
            }
        }
        for backend in Backend::available() {
            let mut found = blocks.clone();
            wht64(backend, &mut found, 0.3);
            assert_eq!(found, expected, "{}", backend.isa().name());
        }
    }
}
