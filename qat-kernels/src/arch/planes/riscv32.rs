//! RV32 with multiplication.

mod fill;
mod grouped;
mod linear;

pub(crate) use fill::{fill, fill_linear};
pub(crate) use grouped::grouped;
pub(crate) use linear::linear;
