//! Codes packed and unpacked, a tensor as one row.

use super::{Backend, Case, Shape, same, share_out};
use crate::numbers::SplitMix64;
use anyhow::Result;
use qat_kernels::pack::{code_at, pack as pack_row, packed_len, unpack as unpack_row};
use qat_kernels::{Error, Grid, Levels, What};

struct Packing {
    bits: u8,
    shape: Shape,
    unpacks: bool,
    codes: Vec<i8>,
    packed: Vec<u8>,
}

pub(super) fn pack(bits: u8, shape: Shape) -> Result<Box<dyn Case>> {
    let packed = vec![0; packed_len(shape.len(), bits)];
    Ok(Box::new(Packing { bits, shape, unpacks: false, codes: codes(bits, shape.len())?, packed }))
}

pub(super) fn unpack(bits: u8, shape: Shape) -> Result<Box<dyn Case>> {
    let mut packed = vec![0; packed_len(shape.len(), bits)];
    pack_row(bits, &codes(bits, shape.len())?, &mut packed)?;
    Ok(Box::new(Packing { bits, shape, unpacks: true, codes: vec![i8::MAX; shape.len()], packed }))
}

fn codes(bits: u8, len: usize) -> Result<Vec<i8>> {
    let levels = Levels::new(bits, Grid::MidTread)?;
    let mut random = SplitMix64(u64::from(bits));
    Ok((0..len).map(|_| (random.bits() % levels.count() as u64) as i8 + levels.lo() as i8).collect())
}

impl Case for Packing {
    fn copied(&self) -> usize {
        self.codes.len()
    }

    fn run(&mut self, _: Backend) -> qat_kernels::Result<()> {
        let (bits, codes) = (self.bits, self.shape.len_of_thread());
        let packed = packed_len(codes, bits);
        if self.unpacks {
            let parts = self.packed.chunks(packed).zip(self.codes.chunks_mut(codes));
            share_out(parts, |(packed, codes)| unpack_row(bits, packed, codes))
        } else {
            let parts = self.codes.chunks(codes).zip(self.packed.chunks_mut(packed));
            share_out(parts, |(codes, packed)| pack_row(bits, codes, packed))
        }
    }

    fn check(&self) -> Result<()> {
        let expected = codes(self.bits, self.codes.len())?;
        if self.unpacks {
            return same("code", &self.codes, expected.into_iter());
        }
        let found: Option<Vec<i32>> =
            (0..expected.len()).map(|i| code_at(self.bits, &self.packed, i)).collect();
        let found = found.ok_or(Error::Empty { what: What::Packed })?;
        same("code", &found, expected.into_iter().map(i32::from))
    }
}
