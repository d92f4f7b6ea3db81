//! C ABI for `compare.py`: LSQ with one step per row, the rows shared out to threads that are started for each call.
//!
//! Every function returns 0, or 1 if the kernels refuse the arguments.
#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

use qat_kernels::{Error, Grid, Levels, LsqMask, SteVariant, ste_simd};
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::thread::scope;

/// Matrix of weights: `rows` rows of `columns`, `bits` bits each on the mid-tread grid, `threads` to work with.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Shape {
    threads: usize,
    rows: usize,
    columns: usize,
    bits: u8,
}

impl Shape {
    /// Rows and weights that one thread takes.
    fn share(&self) -> (usize, usize) {
        let rows = self.rows.div_ceil(self.threads.max(1)).max(1);
        (rows, rows * self.columns.max(1))
    }
}

/// Does `work` on every part, the last one on the calling thread: 0 if all went well.
fn share_out<T: Send>(
    parts: impl Iterator<Item = T>,
    work: impl Fn(T) -> Result<(), Error> + Copy + Send,
) -> i32 {
    let mut parts: Vec<T> = parts.collect();
    let last = parts.pop();
    scope(|s| {
        let threads: Vec<_> = parts.into_iter().map(|part| s.spawn(move || work(part))).collect();
        let mut ok = last.is_none_or(|part| work(part).is_ok());
        for thread in threads {
            ok &= matches!(thread.join(), Ok(Ok(())));
        }
        i32::from(!ok)
    })
}

/// `w_hat` = the quantised weights.
///
/// # Safety
/// `steps` has `rows` elements, `w` and `w_hat` have `rows · columns`; `w_hat` overlaps nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forward(shape: Shape, steps: *const f32, w: *const f32, w_hat: *mut f32) -> i32 {
    let n = shape.rows * shape.columns;
    // SAFETY: the caller's duty, stated above.
    let (steps, w, w_hat) =
        unsafe { (from_raw_parts(steps, shape.rows), from_raw_parts(w, n), from_raw_parts_mut(w_hat, n)) };
    let (rows, len) = shape.share();
    let Ok(levels) = Levels::new(shape.bits, Grid::MidTread) else { return 1 };
    let parts = steps.chunks(rows).zip(w.chunks(len)).zip(w_hat.chunks_mut(len));
    share_out(parts, |((steps, w), w_hat)| ste_simd::fake_quantize(levels, steps, w, w_hat))
}

/// `grad_w` and `step_grads` (plain sums) from the gradient `g` at the quantised weights.
///
/// # Safety
/// `steps` and `step_grads` have `rows` elements, `w`, `g` and `grad_w` have `rows · columns`; the two outputs overlap
/// nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn backward(
    shape: Shape,
    steps: *const f32,
    w: *const f32,
    g: *const f32,
    grad_w: *mut f32,
    step_grads: *mut f32,
) -> i32 {
    let n = shape.rows * shape.columns;
    // SAFETY: the caller's duty, stated above.
    let (steps, w, g) =
        unsafe { (from_raw_parts(steps, shape.rows), from_raw_parts(w, n), from_raw_parts(g, n)) };
    // SAFETY: the same.
    let (grad_w, step_grads) =
        unsafe { (from_raw_parts_mut(grad_w, n), from_raw_parts_mut(step_grads, shape.rows)) };
    let (rows, len) = shape.share();
    let Ok(levels) = Levels::new(shape.bits, Grid::MidTread) else { return 1 };
    let (ste, mask) = (SteVariant::LearnedStepSize, LsqMask::Exact);
    let inputs = steps.chunks(rows).zip(w.chunks(len)).zip(g.chunks(len));
    let parts = inputs.zip(grad_w.chunks_mut(len).zip(step_grads.chunks_mut(rows)));
    share_out(parts, |(((steps, w), g), (grad_w, step_grads))| {
        ste_simd::backward(ste, levels, mask, steps, w, g, grad_w, step_grads)
    })
}

/// `step_grads` alone, on the calling thread.
///
/// # Safety
/// As [`backward`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn step_gradient(
    shape: Shape,
    steps: *const f32,
    w: *const f32,
    g: *const f32,
    step_grads: *mut f32,
) -> i32 {
    let n = shape.rows * shape.columns;
    // SAFETY: the caller's duty, stated above.
    let (steps, w, g) =
        unsafe { (from_raw_parts(steps, shape.rows), from_raw_parts(w, n), from_raw_parts(g, n)) };
    // SAFETY: the same.
    let step_grads = unsafe { from_raw_parts_mut(step_grads, shape.rows) };
    let Ok(levels) = Levels::new(shape.bits, Grid::MidTread) else { return 1 };
    ste_simd::step_gradient(levels, LsqMask::Exact, steps, w, g, step_grads).is_err().into()
}

/// `to` = `from`, the C library's memcpy on each thread's share: the yardstick.
///
/// # Safety
/// `from` and `to` have `rows · columns` elements; `to` overlaps nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy(shape: Shape, from: *const f32, to: *mut f32) -> i32 {
    let n = shape.rows * shape.columns;
    // SAFETY: the caller's duty, stated above.
    let (from, to) = unsafe { (from_raw_parts(from, n), from_raw_parts_mut(to, n)) };
    let (_, len) = shape.share();
    share_out(from.chunks(len).zip(to.chunks_mut(len)), |(from, to)| {
        to.copy_from_slice(from);
        Ok(())
    })
}
