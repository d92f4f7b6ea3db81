//! Integer inference: a `.piq` file checked once, then run in place, without a heap and without a panic.
//!
//! Activations are int8 with a scale and a zero point, height × width × channels with channels innermost; weights are
//! packed codes; accumulators and biases are int32. One rounding per output:
//!
//! ```text
//! acc = Σ_g m_g · Σ_i (2·level_i) · x_i             m_g = 60/k of group g, 1 where k is fixed
//! y   = clamp(z_y + (((acc + b)·M + 2^(n−1)) >> n), lo, hi)
//! ```
//!
//! (Jacob et al. 2018, eq. 4 and 7, with the zero point of the input folded into the bias b.) The shift is arithmetic,
//! so halves round up. π, the steps and the scales live in M, one per output channel.

mod arena_use;
mod check;
mod cortex_m4;
mod cortex_m55;
mod engine;
mod kernels;
mod last_linear;
mod model;
mod planes;

#[cfg(feature = "alloc")]
pub use arena_use::ArenaUse;
#[cfg(feature = "alloc")]
pub(crate) use check::scratch_len;
#[cfg(feature = "alloc")]
pub(crate) use check::{SOFTMAX_ONE, SOFTMAX_OUTPUT};
pub use kernels::argmax;
pub use last_linear::LastLinear;
pub use model::{KnownAnswer, Model, OperatorInfo};
#[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
pub(crate) use planes::Table;
