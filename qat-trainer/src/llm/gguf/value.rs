//! Values of the metadata.

use super::damaged;
use super::reader::Reader;
use crate::error::Result;
use std::io::Read;

/// A value. Numbers of all widths are kept in the widest of their kind, which holds each of them exactly.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// `u8` to `u64`.
    Unsigned(u64),
    /// `i8` to `i64`.
    Signed(i64),
    /// `f32` and `f64`.
    Real(f64),
    /// `bool`.
    Truth(bool),
    /// UTF-8.
    Text(String),
    /// An array.
    List(List),
}

/// An array of values of one type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum List {
    /// Of `u8` to `u64`.
    Unsigned(Vec<u64>),
    /// Of `i8` to `i64`.
    Signed(Vec<i64>),
    /// Of `f32` and `f64`.
    Reals(Vec<f64>),
    /// Of `bool`.
    Truths(Vec<bool>),
    /// Of texts.
    Texts(Vec<String>),
    /// Of arrays.
    Lists(Vec<List>),
}

/// How deep arrays may still nest. The format has no limit; files in use do not nest at all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget(u8);

impl Default for Budget {
    fn default() -> Self {
        Self(4)
    }
}

/// Type codes of the file.
mod code {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const LIST: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

impl Value {
    /// Reads a type and a value of it.
    pub(super) fn read(r: &mut Reader<impl Read>, budget: &mut Budget) -> Result<Self> {
        let at = r.position();
        Ok(match r.u32()? {
            kind @ (code::U8 | code::U16 | code::U32 | code::U64) => Self::Unsigned(unsigned(r, kind)?),
            kind @ (code::I8 | code::I16 | code::I32 | code::I64) => Self::Signed(signed(r, kind)?),
            kind @ (code::F32 | code::F64) => Self::Real(real(r, kind)?),
            code::BOOL => Self::Truth(truth(r)?),
            code::TEXT => Self::Text(r.string()?),
            code::LIST => Self::List(List::read(r, budget)?),
            kind => return Err(damaged(format!("there is no type {kind}")).place(format!("byte {at}"))),
        })
    }
}

impl List {
    /// Reads a type, a count and so many values.
    fn read(r: &mut Reader<impl Read>, budget: &mut Budget) -> Result<Self> {
        let at = r.position();
        let Some(left) = budget.0.checked_sub(1) else {
            return Err(damaged("arrays are nested too deeply").place(format!("byte {at}")));
        };
        let kind = r.u32()?;
        let Some(size) = min_size(kind) else {
            return Err(damaged(format!("there is no type {kind}")).place(format!("byte {at}")));
        };
        let count = r.count(size, "values of an array")?;
        Ok(match kind {
            code::U8 | code::U16 | code::U32 | code::U64 => {
                Self::Unsigned(many(count, || unsigned(r, kind))?)
            }
            code::I8 | code::I16 | code::I32 | code::I64 => Self::Signed(many(count, || signed(r, kind))?),
            code::F32 | code::F64 => Self::Reals(many(count, || real(r, kind))?),
            code::BOOL => Self::Truths(many(count, || truth(r))?),
            code::TEXT => Self::Texts(many(count, || r.string())?),
            _ => Self::Lists(many(count, || Self::read(r, &mut Budget(left)))?),
        })
    }
}

fn many<T>(count: usize, mut one: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    (0..count).map(|_| one()).collect()
}

/// The fewest bytes of a value of this type; `None` if there is no such type.
fn min_size(kind: u32) -> Option<u64> {
    Some(match kind {
        code::U8 | code::I8 | code::BOOL => 1,
        code::U16 | code::I16 => 2,
        code::U32 | code::I32 | code::F32 => 4,
        code::U64 | code::I64 | code::F64 | code::TEXT => 8,
        code::LIST => 12,
        _ => return None,
    })
}

fn unsigned(r: &mut Reader<impl Read>, kind: u32) -> Result<u64> {
    Ok(match kind {
        code::U8 => u8::from_le_bytes(r.bytes()?).into(),
        code::U16 => u16::from_le_bytes(r.bytes()?).into(),
        code::U32 => r.u32()?.into(),
        _ => r.u64()?,
    })
}

fn signed(r: &mut Reader<impl Read>, kind: u32) -> Result<i64> {
    Ok(match kind {
        code::I8 => i8::from_le_bytes(r.bytes()?).into(),
        code::I16 => i16::from_le_bytes(r.bytes()?).into(),
        code::I32 => i32::from_le_bytes(r.bytes()?).into(),
        _ => i64::from_le_bytes(r.bytes()?),
    })
}

fn real(r: &mut Reader<impl Read>, kind: u32) -> Result<f64> {
    Ok(match kind {
        code::F32 => f32::from_le_bytes(r.bytes()?).into(),
        _ => f64::from_le_bytes(r.bytes()?),
    })
}

fn truth(r: &mut Reader<impl Read>) -> Result<bool> {
    let at = r.position();
    match r.bytes::<1>()? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(damaged(format!("{other} is no truth value")).place(format!("byte {at}"))),
    }
}
