//! The kernels compiled for x86-64 with AVX-512 (F, BW, DQ and VL: what every AVX-512 core since 2017 has).
#![allow(unsafe_code)]

use super::{Backend, Isa, Kernel};

/// Whether this machine has it.
pub(super) fn is_present() -> bool {
    #[cfg(any(feature = "std", test))]
    {
        std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl")
    }
    #[cfg(not(any(feature = "std", test)))]
    {
        cfg!(all(
            target_feature = "avx512f",
            target_feature = "avx512bw",
            target_feature = "avx512dq",
            target_feature = "avx512vl"
        ))
    }
}

/// Runs `kernel`; `backend` is the proof that the machine has the instructions.
#[inline]
pub(super) fn run<K: Kernel>(backend: Backend, kernel: K) -> K::Output {
    debug_assert!(matches!(backend.isa(), Isa::Avx512 | Isa::Avx512Vnni));
    // SAFETY: a `Backend` of these instruction sets is only constructed where the machine has them; both include this one.
    unsafe { compiled(kernel) }
}

/// # Safety
/// The machine must have the instructions named here.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn compiled<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}
