//! Where every intermediate tensor lies in the arena: first fit over live ranges, largest first, as TFLite Micro's planner
//! does. Where that leaves gaps, the buffer that reaches highest goes first, and all others are placed anew, a few times.
#![cfg(feature = "alloc")]

use super::record::{OpKind, OpRecord, TensorInfo};
use crate::infer::scratch_len;
use alloc::vec::Vec;

/// A buffer that must exist from operator `first` to operator `last`, both included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    pub(crate) bytes: usize,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

impl Lifetime {
    fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The buffers of a program.
pub(crate) struct Buffers {
    pub(crate) lifetimes: Vec<Lifetime>,
    /// For each operator the buffers of its result and of its scratch memory.
    pub(crate) of: Vec<[usize; 2]>,
}

impl Buffers {
    /// `None` if a record is none that the checks would accept.
    ///
    /// An operator that works element by element writes over an operand that nobody reads afterwards: the two share a
    /// buffer.
    pub(crate) fn new(input: &TensorInfo, records: &[OpRecord]) -> Option<Self> {
        let mut last_use: Vec<usize> = (0..records.len()).collect();
        for (op, record) in records.iter().enumerate() {
            for producer in record.inputs.iter().filter_map(|&t| usize::from(t).checked_sub(1)) {
                *last_use.get_mut(producer)? = op;
            }
        }
        let mut buffers = Self { lifetimes: Vec::new(), of: Vec::new() };
        for (op, record) in records.iter().enumerate() {
            let kind = OpKind::from_u8(record.kind)?;
            let is_last = op + 1 == records.len();
            // The last result goes to the caller's output.
            let bytes = if is_last { 0 } else { record.output.len()? };
            let result = Lifetime { bytes, first: op, last: *last_use.get(op)? };
            let dies = |which: usize| -> Option<usize> {
                let producer = usize::from(*record.inputs.get(which)?).checked_sub(1)?;
                (*last_use.get(producer)? == op).then_some(producer)
            };
            let shared = if !is_last && kind.in_place() && record.inputs[0] != record.inputs[1] {
                dies(0).or_else(|| dies(1)).and_then(|producer| buffers.of.get(producer))
            } else {
                None
            };
            let place = match shared {
                Some(&[place, _]) => {
                    buffers.lifetimes.get_mut(place)?.last = result.last;
                    place
                }
                None => buffers.push(result),
            };
            let x = match usize::from(record.inputs[0]).checked_sub(1) {
                None => input,
                Some(producer) => &records.get(producer)?.output,
            };
            let scratch = Lifetime { bytes: scratch_len(kind, record, x)?, first: op, last: op };
            let scratch = buffers.push(scratch);
            buffers.of.push([place, scratch]);
        }
        Some(buffers)
    }

    fn push(&mut self, lifetime: Lifetime) -> usize {
        self.lifetimes.push(lifetime);
        self.lifetimes.len() - 1
    }

    /// For each operator, the bytes that hold something while it runs.
    pub(crate) fn live(&self) -> Vec<usize> {
        live(&self.lifetimes, self.of.len())
    }
}

fn live(buffers: &[Lifetime], operators: usize) -> Vec<usize> {
    let at = |op: usize| buffers.iter().filter(|b| b.first <= op && op <= b.last).map(|b| b.bytes).sum();
    (0..operators).map(at).collect()
}

/// Buffers start on this boundary, so that words of four activations can be loaded.
const BUFFER_ALIGNMENT: usize = 4;

/// Plans to try before the best one so far has to do.
const ATTEMPTS: usize = 64;

/// The offset of every buffer, and the bytes of the whole arena.
pub(crate) fn plan(buffers: &[Lifetime]) -> (Vec<usize>, usize) {
    let operators = buffers.iter().map(|b| b.last + 1).max().unwrap_or(0);
    let lower_bound = live(buffers, operators).into_iter().max().unwrap_or(0);
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| (core::cmp::Reverse(buffers[i].bytes), buffers[i].first));
    let mut best = first_fit(buffers, &order);
    let mut latest = best.clone();
    for _ in 1..ATTEMPTS {
        if best.1 == lower_bound {
            break;
        }
        let highest = |&i: &usize| latest.0[i] + buffers[i].bytes == latest.1;
        let Some(at) = order.iter().position(highest) else { break };
        order[..=at].rotate_right(1);
        latest = first_fit(buffers, &order);
        if latest.1 < best.1 {
            best = latest.clone();
        }
    }
    best
}

/// Places the buffers in `order`, each as low as those before it allow.
fn first_fit(buffers: &[Lifetime], order: &[usize]) -> (Vec<usize>, usize) {
    let mut offsets = alloc::vec![0; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut arena = 0usize;
    for &i in order {
        let b = buffers[i];
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| buffers[j].meets(&b))
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
        live(buffers, last + 1).into_iter().max().unwrap()
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
    fn gaps_of_the_first_plan_are_closed() {
        // By size the three goes last and finds no gap.
        let buffers = [(5, 2, 3), (5, 1, 2), (3, 3, 4), (4, 4, 4)].map(|(words, first, last)| Lifetime {
            bytes: 4 * words,
            first,
            last,
        });
        assert_eq!(first_fit(&buffers, &[1, 0, 3, 2]).1, 52);
        assert_eq!((plan(&buffers).1, largest_live_set(&buffers)), (40, 40));
        // The waist of an autoencoder stands between two buffers that both could be low.
        let widths = [128, 128, 128, 128, 8, 128, 128, 128, 128];
        let chain: Vec<Lifetime> =
            widths.iter().enumerate().map(|(i, &bytes)| Lifetime { bytes, first: i, last: i + 1 }).collect();
        assert_eq!(plan(&chain).1, 256);
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
                    let together = a.meets(b);
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    assert!(!together || apart);
                }
            }
        }
    }
}
