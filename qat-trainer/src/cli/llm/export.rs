//! `qat llm export`.

use super::{Export, nothing_at};
use crate::cli::output::{say, say_json};
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels};
use qat_trainer::Result;
use qat_trainer::atomic::write_atomically;
use qat_trainer::llm::packed::Contents;
use qat_trainer::llm::{BlockQuant, LanguageModel, read_codes};
use qat_trainer::spec::WeightQuant;
use serde::Serialize;
use std::path::Path;
use tch::{Device, Kind};

/// Weights of a table that share a step.
const TABLE_BLOCK: usize = 32;

#[derive(Serialize)]
struct Answer<'a> {
    bytes: usize,
    /// Matrices of codes, and the mean bits of their weights, steps counted.
    matrices: usize,
    bits: f64,
    file: &'a Path,
}

impl Export {
    pub(super) fn run(self) -> Result<()> {
        nothing_at(&self.out)?;
        let codes = self.folder.join("codes.safetensors");
        let codes = read_codes(&codes).map_err(|e| e.remedy("make it with `qat llm quantize`"))?;
        let tables = match self.table_bits {
            None => None,
            Some(bits) => {
                let quant =
                    WeightQuant { levels: Levels::new(bits, Grid::MidTread)?, step: StepRule::Uniform };
                Some(BlockQuant { quant, block: Some(TABLE_BLOCK) })
            }
        };
        let model = LanguageModel::load(&self.folder, Kind::Float, Device::Cpu)?;
        let file = model.pack(codes, tables).map_err(|e| e.file(&self.folder))?;
        let (matrices, bits) = Contents::parse(&file)?.codes();
        write_atomically(&self.out, &file)?;
        let (bytes, file) = (file.len(), self.out.as_path());
        if self.json {
            return say_json(&Answer { bytes, matrices, bits, file });
        }
        say(&format!("{}: {bytes} bytes, {matrices} matrices of {bits:.3} bits a weight", file.display()))
    }
}
