//! GGUF, the container of llama.cpp (versions 2 and 3, little-endian): metadata, a table of tensors, and their data.
//!
//! [`Gguf::parse`] reads everything but the data and trusts nothing: no length is believed before it is known to fit in
//! the file, every product and sum of sizes is checked, arrays nest to a fixed depth. After it, every tensor lies inside the
//! file and overlaps no other, so that reading one needs no further checks.

mod blocks;
mod reader;
mod value;
#[cfg(test)]
pub(crate) mod writer;

pub use blocks::Format;
pub use value::{List, Value};

use crate::error::{Error, ErrorKind, Result};
use reader::Reader;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use value::Budget;

/// A dimension count that no tensor of a language model exceeds, and the format's own limit.
const MAX_DIMENSIONS: u32 = 4;
/// Boundary of tensor data where a file does not give one.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Metadata and the table of tensors together are refused beyond it; vocabularies take a few megabytes.
const MAX_HEADER: u64 = 256 << 20;
/// The fewest bytes of an entry in the metadata (key's length, type, value) and in the table of tensors (name's length,
/// number of dimensions, one dimension, type, offset).
const MIN_ENTRY: u64 = 8 + 4 + 1;
const MIN_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// Where a tensor lies and how it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Dimensions, the fastest last, as torch has them (the file has them the other way round).
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub format: Format,
    /// Byte of the file at which it starts.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: usize,
}

/// Everything in a file but the tensors' data.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Reads the header of a file of `len` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] that names the byte, key or tensor; [`ErrorKind::Io`] if reading fails.
    pub fn parse(file: impl Read, len: u64) -> Result<Self> {
        let mut r = Reader::new(file, len, MAX_HEADER);
        if r.bytes::<4>()? != *b"GGUF" {
            return Err(damaged("the file does not begin with `GGUF`").place("byte 0"));
        }
        match r.u32()? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => {
                return Err(damaged("the file is big-endian").place("byte 4"));
            }
            version => return Err(damaged(format!("version {version} is not supported")).place("byte 4")),
        }
        let tensor_count = r.count(MIN_TENSOR, "tensors")?;
        let entries = r.count(MIN_ENTRY, "entries of metadata")?;
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let key = r.string()?;
            let value =
                Value::read(&mut r, &mut Budget::default()).map_err(|e| e.place(format!("key `{key}`")))?;
            if metadata.contains_key(&key) {
                return Err(damaged("the key occurs twice").place(format!("key `{key}`")));
            }
            metadata.insert(key, value);
        }
        let mut file = Self { metadata, tensors: BTreeMap::new() };
        let alignment = file.alignment()?;
        // The data starts behind the table, which is why places are put in afterwards.
        let mut table = Vec::new();
        for _ in 0..tensor_count {
            let name = r.string()?;
            let (info, offset) = entry(&mut r).map_err(|e| e.place(format!("tensor `{name}`")))?;
            table.push((name, info, offset));
        }
        let data = r.position().checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        file.place_tensors(table, data, alignment, len)?;
        Ok(file)
    }

    fn alignment(&self) -> Result<u64> {
        const KEY: &str = "general.alignment";
        if !self.has(KEY) {
            return Ok(DEFAULT_ALIGNMENT);
        }
        let alignment = self.size(KEY)? as u64;
        if !alignment.is_power_of_two() || !(8..=1 << 20).contains(&alignment) {
            return Err(damaged(format!("{alignment} is no power of two from 8 to 2^20"))
                .place(format!("key `{KEY}`")));
        }
        Ok(alignment)
    }

    fn place_tensors(
        &mut self,
        table: Vec<(String, TensorInfo, u64)>,
        data: u64,
        alignment: u64,
        len: u64,
    ) -> Result<()> {
        let mut ends = Vec::with_capacity(table.len());
        for (name, mut info, offset) in table {
            let at = format!("tensor `{name}`");
            if !offset.is_multiple_of(alignment) {
                return Err(damaged(format!("its offset {offset} is no multiple of {alignment}")).place(at));
            }
            let start = data.checked_add(offset);
            let end = start.and_then(|start| start.checked_add(info.bytes as u64));
            let (Some(start), Some(end)) = (start, end.filter(|end| *end <= len)) else {
                let problem =
                    format!("{} bytes at offset {offset} reach beyond the end of the file", info.bytes);
                return Err(damaged(problem).place(at));
            };
            info.start = start;
            ends.push((start, end, name.clone()));
            if self.tensors.insert(name, info).is_some() {
                return Err(damaged("the tensor occurs twice").place(at));
            }
        }
        ends.sort_unstable();
        match ends.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            Some(pair) => {
                Err(damaged(format!("it overlaps `{}`", pair[0].2)).place(format!("tensor `{}`", pair[1].2)))
            }
            None => Ok(()),
        }
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Where a tensor lies.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The shape of a tensor, the fastest dimension last.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if there is none of this name.
    pub fn dimensions(&self, name: &str) -> Result<&[usize]> {
        self.tensor(name).map(|info| info.shape.as_slice()).ok_or_else(|| missing_tensor(name))
    }

    /// The numbers of a tensor, in row-major order of [`TensorInfo::shape`].
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if there is none of this name; [`ErrorKind::Io`] if reading fails.
    pub fn read_tensor(&self, mut file: impl Read + Seek, name: &str) -> Result<Vec<f32>> {
        let info = self.tensor(name).ok_or_else(|| missing_tensor(name))?;
        let mut bytes = vec![0; info.bytes];
        file.seek(SeekFrom::Start(info.start)).and_then(|_| file.read_exact(&mut bytes)).map_err(|e| {
            Error::new(ErrorKind::Io, format!("cannot read this tensor: {e}"))
                .place(format!("tensor `{name}`"))
        })?;
        Ok(info.format.decode(&bytes))
    }

    /// Whether there is such a key in the metadata.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    /// The text under a key.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the key is missing or holds something else.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.get(key, "text", |value| if let Value::Text(text) = value { Some(text.as_str()) } else { None })
    }

    /// The whole number ≥ 0 under a key.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the key is missing, holds something else, or a number that is negative or too large.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.get(key, "a whole number", |value| match *value {
            Value::Unsigned(n) => usize::try_from(n).ok(),
            Value::Signed(n) => usize::try_from(n).ok(),
            _ => None,
        })
    }

    /// The real number under a key.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the key is missing or holds something else.
    pub fn real(&self, key: &str) -> Result<f64> {
        self.get(key, "a real number", |value| if let Value::Real(x) = *value { Some(x) } else { None })
    }

    /// The truth value under a key.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the key is missing or holds something else.
    pub fn truth(&self, key: &str) -> Result<bool> {
        self.get(key, "a truth value", |value| if let Value::Truth(b) = *value { Some(b) } else { None })
    }

    /// The list of texts under a key.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the key is missing or holds something else.
    pub fn texts(&self, key: &str) -> Result<&[String]> {
        self.get(key, "a list of texts", |value| match value {
            Value::List(List::Texts(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// The list of whole numbers under a key.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the key is missing or holds something else.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>> {
        self.get(key, "a list of whole numbers", |value| match value {
            Value::List(List::Signed(list)) => Some(list.clone()),
            Value::List(List::Unsigned(list)) => list.iter().map(|&n| i64::try_from(n).ok()).collect(),
            _ => None,
        })
    }

    fn get<'a, T>(&'a self, key: &str, what: &str, get: impl FnOnce(&'a Value) -> Option<T>) -> Result<T> {
        let value = self
            .metadata
            .get(key)
            .ok_or_else(|| damaged("this key is missing").place(format!("key `{key}`")))?;
        get(value).ok_or_else(|| damaged(format!("it does not hold {what}")).place(format!("key `{key}`")))
    }
}

/// An entry of the table of tensors, and its offset into the data.
fn entry(r: &mut Reader<impl Read>) -> Result<(TensorInfo, u64)> {
    let count = r.u32()?;
    if !(1..=MAX_DIMENSIONS).contains(&count) {
        return Err(damaged(format!("it has {count} dimensions, not 1 to {MAX_DIMENSIONS}")));
    }
    let mut shape = Vec::new();
    for _ in 0..count {
        shape.push(usize::try_from(r.u64()?).unwrap_or(usize::MAX));
    }
    let kind = r.u32()?;
    let format = Format::from_code(kind).ok_or_else(|| {
        damaged(format!("its format {kind} is not supported"))
            .remedy("use a file in F32, F16, BF16, Q4_0, Q4_1 or Q8_0")
    })?;
    let bytes = format.bytes(&shape)?;
    shape.reverse();
    Ok((TensorInfo { shape, format, start: 0, bytes }, r.u64()?))
}

fn damaged(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::Model, problem)
}

fn missing_tensor(name: &str) -> Error {
    damaged("this tensor is missing")
        .place(format!("tensor `{name}`"))
        .remedy("fetch the file again, or use a model of another kind")
}

#[cfg(test)]
mod tests;
