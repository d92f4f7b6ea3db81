//! Static memory that one owner takes.
//!
//! `unsafe`: safe Rust has no way to an exclusive reference into a static.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A static that can be borrowed exclusively, once.
pub struct Once<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through `take` alone, which hands it to one caller; see there for why no two callers race.
unsafe impl<T: Send> Sync for Once<T> {}

impl<T> Once<T> {
    /// To be taken.
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value, for the first caller. Only for programs of one core whose interrupt handlers do not call it: the cores
    /// without atomic swaps are why this is a load and a store.
    #[allow(clippy::mut_from_ref, reason = "the flag is what makes it exclusive")]
    pub fn take(&'static self) -> Option<&'static mut T> {
        if self.taken.load(Ordering::Acquire) {
            return None;
        }
        self.taken.store(true, Ordering::Release);
        // SAFETY: no other reference exists or can come into being: this is the first call, since the flag was unset, and
        // none runs at the same time, since there is one core and no handler that calls it.
        Some(unsafe { &mut *self.value.get() })
    }
}
