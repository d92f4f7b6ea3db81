//! Fixed point: the quantiser, its gradients and a training step on 16- and 32-bit integers, without one float
//! instruction. For adapting a deployed model on a microcontroller, where the host's simulation and the device must end
//! at the same weights, bit for bit.
//!
//! A number is a word with a binary point ([`Fixed`], [`Q16`], [`Q32`]). **One rounding rule: to nearest, ties to even.
//! Everything saturates; nothing wraps and nothing panics.** Worst-case errors, each against the real-number formula on
//! the same fixed-point inputs and where the result lies inside the interval of its format (outside, it is the end of
//! the interval); an ulp is `2^−F` of the result's format:
//!
//! | operation | worst error |
//! |---|---|
//! | [`Fixed::saturating_add`], `_sub`, `_neg`, `_abs` | 0 |
//! | [`Fixed::saturating_mul`], `_div`, [`Fixed::convert`], `from_ratio`, `from_f32`, `to_f32` | ½ ulp |
//! | [`pi_over`] (π/k) | ½ ulp + 2^−63 |
//! | [`pi_step`] (Δ = α·π/k) | ½ ulp + 2^−29 ulp |
//! | [`FixedQuantizer::quantize`], `passes` | 0: the code of the real formula |
//! | [`FixedQuantizer::dequantize`], `fake_quantize` | 0 on the mid-tread grid, ½ ulp on the mid-rise grid |
//! | [`FixedSte::backward`], standard, clipped, LSQ | 0 |
//! | [`FixedSte::backward`], EWGS | ½ ulp + abs(g)·2^−31; at most 1 ulp where INV-1 lifts a gradient from zero |
//! | [`lsq_gradient_scale`] | 2^−31 |
//! | [`lsq_step_gradient`] | ½ ulp |
//! | [`cross_entropy_gradient`] (softmax) | 3·10⁻⁵ |
//! | [`Sgd::step`] | ½ ulp |
//! | [`Sgd::step_momentum`] | ½ ulp for the velocity, then ½ ulp for the weight |
//!
//! The tests check these bounds for every 16-bit input and for random 32-bit ones. Floats occur only as bits
//! ([`Fixed::from_f32_bits`]): a build for a core without an FPU contains no soft-float routine and no panic path, which
//! the project's test command proves on the linked program.

mod deployed;
mod head;
mod pi;
mod q;
mod quantize;
mod sgd;
mod softmax;
mod ste;
mod word;

pub use head::{Adaptation, Head, HeadBuffers, MAX_FEATURES};
pub use pi::{pi_over, pi_step};
pub use q::{Fixed, Q16, Q32};
pub use quantize::FixedQuantizer;
pub use sgd::Sgd;
pub use softmax::cross_entropy_gradient;
pub use ste::{FixedSte, lsq_gradient_scale, lsq_step_gradient};
pub use word::{Wide, Word};
