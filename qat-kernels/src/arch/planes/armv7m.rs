//! Armv7-M: loads shift their index, additions shift an operand.

mod depthwise;
mod fill;
mod grouped;
mod linear;
mod pixels;
mod requantise;

pub(super) use depthwise::{DEPTHWISE_CHANNELS, depthwise_pixel};
pub(crate) use fill::fill;
pub(crate) use grouped::{GROUPED_STEPS, grouped};
pub(crate) use linear::linear;
pub(super) use pixels::{grouped_pixels2, grouped_pixels3, grouped_pixels4, pixels2, pixels3, pixels4};
pub(super) use requantise::{finish1, finish2};
