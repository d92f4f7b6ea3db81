//! What a training loop does with a decoder.

use super::{Decoder, EMBEDDING, HEAD, Norm, prefix};
use crate::autograd::fused::gradient_was_not_finite;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::llm::learned::Learned;
use crate::llm::linear::Linear;
use crate::llm::qat::parameters::not_finite;
use crate::nn::Rates;
use tch::Tensor;

impl Decoder {
    /// Learns every matrix that has no leaves yet, and every norm, as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] if torch refuses.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// # use tch::{Device, Kind};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// let mut decoder = Decoder::generated(&config, 1)?.to(Kind::BFloat16, Device::Cpu)?;
    /// decoder.learn()?;
    /// assert_eq!(decoder.leaves().len(), decoder.linears().len() + decoder.norms().len());
    /// // It computes in bf16; what learns is f32, or small steps would be lost.
    /// assert!(decoder.leaves().iter().all(|leaf| leaf.kind() == Kind::Float));
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn learn(&mut self) -> Result<()> {
        self.replace(|_, linear| {
            if !linear.leaves().is_empty() {
                return Ok(None);
            }
            let learned = Learned::new(&linear.weight()?, linear.bias())?;
            Ok(Some(Box::new(learned) as Box<dyn Linear>))
        })?;
        self.norms_mut().into_iter().try_for_each(|(_, norm)| norm.learn())
    }

    /// One step of the optimiser, given the gradients of [`Self::leaves`] in their order. No graph that used the leaves may be
    /// alive.
    ///
    /// # Errors
    /// [`ErrorKind::Train`] for another number of gradients, or if the training has diverged; the matrix is the place.
    ///
    /// ```
    /// # use qat_kernels::ste_simd::AdamW;
    /// # use qat_trainer::llm::{CausalModel, Decoder, chunked_cross_entropy, config::LlmConfig};
    /// use qat_trainer::llm::{Rates, Rule, Sgd};
    /// # use tch::Tensor;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// # let mut decoder = Decoder::generated(&config, 1)?;
    /// # let [tokens, targets] = [[1i64, 2, 3], [2, 3, 4]].map(|ids| Tensor::from_slice(&ids));
    /// decoder.learn()?;
    /// let before = decoder.loss(&[1, 2, 3, 4])?;
    /// let gradients = {
    ///     let hidden = decoder.hidden(&tokens.unsqueeze(0))?.squeeze_dim(0);
    ///     let loss = chunked_cross_entropy(&decoder, &hidden, &targets, 64)?;
    ///     Tensor::f_run_backward(&[&loss], &decoder.leaves(), false, false)?
    /// }; // the graph is gone
    /// let sgd = Sgd { lr: 0.01, momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    /// let rates = Rates { weights: Rule::Sgd(sgd), scales: AdamW::default(), factor: 1.0 };
    /// decoder.update(&gradients, &rates)?;
    /// assert!(decoder.loss(&[1, 2, 3, 4])? < before);
    /// assert!(decoder.update(&gradients[1..], &rates).is_err());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn update(&mut self, grads: &[Tensor], rates: &Rates) -> Result<()> {
        let leaves = self.leaves().len();
        if grads.len() != leaves {
            let problem = format!("{} gradients for {leaves} parameters", grads.len());
            return Err(Error::new(ErrorKind::Train, problem));
        }
        let mut rest = grads;
        self.each_mut(&mut |name, linear| {
            let (own, others) = rest.split_at(linear.leaves().len());
            rest = others;
            linear.update(own, rates).map_err(|e| e.place(format!("matrix `{name}`")))
        })?;
        let mut rest = rest.iter();
        self.norms_mut().into_iter().try_for_each(|(_, norm)| norm.update(&mut rest, rates))?;
        // The kernels of a GPU cannot stop; they leave word, which is asked for once a step.
        if gradient_was_not_finite(self.device)? { Err(not_finite()) } else { Ok(()) }
    }

    /// Adds all that a training needs to go on with this decoder as if it had never stopped.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if a checkpoint cannot hold it.
    ///
    /// ```
    /// # use qat_trainer::llm::{Decoder, config::LlmConfig};
    /// use qat_trainer::checkpoint::Checkpoint;
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// let mut decoder = Decoder::generated(&config, 1)?;
    /// let mut state = Checkpoint::default();
    /// decoder.save_state(&mut state)?;
    /// assert!(state.tensors.is_empty()); // what is frozen is no part of it
    /// decoder.learn()?;
    /// decoder.save_state(&mut state)?;
    /// assert_eq!(state.get("lm_head.weight", &[9, 8])?.len(), 9 * 8);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn save_state(&self, to: &mut Checkpoint) -> Result<()> {
        for (name, linear) in self.linears() {
            linear.save_state(&name, to)?;
        }
        self.named_norms().into_iter().try_for_each(|(name, norm)| norm.save_state(&name, to))
    }

    /// Takes out again what [`Self::save_state`] added; the decoder is made as the other one was.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] naming what is missing or has another shape.
    ///
    /// ```
    /// # use qat_trainer::llm::{CausalModel, Decoder, config::LlmConfig};
    /// use qat_trainer::{ErrorKind, checkpoint::Checkpoint};
    /// # let config = LlmConfig::from_json(r#"{"model_type": "llama", "vocab_size": 9,
    /// #     "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    /// #     "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}"#)?;
    /// let learner = |seed| Decoder::generated(&config, seed).and_then(|mut d| {
    ///     d.learn()?;
    ///     Ok(d)
    /// });
    /// let (first, mut second, mut state) = (learner(1)?, learner(2)?, Checkpoint::default());
    /// first.save_state(&mut state)?;
    /// second.load_state(&state)?;
    /// assert_eq!(second.loss(&[1, 2, 3])?, first.loss(&[1, 2, 3])?);
    /// let e = second.load_state(&Checkpoint::default()).unwrap_err();
    /// assert_eq!(e.kind(), ErrorKind::Checkpoint);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn load_state(&mut self, from: &Checkpoint) -> Result<()> {
        self.each_mut(&mut |name, linear| linear.load_state(name, from))?;
        self.norms_mut().into_iter().try_for_each(|(name, norm)| norm.load_state(&name, from))
    }

    /// Shows every matrix to be changed, in the order of [`Self::linears`].
    fn each_mut(&mut self, change: &mut dyn FnMut(&str, &mut dyn Linear) -> Result<()>) -> Result<()> {
        change(EMBEDDING, self.embedding.as_mut())?;
        for (i, block) in self.blocks.iter_mut().enumerate() {
            for (name, linear) in block.linears_mut() {
                change(&format!("{}.{name}", prefix(i)), linear.as_mut())?;
            }
        }
        self.head.as_mut().map_or(Ok(()), |head| change(HEAD, head.as_mut()))
    }

    /// The norms, in the order of [`Self::norms`].
    pub(super) fn named_norms(&self) -> Vec<(String, &Norm)> {
        let mut all = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            all.extend(block.norms().map(|(name, norm)| (format!("{}.{name}", prefix(i)), norm)));
        }
        all.push(("model.norm".into(), &self.norm));
        all
    }

    /// The same, to change.
    fn norms_mut(&mut self) -> Vec<(String, &mut Norm)> {
        let mut all = Vec::new();
        for (i, block) in self.blocks.iter_mut().enumerate() {
            all.extend(block.norms_mut().map(|(name, norm)| (format!("{}.{name}", prefix(i)), norm)));
        }
        all.push(("model.norm".into(), &mut self.norm));
        all
    }
}
