//! The kernels of `cuda/*.cu`: compiled for the GPU that is there at their first use, and launched on torch's stream. Here those
//! of quantisers and AdamW, in [`decoder`] those of what lies between a decoder's matrices, in [`learn`]
//! a whole update of a quantised matrix, in [`packed`] the weights of packed codes.
#![allow(unsafe_code)]

pub(crate) mod decoder;
pub(crate) mod learn;
pub(crate) mod packed;

use super::device::index;
use super::ffi;
use super::loader::Library;
use super::nvrtc::compile_kernels;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;
use tch::{Device, Kind, Tensor};

/// How a quantiser computes; the struct of the same name in the source, field by field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantiser {
    /// Codes reach from `lo` to `hi`; a code's level is code + `offset`.
    pub(crate) lo: f32,
    pub(crate) hi: f32,
    pub(crate) offset: f32,
    /// 0 standard, 1 clipped, 2 LSQ, 3 EWGS; and its clip value or λ.
    pub(crate) estimator: c_int,
    pub(crate) parameter: f32,
    /// What LSQ scales the gradient of a step by.
    pub(crate) scale: f32,
    /// Δ: 0 is α, 1 is α·π/k for one k, 2 is α·π/k for the k of each group.
    pub(crate) rule: c_int,
    pub(crate) k: f32,
    /// Weights of a block, blocks, weights of a group.
    pub(crate) length: c_int,
    pub(crate) blocks: c_int,
    pub(crate) group: c_int,
    pub(crate) lanes: c_int,
}

/// Where a quantiser has its weights: w, α of each block, k of each group.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) w: &'a Tensor,
    pub(crate) alpha: &'a Tensor,
    pub(crate) divisors: &'a Tensor,
}

/// The factors of an update; the source's `AdamW`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors {
    pub(crate) decay: f32,
    pub(crate) beta1: f32,
    pub(crate) rest1: f32,
    pub(crate) beta2: f32,
    pub(crate) rest2: f32,
    pub(crate) rate: f32,
    pub(crate) scale: f32,
    pub(crate) eps: f32,
    /// The gradient is multiplied by it first.
    pub(crate) factor: f32,
}

impl Quantiser {
    /// One on `blocks` blocks of `length` weights, uniform and with the standard estimator; the caller changes what is different.
    pub(crate) fn new(lo: i32, hi: i32, offset: f32, length: usize, blocks: usize) -> Result<Self> {
        let int = |n: usize| {
            c_int::try_from(n).map_err(|_| Error::new(ErrorKind::Train, format!("{n} weights are too many")))
        };
        let (length, blocks) = (int(length)?, int(blocks)?);
        let [lo, hi] = [lo, hi].map(|code| code as f32);
        // A short block is a warp's work; a long one is that of all threads of a block, four weights or more for half of them.
        let lanes = if length >= 512 { THREADS as c_int } else { 32 };
        let [estimator, rule] = [0; 2];
        let group = length;
        Ok(Self {
            lo,
            hi,
            offset,
            estimator,
            parameter: 0.0,
            scale: 1.0,
            rule,
            k: 1.0,
            length,
            blocks,
            group,
            lanes,
        })
    }

    /// How many weights a thread may take at once.
    fn width(&self, tensors: &[&Tensor]) -> usize {
        let whole = self.length % 4 == 0 && self.group % 4 == 0;
        if whole && aligned(tensors) { 4 } else { 1 }
    }
}

/// Threads of a block, as in the source.
const THREADS: u32 = 256;
/// Blocks for each multiprocessor of the GPU: more would only wait.
const BLOCKS: u32 = 16;

/// The kernels, in the order of [`Kernel`].
const NAMES: [&CStr; 53] = [
    c"fake_quantise_f32_1",
    c"fake_quantise_f32_4",
    c"fake_quantise_bf16_1",
    c"fake_quantise_bf16_4",
    c"gradients_f32_1",
    c"gradients_f32_4",
    c"gradients_bf16_1",
    c"gradients_bf16_4",
    c"adamw_f32_1",
    c"adamw_f32_4",
    c"adamw_bf16_1",
    c"adamw_bf16_4",
    c"adamw_log",
    c"norm_f32_1",
    c"norm_f32_4",
    c"norm_bf16_1",
    c"norm_bf16_4",
    c"norm_gradient_f32_1",
    c"norm_gradient_f32_4",
    c"norm_gradient_bf16_1",
    c"norm_gradient_bf16_4",
    c"norm_weights_f32_1",
    c"norm_weights_f32_4",
    c"norm_weights_bf16_1",
    c"norm_weights_bf16_4",
    c"rotate_f32_1",
    c"rotate_f32_4",
    c"rotate_bf16_1",
    c"rotate_bf16_4",
    c"gated_f32_1",
    c"gated_f32_4",
    c"gated_bf16_1",
    c"gated_bf16_4",
    c"gated_gradients_f32_1",
    c"gated_gradients_f32_4",
    c"gated_gradients_bf16_1",
    c"gated_gradients_bf16_4",
    c"cross_entropy_f32_1",
    c"cross_entropy_f32_4",
    c"cross_entropy_bf16_1",
    c"cross_entropy_bf16_4",
    c"cross_entropy_gradient_f32_1",
    c"cross_entropy_gradient_f32_4",
    c"cross_entropy_gradient_bf16_1",
    c"cross_entropy_gradient_bf16_4",
    c"learn_f32_1",
    c"learn_f32_4",
    c"learn_bf16_1",
    c"learn_bf16_4",
    c"dequantise_f32_1",
    c"dequantise_f32_8",
    c"dequantise_bf16_1",
    c"dequantise_bf16_8",
];

/// Index of the first kernel of a kind.
#[derive(Clone, Copy)]
enum Kernel {
    FakeQuantise = 0,
    Gradients = 4,
    AdamW = 8,
    AdamWLog = 12,
    Norm = 13,
    NormGradient = 17,
    NormWeights = 21,
    Rotate = 25,
    Gated = 29,
    GatedGradients = 33,
    CrossEntropy = 37,
    CrossEntropyGradient = 41,
    Learn = 45,
    Dequantise = 49,
}

type Launch = unsafe extern "C" fn(
    *mut c_void,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;

/// The kernels on one GPU.
struct Loaded {
    context: *mut c_void,
    functions: [*mut c_void; NAMES.len()],
    set_context: unsafe extern "C" fn(*mut c_void) -> c_int,
    launch: Launch,
    /// Multiprocessors.
    processors: u32,
    /// What becomes 1 if a gradient is not finite.
    flag: Mutex<Tensor>,
}

// SAFETY: the handles belong to the process, not to a thread, and the driver's functions may be called from any thread.
unsafe impl Send for Loaded {}
// SAFETY: as above; the tensor is behind a lock.
unsafe impl Sync for Loaded {}

/// The kernels of a GPU, loaded at the first call for it; why there are none.
fn loaded(device: Device) -> Result<&'static Loaded, String> {
    static LOADED: Mutex<BTreeMap<c_int, Result<&'static Loaded, String>>> = Mutex::new(BTreeMap::new());
    let index = index(device).ok_or("not a GPU")?;
    let mut all = LOADED.lock().map_err(|_| "an earlier attempt failed")?;
    let load = || load(device, index).map(|loaded| &*Box::leak(Box::new(loaded)));
    all.entry(index).or_insert_with(load).clone()
}

fn load(device: Device, index: c_int) -> Result<Loaded, String> {
    /// Of the driver's enum of attributes.
    const PROCESSORS: c_int = 16;
    const MAJOR: c_int = 75;
    const MINOR: c_int = 76;
    // Torch makes the context that everything lives in.
    let flag = Tensor::f_zeros([1], (Kind::Int, device)).map_err(|e| e.to_string())?;
    let library = Library::open(&[c"libcuda.so.1"], libc::RTLD_NOW)?;
    // SAFETY: these are the types that cuda.h declares; its handles are pointers, its devices and results ints.
    let (retain, set_context, attribute, load, function, launch, error) = unsafe {
        (
            library.function::<unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int>(
                c"cuDevicePrimaryCtxRetain",
            )?,
            library.function::<unsafe extern "C" fn(*mut c_void) -> c_int>(c"cuCtxSetCurrent")?,
            library.function::<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int>(
                c"cuDeviceGetAttribute",
            )?,
            library.function::<unsafe extern "C" fn(*mut *mut c_void, *const c_void) -> c_int>(
                c"cuModuleLoadData",
            )?,
            library.function::<unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *const c_char) -> c_int>(
                c"cuModuleGetFunction",
            )?,
            library.function::<Launch>(c"cuLaunchKernel")?,
            library
                .function::<unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int>(c"cuGetErrorName")?,
        )
    };
    let check = |what: &str, rc: c_int| {
        if rc == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        // SAFETY: the name goes into a local.
        unsafe { error(rc, &mut name) };
        if name.is_null() {
            return Err(format!("{what}: the driver's error {rc}"));
        }
        // SAFETY: the driver's names are NUL-terminated and live for ever.
        Err(format!("{what}: {}", unsafe { CStr::from_ptr(name) }.to_string_lossy()))
    };
    let attribute = |which: c_int| {
        let mut value = 0;
        // SAFETY: the value goes into a local.
        check("the GPU's properties", unsafe { attribute(&mut value, which, index) }).map(|()| value)
    };
    let architecture = format!("sm_{}{}", attribute(MAJOR)?, attribute(MINOR)?);
    let processors = attribute(PROCESSORS)?.max(1).cast_unsigned();
    let compiled = compile_kernels(&architecture).map_err(|e| e.to_string())?;
    let (mut context, mut module) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the handle goes into a local. It is that of the context torch uses, and stays retained for ever.
    check("the GPU's context", unsafe { retain(&mut context, index) })?;
    // SAFETY: the context is alive.
    check("the GPU's context", unsafe { set_context(context) })?;
    // SAFETY: the handle goes into a local; the image is one that NVRTC made.
    check("loading the kernels", unsafe { load(&mut module, compiled.cubin.as_ptr().cast()) })?;
    let mut functions = [std::ptr::null_mut(); NAMES.len()];
    for (to, name) in functions.iter_mut().zip(NAMES) {
        // SAFETY: the handle goes into an element of a local array, the module is alive, the name NUL-terminated.
        check("finding a kernel", unsafe { function(to, module, name.as_ptr()) })?;
    }
    Ok(Loaded { context, functions, set_context, launch, processors, flag: Mutex::new(flag) })
}

/// Whether the fused kernels compute on `device`; why not.
///
/// # Errors
/// [`ErrorKind::Unsupported`] with the reason.
///
/// ```
/// use qat_trainer::{ErrorKind, autograd::fused_kernels};
/// use tch::Device;
/// // The CPU has kernels of its own, in `qat-kernels`.
/// assert_eq!(fused_kernels(Device::Cpu).map_err(|e| e.kind()), Err(ErrorKind::Unsupported));
/// ```
pub fn fused_kernels(device: Device) -> Result<()> {
    loaded(device).map(|_| ()).map_err(|problem| Error::new(ErrorKind::Unsupported, problem))
}

fn kernels(device: Device) -> Result<&'static Loaded> {
    loaded(device).map_err(|problem| Error::new(ErrorKind::Train, format!("no fused kernels: {problem}")))
}

impl Loaded {
    /// Launches a kernel of `threads` threads at most on torch's current stream. The arguments point to what the kernel takes.
    ///
    /// # Safety
    /// The arguments must be those of the kernel, and the memory that they name must be large enough.
    unsafe fn launch(
        &self,
        device: Device,
        kernel: usize,
        blocks: u64,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let mut stream = std::ptr::null_mut();
        // SAFETY: the handle goes into a local.
        ffi::check(unsafe { ffi::qat_gpu_stream(index(device).unwrap_or(-1), &mut stream) })?;
        let blocks = blocks.clamp(1, u64::from(self.processors * BLOCKS)) as c_uint;
        let none = std::ptr::null_mut();
        // SAFETY: context, kernel and stream are alive; the caller vouches for the arguments.
        let rc = unsafe {
            let rc = (self.set_context)(self.context);
            match self.functions.get(kernel) {
                Some(&function) if rc == 0 => {
                    let arguments = arguments.as_mut_ptr();
                    (self.launch)(function, blocks, 1, 1, THREADS, 1, 1, 0, stream, arguments, none)
                }
                _ => rc,
            }
        };
        if rc == 0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Train, format!("a CUDA kernel was refused with the driver's error {rc}")))
    }
}

/// Whether all begin at multiples of 16 bytes.
fn aligned(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.data_ptr().addr().is_multiple_of(16))
}

/// Checks that a kernel can work on a tensor's memory.
fn check(t: &Tensor, kind: Kind, device: Device, count: usize) -> Result<()> {
    if t.f_kind()? == kind && t.device() == device && t.is_contiguous() && t.numel() == count {
        return Ok(());
    }
    let what = (t.f_kind()?, t.device(), t.numel());
    Err(Error::new(ErrorKind::Train, format!("a kernel for {count} {kind:?} on {device:?} got {what:?}")))
}

/// 0 for f32, 2 for bf16: the kernel's place among those of its kind. Others have none.
fn place(kind: Kind) -> Result<usize> {
    match kind {
        Kind::Float => Ok(0),
        Kind::BFloat16 => Ok(2),
        _ => Err(Error::new(ErrorKind::Train, format!("no kernel for {kind:?}"))),
    }
}

fn pointer<T>(value: &mut T) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}

/// The addresses of a quantiser's operands, after checks.
fn addresses(q: &Quantiser, weights: Weights<'_>) -> Result<[*mut c_void; 3]> {
    let Weights { w, alpha, divisors } = weights;
    check(w, Kind::Float, w.device(), q.length as usize * q.blocks as usize)?;
    check_steps(q, [alpha, divisors], w.device())?;
    Ok([w, alpha, divisors].map(Tensor::data_ptr))
}

/// Checks α and k of a quantiser.
fn check_steps(q: &Quantiser, [alpha, divisors]: [&Tensor; 2], device: Device) -> Result<()> {
    let (length, blocks) = (q.length as usize, q.blocks as usize);
    check(alpha, Kind::Float, device, blocks)?;
    let groups = if q.rule == 2 { blocks * (length / q.group.max(1) as usize) } else { divisors.numel() };
    check(divisors, Kind::Float, device, groups)
}

/// ŵ of w in f32 or bf16.
pub(crate) fn fake_quantise(q: &Quantiser, weights: Weights<'_>, kind: Kind) -> Result<Tensor> {
    let device = weights.w.device();
    let [mut w, mut alpha, mut divisors] = addresses(q, weights)?;
    let out = Tensor::f_empty(weights.w.size(), (kind, device))?;
    let mut to = out.data_ptr();
    let mut q = *q;
    let width = q.width(&[weights.w, &out]);
    let kernel = Kernel::FakeQuantise as usize + place(kind)? + usize::from(width == 4);
    let blocks = q.blocks as u64 * q.lanes as u64;
    let mut arguments =
        [pointer(&mut q), pointer(&mut w), pointer(&mut alpha), pointer(&mut divisors), pointer(&mut to)];
    // SAFETY: the kernel takes a quantiser and four addresses; `addresses` saw to the sizes of three, the fourth is as large.
    unsafe { kernels(device)?.launch(device, kernel, blocks.div_ceil(u64::from(THREADS)), &mut arguments) }?;
    Ok(out)
}

/// The gradients of w and of log α of each block, given that of ŵ in f32 or bf16.
pub(crate) fn gradients(q: &Quantiser, weights: Weights<'_>, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let device = weights.w.device();
    let [mut w, mut alpha, mut divisors] = addresses(q, weights)?;
    let kind = grad.f_kind()?;
    check(grad, kind, device, weights.w.numel())?;
    let of_w = weights.w.f_empty_like()?;
    let of_alpha = weights.alpha.f_empty_like()?;
    let [mut g, mut to_w, mut to_alpha] = [grad, &of_w, &of_alpha].map(Tensor::data_ptr);
    let mut q = *q;
    let width = q.width(&[weights.w, grad, &of_w]);
    let kernel = Kernel::Gradients as usize + place(kind)? + usize::from(width == 4);
    let blocks = q.blocks as u64 * q.lanes as u64;
    let mut arguments = [
        pointer(&mut q),
        pointer(&mut w),
        pointer(&mut alpha),
        pointer(&mut divisors),
        pointer(&mut g),
        pointer(&mut to_w),
        pointer(&mut to_alpha),
    ];
    // SAFETY: the kernel takes a quantiser and six addresses of memory whose sizes were checked, or made like them.
    unsafe { kernels(device)?.launch(device, kernel, blocks.div_ceil(u64::from(THREADS)), &mut arguments) }?;
    Ok((of_w, of_alpha))
}

/// One step of AdamW on the numbers `w` with their moments, in place; `grad` is f32 or bf16. Numbers whose gradient is not
/// finite stay, which [`gradient_was_not_finite`] tells.
pub(crate) fn adamw(factors: &Factors, w: &Tensor, [m, v]: [&Tensor; 2], grad: &Tensor) -> Result<()> {
    let vector = aligned(&[w, m, v, grad]) && w.numel().is_multiple_of(4);
    let first = Kernel::AdamW as usize + place(grad.f_kind()?)? + usize::from(vector);
    step(factors, first, if vector { 4 } else { 1 }, [w, m, v], grad)
}

/// The same on the logarithm of positive numbers, given its gradient in f32: `α ← α·exp(δ)`.
pub(crate) fn adamw_log(
    factors: &Factors,
    alpha: &Tensor,
    [m, v]: [&Tensor; 2],
    grad: &Tensor,
) -> Result<()> {
    check(grad, Kind::Float, alpha.device(), alpha.numel())?;
    step(factors, Kernel::AdamWLog as usize, 1, [alpha, m, v], grad)
}

fn step(factors: &Factors, kernel: usize, width: u64, own: [&Tensor; 3], grad: &Tensor) -> Result<()> {
    let (device, count) = (own[0].device(), own[0].numel());
    for t in own {
        check(t, Kind::Float, device, count)?;
    }
    check(grad, grad.f_kind()?, device, count)?;
    let loaded = kernels(device)?;
    let flag = loaded.flag.lock().map_err(|_| Error::new(ErrorKind::Train, "an earlier step failed"))?;
    let [mut w, mut m, mut v] = own.map(Tensor::data_ptr);
    let (mut g, mut flag) = (grad.data_ptr(), flag.data_ptr());
    let (mut factors, mut numbers) = (*factors, count as i64);
    let mut arguments = [
        pointer(&mut factors),
        pointer(&mut numbers),
        pointer(&mut w),
        pointer(&mut m),
        pointer(&mut v),
        pointer(&mut g),
        pointer(&mut flag),
    ];
    let blocks = (count as u64).div_ceil(width * u64::from(THREADS));
    // SAFETY: the kernel takes the factors, a count, and five addresses; four hold as many numbers, the fifth one int.
    unsafe { loaded.launch(device, kernel, blocks, &mut arguments) }
}

/// Whether a step since the last call met a gradient that is not finite. Waits for the GPU; other devices never have one.
pub(crate) fn gradient_was_not_finite(device: Device) -> Result<bool> {
    let Ok(loaded) = loaded(device) else { return Ok(false) };
    let mut flag = loaded.flag.lock().map_err(|_| Error::new(ErrorKind::Train, "an earlier step failed"))?;
    let was = flag.f_int64_value(&[0])? != 0;
    if was {
        let _ = flag.f_zero_()?;
    }
    Ok(was)
}

#[cfg(test)]
mod tests {
    use super::super::nvrtc::SOURCE;
    use super::*;

    #[test]
    fn the_cpu_has_no_fused_kernels_and_says_so() {
        assert_eq!(fused_kernels(Device::Cpu).unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(!gradient_was_not_finite(Device::Cpu).unwrap());
        let w = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        let q = Quantiser::new(-2, 1, 0.5, 4, 1).unwrap();
        let weights = Weights { w: &w, alpha: &w.narrow(0, 0, 1), divisors: &w.narrow(0, 0, 0) };
        assert!(
            fake_quantise(&q, weights, Kind::Float).unwrap_err().to_string().contains("no fused kernels")
        );
        let wrong = Weights { alpha: &w, ..weights };
        assert!(
            fake_quantise(&q, wrong, Kind::Float).unwrap_err().to_string().contains("a kernel for 1 Float")
        );
    }

    #[test]
    fn structs_are_laid_out_as_in_the_source() {
        assert_eq!((size_of::<Quantiser>(), align_of::<Quantiser>()), (48, 4));
        assert_eq!((size_of::<Factors>(), align_of::<Factors>()), (36, 4));
        let source = SOURCE.to_str().unwrap();
        assert!(NAMES.iter().all(|name| source.contains(name.to_str().unwrap())));
        assert!(source.contains(&format!("#define THREADS {THREADS}\n")));
    }
}
