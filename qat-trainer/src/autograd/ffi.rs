//! Declarations of `csrc/bridge.cpp`.
#![allow(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use std::ffi::{CStr, c_char, c_int, c_void};
use torch_sys::C_tensor;

pub(super) type BackwardFn = unsafe extern "C" fn(
    closure: *mut c_void,
    saved: *const *mut C_tensor,
    n_saved: usize,
    grads_out: *const *mut C_tensor,
    n_out: usize,
    grad_in: *mut *mut C_tensor,
    n_in: usize,
) -> c_int;
pub(super) type DropFn = unsafe extern "C" fn(closure: *mut c_void);

unsafe extern "C" {
    fn qat_last_error() -> *const c_char;
    pub(super) fn qat_set_callback_error(text: *const c_char, len: usize);
    pub(super) fn qat_attach(
        outputs: *const *mut C_tensor,
        n_out: usize,
        inputs: *const *mut C_tensor,
        n_in: usize,
        saved: *const *mut C_tensor,
        n_saved: usize,
        data: *mut c_void,
        backward: BackwardFn,
        drop: DropFn,
    ) -> c_int;
    pub(super) fn qat_owners(tensor: *mut C_tensor, count: *mut usize) -> c_int;
    pub(super) fn qat_gpu_memory(index: c_int, now: *mut i64, peak: *mut i64, reserved: *mut i64) -> c_int;
    pub(super) fn qat_gpu_reset_peak(index: c_int) -> c_int;
    pub(super) fn qat_gpu_empty_cache() -> c_int;
    pub(super) fn qat_gpu_stream(index: c_int, stream: *mut *mut c_void) -> c_int;
    pub(super) fn qat_gpu_synchronize(index: c_int) -> c_int;
}

/// The result of a call into the bridge.
pub(super) fn check(rc: c_int) -> Result<()> {
    if rc == 0 {
        return Ok(());
    }
    // SAFETY: the function returns a NUL-terminated string owned by this thread, valid until the next bridge call on
    // it; it is copied before that.
    let text = unsafe { CStr::from_ptr(qat_last_error()) }.to_string_lossy();
    let text = text.split("\nException raised from").next().unwrap_or_default();
    Err(Error::new(ErrorKind::Train, format!("torch: {text}")))
}
