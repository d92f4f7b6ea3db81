//! Checkpoints: named f32 tensors and a table of text, in the safetensors format, replaced in one step.
//!
//! # Names
//! A layer `L` (see [`crate::spec::LayerSpec::name`]) keeps, in torch's layouts:
//!
//! | tensor | shape | meaning |
//! |---|---|---|
//! | `L.weight` | `[out, in, kh, kw]`, depthwise `[c, 1, kh, kw]`, linear `[out, in]` | weights (unquantised) |
//! | `L.bias` | `[out]` | bias; absent where batch normalisation stands in for it |
//! | `L.bn.weight`, `L.bn.bias`, `L.bn.running_mean`, `L.bn.running_var` | `[out]` | batch normalisation; absent once folded |
//! | `L.alpha` | `[out]` | per channel: the step of a uniform quantiser, α of a Pi quantiser |
//! | `L.divisors` | `[out * ceil(in*kh*kw / group)]` | k of each group of an adaptive Pi quantiser, row by row |
//! | `L.act.scale`, `L.act.zero_point` | `[1]` | range of the output, for layers that have one |
//! | `input.scale`, `input.zero_point` | `[1]` | 8-bit range of the model's input |
//!
//! A floating-point checkpoint has no quantisers and no ranges. An adaptive quantiser groups the weights of a channel in
//! the integer engine's order, see [`crate::graph::row_order`]. The weights of a layer with incoherence are rotated in
//! quantised checkpoints, which one knows by the range of the rotation, `L.rotation.act.scale`, and then in the engine's
//! order too.

pub use crate::atomic::write_atomically;
use crate::error::{Error, ErrorKind, Result};
use qat_kernels::quantizer::F16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

/// A tensor of f32 in row-major order.
///
/// ```
/// use qat_trainer::checkpoint::{Array, Checkpoint};
/// let mut c = Checkpoint::default();
/// c.insert("fc.weight", &[2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0])?;
/// let Array { shape, data } = &c.tensors["fc.weight"];
/// assert_eq!(data[shape[1] + 2], 5.0); // row 1, column 2
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Array {
    /// Dimensions; their product is the length of `data`.
    pub shape: Vec<usize>,
    /// Elements, the last dimension running fastest.
    pub data: Vec<f32>,
}

/// Named tensors and a table of text.
///
/// ```
/// use qat_trainer::checkpoint::Checkpoint;
/// let dir = std::env::temp_dir().join(format!("checkpoint-doc-{}", std::process::id()));
/// std::fs::create_dir_all(&dir)?;
/// let mut c = Checkpoint::default();
/// c.insert("fc.bias", &[3], vec![0.5, -1.0, 2.0])?;
/// c.metadata.insert("epoch".into(), "7".into());
/// c.save(&dir.join("c.safetensors"))?;
/// assert_eq!(Checkpoint::load(&dir.join("c.safetensors"))?, c);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// The tensors, by name.
    pub tensors: BTreeMap<String, Array>,
    /// Free text, by name; numbers and structures as JSON.
    pub metadata: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Adds or replaces a tensor.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if the shape does not cover the data.
    ///
    /// ```
    /// use qat_trainer::checkpoint::Checkpoint;
    /// let mut c = Checkpoint::default();
    /// let e = c.insert("fc.weight", &[2, 2], vec![1.0; 3]).unwrap_err();
    /// assert!(e.to_string().starts_with("tensor `fc.weight`: a shape of [2, 2] does not hold 3 numbers"));
    /// c.insert("scale", &[], vec![0.5])?; // no dimensions: one number
    /// assert_eq!(c.tensors.len(), 1);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn insert(&mut self, name: &str, shape: &[usize], data: Vec<f32>) -> Result<()> {
        let covered = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if covered != Some(data.len()) {
            return Err(tensor_error(
                name,
                format!("a shape of {shape:?} does not hold {} numbers", data.len()),
            )
            .remedy("this is a mistake in the caller"));
        }
        self.tensors.insert(name.into(), Array { shape: shape.into(), data });
        Ok(())
    }

    /// The tensor `name`, which must have this shape and finite numbers only.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] naming the tensor.
    ///
    /// ```
    /// use qat_trainer::checkpoint::Checkpoint;
    /// let mut c = Checkpoint::default();
    /// c.insert("fc.bias", &[2], vec![0.5, f32::INFINITY])?;
    /// assert!(c.get("fc.bias", &[2]).unwrap_err().to_string().starts_with("tensor `fc.bias`: element 1 is inf"));
    /// c.insert("fc.bias", &[2], vec![0.5, -1.0])?;
    /// assert_eq!(c.get("fc.bias", &[2])?, [0.5, -1.0]);
    /// assert!(c.get("fc.bias", &[1, 2]).is_err()); // as many numbers in another shape
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<&[f32]> {
        let array = self.tensors.get(name).ok_or_else(|| {
            tensor_error(name, "this tensor is missing".into())
                .remedy("train again with this run description")
        })?;
        if array.shape != shape {
            return Err(tensor_error(
                name,
                format!("its shape is {:?}, the run description needs {shape:?}", array.shape),
            )
            .remedy("use the run description that the checkpoint was trained with"));
        }
        if let Some(i) = array.data.iter().position(|x| !x.is_finite()) {
            return Err(tensor_error(name, format!("element {i} is {}", array.data[i]))
                .remedy("the training diverged: lower the learning rate"));
        }
        Ok(&array.data)
    }

    /// Adds the tensors of another checkpoint under names that begin with `prefix`.
    ///
    /// ```
    /// use qat_trainer::checkpoint::Checkpoint;
    /// let (mut all, mut moments) = (Checkpoint::default(), Checkpoint::default());
    /// moments.insert("fc.weight", &[1], vec![0.1])?;
    /// all.put_part("adam.", &moments);
    /// assert!(all.has("adam.fc.weight"));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn put_part(&mut self, prefix: &str, part: &Self) {
        let named = part.tensors.iter().map(|(name, array)| (format!("{prefix}{name}"), array.clone()));
        self.tensors.extend(named);
    }

    /// Takes out the tensors that [`Self::put_part`] added.
    ///
    /// ```
    /// use qat_trainer::checkpoint::Checkpoint;
    /// let mut all = Checkpoint::default();
    /// for name in ["fc.bias", "ema.fc.bias"] {
    ///     all.insert(name, &[1], vec![1.0])?;
    /// }
    /// let ema = all.take_part("ema.");
    /// assert_eq!(ema, all); // each has its own `fc.bias` now
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn take_part(&mut self, prefix: &str) -> Self {
        let (mut part, all) = (Self::default(), std::mem::take(&mut self.tensors));
        for (name, array) in all {
            match name.strip_prefix(prefix) {
                Some(rest) => part.tensors.insert(rest.into(), array),
                None => self.tensors.insert(name, array),
            };
        }
        part
    }

    /// Whether there is a tensor `name`.
    ///
    /// ```
    /// use qat_trainer::checkpoint::Checkpoint;
    /// let mut c = Checkpoint::default();
    /// c.insert("conv1.bn.bias", &[1], vec![0.0])?;
    /// assert!(c.has("conv1.bn.bias") && !c.has("conv1")); // whole names only
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The checkpoint as the bytes of a safetensors file; equal checkpoints give equal bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if the format cannot hold it.
    ///
    /// ```
    /// use qat_trainer::checkpoint::Checkpoint;
    /// let (mut a, mut b) = (Checkpoint::default(), Checkpoint::default());
    /// for (name, other) in [("x", "y"), ("y", "x")] {
    ///     a.insert(name, &[1], vec![3.0])?;
    ///     b.insert(other, &[1], vec![3.0])?;
    /// }
    /// assert_eq!(a.to_bytes()?, b.to_bytes()?); // the order of insertion does not show
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let bytes: Vec<(&str, &Array, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, a)| (name.as_str(), a, a.data.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let failed = |e: safetensors::SafeTensorError| {
            Error::new(ErrorKind::Checkpoint, format!("cannot be written as safetensors: {e}"))
        };
        let views = bytes
            .iter()
            .map(|(name, a, b)| Ok((*name, TensorView::new(Dtype::F32, a.shape.clone(), b).map_err(failed)?)))
            .collect::<Result<Vec<_>>>()?;
        // The format's writer takes a hash map, whose order would differ from run to run: one entry has one order.
        let table = serde_json::to_string(&self.metadata)
            .map_err(|e| Error::new(ErrorKind::Checkpoint, format!("the metadata cannot be written: {e}")))?;
        let metadata = HashMap::from([(METADATA.to_string(), table)]);
        safetensors::serialize(views, Some(metadata)).map_err(failed)
    }

    /// Reads the bytes of a safetensors file.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] for anything that is not a file of [`Self::to_bytes`].
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, checkpoint::Checkpoint};
    /// let mut c = Checkpoint::default();
    /// c.insert("fc.bias", &[2], vec![-0.0, f32::MIN_POSITIVE])?;
    /// let bytes = c.to_bytes()?;
    /// assert_eq!(Checkpoint::from_bytes(&bytes)?, c);
    /// let cut = &bytes[..bytes.len() - 1];
    /// assert_eq!(Checkpoint::from_bytes(cut).unwrap_err().kind(), ErrorKind::Checkpoint);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(e.to_string()))?;
        let table = header.metadata().as_ref().and_then(|m| m.get(METADATA));
        let metadata = match table {
            Some(json) => serde_json::from_str(json).map_err(|e| damaged(format!("metadata: {e}")))?,
            None => BTreeMap::new(),
        };
        let mut tensors = BTreeMap::new();
        for (name, view) in views(bytes)? {
            if view.dtype() != Dtype::F32 {
                return Err(damaged(format!("tensor `{name}` is {:?}, not F32", view.dtype())));
            }
            let data =
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            tensors.insert(name, Array { shape: view.shape().to_vec(), data });
        }
        Ok(Self { tensors, metadata })
    }

    /// Reads the floating-point tensors of any safetensors file, converted to f32; other tensors, such as counters, and
    /// the metadata of other programs are left out. A file of [`Self::to_bytes`] is read like [`Self::from_bytes`] does.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] for a file that is damaged or holds no floating-point tensor.
    ///
    /// ```
    /// use qat_trainer::checkpoint::Checkpoint;
    /// use safetensors::tensor::{Dtype, TensorView};
    /// let bf16 = TensorView::new(Dtype::BF16, vec![2], &[0x80, 0x3F, 0x20, 0xC0])?; // 1 and −2.5, upper halves of f32
    /// let steps = TensorView::new(Dtype::I64, vec![1], &[7, 0, 0, 0, 0, 0, 0, 0])?;
    /// let file = safetensors::serialize([("w", bf16), ("steps", steps)], None)?;
    /// let c = Checkpoint::import(&file)?;
    /// assert_eq!(c.get("w", &[2])?, [1.0, -2.5]);
    /// assert!(!c.has("steps")); // a counter
    /// assert!(Checkpoint::from_bytes(&file).is_err()); // which takes f32 only
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn import(bytes: &[u8]) -> Result<Self> {
        let mut checkpoint = Self::default();
        let mut other = None;
        for (name, view) in views(bytes)? {
            let data = view.data();
            let pairs = || data.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
            let numbers: Vec<f32> = match view.dtype() {
                Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                Dtype::F64 => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
                Dtype::F16 => pairs().map(|bits| F16::from_bits(bits).to_f32()).collect(),
                Dtype::BF16 => pairs().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect(),
                dtype => {
                    other.get_or_insert(dtype);
                    continue;
                }
            };
            checkpoint.tensors.insert(name, Array { shape: view.shape().to_vec(), data: numbers });
        }
        if checkpoint.tensors.is_empty() {
            let found =
                other.map_or_else(|| "no tensor".into(), |dtype| format!("tensors of {dtype:?} only"));
            return Err(Error::new(ErrorKind::Checkpoint, format!("it holds {found}"))
                .remedy("take a checkpoint of floating-point weights (F32, F16, BF16 or F64)"));
        }
        checkpoint.metadata = Self::from_bytes(bytes).map_or_else(|_| BTreeMap::new(), |own| own.metadata);
        Ok(checkpoint)
    }

    /// Gives the tensors whose names begin with `from` and a dot, or are `from`, the prefix `to` instead.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if there is none, or if a new name is taken.
    ///
    /// ```
    /// use qat_trainer::checkpoint::Checkpoint;
    /// let mut c = Checkpoint::default();
    /// for name in ["0.weight", "0.bias", "01.bias"] {
    ///     c.insert(name, &[1], vec![1.0])?;
    /// }
    /// c.rename("0", "conv1")?;
    /// assert!(c.tensors.keys().eq(["01.bias", "conv1.bias", "conv1.weight"])); // `01` is another layer
    /// assert!(c.rename("0", "conv2").is_err()); // there is none any more
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let renamed = |name: &str| {
            let rest = name.strip_prefix(from)?;
            (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
        };
        let names: Vec<(String, String)> =
            self.tensors.keys().filter_map(|name| Some((name.clone(), renamed(name)?))).collect();
        if names.is_empty() {
            let there: Vec<&str> = self.tensors.keys().take(8).map(String::as_str).collect();
            return Err(tensor_error(from, "no tensor has this name or prefix".into())
                .remedy(format!("correct --rename; the first names are {}", there.join(", "))));
        }
        let stays = |name: &String| self.tensors.contains_key(name) && renamed(name).is_none();
        if let Some((_, new)) = names.iter().find(|(_, new)| stays(new)) {
            return Err(tensor_error(new, "another tensor has this name".into()).remedy("correct --rename"));
        }
        // All at once: a new name may be the old one of another.
        let arrays: Vec<_> =
            names.into_iter().filter_map(|(old, new)| Some((new, self.tensors.remove(&old)?))).collect();
        self.tensors.extend(arrays);
        Ok(())
    }

    /// Writes the checkpoint to `path` by [`write_atomically`].
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Checkpoint`].
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, checkpoint::Checkpoint};
    /// let dir = tempfile::tempdir()?;
    /// let c = Checkpoint::default();
    /// c.save(&dir.path().join("empty.safetensors"))?;
    /// assert_eq!(std::fs::read(dir.path().join("empty.safetensors"))?, c.to_bytes()?);
    /// let e = c.save(&dir.path().join("no-such-folder/c.safetensors")).unwrap_err();
    /// assert_eq!(e.kind(), ErrorKind::Io);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.to_bytes().map_err(|e| e.file(path))?)
    }

    /// Reads the checkpoint at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Checkpoint`].
    ///
    /// ```
    /// use qat_trainer::{ErrorKind, checkpoint::Checkpoint};
    /// let dir = tempfile::tempdir()?;
    /// let path = dir.path().join("c.safetensors");
    /// assert_eq!(Checkpoint::load(&path).unwrap_err().kind(), ErrorKind::Io); // it is not there yet
    /// std::fs::write(&path, "not a checkpoint")?;
    /// let e = Checkpoint::load(&path).unwrap_err();
    /// assert_eq!(e.kind(), ErrorKind::Checkpoint);
    /// assert!(e.to_string().starts_with(&path.display().to_string())); // errors name the file
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io("read", path, &e))?;
        Self::from_bytes(&bytes).map_err(|e| e.file(path))
    }
}

const METADATA: &str = "qat";

fn damaged(e: String) -> Error {
    Error::new(ErrorKind::Checkpoint, format!("not a checkpoint: {e}"))
        .remedy("the file is damaged or something else; train again or take another file")
}

/// The tensors of a safetensors file, by name.
fn views(bytes: &[u8]) -> Result<BTreeMap<String, TensorView<'_>>> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?;
    Ok(file.tensors().into_iter().collect())
}

fn tensor_error(name: &str, problem: String) -> Error {
    Error::new(ErrorKind::Checkpoint, problem).place(format!("tensor `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        let mut c = Checkpoint::default();
        c.insert("a.weight", &[2, 3], vec![1.0, -2.0, 3.5, f32::MIN_POSITIVE, 0.0, -0.0]).unwrap();
        c.insert("a.bias", &[2], vec![0.25, 1e30]).unwrap();
        c.metadata.insert("epoch".into(), "3".into());
        c.metadata.insert("seed".into(), "9".into());
        c
    }

    #[test]
    fn bytes_are_reproducible_and_round_trip() {
        let c = sample();
        let bytes = c.to_bytes().unwrap();
        for _ in 0..8 {
            assert_eq!(c.to_bytes().unwrap(), bytes);
        }
        assert_eq!(Checkpoint::from_bytes(&bytes).unwrap(), c);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample().to_bytes().unwrap();
        for n in 0..bytes.len() {
            let e = Checkpoint::from_bytes(&bytes[..n]).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Checkpoint, "{n}");
        }
    }

    #[test]
    fn wrong_shapes_names_and_numbers_are_named() {
        let mut c = sample();
        assert!(c.insert("b", &[2, 2], vec![0.0; 3]).is_err());
        assert!(c.get("nothing", &[1]).unwrap_err().to_string().contains("`nothing`"));
        assert!(c.get("a.bias", &[3]).unwrap_err().to_string().contains("[3]"));
        c.insert("a.bias", &[2], vec![0.0, f32::NAN]).unwrap();
        assert!(c.get("a.bias", &[2]).unwrap_err().to_string().contains("element 1 is NaN"));
    }

    #[test]
    fn other_programs_files_are_read_in_every_float_format() {
        let f32s = [1.5f32, -2.0];
        let bytes: [(&str, Dtype, Vec<u8>); 5] = [
            ("a.weight", Dtype::F32, f32s.iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("b", Dtype::F64, f32s.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect()),
            ("c", Dtype::F16, f32s.iter().flat_map(|x| F16::from_f32(*x).to_bits().to_le_bytes()).collect()),
            (
                "d",
                Dtype::BF16,
                f32s.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect(),
            ),
            ("steps", Dtype::I64, vec![0; 16]),
        ];
        let views = bytes.iter().map(|(n, d, b)| (*n, TensorView::new(*d, vec![2], b).unwrap()));
        let file = safetensors::serialize(views, None).unwrap();
        let mut c = Checkpoint::import(&file).unwrap();
        assert_eq!(c.tensors.len(), 4);
        assert!(c.tensors.values().all(|a| a.data == f32s && a.shape == [2]));
        c.rename("a", "conv.a").unwrap();
        assert!(c.has("conv.a.weight") && !c.has("a.weight"));
        let before = c.clone();
        assert!(c.rename("b", "c").unwrap_err().to_string().contains("tensor `c`"));
        assert_eq!(c, before, "a refused renaming changes nothing");
        assert!(c.rename("x", "y").unwrap_err().to_string().contains("the first names are"));
        assert_eq!(Checkpoint::import(&sample().to_bytes().unwrap()).unwrap(), sample());
        let ints =
            safetensors::serialize([("n", TensorView::new(Dtype::I64, vec![2], &[0; 16]).unwrap())], None);
        assert!(Checkpoint::import(&ints.unwrap()).unwrap_err().to_string().contains("I64 only"));
        for n in 0..file.len() {
            assert!(Checkpoint::import(&file[..n]).is_err(), "{n}");
        }
    }
}
