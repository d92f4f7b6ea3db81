//! Armv7-M: loads shift their index, additions shift an operand.

mod fill;
mod grouped;
mod linear;

pub(crate) use fill::fill;
pub(crate) use grouped::grouped;
pub(crate) use linear::linear;
