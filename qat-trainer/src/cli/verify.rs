//! `qat verify`.

use super::output::{say, say_json};
use super::read_model;
use qat_trainer::keys::read_public;
use qat_trainer::llm::packed::is_packed;
use qat_trainer::verify::{Check, first_failure, verify, verify_folder, verify_packed};
use qat_trainer::{Error, ErrorKind, Result};
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `qat verify`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The model: a `.piq` file of `qat export` or `qat llm export`, or a folder of `qat llm quantize`, whose weights are compared
    /// with their codes.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The public key of who must have signed the file; without it a signature is not looked at.
    #[arg(long, value_name = "KEY.pub.pem")]
    key: Option<PathBuf>,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    ok: bool,
    checks: &'a [Check],
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let signer = self.key.as_deref().map(read_public).transpose()?;
        let packed = is_packed(&self.model)?;
        if signer.is_some() && (packed || self.model.is_dir()) {
            return Err(Error::new(ErrorKind::Spec, "language models carry no signature")
                .file(&self.model)
                .remedy("leave --key out"));
        }
        let checks = if self.model.is_dir() {
            verify_folder(&self.model)?
        } else if packed {
            verify_packed(read_model(&self.model)?)
        } else {
            verify(&read_model(&self.model)?, signer.as_ref())
        };
        let failure = first_failure(&checks);
        if self.json {
            say_json(&Answer { ok: failure.is_ok(), checks: &checks })?;
        } else {
            for c in &checks {
                say(&format!("{:<4} {}: {}", if c.ok { "ok" } else { "FAIL" }, c.name, c.found))?;
            }
        }
        failure.map_err(|e| e.file(&self.model))
    }
}
