//! `qat llm merge`.

use super::{Merge, nothing_at};
use crate::cli::output::{say, say_json};
use qat_trainer::Result;
use qat_trainer::llm::Adapters;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Answer<'a> {
    rank: usize,
    alpha: f32,
    folder: &'a Path,
}

impl Merge {
    pub(super) fn run(self) -> Result<()> {
        nothing_at(&self.out)?;
        let adapters = Adapters::load(&self.adapter)?;
        let mut model = self.model.load()?;
        adapters.merge(&mut model.decoder).map_err(|e| e.file(&self.adapter))?;
        model.save(&self.out)?;
        let (rank, alpha, folder) = (adapters.rank(), adapters.alpha(), self.out.as_path());
        if self.json {
            return say_json(&Answer { rank, alpha, folder });
        }
        say(&format!("{}: adapters of rank {rank} and alpha {alpha} merged", folder.display()))
    }
}
