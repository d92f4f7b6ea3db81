//! RV32 with multiplication.

/// A lookup with the byte at `$at` behind `$rows`: a `$load` at `$table` behind a0 and as many words.
macro_rules! lookup {
    ($load:literal $to:literal, $rows:literal, $at:expr, $table:literal) => {
        concat!(
            "lbu ",
            $to,
            ", ",
            $at,
            "(",
            $rows,
            ")\n slli ",
            $to,
            ", ",
            $to,
            ", 2\n",
            "add ",
            $to,
            ", ",
            $to,
            ", a0\n ",
            $load,
            " ",
            $to,
            ", ",
            $table,
            "(",
            $to,
            ")\n",
        )
    };
}

mod depthwise;
mod fill;
mod grouped;
mod linear;
mod pixels;
mod requantise;

pub(super) use depthwise::{DEPTHWISE_CHANNELS, depthwise_pixel};
pub(super) use fill::fill_asm;
pub(crate) use fill::fill_linear;
pub(crate) use grouped::GROUPED_STEPS;
pub(super) use grouped::{grouped2, grouped3, grouped4};
pub(crate) use linear::linear;
pub(super) use pixels::{grouped_pixels2, grouped_pixels3, grouped_pixels4, pixels2, pixels3, pixels4};
pub(super) use requantise::{finish1, finish2};
