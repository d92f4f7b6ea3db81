//! The packed file of a model that was quantised before.

use super::index::Chat;
use super::writer::{Parts, pack};
use crate::autograd::slice;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::model::LanguageModel;
use crate::llm::quantised::{BlockQuant, QuantisedMatrix};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

impl LanguageModel {
    /// The bytes of a packed file: matrices as `codes` has them, all else as numbers in f32. `tables`: how embedding and head
    /// are rounded, to the nearest levels, where `codes` has none of them.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] for codes of other matrices than the model's, or of other weights, bit for bit, be they rounded to bf16 as
    /// a whole; those of [`pack`].
    ///
    /// ```
    /// # use qat_kernels::{Grid, Levels, config::StepRule};
    /// # use qat_trainer::{llm::{BlockQuant, Decoder, DecoderQuant, MatrixQuant}, spec::WeightQuant};
    /// # use qat_trainer::llm::config::LlmConfig;
    /// use qat_trainer::llm::{LanguageModel, Tokenizer, packed::Contents};
    /// # let config = LlmConfig::from_json(r#"{ "model_type": "llama", "vocab_size": 20, "hidden_size": 32,
    /// #     "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    /// #     "max_position_embeddings": 40, "rms_norm_eps": 1e-5, "tie_word_embeddings": true }"#)?;
    /// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
    /// # let how = MatrixQuant { block: Some(32), ..MatrixQuant::new(quant) };
    /// # let mut decoder = Decoder::generated(&config, 1)?;
    /// decoder.quantise_in_training(&DecoderQuant { blocks: how, tables: None })?; // 2 bits
    /// let codes = decoder.freeze_quantised()?;
    /// let tokenizer = Tokenizer::characters(&"abc".chars().collect())?;
    /// let mut model = LanguageModel { decoder, tokenizer, chat: None, ends: vec![1] };
    /// let file = model.pack(codes.clone(), None)?;
    /// assert_eq!(Contents::parse(&file)?.codes(), (7, 2.0 + 16.0 / 32.0));
    /// // With the embedding, 20·32 numbers, in 8 bits the file is smaller.
    /// let eight_bits = WeightQuant { levels: Levels::new(8, Grid::MidTread)?, ..quant };
    /// let smaller = model.pack(codes.clone(), Some(BlockQuant { quant: eight_bits, block: Some(32) }))?;
    /// assert!(smaller.len() < file.len() && Contents::parse(&smaller)?.codes().0 == 8);
    /// model.decoder = Decoder::generated(&config, 2)?;
    /// assert!(model.pack(codes, None).is_err()); // codes of other weights
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn pack(
        &self,
        mut codes: BTreeMap<String, QuantisedMatrix>,
        tables: Option<BlockQuant>,
    ) -> Result<Vec<u8>> {
        let mut tensors = BTreeMap::new();
        let mut keep = |name: String, tensor: &Tensor| -> Result<()> {
            let shape = tensor.size().iter().map(|&d| d as usize).collect();
            tensors.insert(name, (shape, numbers(tensor)?));
            Ok(())
        };
        let mut known = 0;
        for (name, linear) in self.decoder.linears() {
            if let Some(bias) = linear.bias() {
                keep(format!("{name}.bias"), bias)?;
            }
            let weight = linear.weight()?;
            let place = |e: Error| e.place(format!("matrix `{name}`"));
            if let Some(matrix) = codes.get(&name) {
                let [rows, columns] = [matrix.rows(), matrix.columns()].map(|n| n as i64);
                if weight.size() != [rows, columns] || !stands_for(matrix, &numbers(&weight)?)? {
                    let problem = "the codes are those of other weights";
                    return Err(place(
                        Error::new(ErrorKind::Model, problem).remedy("quantise the model again"),
                    ));
                }
                known += 1;
            } else if let Some(how) = tables.filter(|_| !name.starts_with("model.layers.")) {
                let columns = weight.size2()?.1 as usize;
                let matrix = QuantisedMatrix::fit(how, &numbers(&weight)?, columns, None).map_err(place)?;
                codes.insert(name, matrix);
                known += 1;
            } else {
                keep(format!("{name}.weight"), &weight)?;
            }
        }
        if known != codes.len() {
            let problem = format!("codes of {} matrices, of which the model has {known}", codes.len());
            return Err(Error::new(ErrorKind::Model, problem).remedy("quantise the model again"));
        }
        for (name, weight) in self.decoder.norms() {
            keep(format!("{name}.weight"), weight)?;
        }
        let chat = self.chat.as_ref().map(|chat| {
            let (bos, eos) = chat.ends();
            Chat { template: chat.source().into(), bos: bos.into(), eos: eos.into() }
        });
        pack(&Parts {
            tool: concat!("qat ", env!("CARGO_PKG_VERSION")),
            config: self.decoder.config(),
            ends: &self.ends,
            chat,
            tokenizer: &self.tokenizer.to_json()?,
            matrices: &codes,
            tensors: &tensors,
        })
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    let plain = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    Ok(slice(&plain)?.to_vec())
}

/// Whether these are the weights of the codes, in f32 or as a model in bf16 has them.
fn stands_for(matrix: &QuantisedMatrix, weights: &[f32]) -> Result<bool> {
    Ok(same(&matrix.dequantise()?, weights) || same(&matrix.dequantise_bf16()?, weights))
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
