//! The backend without assumptions: the kernels as the crate's own target compiles them.

use super::Kernel;

/// Runs `kernel` as it is.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}
