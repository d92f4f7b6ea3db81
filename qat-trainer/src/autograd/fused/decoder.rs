//! The kernels of `cuda/decoder.cu`: what lies between a decoder's matrices, on a GPU. All take f32 and bf16.
#![allow(unsafe_code)]

use super::{Kernel, THREADS, aligned, check, kernels, place, pointer};
use crate::error::{Error, ErrorKind, Result};
use std::ffi::{c_int, c_void};
use tch::{Device, Kind, Tensor};

/// Rows that a block of threads takes at a time where a warp takes one.
const ROWS: u64 = THREADS as u64 / 32;
/// Parts that the rows are cut into where the gradient of a norm's weights is summed.
const PARTS: i64 = 64;

/// Whether the fused kernels take a tensor of this kind on this device.
pub(crate) fn takes(device: Device, kind: Kind) -> bool {
    device.is_cuda() && matches!(kind, Kind::Float | Kind::BFloat16) && super::loaded(device).is_ok()
}

/// A kernel's operands: checked, and in the form that a launch takes.
struct Launch {
    device: Device,
    kind: Kind,
    kernel: Kernel,
    /// Whether several numbers are read at once.
    wide: bool,
    blocks: u64,
}

impl Launch {
    /// # Safety
    /// The arguments must be those of the kernel, and the memory that they name must be large enough.
    unsafe fn run(&self, arguments: &mut [*mut c_void]) -> Result<()> {
        let kernel = self.kernel as usize + place(self.kind)? + usize::from(self.wide);
        // SAFETY: the caller vouches for the arguments.
        unsafe { kernels(self.device)?.launch(self.device, kernel, self.blocks, arguments) }
    }
}

fn int(n: i64) -> Result<c_int> {
    c_int::try_from(n).map_err(|_| Error::new(ErrorKind::Train, format!("a kernel for a size of {n}")))
}

/// The rows of x and their width, the last dimension.
fn rows(x: &Tensor) -> Result<(i64, i64)> {
    match x.size().last() {
        Some(&width) if width > 0 => Ok((x.numel() as i64 / width, width)),
        _ => Err(Error::new(ErrorKind::Train, "a kernel for rows of no numbers")),
    }
}

/// `w·x/√(mean(x²) + ε)` over the last dimension of x, in x's kind, w being f32; and the factor of each row, f32, which the
/// gradients need.
pub(crate) fn norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let (device, kind, (mut count, width)) = (x.device(), x.f_kind()?, rows(x)?);
    check(x, kind, device, x.numel())?;
    check(w, Kind::Float, device, width as usize)?;
    let (y, scales) = (x.f_empty_like()?, Tensor::f_empty([count], (Kind::Float, device))?);
    let wide = width % 4 == 0 && aligned(&[x, w, &y]);
    let blocks = (count as u64).div_ceil(ROWS);
    let [mut from, mut weights, mut to, mut factors] = [x, w, &y, &scales].map(Tensor::data_ptr);
    let (mut width, mut eps) = (int(width)?, eps as f32);
    let mut arguments = [
        pointer(&mut count),
        pointer(&mut width),
        pointer(&mut eps),
        pointer(&mut from),
        pointer(&mut weights),
        pointer(&mut to),
        pointer(&mut factors),
    ];
    // SAFETY: the kernel takes these; x, w, y and the factors have the sizes that it is told.
    unsafe { Launch { device, kind, kernel: Kernel::Norm, wide, blocks }.run(&mut arguments) }?;
    Ok((y, scales))
}

/// The gradients of x and, if it is wanted, of w (f32), given that of `norm`'s result.
pub(crate) fn norm_gradients(
    [x, w, scales]: [&Tensor; 3],
    grad: &Tensor,
    of_weights: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let (device, kind, (mut count, width)) = (x.device(), x.f_kind()?, rows(x)?);
    for t in [x, grad] {
        check(t, kind, device, x.numel())?;
    }
    check(w, Kind::Float, device, width as usize)?;
    check(scales, Kind::Float, device, count as usize)?;
    let of_x = x.f_empty_like()?;
    let wide = width % 4 == 0 && aligned(&[x, w, grad, &of_x]);
    let blocks = (count as u64).div_ceil(ROWS);
    let [mut from, mut weights, mut factors, mut g, mut to] =
        [x, w, scales, grad, &of_x].map(Tensor::data_ptr);
    let mut size = int(width)?;
    let mut arguments = [
        pointer(&mut count),
        pointer(&mut size),
        pointer(&mut from),
        pointer(&mut weights),
        pointer(&mut factors),
        pointer(&mut g),
        pointer(&mut to),
    ];
    // SAFETY: the kernel takes these; all have the sizes that it is told.
    unsafe { Launch { device, kind, kernel: Kernel::NormGradient, wide, blocks }.run(&mut arguments) }?;
    if !of_weights {
        return Ok((of_x, None));
    }
    let sums = Tensor::f_empty([PARTS, width], (Kind::Float, device))?;
    let (mut parts, mut to) = (int(PARTS)?, sums.data_ptr());
    let mut arguments = [
        pointer(&mut count),
        pointer(&mut size),
        pointer(&mut parts),
        pointer(&mut from),
        pointer(&mut factors),
        pointer(&mut g),
        pointer(&mut to),
    ];
    let columns = (width as u64).div_ceil(if wide { 128 } else { 32 });
    let blocks = columns * PARTS.unsigned_abs();
    // SAFETY: as above; the sums have a row for each part.
    unsafe { Launch { device, kind, kernel: Kernel::NormWeights, wide, blocks }.run(&mut arguments) }?;
    Ok((of_x, Some(sums.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Float)?)))
}

/// x, `[batch, time, heads, head_dim]`, with the heads of position t rotated by the angles whose cosines and sines are row t of
/// the tables, f32 `[time, head_dim]` whose halves are equal; backwards if `inverse`.
pub(crate) fn rotate(x: &Tensor, [cos, sin]: [&Tensor; 2], inverse: bool) -> Result<Tensor> {
    let (device, kind) = (x.device(), x.f_kind()?);
    let (batch, time, heads, width) = x.size4()?;
    check(x, kind, device, x.numel())?;
    for table in [cos, sin] {
        check(table, Kind::Float, device, (time * width) as usize)?;
    }
    let y = x.f_empty_like()?;
    let half = width / 2;
    let wide = half % 4 == 0 && aligned(&[x, cos, sin, &y]);
    let units = (batch * time * heads * half).unsigned_abs() / if wide { 4 } else { 1 };
    let [mut from, mut cosines, mut sines, mut to] = [x, cos, sin, &y].map(Tensor::data_ptr);
    let (mut tokens, mut heads, mut time) = (batch * time, int(heads)?, int(time)?);
    let (mut half, mut sign) = (int(half)?, if inverse { -1.0f32 } else { 1.0 });
    let mut arguments = [
        pointer(&mut tokens),
        pointer(&mut heads),
        pointer(&mut time),
        pointer(&mut half),
        pointer(&mut sign),
        pointer(&mut from),
        pointer(&mut cosines),
        pointer(&mut sines),
        pointer(&mut to),
    ];
    let blocks = units.div_ceil(u64::from(THREADS));
    // SAFETY: the kernel takes these; x and y have the sizes that it is told, the tables a row for each position.
    unsafe { Launch { device, kind, kernel: Kernel::Rotate, wide, blocks }.run(&mut arguments) }?;
    Ok(y)
}

/// `silu(gate)·up`, number by number.
pub(crate) fn gated(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let y = gate.f_empty_like()?;
    elementwise(Kernel::Gated, &[gate, up, &y])?;
    Ok(y)
}

/// The gradients of gate and up, given that of [`gated`]'s result.
pub(crate) fn gated_gradients(gate: &Tensor, up: &Tensor, grad: &Tensor) -> Result<[Tensor; 2]> {
    let (of_gate, of_up) = (gate.f_empty_like()?, up.f_empty_like()?);
    elementwise(Kernel::GatedGradients, &[gate, up, grad, &of_gate, &of_up])?;
    Ok([of_gate, of_up])
}

/// A kernel that takes a count and then as many tensors of as many numbers.
fn elementwise(kernel: Kernel, tensors: &[&Tensor]) -> Result<()> {
    let Some(first) = tensors.first() else { return Ok(()) };
    let (device, kind, count) = (first.device(), first.f_kind()?, first.numel());
    for t in tensors {
        check(t, kind, device, count)?;
    }
    let wide = count % 4 == 0 && aligned(tensors);
    let mut numbers = count as i64;
    let mut addresses: Vec<*mut c_void> = tensors.iter().map(|t| t.data_ptr()).collect();
    let mut arguments = vec![pointer(&mut numbers)];
    arguments.extend(addresses.iter_mut().map(pointer));
    let blocks = (count as u64).div_ceil(u64::from(THREADS) * if wide { 4 } else { 1 });
    // SAFETY: the kernel takes a count and addresses of as many numbers each.
    unsafe { Launch { device, kind, kernel, wide, blocks }.run(&mut arguments) }
}

/// −ln p(target) of each row of logits, `[rows, classes]`, f32: 0 where the target is negative, NaN where there is no such class; and
/// ln Σ exp of each row, f32, which the gradients need.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<[Tensor; 2]> {
    let (rows, _) = logits.size2()?;
    let row = || Tensor::f_empty([rows], (Kind::Float, logits.device()));
    let results = [row()?, row()?];
    of_logits(Kernel::CrossEntropy, [logits, targets, &results[0], &results[1]])?;
    Ok(results)
}

/// Puts the gradients of the logits in their own place, given what [`cross_entropy`] says of them and the gradient of each row's
/// number, one f32 for all.
pub(crate) fn cross_entropy_gradients(
    logits: &Tensor,
    targets: &Tensor,
    log_sums: &Tensor,
    factor: &Tensor,
) -> Result<()> {
    of_logits(Kernel::CrossEntropyGradient, [logits, targets, log_sums, factor])
}

/// Both kernels of the cross-entropy take rows, width and four addresses.
fn of_logits(kernel: Kernel, tensors: [&Tensor; 4]) -> Result<()> {
    let [logits, targets, third, fourth] = tensors;
    let (device, kind, (mut rows, width)) = (logits.device(), logits.f_kind()?, logits.size2()?);
    check(logits, kind, device, (rows * width) as usize)?;
    check(targets, Kind::Int64, device, rows as usize)?;
    check(third, Kind::Float, device, rows as usize)?;
    let last = if matches!(kernel, Kernel::CrossEntropy) { rows as usize } else { 1 };
    check(fourth, Kind::Float, device, last)?;
    // As many numbers as 16 bytes hold.
    let at_once = if kind == Kind::Float { 4 } else { 8 };
    let wide = width % at_once == 0 && aligned(&[logits]);
    let blocks = rows.unsigned_abs();
    let mut width = int(width)?;
    let [mut a, mut b, mut c, mut d] = tensors.map(Tensor::data_ptr);
    let mut arguments = [
        pointer(&mut rows),
        pointer(&mut width),
        pointer(&mut a),
        pointer(&mut b),
        pointer(&mut c),
        pointer(&mut d),
    ];
    // SAFETY: the kernel takes these; the logits have rows of that width, targets and the f32 are one for each row, or one.
    unsafe { Launch { device, kind, kernel, wide, blocks }.run(&mut arguments) }
}
