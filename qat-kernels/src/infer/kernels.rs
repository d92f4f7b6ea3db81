//! The portable kernels: plain integer Rust, one operator per file, the reference that every other backend must equal.
//! Those of a core family, and those of workstations, are in folders of their own.
//!
//! Each returns `None` where a buffer does not have the size that the checks have proven; see
//! [`engine`](super::engine) for why that is not a panic.

mod add;
mod conv;
#[cfg(any(core_family = "cortex-m4", all(test, feature = "alloc")))]
pub(super) mod cortex_m4;
#[cfg(any(core_family = "cortex-m55", all(test, feature = "alloc")))]
pub(super) mod cortex_m55;
mod depthwise;
mod dot;
#[cfg(test)]
mod equality;
mod hadamard;
#[cfg(not(target_os = "none"))]
pub(super) mod host;
mod linear;
#[cfg(any(core_family = "cortex-m0", core_family = "riscv32", all(test, feature = "alloc")))]
pub(super) mod planes;
mod pool;
mod requant;
mod rows;
mod table;
mod window;

pub(super) use add::{add, add_in_place};
pub(super) use conv::conv2d;
pub(super) use depthwise::depthwise_conv2d;
pub(super) use dot::WeightView;
pub(super) use hadamard::hadamard;
pub(super) use linear::linear;
pub(super) use pool::{avg_pool, max_pool};
pub(super) use requant::Requant;
pub(super) use table::{softmax, table};
pub(super) use window::Windows;

/// Index of the largest value, the first one among equals; 0 for an empty slice.
///
/// ```
/// use qat_kernels::infer::argmax;
/// assert_eq!(argmax(&[-7, 12, 3, 12]), 1);
/// assert_eq!(argmax(&[i8::MIN; 4]), 0);
/// ```
#[must_use]
pub fn argmax(values: &[i8]) -> usize {
    let mut best = (0, i8::MIN);
    for (i, &v) in values.iter().enumerate() {
        if v > best.1 {
            best = (i, v);
        }
    }
    best.0
}
