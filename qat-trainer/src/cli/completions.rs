//! `qat completions`.

use super::output::say;
use clap::CommandFactory as _;
use clap_complete::Shell;
use qat_trainer::Result;

/// Arguments of `qat completions`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The shell: `qat completions bash > ~/.local/share/bash-completion/completions/qat` sets up bash.
    shell: Shell,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Arguments::command(), "qat", &mut script);
        say(String::from_utf8_lossy(&script).trim_end())
    }
}
