//! Kernels for Armv7E-M: layers packed for it, with the inner loops of [`crate::arch::cortex_m4`].

mod add;
mod conv;
mod depthwise;
mod linear;
mod stream;

pub(in crate::infer) use add::{add, add_in_place};
pub(in crate::infer) use conv::conv2d;
pub(in crate::infer) use depthwise::depthwise_conv2d;
pub(in crate::infer) use linear::linear;

#[cfg(test)]
mod tests;
