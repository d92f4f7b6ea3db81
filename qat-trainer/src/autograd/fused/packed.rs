//! The kernels of `cuda/packed.cu`: weights of packed codes.
#![allow(unsafe_code)]

use super::{Kernel, Quantiser, THREADS, aligned, check, check_steps, kernels, place, pointer};
use crate::error::{Error, ErrorKind, Result};
use qat_kernels::pack::packed_len;
use std::ffi::c_int;
use tch::{Kind, Tensor};

/// Codes in `bits` bits each, rows of `row` of them on whole bytes, with α of each block and k of each group.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) bits: u8,
    pub(crate) row: usize,
    pub(crate) codes: &'a Tensor,
    pub(crate) alpha: &'a Tensor,
    pub(crate) divisors: &'a Tensor,
}

/// The weights that packed codes stand for, `[rows, row]`, in f32 or bf16.
pub(crate) fn dequantise(q: &Quantiser, packed: Packed<'_>, kind: Kind) -> Result<Tensor> {
    let Packed { bits, row, codes, alpha, divisors } = packed;
    let (device, count) = (codes.device(), q.length as usize * q.blocks as usize);
    let rows = count / row.max(1);
    check(codes, Kind::Uint8, device, rows * packed_len(row, bits))?;
    check_steps(q, [alpha, divisors], device)?;
    // The kernel counts weights in 32 bits.
    if rows * row != count || u32::try_from(count).is_err() {
        let problem = format!("no kernel for {count} packed weights in rows of {row}");
        return Err(Error::new(ErrorKind::Train, problem));
    }
    let out = Tensor::f_empty([rows as i64, row as i64], (kind, device))?;
    let [mut from, mut alpha, mut divisors, mut to] = [codes, alpha, divisors, &out].map(Tensor::data_ptr);
    let eights = [row, q.length as usize, q.group as usize].iter().all(|size| size.is_multiple_of(8));
    let wide = eights && aligned(&[codes, &out]);
    let kernel = Kernel::Dequantise as usize + place(kind)? + usize::from(wide);
    let (mut q, mut bits, mut row) = (*q, c_int::from(bits), row as c_int);
    let mut arguments = [
        pointer(&mut q),
        pointer(&mut bits),
        pointer(&mut row),
        pointer(&mut from),
        pointer(&mut alpha),
        pointer(&mut divisors),
        pointer(&mut to),
    ];
    let threads = (count / if wide { 8 } else { 1 }) as u64;
    // SAFETY: the kernel takes a quantiser, two ints and four addresses; the sizes of three were checked, the fourth has room for
    // as many numbers as there are codes.
    unsafe { kernels(device)?.launch(device, kernel, threads.div_ceil(u64::from(THREADS)), &mut arguments) }?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_do_not_fit_are_refused() {
        let q = Quantiser::new(-2, 1, 0.5, 4, 1).unwrap();
        let (alpha, divisors) = (&Tensor::from_slice(&[1f32]), &Tensor::from_slice(&[0f32; 0]));
        let packed = |row, bytes: &[u8]| {
            let codes = &Tensor::from_slice(bytes);
            let packed = Packed { bits: 2, row, codes, alpha, divisors };
            dequantise(&q, packed, Kind::Float).unwrap_err().to_string()
        };
        assert!(packed(4, &[0]).contains("no fused kernels"));
        assert!(packed(4, &[0, 0]).contains("a kernel for 1 Uint8"));
        assert!(packed(3, &[0]).contains("4 packed weights in rows of 3"));
    }
}
