//! The decoder as a model that predicts tokens.

use super::Decoder;
use crate::autograd::slice;
use crate::error::Result;
use crate::llm::cache::KvCache;
use crate::llm::causal::{CausalModel, Sequence, at_least, fits, unknown};
use crate::llm::config::LlmConfig;
use tch::{Device, Kind, Reduction, Tensor};

impl CausalModel for Decoder {
    fn config(&self) -> &LlmConfig {
        Decoder::config(self)
    }

    fn begin(&self, room: usize) -> Result<Box<dyn Sequence + '_>> {
        Ok(Box::new(Text { decoder: self, cache: self.cache(1, room)? }))
    }

    fn loss(&self, window: &[u32]) -> Result<f64> {
        at_least(2, window)?;
        let tokens = ids(self, window)?;
        let predicted = window.len() as i64 - 1;
        tch::no_grad(|| {
            let given = tokens.f_narrow(0, 0, predicted)?.f_unsqueeze(0)?;
            let logits = self.logits(&self.hidden(&given)?.f_squeeze_dim(0)?)?.f_to_kind(Kind::Float)?;
            let wanted = tokens.f_narrow(0, 1, predicted)?;
            let loss = logits.f_cross_entropy_loss(&wanted, None::<Tensor>, Reduction::Mean, -100, 0.0)?;
            Ok(loss.f_double_value(&[])?)
        })
    }
}

struct Text<'a> {
    decoder: &'a Decoder,
    cache: KvCache,
}

impl Sequence for Text<'_> {
    fn len(&self) -> usize {
        self.cache.len()
    }

    fn room(&self) -> usize {
        self.cache.room()
    }

    fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        at_least(1, tokens)?;
        fits(self.len() + tokens.len(), self.room())?;
        let ids = ids(self.decoder, tokens)?.f_unsqueeze(0)?;
        let hidden = self.decoder.hidden_cached(&ids, &mut self.cache)?;
        let logits = tch::no_grad(|| self.decoder.logits(&hidden.f_narrow(1, ids.numel() as i64 - 1, 1)?))?;
        let logits = logits.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_reshape(-1)?;
        Ok(slice(&logits)?.to_vec())
    }
}

/// The tokens on the decoder's device. Torch would name no token that the decoder lacks, and end the process on a GPU.
fn ids(decoder: &Decoder, tokens: &[u32]) -> Result<Tensor> {
    let vocabulary = decoder.config().vocabulary;
    if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
        return Err(unknown(token as usize));
    }
    let ids: Vec<i64> = tokens.iter().map(|&token| token.into()).collect();
    Ok(Tensor::from_slice(&ids).f_to_device(decoder.device())?)
}
