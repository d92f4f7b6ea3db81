//! Adapters in the layout of Hugging Face's PEFT: `adapter_config.json`, and `adapter_model.safetensors` with tensors such as
//! `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`. What PEFT does not know, α and k of quantisers that were
//! learned with them, lies beside them in `quantisers.safetensors`.

use super::{LoraMode, LoraSettings};
use crate::checkpoint::{Array, Checkpoint, write_atomically};
use crate::error::{Error, ErrorKind, Result};
use crate::llm::decoder::Decoder;
use crate::llm::linear::{Dense, Linear};
use qat_kernels::lora::Rank;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tch::{Kind, Tensor};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const QUANTISERS: &str = "quantisers.safetensors";
const PREFIX: &str = "base_model.model.";
const LORA: &str = "LORA";
/// Not one of PEFT's: there are no adapters.
const SCALES_ALONE: &str = "SCALES";
/// Ends of the names of D and U.
const PARTS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];
/// Ends of the names of what belongs to quantisers.
const SCALES: [&str; 2] = [".alpha", ".divisors"];

/// What learning has changed of an adapted decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapters {
    config: Config,
    /// D and U of each matrix, as `model.layers.0.self_attn.q_proj.lora_A.weight`.
    tensors: BTreeMap<String, Array>,
    /// α and k of each quantiser that learns, as `model.layers.0.self_attn.q_proj.alpha`.
    scales: BTreeMap<String, Array>,
}

/// The keys of PEFT's configuration that matter here; those that it may leave out have PEFT's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Config {
    peft_type: String,
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    target_modules: Vec<String>,
    #[serde(default = "none")]
    bias: String,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    inference_mode: bool,
}

fn none() -> String {
    "none".into()
}

impl Config {
    fn of(settings: &LoraSettings) -> Self {
        Self {
            peft_type: if settings.mode == LoraMode::Scales { SCALES_ALONE } else { LORA }.into(),
            task_type: Some("CAUSAL_LM".into()),
            base_model_name_or_path: None,
            r: settings.rank,
            lora_alpha: settings.alpha,
            lora_dropout: 0.0,
            target_modules: settings.targets.clone(),
            bias: none(),
            fan_in_fan_out: false,
            use_rslora: false,
            use_dora: false,
            inference_mode: true,
        }
    }

    fn check(&self) -> Result<()> {
        let foreign = [
            (
                ![LORA, SCALES_ALONE].contains(&self.peft_type.as_str()),
                format!("`peft_type` is {}", self.peft_type),
            ),
            (self.bias != "none", format!("`bias` is {}", self.bias)),
            (self.fan_in_fan_out, "`fan_in_fan_out` is set".into()),
            (self.use_rslora, "`use_rslora` is set".into()),
            (self.use_dora, "`use_dora` is set".into()),
        ];
        match foreign.into_iter().find(|(is, _)| *is) {
            Some((_, problem)) => Err(Error::new(ErrorKind::Checkpoint, problem)
                .remedy("plain LoRA adapters without biases are supported")),
            None => Ok(()),
        }
    }
}

impl Adapters {
    /// What a decoder's saved state has of them.
    pub(super) fn from_state(settings: &LoraSettings, state: &Checkpoint) -> Self {
        let ending = |endings: [&str; 2]| -> BTreeMap<String, Array> {
            let of = |name: &String| endings.iter().any(|end| name.ends_with(end));
            state.tensors.iter().filter(|(name, _)| of(name)).map(|(n, a)| (n.clone(), a.clone())).collect()
        };
        Self { config: Config::of(settings), tensors: ending(PARTS), scales: ending(SCALES) }
    }

    /// r.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// # use qat_trainer::llm::{LoraMode, LoraSettings};
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// # let targets = vec!["q_proj".into(), "v_proj".into()];
    /// # let usual = LoraSettings::new(LoraMode::Packed, how);
    /// # let settings = LoraSettings { rank: 4, alpha: 8.0, targets, ..usual };
    /// # let mut decoder = Decoder::generated(&config, 1)?;
    /// let learned = decoder.adapt(&settings, None)?.learned; // two matrices of 32 by 32
    /// let adapters = decoder.adapters(&settings)?;
    /// assert_eq!(learned, 2 * adapters.rank() * (32 + 32));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn rank(&self) -> usize {
        self.config.r
    }

    /// `s·r`.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// # use qat_trainer::llm::{LoraMode, LoraSettings};
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// # let targets = vec!["q_proj".into(), "v_proj".into()];
    /// # let usual = LoraSettings::new(LoraMode::Packed, how);
    /// # let settings = LoraSettings { rank: 4, alpha: 8.0, targets, ..usual };
    /// # let mut decoder = Decoder::generated(&config, 1)?;
    /// # decoder.adapt(&settings, None)?;
    /// # let adapters = decoder.adapters(&settings)?;
    /// // Of rank 4 and with s = 2.
    /// assert_eq!(adapters.alpha() / adapters.rank() as f32, 2.0);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn alpha(&self) -> f32 {
        self.config.lora_alpha
    }

    /// Last names of the matrices that are adapted.
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// # use qat_trainer::llm::{LoraMode, LoraSettings};
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// # let targets = vec!["q_proj".into(), "v_proj".into()];
    /// # let usual = LoraSettings::new(LoraMode::Packed, how);
    /// # let settings = LoraSettings { rank: 4, alpha: 8.0, targets, ..usual };
    /// # let mut decoder = Decoder::generated(&config, 1)?;
    /// # decoder.adapt(&settings, None)?;
    /// # let adapters = decoder.adapters(&settings)?;
    /// let adapted = |name: &str| adapters.targets().iter().any(|target| name.ends_with(target));
    /// let linears = decoder.linears();
    /// let names: Vec<_> = linears.iter().filter(|(name, _)| adapted(name)).map(|(name, _)| name).collect();
    /// assert_eq!(names, ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn targets(&self) -> &[String] {
        &self.config.target_modules
    }

    /// Writes a folder; what was there before is replaced file by file, each in one step.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{Decoder, MatrixQuant, config::LlmConfig}, spec::WeightQuant};
    /// # use qat_trainer::llm::{LoraMode, LoraSettings};
    /// use qat_trainer::llm::Adapters;
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// # let targets = vec!["q_proj".into(), "v_proj".into()];
    /// # let usual = LoraSettings::new(LoraMode::Packed, how);
    /// # let settings = LoraSettings { rank: 4, alpha: 8.0, targets, ..usual };
    /// # let mut decoder = Decoder::generated(&config, 1)?;
    /// # let dir = tempfile::tempdir()?;
    /// # let folder = dir.path().join("adapters");
    /// decoder.adapt(&settings, None)?;
    /// let adapters = decoder.adapters(&settings)?;
    /// adapters.save(&folder)?;
    /// // PEFT's files, and none of quantisers: in this mode they do not learn.
    /// let has = |file: &str| folder.join(file).exists();
    /// assert!(has("adapter_config.json") && has("adapter_model.safetensors"));
    /// assert!(!has("quantisers.safetensors"));
    /// assert_eq!(Adapters::load(&folder)?, adapters);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("make", folder, &e))?;
        let config = serde_json::to_string_pretty(&self.config)
            .map_err(|e| Error::new(ErrorKind::Io, format!("the configuration cannot be written: {e}")))?;
        // A file of former adapters must not pass for one of these.
        let replace = |name: &str, bytes: Option<Vec<u8>>| {
            let path = folder.join(name);
            match bytes {
                Some(bytes) => write_atomically(&path, &bytes),
                None if path.exists() => {
                    std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, &e))
                }
                None => Ok(()),
            }
        };
        let scales = Checkpoint { tensors: self.scales.clone(), ..Checkpoint::default() };
        replace(WEIGHTS, (!self.tensors.is_empty()).then(|| self.weights()).transpose()?)?;
        replace(QUANTISERS, (!self.scales.is_empty()).then(|| scales.to_bytes()).transpose()?)?;
        // Last: a folder with a configuration is whole.
        write_atomically(&folder.join(CONFIG), config.as_bytes())
    }

    fn weights(&self) -> Result<Vec<u8>> {
        let bytes: Vec<(String, &Array, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, a)| {
                (format!("{PREFIX}{name}"), a, a.data.iter().flat_map(|x| x.to_le_bytes()).collect())
            })
            .collect();
        let failed = |e: safetensors::SafeTensorError| {
            Error::new(ErrorKind::Io, format!("the adapters cannot be written: {e}"))
        };
        let views = bytes
            .iter()
            .map(|(name, a, b)| Ok((name, TensorView::new(Dtype::F32, a.shape.clone(), b).map_err(failed)?)))
            .collect::<Result<Vec<_>>>()?;
        let format = [("format".to_string(), "pt".to_string())].into();
        safetensors::serialize(views, Some(format)).map_err(failed)
    }

    /// Reads a folder of this crate's or of PEFT's.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::Checkpoint`] for files that are damaged or of another kind of adapter.
    ///
    /// ```
    /// # use qat_trainer::checkpoint::Checkpoint;
    /// use qat_trainer::llm::Adapters;
    /// # let dir = tempfile::tempdir()?;
    /// # let folder = dir.path();
    /// # let json = r#"{ "peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"],
    /// #     "use_dora": false }"#;
    /// # std::fs::write(folder.join("adapter_config.json"), json)?;
    /// # let mut weights = Checkpoint::default();
    /// # let name = "base_model.model.model.layers.0.self_attn.q_proj";
    /// # weights.insert(&format!("{name}.lora_A.weight"), &[1, 32], vec![0.5; 32])?;
    /// # weights.insert(&format!("{name}.lora_B.weight"), &[32, 1], vec![0.25; 32])?;
    /// # weights.save(&folder.join("adapter_model.safetensors"))?;
    /// // A folder of PEFT's: rank 1 on `q_proj`.
    /// let adapters = Adapters::load(folder)?;
    /// assert_eq!((adapters.rank(), adapters.alpha()), (1, 2.0));
    /// assert_eq!(adapters.targets(), ["q_proj"]);
    /// std::fs::write(folder.join("adapter_config.json"), json.replace("false", "true"))?;
    /// let e = Adapters::load(folder).unwrap_err().to_string(); // another kind of adapter
    /// assert!(e.contains("adapter_config.json: `use_dora` is set; "), "{e}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(folder: &Path) -> Result<Self> {
        let file = folder.join(CONFIG);
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io("read", &file, &e))?;
        let config: Config = serde_json::from_str(&text).map_err(|e| {
            Error::new(ErrorKind::Checkpoint, format!("not the configuration of an adapter: {e}")).file(&file)
        })?;
        config.check().map_err(|e| e.file(&file))?;
        let mut tensors = BTreeMap::new();
        let file = folder.join(WEIGHTS);
        let read = || -> Result<Checkpoint> {
            let bytes = std::fs::read(&file).map_err(|e| Error::io("read", &file, &e))?;
            Checkpoint::import(&bytes).map_err(|e| e.file(&file))
        };
        let adapters = if config.peft_type == SCALES_ALONE { Checkpoint::default() } else { read()? };
        for (name, array) in adapters.tensors {
            let own = name.strip_prefix(PREFIX).filter(|own| PARTS.iter().any(|part| own.ends_with(part)));
            let own = own.ok_or_else(|| {
                Error::new(ErrorKind::Checkpoint, "this is no part of a LoRA adapter")
                    .file(&file)
                    .place(format!("tensor `{name}`"))
            })?;
            tensors.insert(own.to_owned(), array);
        }
        let file = folder.join(QUANTISERS);
        let scales = if file.exists() { Checkpoint::load(&file)?.tensors } else { BTreeMap::new() };
        Ok(Self { config, tensors, scales })
    }

    /// Refuses settings that these adapters were not made with.
    pub(super) fn check(&self, settings: &LoraSettings) -> Result<()> {
        let Config { r, lora_alpha, target_modules, .. } = &self.config;
        let mut targets = [target_modules.clone(), settings.targets.clone()];
        targets.iter_mut().for_each(|targets| targets.sort());
        if settings.mode != LoraMode::Scales
            && (*r != settings.rank || *lora_alpha != settings.alpha || targets[0] != targets[1])
        {
            let problem =
                format!("adapters of rank {r} and alpha {lora_alpha} on {}", target_modules.join(", "));
            return Err(Error::new(ErrorKind::Checkpoint, problem).remedy(format!(
                "adapt with the same, not with rank {} and alpha {}",
                settings.rank, settings.alpha
            )));
        }
        Ok(())
    }

    /// Adds `s·U·D` to the matrices of a decoder, which stay what they are otherwise: dense, in their kind.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for what was learned of quantisers, which a sum of matrices has no place for;
    /// [`ErrorKind::Checkpoint`] for adapters of other matrices, [`ErrorKind::Spec`] for a rank that a matrix does not have.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, llm::{Decoder, config::LlmConfig}};
    /// use qat_trainer::llm::Adapters;
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let mut decoder = Decoder::generated(&config, 1)?;
    /// # let dir = tempfile::tempdir()?;
    /// # let folder = dir.path();
    /// # let json = r#"{ "peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"],
    /// #     "use_dora": false }"#;
    /// # std::fs::write(folder.join("adapter_config.json"), json)?;
    /// # let mut weights = Checkpoint::default();
    /// # let name = "base_model.model.model.layers.0.self_attn.q_proj";
    /// # weights.insert(&format!("{name}.lora_A.weight"), &[1, 32], vec![0.5; 32])?;
    /// # weights.insert(&format!("{name}.lora_B.weight"), &[32, 1], vec![0.25; 32])?;
    /// # weights.save(&folder.join("adapter_model.safetensors"))?;
    /// let adapters = Adapters::load(folder)?; // s is 2, all of D ½ and all of U ¼, on `q_proj`
    /// let before = decoder.linears()[1].1.weight()?;
    /// adapters.merge(&mut decoder)?;
    /// let change = decoder.linears()[1].1.weight()? - before;
    /// assert!((change - 2.0 * 0.25 * 0.5).abs().max().double_value(&[]) < 1e-6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn merge(&self, decoder: &mut Decoder) -> Result<()> {
        if !self.scales.is_empty() || self.config.peft_type == SCALES_ALONE {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "these were learned with the quantisers of their model",
            )
            .remedy("use the model that the training wrote beside them: it has them already"));
        }
        let name_of =
            |tensor: &String| PARTS.iter().find_map(|part| tensor.strip_suffix(part)).map(String::from);
        let mut left: BTreeSet<String> = self.tensors.keys().filter_map(name_of).collect();
        decoder.replace(|name, linear| {
            if !left.remove(name) {
                return Ok(None);
            }
            let old = linear.weight()?;
            let (out, inputs) = old.size2()?;
            let r = Rank::new(self.config.r, inputs as usize, out as usize)
                .map_err(|e| Error::new(ErrorKind::Spec, e.to_string()))?
                .get();
            let (down, up) = self.of(name, [r, inputs as usize, out as usize])?;
            let down = Tensor::from_slice(&down).f_reshape([r as i64, inputs])?;
            let up = Tensor::from_slice(&up).f_reshape([out, r as i64])?;
            let change = up.f_matmul(&down)?.f_mul_scalar(f64::from(self.config.lora_alpha) / r as f64)?;
            let new = old.f_to_kind(Kind::Float)?.f_add(&change.f_to_device(old.device())?)?;
            let bias = linear.bias().map(Tensor::shallow_clone);
            Ok(Some(Box::new(Dense::new(new.f_to_kind(old.kind())?, bias)) as Box<dyn Linear>))
        })?;
        match left.first() {
            Some(name) => {
                Err(Error::new(ErrorKind::Checkpoint, "there is an adapter of it, but no such matrix")
                    .place(format!("matrix `{name}`"))
                    .remedy("merge into the model that it was trained on"))
            }
            None => Ok(()),
        }
    }

    /// D and U of a matrix, of `[r, in, out]`.
    pub(super) fn of(&self, matrix: &str, [r, inputs, out]: [usize; 3]) -> Result<(Vec<f32>, Vec<f32>)> {
        let from = Checkpoint { tensors: self.tensors.clone(), ..Checkpoint::default() };
        let part = |end: &str, shape: [usize; 2]| -> Result<Vec<f32>> {
            Ok(from.get(&format!("{matrix}{end}"), &shape)?.to_vec())
        };
        Ok((part(PARTS[0], [r, inputs])?, part(PARTS[1], [out, r])?))
    }

    /// Gives the quantisers of a decoder back what was learned of them.
    pub(super) fn restore_scales(&self, decoder: &mut Decoder) -> Result<()> {
        if self.scales.is_empty() {
            return Ok(());
        }
        // The state as it is now, with moments that have seen nothing, and the scales of then.
        let mut state = Checkpoint::default();
        decoder.save_state(&mut state)?;
        for (name, array) in &self.scales {
            if !state.has(name) {
                return Err(Error::new(ErrorKind::Checkpoint, "no quantiser learns this")
                    .place(format!("tensor `{name}` of {QUANTISERS}"))
                    .remedy("adapt in the mode and with the quantiser that they were learned in"));
            }
            state.tensors.insert(name.clone(), array.clone());
        }
        decoder.load_state(&state)
    }
}
