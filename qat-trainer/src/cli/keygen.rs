//! `qat keygen`.

use super::output::say;
use qat_trainer::Result;
use qat_trainer::keys::PrivateKey;
use std::path::PathBuf;

/// Arguments of `qat keygen`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Where to write the private key; the public one goes to the same name with .pub before the ending. Neither may exist.
    #[arg(long, value_name = "KEY.pem")]
    out: PathBuf,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let public = self.out.with_extension("pub.pem");
        PrivateKey::generate()?.write(&self.out, &public)?;
        say(&format!("{}: keep this one secret", self.out.display()))?;
        say(&format!("{}: for `qat verify --key` and for firmware", public.display()))
    }
}
