//! Armv7-M: loads shift their index, additions shift an operand.

mod depthwise;
mod fill;
mod grouped;
mod linear;
mod pixels;
mod requantise;

pub(super) use depthwise::{DEPTHWISE_CHANNELS, depthwise_pixel};
pub(super) use fill::fill_asm;
pub(crate) use grouped::GROUPED_STEPS;
pub(super) use grouped::{grouped2, grouped3, grouped4};
pub(crate) use linear::linear;
pub(super) use pixels::{grouped_pixels2, grouped_pixels3, grouped_pixels4, pixels2, pixels3, pixels4};
pub(super) use requantise::{finish1, finish2};
