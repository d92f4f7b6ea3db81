//! Compiling CUDA source when a program runs, with NVRTC, which lies beside a libtorch with CUDA.
#![allow(unsafe_code)]

use super::loader::Library;
use crate::error::{Error, ErrorKind, Result};
use std::ffi::{CStr, CString, c_char, c_int, c_void};

type Program = *mut c_void;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// What the compiler makes of a source.
///
/// ```
/// use qat_trainer::{ErrorKind, autograd::compile_kernels};
/// match compile_kernels("sm_90") {
///     Ok(compiled) => assert!(compiled.cubin.starts_with(b"\x7fELF")), // what the driver loads
///     Err(e) => assert_eq!(e.kind(), ErrorKind::Unsupported), // no NVRTC on this machine
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Machine code for one family of GPUs.
    pub cubin: Vec<u8>,
    /// What the compiler says: registers, stack and spilled bytes of every kernel.
    pub log: String,
}

/// The fused kernels.
pub(super) const SOURCE: &CStr = {
    let files = concat!(
        include_str!("../../cuda/quantise.cu"),
        include_str!("../../cuda/learn.cu"),
        include_str!("../../cuda/packed.cu"),
        include_str!("../../cuda/decoder.cu"),
        "\0"
    );
    match CStr::from_bytes_with_nul(files.as_bytes()) {
        Ok(source) => source,
        Err(_) => panic!("the source has a NUL in it"),
    }
};

/// Compiles the fused kernels for GPUs of an architecture such as `sm_90`. No GPU is needed.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if there is no NVRTC or it does not know the architecture; its log is in the message.
///
/// ```
/// use qat_trainer::{ErrorKind, autograd::compile_kernels};
/// let e = compile_kernels("sm_1").unwrap_err(); // no GPU of ours, with NVRTC or without
/// assert_eq!(e.kind(), ErrorKind::Unsupported);
/// assert!(e.to_string().starts_with("no CUDA kernels for sm_1: "), "{e}");
/// ```
pub fn compile_kernels(architecture: &str) -> Result<Compiled> {
    compile(architecture).map_err(|problem| {
        Error::new(ErrorKind::Unsupported, format!("no CUDA kernels for {architecture}: {problem}"))
            .remedy("put NVRTC of CUDA 12 or 13 on LD_LIBRARY_PATH; pip installs it beside torch")
    })
}

fn compile(architecture: &str) -> Result<Compiled, String> {
    let names = [c"libnvrtc.so.13", c"libnvrtc.so.12", c"libnvrtc.so"];
    let library = Library::open(&names, libc::RTLD_NOW)?;
    // SAFETY: these are the types that nvrtc.h declares; its enum of results is an int.
    let (create, run, destroy, log_size, log, cubin_size, cubin) = unsafe {
        (
            library.function::<unsafe extern "C" fn(
                *mut Program,
                *const c_char,
                *const c_char,
                c_int,
                *const *const c_char,
                *const *const c_char,
            ) -> c_int>(c"nvrtcCreateProgram")?,
            library.function::<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int>(
                c"nvrtcCompileProgram",
            )?,
            library.function::<unsafe extern "C" fn(*mut Program) -> c_int>(c"nvrtcDestroyProgram")?,
            library.function::<Size>(c"nvrtcGetProgramLogSize")?,
            library.function::<Bytes>(c"nvrtcGetProgramLog")?,
            library.function::<Size>(c"nvrtcGetCUBINSize")?,
            library.function::<Bytes>(c"nvrtcGetCUBIN")?,
        )
    };
    let options = [
        CString::new(format!("--gpu-architecture={architecture}")).map_err(|e| e.to_string())?,
        c"--std=c++17".into(),
        // The arithmetic is that of the CPU: nothing is fused that is not fused there.
        c"--fmad=false".into(),
        c"--ptxas-options=-v".into(),
    ];
    let options = options.each_ref().map(|option| option.as_ptr());
    let mut program = std::ptr::null_mut();
    // SAFETY: both strings are NUL-terminated, there are no headers, and the result goes into a local.
    let rc = unsafe {
        let none = std::ptr::null();
        create(&mut program, SOURCE.as_ptr(), c"kernels.cu".as_ptr(), 0, none, none)
    };
    if rc != 0 {
        return Err(format!("NVRTC begins with its error {rc}"));
    }
    let read = |size: Size, bytes: Bytes| {
        let mut length = 0;
        // SAFETY: the program is alive, the size goes into a local.
        if unsafe { size(program, &mut length) } != 0 {
            return Vec::new();
        }
        let mut buffer = vec![0u8; length];
        // SAFETY: the program is alive, and the buffer is as long as the call before this says.
        if unsafe { bytes(program, buffer.as_mut_ptr().cast()) } == 0 { buffer } else { Vec::new() }
    };
    // SAFETY: the options are as many NUL-terminated strings, alive here.
    let rc = unsafe { run(program, options.len() as c_int, options.as_ptr()) };
    let log = String::from_utf8_lossy(&read(log_size, log)).trim_end_matches(['\0', '\n']).to_owned();
    let code = if rc == 0 { read(cubin_size, cubin) } else { Vec::new() };
    // SAFETY: the program is alive and not used after this.
    unsafe { destroy(&mut program) };
    match (rc, code.is_empty()) {
        (0, false) => Ok(Compiled { cubin: code, log }),
        _ => Err(format!("NVRTC ends with its error {rc}: {log}")),
    }
}
