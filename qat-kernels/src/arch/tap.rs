//! What a tap of a window reads, as loops in assembly take it.
#![allow(unsafe_code)]

use core::marker::PhantomData;

/// The channels of a pixel: a pointer and a length, a word each.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Tap<'a> {
    first: *const i8,
    len: usize,
    channels: PhantomData<&'a [i8]>,
}

impl<'a> Tap<'a> {
    pub(crate) const fn new(channels: &'a [i8]) -> Self {
        Self { first: channels.as_ptr(), len: channels.len(), channels: PhantomData }
    }

    /// Number of channels.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// For twins of the loops.
    #[cfg(not(target_os = "none"))]
    pub(super) fn channels(&self) -> &'a [i8] {
        // SAFETY: pointer and length are those of a slice that lives as long as `'a`.
        unsafe { core::slice::from_raw_parts(self.first, self.len) }
    }
}
