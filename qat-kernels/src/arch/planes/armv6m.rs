//! Armv6-M: instructions reach r0–r7 only, except for copies and additions.

mod fill;
mod grouped;
mod linear;

pub(crate) use fill::{fill, fill_linear};
pub(crate) use grouped::grouped;
pub(crate) use linear::linear;
