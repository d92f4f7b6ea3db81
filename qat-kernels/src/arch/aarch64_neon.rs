//! The kernels compiled for AArch64 with Advanced SIMD.
#![allow(unsafe_code)]

use super::{Backend, Isa, Kernel};

/// Whether this machine has it.
pub(super) fn is_present() -> bool {
    #[cfg(any(feature = "std", test))]
    {
        std::arch::is_aarch64_feature_detected!("neon")
    }
    #[cfg(not(any(feature = "std", test)))]
    {
        cfg!(all(target_feature = "neon"))
    }
}

/// Runs `kernel`; `backend` is the proof that the machine has the instructions.
#[inline]
pub(super) fn run<K: Kernel>(backend: Backend, kernel: K) -> K::Output {
    debug_assert!(matches!(backend.isa(), Isa::Neon | Isa::NeonDot));
    // SAFETY: a `Backend` of these instruction sets is only constructed where the machine has them; both include this one.
    unsafe { compiled(kernel) }
}

/// # Safety
/// The machine must have the instructions named here.
#[target_feature(enable = "neon")]
unsafe fn compiled<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}
