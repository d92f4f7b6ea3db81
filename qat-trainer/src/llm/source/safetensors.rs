//! A decoder's tensors out of a Hugging Face folder: `model.safetensors`, or shards under `model.safetensors.index.json`.
//!
//! The files are mapped into memory by torch, and tensors are views of the mapping: nothing is copied, and what is not touched
//! is never read. The mapping is private, so that nothing can be written back; the files must not be made shorter while
//! the model is in use.

use super::{TensorSource, check_shape, missing};
use crate::error::{Error, ErrorKind, Result};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The format's own limit of a header.
const MAX_HEADER: u64 = 100_000_000;

/// The weights of a Hugging Face folder.
#[derive(Debug)]
pub struct HfFolder {
    folder: PathBuf,
    shards: Vec<Shard>,
    /// The shard of each tensor.
    places: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    metadata: Metadata,
    /// The tensors' data, as bytes.
    data: Tensor,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl HfFolder {
    /// Maps the files of the folder.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] for a file, or a shard, that is missing or cannot be read; [`ErrorKind::Model`] for one that is damaged
    /// or does not hold what the index says.
    ///
    /// ```
    /// # use qat_trainer::checkpoint::Checkpoint;
    /// use qat_trainer::llm::{HfFolder, TensorSource};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path();
    /// # let mut weights = Checkpoint::default();
    /// # weights.insert("model.norm.weight", &[3], vec![1.0, 0.5, 2.0])?;
    /// # weights.save(&path.join("model.safetensors"))?;
    /// // A folder with a `model.safetensors` of one tensor, 1, ½ and 2.
    /// let folder = HfFolder::open(path)?;
    /// assert_eq!(Vec::<f32>::try_from(folder.tensor("model.norm.weight", &[3])?)?, [1.0, 0.5, 2.0]);
    /// let e = folder.tensor("model.norm.weight", &[4]).unwrap_err().to_string();
    /// assert!(e.contains("its shape is [3], the configuration asks for [4]"), "{e}");
    /// let e = HfFolder::open(&path.join("elsewhere")).unwrap_err();
    /// assert_eq!(e.kind(), qat_trainer::ErrorKind::Io);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(folder: &Path) -> Result<Self> {
        let mut this = Self { folder: folder.into(), shards: Vec::new(), places: BTreeMap::new() };
        let index = folder.join(INDEX);
        if !index.exists() {
            this.add(Shard::open(&folder.join(SINGLE))?);
            return Ok(this);
        }
        let text = std::fs::read_to_string(&index).map_err(|e| Error::io("read", &index, &e))?;
        let parsed: Index = serde_json::from_str(&text)
            .map_err(|e| Error::new(ErrorKind::Model, format!("not an index of shards: {e}")).file(&index))?;
        let files: BTreeSet<&String> = parsed.weight_map.values().collect();
        for file in files {
            // Shards lie beside the index: a name with a folder in it would lead elsewhere.
            if Path::new(file).file_name() != Some(file.as_ref()) {
                return Err(Error::new(ErrorKind::Model, format!("`{file}` is no file name")).file(&index));
            }
            this.add(Shard::open(&folder.join(file))?);
        }
        for (name, file) in &parsed.weight_map {
            let found = this.places.get(name).is_some_and(|&i| this.shards[i].path == folder.join(file));
            if !found {
                return Err(missing(&folder.join(file), name));
            }
        }
        Ok(this)
    }

    fn add(&mut self, shard: Shard) {
        let names = shard.metadata.offset_keys();
        self.places.extend(names.into_iter().map(|name| (name, self.shards.len())));
        self.shards.push(shard);
    }
}

impl TensorSource for HfFolder {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let shard = self.places.get(name).and_then(|&i| self.shards.get(i));
        let found = shard.and_then(|shard| Some((shard, shard.metadata.info(name)?)));
        let (shard, info) = found.ok_or_else(|| missing(&self.file_of(name), name))?;
        check_shape(&shard.path, name, &info.shape, shape)?;
        shard.view(info, shape).map_err(|e| e.file(&shard.path).place(format!("tensor `{name}`")))
    }

    fn file_of(&self, name: &str) -> PathBuf {
        match self.places.get(name) {
            Some(&i) => self.shards[i].path.clone(),
            None => self.folder.clone(),
        }
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self> {
        let damaged =
            |problem: String| Error::new(ErrorKind::Model, problem).file(path).remedy("fetch the file again");
        let mut file = File::open(path).map_err(|e| Error::io("read", path, &e))?;
        let len = file.metadata().map_err(|e| Error::io("read", path, &e))?.len();
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes).map_err(|_| damaged("the file is too short for a header".into()))?;
        let header = u64::from_le_bytes(bytes);
        if header > MAX_HEADER.min(len.saturating_sub(8)) {
            return Err(
                damaged(format!("a header of {header} bytes does not fit into the file")).place("byte 0")
            );
        }
        let mut text = vec![0; header as usize];
        file.read_exact(&mut text).map_err(|e| Error::io("read", path, &e))?;
        let metadata: Metadata = serde_json::from_slice(&text)
            .map_err(|e| damaged(format!("the header is not one of safetensors: {e}")).place("byte 8"))?;
        let expected = (metadata.data_len() as u64).checked_add(8 + header);
        if expected != Some(len) {
            let data = metadata.data_len();
            return Err(damaged(format!(
                "the file has {len} bytes, its header asks for {data} after the header"
            )));
        }
        let Some(name) = path.to_str() else {
            return Err(damaged("torch cannot open a path that is not UTF-8".into()));
        };
        let all = Tensor::f_from_file(name, false, len as i64, (Kind::Uint8, Device::Cpu))
            .map_err(|e| Error::from(e).file(path))?;
        let data = all.f_narrow(0, 8 + header as i64, metadata.data_len() as i64)?;
        Ok(Self { path: path.into(), metadata, data })
    }

    fn view(&self, info: &TensorInfo, shape: &[i64]) -> Result<Tensor> {
        let kind = match info.dtype {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            other => {
                return Err(Error::new(
                    ErrorKind::Model,
                    format!("its type is {other:?}, not F32, F16 or BF16"),
                )
                .remedy("use a model in floating point"));
            }
        };
        let (start, end) = info.data_offsets;
        let bytes = self.data.f_narrow(0, start as i64, (end - start) as i64)?;
        // Files in use are aligned to 8 bytes; others are copied, since torch cannot view them.
        let aligned = (bytes.data_ptr() as usize).is_multiple_of(kind.elt_size_in_bytes());
        let bytes = if aligned { bytes } else { bytes.copy() };
        Ok(bytes.f_view_dtype(kind)?.f_reshape(shape)?)
    }
}
