//! The device that a program computes on, and the memory of a GPU.
#![allow(unsafe_code)]

use super::ffi;
use super::loader::Library;
use crate::error::{Error, ErrorKind, Result};
use std::ffi::c_int;
use std::sync::OnceLock;
use tch::{Cuda, Device};

/// The device of this name: `cpu`, `cuda` (the first GPU) or `cuda:N`.
///
/// The CUDA half of libtorch registers itself when it is loaded, so that one program serves machines with and without
/// it. Torch looks for it once, when the first tensor is made: call this before.
///
/// # Errors
/// [`ErrorKind::Spec`] for another name; [`ErrorKind::Unsupported`] if there is no such GPU, or a libtorch without CUDA.
///
/// ```
/// use qat_trainer::{ErrorKind, autograd::device};
/// use tch::Device;
/// assert_eq!(device("cpu")?, Device::Cpu);
/// assert_eq!(device("gpu").map_err(|e| e.kind()), Err(ErrorKind::Spec)); // it is called cuda
/// assert_eq!(device("cuda:999").map_err(|e| e.kind()), Err(ErrorKind::Unsupported)); // nobody has so many
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn device(name: &str) -> Result<Device> {
    let index = match name.split_once(':') {
        None if name == "cpu" => return Ok(Device::Cpu),
        None if name == "cuda" => Some(0),
        Some(("cuda", index)) => index.parse::<usize>().ok(),
        _ => None,
    };
    let Some(index) = index else {
        return Err(Error::new(ErrorKind::Spec, format!("there is no device `{name}`"))
            .remedy("use cpu, cuda, or cuda:N for GPU number N"));
    };
    let refuse = |problem: String, remedy: &str| {
        Err(Error::new(ErrorKind::Unsupported, format!("no GPU for `{name}`: {problem}")).remedy(remedy))
    };
    if let Err(problem) = load_cuda() {
        let remedy =
            "use the device cpu, or a libtorch 2.11.0 with CUDA and LD_LIBRARY_PATH on its folder `lib`";
        return refuse(format!("this libtorch has no CUDA ({problem})"), remedy);
    }
    match Cuda::device_count() {
        count if count <= 0 => {
            refuse("the driver shows none".into(), "use the device cpu, or check the driver")
        }
        count if index as i64 >= count => {
            refuse(format!("there are {count}"), "use a smaller number; they are counted from 0")
        }
        _ => Ok(Device::Cuda(index)),
    }
}

/// Loads the CUDA half of libtorch, once.
fn load_cuda() -> Result<(), &'static str> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    let load = || Library::open(&[c"libtorch_cuda.so"], libc::RTLD_NOW | libc::RTLD_GLOBAL).map(|_| ());
    match LOADED.get_or_init(load) {
        Ok(()) => Ok(()),
        Err(problem) => Err(problem),
    }
}

/// What torch's allocator says of a GPU, in bytes.
///
/// ```
/// use qat_trainer::autograd::{device, gpu_memory};
/// use tch::{Kind, Tensor};
/// if let Ok(gpu) = device("cuda") {
///     let _weights = Tensor::zeros([1024, 1024], (Kind::BFloat16, gpu));
///     let memory = gpu_memory(gpu)?.unwrap_or_default();
///     assert!(memory.now >= 2 << 20 && memory.reserved >= memory.now); // 2 bytes a number
/// }
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuMemory {
    /// Of tensors that are alive.
    pub now: u64,
    /// Of tensors, the most since [`reset_peak`].
    pub peak: u64,
    /// Taken from the driver, the most since [`reset_peak`]: what must be free on the card, beside CUDA's own.
    pub reserved: u64,
}

pub(super) fn index(device: Device) -> Option<c_int> {
    match device {
        Device::Cuda(index) => c_int::try_from(index).ok(),
        _ => None,
    }
}

/// The memory of a GPU; `None` for other devices.
///
/// # Errors
/// [`ErrorKind::Train`] if torch refuses.
///
/// ```
/// use qat_trainer::autograd::gpu_memory;
/// use tch::Device;
/// assert_eq!(gpu_memory(Device::Cpu)?, None); // not 0 bytes
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn gpu_memory(device: Device) -> Result<Option<GpuMemory>> {
    let Some(index) = index(device) else { return Ok(None) };
    let [mut now, mut peak, mut reserved] = [0; 3];
    // SAFETY: the pointers are those of three locals.
    ffi::check(unsafe { ffi::qat_gpu_memory(index, &mut now, &mut peak, &mut reserved) })?;
    let [now, peak, reserved] = [now, peak, reserved].map(|bytes: i64| bytes.max(0).cast_unsigned());
    Ok(Some(GpuMemory { now, peak, reserved }))
}

/// Begins to look for the largest use of memory anew; does nothing for other devices than GPUs.
///
/// # Errors
/// [`ErrorKind::Train`] if torch refuses.
///
/// ```
/// use qat_trainer::autograd::{device, gpu_memory, reset_peak};
/// use tch::{Device, Kind, Tensor};
/// let device = device("cuda").unwrap_or(Device::Cpu);
/// reset_peak(device)?;
/// drop(Tensor::zeros([1 << 20], (Kind::Float, device)));
/// if let Some(memory) = gpu_memory(device)? {
///     assert!(memory.peak >= memory.now + (4 << 20)); // what is gone again counts
/// }
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn reset_peak(device: Device) -> Result<()> {
    // SAFETY: the function takes a number.
    index(device).map_or(Ok(()), |index| ffi::check(unsafe { ffi::qat_gpu_reset_peak(index) }))
}

/// Gives what torch's allocator keeps for later back to the driver; does nothing for other devices than GPUs.
///
/// # Errors
/// [`ErrorKind::Train`] if torch refuses.
///
/// ```
/// use qat_trainer::autograd::{device, empty_cache, gpu_memory, reset_peak};
/// use tch::{Device, Kind, Tensor};
/// let device = device("cuda").unwrap_or(Device::Cpu);
/// drop(Tensor::zeros([1 << 20], (Kind::Float, device))); // its 4 MiB are kept for the next tensor
/// empty_cache(device)?;
/// reset_peak(device)?;
/// assert!(gpu_memory(device)?.is_none_or(|memory| memory.reserved < 4 << 20));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn empty_cache(device: Device) -> Result<()> {
    // SAFETY: the function takes nothing.
    index(device).map_or(Ok(()), |_| ffi::check(unsafe { ffi::qat_gpu_empty_cache() }))
}

/// Waits until a GPU has done all that it was given; other devices never have anything outstanding.
///
/// # Errors
/// [`ErrorKind::Train`] if torch refuses, or if something that the GPU was given has failed.
///
/// ```
/// use qat_trainer::autograd::{device, synchronise};
/// use std::time::{Duration, Instant};
/// use tch::{Device, Kind, Tensor};
/// let device = device("cuda").unwrap_or(Device::Cpu);
/// let x = Tensor::ones([64, 64], (Kind::Float, device));
/// let begin = Instant::now();
/// let y = x.matmul(&x); // on a GPU it has not begun when this returns
/// synchronise(device)?;
/// assert!(begin.elapsed() > Duration::ZERO); // the time of the product
/// assert_eq!(y.double_value(&[0, 0]), 64.0);
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn synchronise(device: Device) -> Result<()> {
    // SAFETY: the function takes a number.
    index(device).map_or(Ok(()), |index| ffi::check(unsafe { ffi::qat_gpu_synchronize(index) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_and_a_missing_one_says_why() {
        assert_eq!(device("cpu").unwrap(), Device::Cpu);
        for name in ["gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1"] {
            let e = device(name).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Spec, "{name}");
            assert!(e.to_string().contains("cuda:N"), "{e}");
        }
        // Nobody has a thousand.
        let e = device("cuda:999").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.to_string().starts_with("no GPU for `cuda:999`: "), "{e}");
    }

    #[test]
    fn the_cpu_has_no_memory_of_a_gpu_and_nothing_to_wait_for() {
        assert_eq!(gpu_memory(Device::Cpu).unwrap(), None);
        reset_peak(Device::Cpu).unwrap();
        empty_cache(Device::Cpu).unwrap();
        synchronise(Device::Cpu).unwrap();
    }
}
