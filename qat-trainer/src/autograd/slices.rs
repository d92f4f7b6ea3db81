//! The memory of CPU tensors as slices.
#![allow(unsafe_code)]

use super::ffi;
use crate::error::{Error, ErrorKind, Result};
use tch::{Device, Kind, Tensor};

/// The elements of a contiguous CPU tensor of 32-bit floats, in row-major order, without a copy.
///
/// Torch changes tensors in place through any handle that shares the memory. The slice must be gone before that
/// happens; this crate keeps slices for the length of one kernel call and hands none out, which is why the function is
/// not public.
///
/// # Errors
/// [`ErrorKind::Train`] if the tensor is undefined, not f32, not on the CPU, or not contiguous.
pub(crate) fn slice(t: &Tensor) -> Result<&[f32]> {
    contiguous(t)?;
    memory(t)
}

/// As [`slice`], to write to. The tensor must be the only one that uses this memory, so that nothing sees it change: no
/// other handle, no view, no graph that saved it.
///
/// # Errors
/// As [`slice`], and [`ErrorKind::Train`] if the memory or the tensor is shared.
pub(crate) fn slice_mut(t: &mut Tensor) -> Result<&mut [f32]> {
    contiguous(t)?;
    memory_mut(t)
}

/// As [`slice`], in the order in which the elements lie in memory, which depends on [`Tensor::stride`]: for work on
/// each element that does not care which it is. The tensor may be permuted, but must not have gaps.
///
/// # Errors
/// As [`slice`], with gaps or overlaps in place of the order.
pub(crate) fn memory(t: &Tensor) -> Result<&[f32]> {
    let len = check(t)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: `check` saw an f32 tensor that covers `len` elements of CPU memory without gaps, from its data pointer on;
    // torch keeps them alive and in place as long as the borrowed handle lives and nobody resizes it; nobody writes to
    // them while the slice lives (see `slice`).
    Ok(unsafe { std::slice::from_raw_parts(t.data_ptr().cast::<f32>(), len) })
}

/// As [`memory`], to write to, under the condition of [`slice_mut`].
///
/// # Errors
/// As [`memory`] and [`slice_mut`].
pub(crate) fn memory_mut(t: &mut Tensor) -> Result<&mut [f32]> {
    let len = check(t)?;
    let owners = owners(t)?;
    if owners != 1 {
        return Err(bad(format!("memory to be written is shared by {owners} tensors")));
    }
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `memory`; besides, the tensor and its memory have one owner, the handle borrowed mutably here, so
    // that no other access is possible while the slice lives.
    Ok(unsafe { std::slice::from_raw_parts_mut(t.data_ptr().cast::<f32>(), len) })
}

/// Whether [`memory_mut`] may write to this tensor: whether this handle is the only one that uses its memory.
///
/// # Errors
/// [`ErrorKind::Train`] if torch fails.
pub(crate) fn is_sole_owner(t: &mut Tensor) -> Result<bool> {
    Ok(owners(t)? == 1)
}

fn owners(t: &mut Tensor) -> Result<usize> {
    let mut owners = 0;
    // SAFETY: the pointer is that of a live tensor, the other points to a local.
    ffi::check(unsafe { ffi::qat_owners(t.as_mut_ptr(), &mut owners) })?;
    Ok(owners)
}

fn check(t: &Tensor) -> Result<usize> {
    if !t.defined() {
        return Err(bad("the tensor is undefined"));
    }
    let kind = t.f_kind()?;
    if kind != Kind::Float {
        return Err(bad(format!("the tensor holds {kind:?}, not f32")));
    }
    let device = t.device();
    if device != Device::Cpu {
        return Err(bad(format!("the tensor lies on {device:?}, not on the CPU")));
    }
    if t.is_sparse() || t.is_mkldnn() || !is_dense(&t.size(), &t.stride()) {
        return Err(bad("the tensor has gaps or overlaps, or no strides at all"));
    }
    Ok(t.numel())
}

fn contiguous(t: &Tensor) -> Result<()> {
    if t.defined() && !t.is_contiguous() {
        return Err(bad("the tensor is not contiguous"));
    }
    Ok(())
}

/// Whether these strides visit each of as many consecutive elements as there are once.
fn is_dense(size: &[i64], stride: &[i64]) -> bool {
    let mut dims: Vec<(i64, i64)> =
        stride.iter().copied().zip(size.iter().copied()).filter(|d| d.1 != 1).collect();
    dims.sort_unstable();
    let mut expected = 1;
    dims.iter().all(|&(stride, size)| {
        let ok = stride == expected;
        expected *= size;
        ok
    }) || size.contains(&0)
}

fn bad(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::Train, format!("no slice of this tensor: {}", problem.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_see_and_change_the_tensor_itself() {
        // A sum is no view: a view would keep the tensor it was made from.
        let mut t = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]) + 0.0;
        assert_eq!(slice(&t).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        slice_mut(&mut t).unwrap()[2] = -7.0;
        assert_eq!(t.double_value(&[1, 0]), -7.0);
        assert_eq!(slice(&Tensor::zeros([0, 3], (Kind::Float, Device::Cpu))).unwrap(), [0f32; 0]);
    }

    #[test]
    fn what_cannot_be_a_slice_is_refused() {
        let t = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let message = |t: &Tensor| slice(t).unwrap_err().to_string();
        assert!(message(&t.transpose(0, 1)).contains("contiguous"));
        assert!(memory(&t.narrow(1, 0, 2)).unwrap_err().to_string().contains("gaps"));
        assert!(memory(&t.narrow(0, 0, 1).expand([4, 3], false)).unwrap_err().to_string().contains("gaps"));
        assert!(message(&t.to_kind(Kind::Double)).contains("Double"));
        assert!(message(&Tensor::new()).contains("undefined"));
    }

    #[test]
    fn permuted_tensors_have_memory() {
        let t = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 3, 4]);
        let wanted: Vec<f32> = (0..24u8).map(f32::from).collect();
        assert_eq!(memory(&t.permute([2, 0, 1])).unwrap(), wanted);
        assert_eq!(memory(&t.narrow(0, 1, 1).permute([1, 2, 0])).unwrap(), &wanted[12..]);
        let mut like = t.permute([2, 0, 1]).empty_like();
        assert_eq!(like.stride(), t.permute([2, 0, 1]).stride());
        memory_mut(&mut like).unwrap().copy_from_slice(&wanted);
        assert!(like.permute([1, 2, 0]).equal(&t));
    }

    #[test]
    fn shared_memory_cannot_be_written() {
        let mut t = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        {
            let _view = t.narrow(0, 0, 2);
            assert!(slice_mut(&mut t).unwrap_err().to_string().contains("shared"));
        }
        {
            let _twin = t.shallow_clone();
            assert!(slice_mut(&mut t).is_err());
        }
        let mut leaf = t.set_requires_grad(true);
        drop(t);
        {
            let _graph = &leaf * &leaf;
            assert!(slice_mut(&mut leaf).is_err());
        }
        assert!(slice_mut(&mut leaf).is_ok());
    }
}
