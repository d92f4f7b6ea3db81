//! `qat presets`.

use super::output::{say, say_json};
use qat_trainer::Result;
use qat_trainer::presets::{PRESETS, find};
use qat_trainer::spec::{Layers, Run};
use serde::Serialize;

/// Arguments of `qat presets`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Print this preset as a complete TOML file, ready to be changed, instead of the list.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    summary: String,
    /// The complete text, where one preset is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    toml: Option<String>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        if let Some(name) = &self.name {
            let preset = find(name)?;
            let run = Run::layered(Layers { preset: Some(name), ..Layers::default() })?;
            if self.json {
                let (name, summary) = (preset.name, preset.summary());
                return say_json(&Entry { name, summary, toml: Some(run.text) });
            }
            return say(run.text.trim_end());
        }
        let entries: Vec<Entry> =
            PRESETS.iter().map(|p| Entry { name: p.name, summary: p.summary(), toml: None }).collect();
        if self.json {
            return say_json(&entries);
        }
        let width = entries.iter().map(|e| e.name.len()).max().unwrap_or(0);
        let lines: Vec<String> =
            entries.iter().map(|e| format!("{:<width$}  {}", e.name, e.summary)).collect();
        say(&lines.join("\n"))
    }
}
