//! `qat sign`.

use super::output::{say, say_json};
use super::read_model;
use qat_kernels::artifact::signature;
use qat_trainer::checkpoint::write_atomically;
use qat_trainer::export::hex;
use qat_trainer::keys::PrivateKey;
use qat_trainer::{Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Arguments of `qat sign`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The model.
    #[arg(value_name = "MODEL.piq")]
    model: PathBuf,
    /// The private key, such as `qat keygen` writes.
    #[arg(long, value_name = "KEY.pem")]
    key: PathBuf,
    /// Where to write; default: the model itself.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a Path,
    bytes: usize,
    public_key: String,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let key = PrivateKey::read(&self.key)?;
        let signed = signature::sign(&read_model(&self.model)?, key.as_bytes())
            .map_err(|e| Error::from(e).file(&self.model))?;
        let file = self.out.as_deref().unwrap_or(&self.model);
        write_atomically(file, &signed)?;
        let public_key = hex(&signature::public_key(key.as_bytes()));
        match self.json {
            true => say_json(&Answer { file, bytes: signed.len(), public_key }),
            false => say(&format!("{}: {} bytes, signed by {public_key}", file.display(), signed.len())),
        }
    }
}
