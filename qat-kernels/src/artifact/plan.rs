//! Where every intermediate tensor lies in the arena: greedy by size, first fit (as TFLite Micro's planner does), over
//! live ranges.
#![cfg(feature = "alloc")]

use alloc::vec::Vec;

/// A buffer that must exist from operator `first` to operator `last`, both included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    pub(crate) bytes: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

/// Buffers start on this boundary, so that words of four activations can be loaded.
const BUFFER_ALIGNMENT: usize = 4;

/// The offset of every buffer, and the bytes of the whole arena.
pub(crate) fn plan(buffers: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| (core::cmp::Reverse(buffers[i].bytes), buffers[i].first));
    let mut offsets = alloc::vec![0; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut arena = 0usize;
    for &i in &order {
        let b = buffers[i];
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| buffers[j].first <= b.last && b.first <= buffers[j].last)
            .map(|&j| (offsets[j], offsets[j] + buffers[j].bytes))
            .collect();
        taken.sort_unstable();
        let mut at = 0usize;
        for (start, end) in taken {
            if at + b.bytes <= start {
                break;
            }
            at = at.max(end.next_multiple_of(BUFFER_ALIGNMENT));
        }
        offsets[i] = at;
        arena = arena.max(at + b.bytes);
        placed.push(i);
    }
    (offsets, arena)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest_live_set(buffers: &[Lifetime]) -> usize {
        let last = buffers.iter().map(|b| b.last).max().unwrap();
        (0..=last)
            .map(|t| buffers.iter().filter(|b| b.first <= t && t <= b.last).map(|b| b.bytes).sum())
            .max()
            .unwrap()
    }

    #[test]
    fn a_chain_needs_no_more_than_its_largest_pair() {
        let sizes = [4096, 8192, 2048, 3072, 768, 1024, 64];
        let chain: Vec<Lifetime> =
            sizes.iter().enumerate().map(|(i, &bytes)| Lifetime { bytes, first: i, last: i + 1 }).collect();
        let (_, arena) = plan(&chain);
        assert_eq!(arena, largest_live_set(&chain));
    }

    #[test]
    fn buffers_alive_together_never_overlap() {
        let mut seed = 1u32;
        let mut next = |n: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % n
        };
        for _ in 0..200 {
            let buffers: Vec<Lifetime> = (0..12)
                .map(|_| {
                    let first = next(10) as usize;
                    Lifetime { bytes: 1 + next(500) as usize, first, last: first + next(4) as usize }
                })
                .collect();
            let (offsets, arena) = plan(&buffers);
            for (i, a) in buffers.iter().enumerate() {
                assert!(offsets[i] + a.bytes <= arena && offsets[i] % BUFFER_ALIGNMENT == 0);
                for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    assert!(!together || apart);
                }
            }
        }
    }
}
