//! Calibration: which range, scale and zero point suit the values that go by, and on what evidence.
//!
//! A [`CalibrationEngine`] watches a stream of f32 in fixed memory, without a heap, and chooses a range by one of five
//! methods ([`CalibrationMethod`]); [`per_token`] serves the granularity that needs no state. A [`CalibrationArtifact`]
//! carries the result with its provenance, and is the `.cal` file.
//!
//! All of it runs on a microcontroller. Integer arithmetic does the counting; the searches of
//! [`CalibrationMethod::Mse`] and [`CalibrationMethod::Entropy`] use f64, so that their choice is the same on every core
//! (entropy's logarithm is the approximate one with the feature `micromath`).

mod artifact;
mod config;
mod domains;
mod engine;
mod entropy;
mod file;
mod histogram;
mod mse;
mod observer;
mod params;
mod percentile;

pub use artifact::{CalibrationArtifact, DomainCount, MAX_TENSOR_NAME, Parts, Provenance, TensorCalibration};
pub use config::{CalibrationConfig, CalibrationMethod, QuantScheme};
pub use domains::{Domains, MAX_DOMAIN_NAME, MAX_DOMAINS};
pub use engine::CalibrationEngine;
pub use file::{CAL_MAGIC, CAL_VERSION, max_file_len};
pub use observer::{CalibrationStats, Observer};
pub use params::{AffineParams, Calibrated, ClipRange, per_token};
