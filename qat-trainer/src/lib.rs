//! Trains classifiers of 2 to 8 bits with quantisation in the loop, and exports them as `.piq` files that run bit for
//! bit the same on the workstation and on a microcontroller.
//!
//! The command `qat` is a thin layer over this library. The way of a model through it:
//!
//! 1. [`spec`] reads the TOML run description, [`data`] the data set that it names.
//! 2. Training (feature `tch`) writes a [`checkpoint`]; [`ptq`] measures the ranges of activations that it starts from,
//!    and quantises without training for comparison.
//! 3. [`graph`] turns a checkpoint into the network that will be shipped: batch normalisation folded, a quantiser per
//!    layer, a range per activation. [`export`](mod@export) makes the `.piq` file of it.
//! 4. [`eval`], [`inspect`] and [`verify`](mod@verify) read such files, with the integer engine of `qat-kernels`.

pub mod affine;
pub mod analysis;
pub mod atomic;
#[cfg(feature = "tch")]
pub mod autograd;
pub mod by_weight;
pub mod calibrate;
pub mod checkpoint;
pub mod data;
#[cfg(feature = "tch")]
pub mod distill;
pub mod error;
pub mod eval;
#[cfg(feature = "tch")]
pub mod events;
pub mod export;
pub mod graph;
pub mod inspect;
pub mod keys;
pub mod llm;
pub mod lock;
pub mod mixed;
#[cfg(feature = "tch")]
mod nn;
pub mod presets;
pub mod ptq;
#[cfg_attr(not(feature = "tch"), allow(dead_code, reason = "training draws most of the numbers"))]
mod random;
pub mod report;
pub mod runs;
pub mod seeded;
pub mod spec;
pub mod tensorboard;
#[cfg(feature = "tch")]
pub mod train;
pub mod verify;

pub use error::{Error, ErrorKind, Result};
