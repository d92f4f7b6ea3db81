//! A decoder with its tokenizer and chat template, loaded from a Hugging Face folder or a GGUF file.

use super::causal::CausalModel;
use super::chat::ChatTemplate;
use super::config::LlmConfig;
use super::decoder::Decoder;
use super::gguf::Gguf;
use super::packed::{Chat, PackedDecoder};
use super::source::{GgufSource, HfFolder};
use super::tokenizer::Tokenizer;
use crate::checkpoint::write_atomically;
use crate::error::{Error, ErrorKind, Result};
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use tch::{Device, Kind};

/// Everything that makes text out of text.
#[derive(Debug)]
pub struct LanguageModel {
    /// The network.
    pub decoder: Decoder,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// How conversations are written; plain models have none.
    pub chat: Option<ChatTemplate>,
    /// Tokens that end a text or a turn.
    pub ends: Vec<u32>,
}

impl LanguageModel {
    /// Loads a folder (`config.json`, `model.safetensors` or shards with their index, `tokenizer.json`) or a GGUF file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] and [`ErrorKind::Model`] naming the file and the place in it.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// use qat_trainer::{ErrorKind, llm::{LanguageModel, Tokenizer}};
    /// use tch::{Device, Kind};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let folder = tempfile::tempdir()?;
    /// # let tokenizer = Tokenizer::characters(&('a'..='e').collect())?;
    /// # let (decoder, ends) = (Decoder::generated(&config, 1)?, vec![1]);
    /// # LanguageModel { decoder, tokenizer, chat: None, ends }.save(folder.path())?;
    /// // A folder of Hugging Face's, with weights in f32.
    /// let model = LanguageModel::load(folder.path(), Kind::BFloat16, Device::Cpu)?;
    /// assert_eq!(model.decoder.kind(), Kind::BFloat16);
    /// assert_eq!(model.ends.first().copied(), model.tokenizer.id(Tokenizer::END));
    /// std::fs::remove_file(folder.path().join("tokenizer.json"))?;
    /// let e = LanguageModel::load(folder.path(), Kind::Float, Device::Cpu).unwrap_err();
    /// assert_eq!(e.kind(), ErrorKind::Io);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(path: &Path, kind: Kind, device: Device) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|e| Error::io("read", path, &e))?;
        if metadata.is_dir() {
            Self::load_folder(path, kind, device)
        } else {
            Self::load_gguf(path, kind, device)
        }
    }

    fn load_folder(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let file = folder.join("config.json");
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io("read", &file, &e))?;
        let config = LlmConfig::from_json(&text).map_err(|e| e.file(&file))?;
        let file = folder.join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&file)?;
        tokenizer.check(&config).map_err(|e| e.file(&file))?;
        let decoder = Decoder::load(&config, &HfFolder::open(folder)?, kind, device)?;
        let settings = Settings::read(&folder.join("tokenizer_config.json"))?;
        let separate = folder.join("chat_template.jinja");
        let template = match settings.chat_template {
            Some(Value::String(template)) => Some(template),
            _ if separate.exists() => {
                Some(std::fs::read_to_string(&separate).map_err(|e| Error::io("read", &separate, &e))?)
            }
            _ => None,
        };
        let [bos, eos] =
            [settings.bos_token, settings.eos_token].map(|token| token.map_or_else(String::new, text_of));
        let chat = template.map(|template| ChatTemplate::new(&template, &bos, &eos));
        let mut ends: Vec<u32> = tokenizer.id(&eos).into_iter().collect();
        ends.extend(ends_of(&text));
        ends.extend(ends_of(
            &std::fs::read_to_string(folder.join("generation_config.json")).unwrap_or_default(),
        ));
        Ok(Self { decoder, tokenizer, chat, ends })
    }

    fn load_gguf(path: &Path, kind: Kind, device: Device) -> Result<Self> {
        let source = GgufSource::open(path)?;
        let (config, file) = (source.config(), source.file());
        let tokenizer = Tokenizer::from_gguf(file).map_err(|e| e.file(path))?;
        tokenizer.check(config).map_err(|e| e.file(path))?;
        let decoder = Decoder::load(config, &source, kind, device)?;
        let special = |key: &str| special(file, key).map_err(|e| e.file(path));
        let (bos, eos) = (special("tokenizer.ggml.bos_token_id")?, special("tokenizer.ggml.eos_token_id")?);
        let written = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        const TEMPLATE: &str = "tokenizer.chat_template";
        let chat = if file.has(TEMPLATE) {
            let template = file.text(TEMPLATE).map_err(|e| e.file(path))?;
            Some(ChatTemplate::new(template, &written(bos), &written(eos)))
        } else {
            None
        };
        let ends = eos.into_iter().chain(special("tokenizer.ggml.eot_token_id")?).collect();
        Ok(Self { decoder, tokenizer, chat, ends })
    }

    /// Writes a folder that [`Self::load`] and Hugging Face's `transformers` read: the weights as the network computes with
    /// them, dequantised and with adapters merged.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if a file cannot be written; what was there before is replaced file by file, each in one step.
    ///
    /// ```
    /// # use qat_trainer::llm::config::LlmConfig;
    /// use qat_trainer::llm::{CausalModel, Decoder, LanguageModel, Tokenizer};
    /// use tch::{Device, Kind};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let folder = tempfile::tempdir()?;
    /// let tokenizer = Tokenizer::characters(&('a'..='e').collect())?;
    /// let ends = tokenizer.id(Tokenizer::END).into_iter().collect();
    /// let decoder = Decoder::generated(&config, 1)?;
    /// let model = LanguageModel { decoder, tokenizer, chat: None, ends };
    /// model.save(folder.path())?;
    /// let again = LanguageModel::load(folder.path(), Kind::Float, Device::Cpu)?;
    /// let text = model.tokenizer.encode("decade<|end|>")?;
    /// assert_eq!(again.decoder.loss(&text)?, model.decoder.loss(&text)?);
    /// assert_eq!((again.tokenizer.encode("decade<|end|>")?, again.ends), (text, model.ends));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save(&self, folder: &Path) -> Result<()> {
        let (kind, dtype) = match self.decoder.kind() {
            Kind::BFloat16 => ("bfloat16", Dtype::BF16),
            _ => ("float32", Dtype::F32),
        };
        std::fs::create_dir_all(folder).map_err(|e| Error::io("make", folder, &e))?;
        let tensors = self.decoder.tensors()?;
        let mut bytes = Vec::with_capacity(tensors.len());
        for (name, tensor) in &tensors {
            let plain = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
            let mut data = vec![0; plain.numel() * plain.kind().elt_size_in_bytes()];
            plain.f_copy_data_u8(&mut data, plain.numel())?;
            bytes.push((name, plain.size().iter().map(|&d| d as usize).collect::<Vec<_>>(), data));
        }
        let unwritable = |e: safetensors::SafeTensorError| {
            Error::new(ErrorKind::Io, format!("the weights cannot be written: {e}")).file(folder)
        };
        let views = bytes
            .iter()
            .map(|(name, shape, data)| Ok((name, TensorView::new(dtype, shape.clone(), data)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(unwritable)?;
        let format = [("format".to_string(), "pt".to_string())].into();
        let weights = safetensors::serialize(views, Some(format)).map_err(unwritable)?;
        write_atomically(&folder.join("model.safetensors"), &weights)?;
        write_atomically(&folder.join("tokenizer.json"), self.tokenizer.to_json()?.as_bytes())?;
        let mut config: Value =
            serde_json::from_str(&self.decoder.config().to_json(kind)?).unwrap_or_default();
        config["eos_token_id"] = self.ends.clone().into();
        write_atomically(&folder.join("config.json"), format!("{config:#}").as_bytes())?;
        if let Some(chat) = &self.chat {
            let (bos, eos) = chat.ends();
            let settings = serde_json::json!({
                "tokenizer_class": "PreTrainedTokenizerFast",
                "chat_template": chat.source(),
                "bos_token": bos,
                "eos_token": eos,
            });
            write_atomically(&folder.join("tokenizer_config.json"), format!("{settings:#}").as_bytes())?;
        }
        Ok(())
    }
}

/// What makes text out of text, whatever computes it.
#[derive(Debug)]
pub struct TextModel {
    /// The network.
    pub network: Box<dyn CausalModel>,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// How conversations are written; plain models have none.
    pub chat: Option<ChatTemplate>,
    /// Tokens that end a text or a turn.
    pub ends: Vec<u32>,
}

impl From<LanguageModel> for TextModel {
    fn from(model: LanguageModel) -> Self {
        let LanguageModel { decoder, tokenizer, chat, ends } = model;
        Self { network: Box::new(decoder), tokenizer, chat, ends }
    }
}

impl TextModel {
    /// Loads a packed file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] and [`ErrorKind::Model`] naming the file and the place in it.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// use qat_trainer::llm::{CausalModel, LanguageModel, TextModel, Tokenizer};
    /// use std::collections::BTreeMap;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.piq");
    /// # let tokenizer = Tokenizer::characters(&('a'..='e').collect())?;
    /// # let (decoder, ends) = (Decoder::generated(&config, 1)?, vec![1]);
    /// # let model = LanguageModel { decoder, tokenizer, chat: None, ends };
    /// // No codes: all weights stay as they are, and another engine computes with them.
    /// std::fs::write(&path, model.pack(BTreeMap::new(), None)?)?;
    /// let packed = TextModel::load_packed(&path)?;
    /// let text = packed.tokenizer.encode("decade")?;
    /// assert!((packed.network.loss(&text)? - model.decoder.loss(&text)?).abs() < 1e-4);
    /// assert_eq!(packed.ends, TextModel::from(model).ends);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load_packed(path: &Path) -> Result<Self> {
        let network = PackedDecoder::load(path)?;
        let tokenizer = Tokenizer::from_bytes(network.tokenizer()).map_err(|e| e.file(path))?;
        let contents = network.contents();
        tokenizer.check(&contents.config).map_err(|e| e.file(path))?;
        let template = |chat: &Chat| ChatTemplate::new(&chat.template, &chat.bos, &chat.eos);
        let (chat, ends) = (contents.chat.as_ref().map(template), contents.ends.clone());
        Ok(Self { network: Box::new(network), tokenizer, chat, ends })
    }
}

/// The keys of `tokenizer_config.json` that matter here.
#[derive(Default, Deserialize)]
struct Settings {
    chat_template: Option<Value>,
    bos_token: Option<Value>,
    eos_token: Option<Value>,
}

impl Settings {
    fn read(path: &Path) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| {
                Error::new(ErrorKind::Model, format!("not the settings of a tokenizer: {e}")).file(path)
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::io("read", path, &e)),
        }
    }
}

/// The text of a token, which may stand alone or in a table with its properties.
fn text_of(token: Value) -> String {
    token.as_str().or_else(|| token["content"].as_str()).unwrap_or_default().to_owned()
}

/// `eos_token_id` of a configuration: a number or several.
fn ends_of(json: &str) -> Vec<u32> {
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match &value["eos_token_id"] {
        Value::Array(ids) => ids.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// A token's number in the metadata, if it is there.
fn special(file: &Gguf, key: &str) -> Result<Option<u32>> {
    if !file.has(key) {
        return Ok(None);
    }
    let id = file.size(key)?;
    u32::try_from(id)
        .map(Some)
        .map_err(|_| Error::new(ErrorKind::Model, format!("{id} is no token")).place(format!("key `{key}`")))
}
