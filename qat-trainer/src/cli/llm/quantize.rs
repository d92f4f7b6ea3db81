//! `qat llm quantize`.

use super::{GridName, Quantize, StepName, nothing_at};
use crate::cli::output::{complain, say, say_json};
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels};
use qat_trainer::llm::{
    BlockQuant, Compensation, LanguageModel, Quantisation, Windows, quantise_compensated, read_text,
    write_codes,
};
use qat_trainer::spec::WeightQuant;
use qat_trainer::{Error, ErrorKind, Result};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    quantisation: Quantisation,
    /// Tokens that the matrices were fitted to.
    tokens: usize,
    /// Bytes of the codes with their steps.
    bytes: u64,
    folder: &'a Path,
}

impl Quantize {
    pub(super) fn run(self) -> Result<()> {
        nothing_at(&self.out)?;
        if !(self.damping.is_finite() && self.damping > 0.0) {
            let problem = format!("--damping {} is not positive", self.damping);
            return Err(Error::new(ErrorKind::Spec, problem).remedy("use about 0.01"));
        }
        let how = self.how()?;
        let mut model = self.model.load()?;
        let (tokens, windows) = self.tokens(&model)?;
        let (quantisation, matrices) =
            quantise_compensated(&mut model.decoder, &tokens, windows, &how, |_| ())?;
        model.save(&self.out)?;
        let file = self.out.join("codes.safetensors");
        write_codes(&file, &matrices)?;
        let bytes = std::fs::metadata(&file).map_err(|e| Error::io("read", &file, &e))?.len();
        if self.json {
            let folder = self.out.as_path();
            return say_json(&Answer { quantisation, tokens: tokens.len(), bytes, folder });
        }
        let Quantisation { weights, bits, sqnr_db } = quantisation;
        let sqnr = sqnr_db.map_or_else(|| "nothing lost".into(), |db| format!("SQNR {db:.2} dB"));
        say(&format!(
            "{}: {weights} weights of {bits:.3} bits, {sqnr}, fitted to {} tokens; codes and steps take {bytes} bytes",
            self.out.display(),
            tokens.len()
        ))
    }

    fn how(&self) -> Result<Compensation> {
        let grid = match self.grid {
            GridName::MidRise => Grid::MidRise,
            GridName::MidTread => Grid::MidTread,
        };
        let step = match self.step {
            StepName::PiAdaptive => StepRule::PiAdaptive { group: self.group },
            StepName::Pi => StepRule::Pi { k: self.k },
            StepName::Uniform => StepRule::Uniform,
        };
        let quant = |bits| -> Result<BlockQuant> {
            let quant = WeightQuant { levels: Levels::new(bits, grid)?, step };
            Ok(BlockQuant { quant, block: Some(self.block) })
        };
        let tables = self.table_bits.map(quant).transpose()?;
        Ok(Compensation { blocks: quant(self.bits)?, tables, damping: self.damping })
    }

    /// As many windows as asked for, as many of each text, evenly spread over it.
    fn tokens(&self, model: &LanguageModel) -> Result<(Vec<u32>, Windows)> {
        let (mut tokens, mut count) = (Vec::new(), 0);
        for (i, path) in self.text.iter().enumerate() {
            let all = model.tokenizer.encode(&read_text(path)?).map_err(|e| e.file(path))?;
            let there: Vec<&[u32]> = all.chunks_exact(self.window.max(1)).collect();
            let until = |texts: usize| self.windows * texts / self.text.len();
            let wanted = (until(i + 1) - until(i)).min(there.len());
            let chosen = (0..wanted).filter_map(|i| there.get(i * there.len() / wanted));
            tokens.extend(chosen.copied().flatten());
            count += wanted;
        }
        let inputs = model.decoder.config().mlp;
        if !tokens.is_empty() && tokens.len() < inputs {
            complain(&format!("{} tokens are few for matrices with {inputs} inputs", tokens.len()));
        }
        Ok((tokens, Windows { size: self.window, count }))
    }
}
