//! Instruction sets: one file each, and the only place of the crate with `unsafe`.
//!
//! The float kernels are written once, in safe Rust over arrays of lanes (see [`crate::ste_simd`]). A backend compiles
//! that one body for its instruction set, so all of them agree bit for bit by construction as long as the compiler
//! keeps IEEE 754 (Rust neither reorders nor contracts float operations). The integer kernels are written once as well,
//! over vectors whose few operations each backend spells out (`ints`).

pub(crate) mod bytes;

#[cfg(target_arch = "aarch64")]
mod aarch64_neon;
#[cfg(any(core_family = "cortex-m4", all(test, feature = "alloc")))]
pub(crate) mod cortex_m4;
#[cfg(any(core_family = "cortex-m55", all(test, feature = "alloc")))]
pub(crate) mod cortex_m55;
pub(crate) mod factors;
pub(crate) mod ints;
#[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
pub(crate) mod planes;
mod portable;
#[cfg(any(core_family = "cortex-m4", core_family = "cortex-m55", all(test, feature = "alloc")))]
pub(crate) mod rectangle;
mod stream;
#[cfg(any(core_family = "cortex-m55", all(test, feature = "alloc")))]
pub(crate) mod tap;
mod wht64;
#[cfg(any(
    core_family = "cortex-m0",
    core_family = "riscv32",
    core_family = "cortex-m4",
    all(test, feature = "alloc")
))]
mod window;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;
#[cfg(target_arch = "x86_64")]
mod x86_wht64;

pub(crate) use stream::Output;
pub(crate) use wht64::wht64;

/// An instruction set that the kernels can be compiled for.
///
/// ```
/// use qat_kernels::arch::{Backend, Isa};
/// assert_eq!(Isa::ALL[0], Isa::Portable);
/// // No machine is of both families.
/// assert!([Isa::Neon, Isa::Avx2].into_iter().filter_map(Backend::new).count() < 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Whatever the crate was compiled for.
    Portable,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// x86-64 with AVX-512 F, BW, DQ, VL, VNNI and VBMI: Ice Lake, Zen 4 and later. As AVX-512 for floats.
    Avx512Vnni,
    /// AArch64 with Advanced SIMD.
    Neon,
    /// AArch64 with Advanced SIMD and its dot product instructions. As Advanced SIMD for floats.
    NeonDot,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Isa; 6] =
        [Isa::Portable, Isa::Neon, Isa::NeonDot, Isa::Avx2, Isa::Avx512, Isa::Avx512Vnni];

    /// Its name in benchmarks and reports.
    ///
    /// ```
    /// use qat_kernels::arch::Isa;
    /// let asked_for = Isa::ALL.into_iter().find(|isa| isa.name() == "neon-dot");
    /// assert_eq!(asked_for, Some(Isa::NeonDot));
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Neon => "neon",
            Isa::NeonDot => "neon-dot",
        }
    }
}

/// An instruction set that this machine has: the proof that its kernels may run.
///
/// With the feature `std` the processor is asked at run time; without, only what the crate was compiled for counts.
///
/// ```
/// use qat_kernels::{Grid, Levels, arch::Backend, ste_simd::Kernels};
/// for backend in Backend::available() {
///     let mut codes = [0; 3];
///     Kernels::on(backend).quantize(Levels::new(2, Grid::MidTread)?, &[0.5], &[0.75, -0.75, 9.0], &mut codes)?;
///     assert_eq!(codes, [1, -2, 1]); // −1.5 is a tie and goes to the even code, on every backend
/// }
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend(Isa);

impl Backend {
    /// The backend for `isa`, or `None` if this machine lacks it.
    ///
    /// ```
    /// use qat_kernels::arch::{Backend, Isa};
    /// assert_eq!(Backend::new(Isa::Portable).map(Backend::isa), Some(Isa::Portable)); // everywhere
    /// let neon = Backend::new(Isa::Neon); // whatever it answers, no x86-64 processor has it
    /// assert!(neon.is_none() || cfg!(target_arch = "aarch64"));
    /// ```
    #[must_use]
    pub fn new(isa: Isa) -> Option<Self> {
        let present = match isa {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86_avx2::is_present(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86_avx512::is_present(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => ints::x86_avx512_vnni::is_present(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => aarch64_neon::is_present(),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::NeonDot => ints::aarch64_neon_dot::is_present(),
            #[allow(unreachable_patterns, reason = "which instruction sets are left depends on the target")]
            _ => false,
        };
        present.then_some(Self(isa))
    }

    /// The fastest backend of this machine.
    ///
    /// ```
    /// use qat_kernels::arch::{Backend, Isa};
    /// let fastest = Isa::ALL.into_iter().rev().find_map(Backend::new);
    /// assert_eq!(fastest, Some(Backend::best()));
    /// ```
    #[must_use]
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Self(Isa::Portable))
    }

    /// Every backend of this machine, slowest first; always at least the portable one.
    ///
    /// ```
    /// use qat_kernels::arch::Backend;
    /// let names: Vec<_> = Backend::available().map(|backend| backend.isa().name()).collect();
    /// assert_eq!(names[0], "portable"); // then, on a Zen 4, avx2, avx512 and avx512-vnni
    /// ```
    pub fn available() -> impl Iterator<Item = Self> {
        Isa::ALL.into_iter().filter_map(Self::new)
    }

    /// The instruction set.
    ///
    /// ```
    /// use qat_kernels::arch::{Backend, Isa};
    /// // What a benchmark compares with the portable backend: all but the first.
    /// let simd = Backend::available().filter(|backend| backend.isa() != Isa::Portable);
    /// assert!(simd.eq(Backend::available().skip(1)));
    /// ```
    #[must_use]
    pub const fn isa(self) -> Isa {
        self.0
    }

    /// Runs `kernel`, compiled for this backend.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86_avx2::run(self, kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni => x86_avx512::run(self, kernel),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => aarch64_neon::run(self, kernel),
            _ => portable::run(kernel),
        }
    }
}

/// A computation that is compiled once per backend. `run` and all it calls must be `#[inline(always)]`: what is not
/// inlined is compiled for the crate's own target instead.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// Does it.
    fn run(self) -> Self::Output;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portable_backend_is_always_there_and_the_best_one_is_available() {
        assert!(Backend::new(Isa::Portable).is_some());
        assert_eq!(Backend::available().next(), Backend::new(Isa::Portable));
        assert!(Backend::available().any(|b| b == Backend::best()));
    }

    #[test]
    fn every_available_backend_runs_the_kernel_it_is_given() {
        struct Add(f32, f32);
        impl Kernel for Add {
            type Output = f32;
            #[inline(always)]
            fn run(self) -> f32 {
                self.0 + self.1
            }
        }
        for b in Backend::available() {
            assert_eq!(b.run(Add(1.5, 2.25)), 3.75, "{}", b.isa().name());
        }
    }
}
