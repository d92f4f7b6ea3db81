//! The one bridge to torch: what `tch` does not offer, and the only place of the crate with `unsafe`.
//!
//! * `slice`, `slice_mut`: the memory of a CPU tensor as a slice, without a copy, so that qat-kernels works on it;
//! * [`closure_node`], [`closure_nodes`]: an autograd node whose backward is a Rust closure;
//! * [`fused_kernels`]: the quantisers and AdamW on a GPU, compiled by [`compile_kernels`] when a program runs;
//! * [`device`]: a device by its name, and what torch's allocator says of a GPU.
//!
//! Neither a Rust panic nor a C++ exception crosses the border: each arrives on the other side as an error.

mod closure;
mod device;
mod ffi;
pub(crate) mod fused;
mod loader;
mod nvrtc;
mod slices;

pub(crate) use closure::closure_node_taking;
pub use closure::{closure_node, closure_nodes};
pub use device::{GpuMemory, device, empty_cache, gpu_memory, reset_peak, synchronise};
pub use fused::fused_kernels;
pub use nvrtc::{Compiled, compile_kernels};
pub(crate) use slices::{is_sole_owner, memory, memory_mut, slice, slice_mut};

use crate::error::{Error, ErrorKind};

impl From<tch::TchError> for Error {
    fn from(e: tch::TchError) -> Self {
        let text = match e {
            tch::TchError::Torch(text) => text,
            e => e.to_string(),
        };
        // torch appends a C++ stack trace, of no use to whoever reads this.
        let text = text.split("\nException raised from").next().unwrap_or_default();
        Error::new(ErrorKind::Train, format!("torch: {text}"))
    }
}
