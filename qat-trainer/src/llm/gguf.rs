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
use value::{List, Value};

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
///
/// ```
/// use qat_trainer::llm::gguf::{Format, Gguf, TensorInfo};
/// # let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(); // one tensor
/// # bytes.extend([&8u64.to_le_bytes()[..], b"ffn_gate", &2u32.to_le_bytes()].concat());
/// # bytes.extend([64u64, 3].map(u64::to_le_bytes).concat()); // the fastest dimension first
/// # bytes.extend([&2u32.to_le_bytes()[..], &[0; 8]].concat());
/// # bytes.resize(96 + 2 * 3 * 18, 0);
/// // A file with three rows of 64 numbers, two blocks of 18 bytes each.
/// let file = Gguf::parse(&bytes[..], bytes.len() as u64)?;
/// let info = TensorInfo { shape: vec![3, 64], format: Format::Q4_0, start: 96, bytes: 3 * 2 * 18 };
/// assert_eq!(file.tensor("ffn_gate"), Some(&info));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
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
///
/// ```
/// use qat_trainer::llm::gguf::Gguf;
/// // The smallest file: version 3, no tensors, no metadata.
/// let bytes = *b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// let file = Gguf::parse(&bytes[..], 24)?;
/// assert_eq!((file.names().count(), file.has("general.name")), (0, false));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
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
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, llm::gguf::Gguf};
    /// let parse = |bytes: &[u8]| Gguf::parse(bytes, bytes.len() as u64).map_err(|e| (e.kind(), e.to_string()));
    /// assert_eq!(parse(b"GGUF\0\0\0\x03"), Err((ErrorKind::Model, "byte 4: the file is big-endian".into())));
    /// // It claims 2^56 tensors, which is not believed.
    /// let (kind, problem) = parse(b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0").unwrap_err();
    /// assert_eq!(kind, ErrorKind::Model);
    /// assert_eq!(problem, format!("byte 8: {} tensors do not fit into the header", 1_u64 << 56));
    /// ```
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
    ///
    /// ```
    /// # use qat_trainer::llm::gguf::Gguf;
    /// # let mut bytes = b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(); // two tensors
    /// # for (i, name) in ["output", "blk.0"].into_iter().enumerate() {
    /// #     bytes.extend([&(name.len() as u64).to_le_bytes()[..], name.as_bytes(), &1u32.to_le_bytes()].concat());
    /// #     bytes.extend([&8u64.to_le_bytes()[..], &[0; 4], &(32 * i as u64).to_le_bytes()].concat());
    /// # }
    /// # bytes.resize(128 + 2 * 32, 0);
    /// // A file whose tensors are `output` and `blk.0`, in this order.
    /// let file = Gguf::parse(&bytes[..], bytes.len() as u64)?;
    /// assert!(file.names().eq(["blk.0", "output"]));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Where a tensor lies.
    ///
    /// ```
    /// # use qat_trainer::llm::gguf::{Format, Gguf};
    /// # let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(); // one tensor
    /// # bytes.extend([&4u64.to_le_bytes()[..], b"norm", &1u32.to_le_bytes(), &5u64.to_le_bytes()].concat());
    /// # bytes.extend([&30u32.to_le_bytes()[..], &[0; 8]].concat());
    /// # bytes.resize(64 + 10, 0);
    /// // A file with one tensor, five numbers in BF16.
    /// let file = Gguf::parse(&bytes[..], bytes.len() as u64)?;
    /// assert_eq!(file.tensor("norm").map(|info| (info.format, info.bytes)), Some((Format::Bf16, 10)));
    /// assert_eq!(file.tensor("norm.weight"), None);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The shape of a tensor, the fastest dimension last.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if there is none of this name.
    ///
    /// ```
    /// # use qat_trainer::llm::gguf::Gguf;
    /// # let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(); // one tensor
    /// # bytes.extend([&10u64.to_le_bytes()[..], b"token_embd", &2u32.to_le_bytes()].concat());
    /// # bytes.extend([4u64, 7].map(u64::to_le_bytes).concat());
    /// # bytes.extend([&[0; 4][..], &[0; 8]].concat());
    /// # bytes.resize(96 + 4 * 28, 0);
    /// // Seven tokens, four numbers each: `[4, 7]` in the file.
    /// let file = Gguf::parse(&bytes[..], bytes.len() as u64)?;
    /// assert_eq!(file.dimensions("token_embd")?, [7, 4]);
    /// let e = file.dimensions("output").unwrap_err();
    /// assert!(e.to_string().starts_with("tensor `output`: this tensor is missing"), "{e}");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn dimensions(&self, name: &str) -> Result<&[usize]> {
        self.tensor(name).map(|info| info.shape.as_slice()).ok_or_else(|| missing_tensor(name))
    }

    /// The numbers of a tensor, in row-major order of [`TensorInfo::shape`].
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if there is none of this name; [`ErrorKind::Io`] if reading fails.
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, llm::gguf::Gguf};
    /// use std::io::Cursor;
    /// # let mut bytes = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(); // one tensor
    /// # bytes.extend([&4u64.to_le_bytes()[..], b"bias", &1u32.to_le_bytes(), &3u64.to_le_bytes()].concat());
    /// # bytes.extend([&1u32.to_le_bytes()[..], &[0; 8]].concat());
    /// # bytes.resize(64, 0);
    /// # bytes.extend(b"\0\x3C\0\xC0\x01\0");
    /// // Three numbers in binary16: 3C00, C000 and 0001.
    /// let file = Gguf::parse(&bytes[..], bytes.len() as u64)?;
    /// assert_eq!(file.read_tensor(Cursor::new(&bytes), "bias")?, [1.0, -2.0, 2f32.powi(-24)]);
    /// bytes.pop(); // the file has been cut since
    /// assert_eq!(file.read_tensor(Cursor::new(&bytes), "bias").unwrap_err().kind(), ErrorKind::Io);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use qat_trainer::llm::gguf::Gguf;
    /// # let with = |key: &str, kind: u32, value: &[u8]| -> qat_trainer::Result<Gguf> {
    /// #     let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec(); // an entry of metadata
    /// #     bytes.extend([&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat());
    /// #     bytes.extend([&kind.to_le_bytes(), value].concat());
    /// #     Gguf::parse(&bytes[..], bytes.len() as u64)
    /// # };
    /// let file = with("llama.rope.freq_base", 6, &5e5f32.to_le_bytes())?; // a file with this key, an f32
    /// assert!(file.has("llama.rope.freq_base"));
    /// assert!(!file.has("qwen2.rope.freq_base"));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    /// The text under a key.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the key is missing or holds something else.
    ///
    /// ```
    /// # use qat_trainer::llm::gguf::Gguf;
    /// # let with = |key: &str, kind: u32, value: &[u8]| -> qat_trainer::Result<Gguf> {
    /// #     let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec(); // an entry of metadata
    /// #     bytes.extend([&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat());
    /// #     bytes.extend([&kind.to_le_bytes(), value].concat());
    /// #     Gguf::parse(&bytes[..], bytes.len() as u64)
    /// # };
    /// let file = with("general.name", 8, b"\x04\0\0\0\0\0\0\0Qwen")?; // as in the file: length, then UTF-8
    /// assert_eq!(file.text("general.name")?, "Qwen");
    /// let e = file.text("general.author").unwrap_err();
    /// assert_eq!(e.to_string(), "key `general.author`: this key is missing");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn text(&self, key: &str) -> Result<&str> {
        self.get(key, "text", |value| if let Value::Text(text) = value { Some(text.as_str()) } else { None })
    }

    /// The whole number ≥ 0 under a key.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the key is missing, holds something else, or a number that is negative or too large.
    ///
    /// ```
    /// # use qat_trainer::llm::gguf::Gguf;
    /// # let with = |key: &str, kind: u32, value: &[u8]| -> qat_trainer::Result<Gguf> {
    /// #     let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec(); // an entry of metadata
    /// #     bytes.extend([&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat());
    /// #     bytes.extend([&kind.to_le_bytes(), value].concat());
    /// #     Gguf::parse(&bytes[..], bytes.len() as u64)
    /// # };
    /// let (u32, i16) = (4, 3); // the types' codes in a file
    /// assert_eq!(with("llama.block_count", u32, &30u32.to_le_bytes())?.size("llama.block_count")?, 30);
    /// assert_eq!(with("llama.block_count", i16, &30i16.to_le_bytes())?.size("llama.block_count")?, 30);
    /// assert!(with("llama.block_count", i16, &(-1i16).to_le_bytes())?.size("llama.block_count").is_err());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use qat_trainer::llm::gguf::Gguf;
    /// # let with = |key: &str, kind: u32, value: &[u8]| -> qat_trainer::Result<Gguf> {
    /// #     let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec(); // an entry of metadata
    /// #     bytes.extend([&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat());
    /// #     bytes.extend([&kind.to_le_bytes(), value].concat());
    /// #     Gguf::parse(&bytes[..], bytes.len() as u64)
    /// # };
    /// let (f32, u64) = (6, 10); // the types' codes in a file
    /// assert_eq!(with("epsilon", f32, &0.1f32.to_le_bytes())?.real("epsilon")?, f64::from(0.1f32)); // not 0.1
    /// let e = with("epsilon", u64, &1u64.to_le_bytes())?.real("epsilon").unwrap_err();
    /// assert_eq!(e.to_string(), "key `epsilon`: it does not hold a real number");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn real(&self, key: &str) -> Result<f64> {
        self.get(key, "a real number", |value| if let Value::Real(x) = *value { Some(x) } else { None })
    }

    /// The truth value under a key.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the key is missing or holds something else.
    ///
    /// ```
    /// # use qat_trainer::llm::gguf::Gguf;
    /// # let with = |key: &str, kind: u32, value: &[u8]| -> qat_trainer::Result<Gguf> {
    /// #     let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec(); // an entry of metadata
    /// #     bytes.extend([&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat());
    /// #     bytes.extend([&kind.to_le_bytes(), value].concat());
    /// #     Gguf::parse(&bytes[..], bytes.len() as u64)
    /// # };
    /// let (u8, bool) = (0, 7); // the types' codes in a file
    /// assert!(with("add_bos", bool, &[1])?.truth("add_bos")?);
    /// assert!(with("add_bos", u8, &[1])?.truth("add_bos").is_err()); // a number is no truth value
    /// assert!(with("add_bos", bool, &[2]).is_err()); // and the file with this one is not read at all
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn truth(&self, key: &str) -> Result<bool> {
        self.get(key, "a truth value", |value| if let Value::Truth(b) = *value { Some(b) } else { None })
    }

    /// The list of texts under a key.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the key is missing or holds something else.
    ///
    /// ```
    /// # use qat_trainer::llm::gguf::Gguf;
    /// # let with = |key: &str, kind: u32, value: &[u8]| -> qat_trainer::Result<Gguf> {
    /// #     let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec(); // an entry of metadata
    /// #     bytes.extend([&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat());
    /// #     bytes.extend([&kind.to_le_bytes(), value].concat());
    /// #     Gguf::parse(&bytes[..], bytes.len() as u64)
    /// # };
    /// # let list = |texts: &[&str]| {
    /// #     let texts = texts.iter().map(|t| [&(t.len() as u64).to_le_bytes()[..], t.as_bytes()].concat());
    /// #     let texts: Vec<Vec<u8>> = texts.collect();
    /// #     [&8u32.to_le_bytes()[..], &(texts.len() as u64).to_le_bytes(), &texts.concat()].concat()
    /// # };
    /// // A file whose key `merges` holds the two texts `t h` and `th e`.
    /// let file = with("merges", 9, &list(&["t h", "th e"]))?;
    /// assert_eq!(file.texts("merges")?, ["t h", "th e"]);
    /// assert_eq!(file.text("merges").unwrap_err().to_string(), "key `merges`: it does not hold text");
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use qat_trainer::llm::gguf::Gguf;
    /// # let with = |key: &str, kind: u32, value: &[u8]| -> qat_trainer::Result<Gguf> {
    /// #     let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec(); // an entry of metadata
    /// #     bytes.extend([&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat());
    /// #     bytes.extend([&kind.to_le_bytes(), value].concat());
    /// #     Gguf::parse(&bytes[..], bytes.len() as u64)
    /// # };
    /// # let list = |kind: u32, n: u64, values: &[u8]| [&kind.to_le_bytes()[..], &n.to_le_bytes(), values].concat();
    /// let (u64, i8, array) = (10, 1, 9); // the types' codes in a file
    /// let types = with("types", array, &list(i8, 3, &[1, 0xFF, 3]))?;
    /// assert_eq!(types.integers("types")?, [1, -1, 3]);
    /// let large = with("types", array, &list(u64, 1, &u64::MAX.to_le_bytes()))?;
    /// assert!(large.integers("types").is_err()); // 2^64 − 1 is no i64
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
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
