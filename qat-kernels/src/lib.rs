#![doc = include_str!("../README.md")]
#![cfg_attr(not(any(feature = "std", test)), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod arch;
pub mod artifact;
pub mod calibration;
pub mod config;
pub mod crc32;
pub mod error;
pub mod fixed;
pub mod frontend;
pub mod grid;
pub mod hadamard;
pub mod infer;
pub mod invariants;
pub mod lora;
pub mod math;
pub mod matrix;
pub mod pack;
pub mod quantizer;
pub mod ste;

pub use calibration::{CalibrationArtifact, CalibrationConfig, CalibrationEngine, CalibrationMethod};
pub use config::{
    DEFAULT_BITS, DEFAULT_QAT_LR, MAX_BITS, MIN_BITS, QatConfig, QatLossWeights, QuantGranularity, StepRule,
};
pub use error::{Error, FileFault, OpFault, Result, TensorFault, What};
pub use grid::{Grid, Levels, pi_step};
pub use quantizer::{
    DifferentiableQuantizer, PiQuantDifferentiable, UniformQuantizer, create_quantizer, piq2_quantizer,
    piq3_quantizer, uniform_quantizer,
};
pub use ste::{LsqMask, SteVariant, simd as ste_simd};
