//! Trains classifiers of 2 to 8 bits with quantisation in the loop, and exports them as `.piq` files that run bit for
//! bit the same on the workstation and on a microcontroller.
//!
//! The command `qat` is a thin layer over this library. The way of a model through it:
//!
//! 1. [`spec`] reads the TOML run description, [`data`] the data set it names.
//! 2. Training (feature `tch`) writes a [`checkpoint`].
//! 3. [`graph`] turns a checkpoint into the network that will be shipped: batch normalisation folded, a quantiser per
//!    layer, a range per activation.

pub mod affine;
pub mod checkpoint;
pub mod data;
pub mod error;
pub mod eval;
pub mod export;
pub mod graph;
pub mod inspect;
pub mod ptq;
pub mod spec;
pub mod verify;

pub use error::{Error, ErrorKind, Result};
