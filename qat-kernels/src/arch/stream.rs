//! Stores that go past the caches.
//!
//! An output that no cache can hold is not worth reading into one, which is what an ordinary store does first: it costs
//! half as much memory traffic again. `memcpy` streams large copies for the same reason.
#![cfg_attr(target_arch = "x86_64", allow(unsafe_code))]

/// Outputs of at least so many bytes are streamed. Smaller ones may still be in a cache when they are read next.
const STREAM_BYTES: usize = 16 << 20;

/// How results reach the caller's slices. When it is dropped, everything written is as visible to other threads as after
/// ordinary stores.
#[derive(Debug)]
pub(crate) struct Output {
    streams: bool,
}

impl Output {
    /// For an output of `len` values.
    pub(crate) const fn of(len: usize) -> Self {
        Self { streams: cfg!(target_arch = "x86_64") && len >= STREAM_BYTES / size_of::<f32>() }
    }

    /// Writes `from` to `to`, which has its length.
    #[inline(always)]
    pub(crate) fn write(&self, to: &mut [f32], from: &[f32]) {
        if self.streams { stream(to, from) } else { to.copy_from_slice(from) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Output {
    fn drop(&mut self) {
        if self.streams {
            // SAFETY: a fence has no preconditions, and SSE is part of x86-64.
            unsafe { core::arch::x86_64::_mm_sfence() }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn stream(to: &mut [f32], from: &[f32]) {
    use core::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
    // Streaming stores need aligned addresses.
    let head = to.as_ptr().align_offset(16).min(to.len());
    let (to_head, to) = to.split_at_mut(head);
    let (from_head, from) = from.split_at(head);
    to_head.copy_from_slice(from_head);
    let (to, to_tail) = to.as_chunks_mut::<4>();
    let (from, from_tail) = from.as_chunks::<4>();
    for (to, from) in to.iter_mut().zip(from) {
        // SAFETY: both point to four floats; `to` is aligned to 16 bytes, being a multiple of 16 bytes behind an address
        // that is. SSE is part of x86-64. `Output`'s drop orders the stores before the borrow of `to` ends.
        unsafe { _mm_stream_ps(to.as_mut_ptr(), _mm_loadu_ps(from.as_ptr())) };
    }
    to_tail.copy_from_slice(from_tail);
}

/// Nothing streams elsewhere.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn stream(to: &mut [f32], from: &[f32]) {
    to.copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streamed_and_plain_outputs_are_the_same_at_every_alignment_and_length() {
        let from: Vec<f32> = (0..64).map(|i| i as f32).collect();
        for streams in [false, cfg!(target_arch = "x86_64")] {
            for start in 0..8 {
                for len in 0..50 {
                    let mut to = [-1.0_f32; 64];
                    let output = Output { streams };
                    output.write(&mut to[start..start + len], &from[..len]);
                    drop(output);
                    assert_eq!(to[start..start + len], from[..len]);
                    assert!(to[..start].iter().chain(&to[start + len..]).all(|x| *x == -1.0));
                }
            }
        }
    }

    #[test]
    fn only_large_outputs_stream() {
        assert!(!Output::of(STREAM_BYTES / 4 - 1).streams);
        assert_eq!(Output::of(STREAM_BYTES / 4).streams, cfg!(target_arch = "x86_64"));
    }
}
