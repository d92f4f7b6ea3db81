//! SmolLM2-135M quantised without training, on windows of State of the Union addresses, or of those and of its own texts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::own_texts;
use crate::cmd::{output, root};

/// A quantisation of the matrices of all blocks: k for each 16 weights.
#[derive(Clone, Copy)]
pub(super) struct Compensated {
    /// The end of the case's name, and the name of its folder.
    pub(super) name: &'static str,
    bits: &'static str,
    /// Weights that share an α.
    block: &'static str,
    /// Windows of 512 tokens that they are fitted to.
    windows: &'static str,
    /// Half of which are the model's own.
    own_texts: bool,
    /// What rounding to nearest at this width is called.
    pub(super) rounded: &'static [&'static str],
}

/// All there are.
pub(super) const COMPENSATED: [Compensated; 4] = [
    Compensated {
        name: "ptq_compensated_g16_3bit",
        bits: "3",
        block: "64",
        windows: "8",
        own_texts: false,
        rounded: &["--bits", "3", "--scheme", "rtn", "--group", "32"],
    },
    Compensated {
        name: "ptq_compensated_g16_2bit",
        bits: "2",
        block: "64",
        windows: "8",
        own_texts: false,
        rounded: &["--bits", "2", "--scheme", "rtn", "--group", "32"],
    },
    FINE_3_BITS,
    FINE_2_BITS,
];

/// As many blocks as rounding to nearest has groups.
pub(super) const FINE_3_BITS: Compensated = Compensated {
    name: "ptq_compensated_b32_g16_3bit",
    bits: "3",
    block: "32",
    windows: "16",
    own_texts: false,
    rounded: &["--bits", "3", "--scheme", "rtn", "--group", "32"],
};

/// The same at 2 bits.
pub(super) const FINE_2_BITS: Compensated = Compensated {
    name: "ptq_compensated_b32_g16_2bit",
    bits: "2",
    block: "32",
    windows: "16",
    own_texts: false,
    rounded: &["--bits", "2", "--scheme", "rtn", "--group", "32"],
};

/// Quantises unless that was done before; returns the folder of the model, and the mean bits of a weight.
pub(super) fn ensure(how: &Compensated, qat: &Path, model: &Path, speeches: &Path) -> Result<(PathBuf, f64)> {
    let texts = match how.own_texts {
        true => vec![speeches.to_owned(), own_texts::ensure(qat, model)?],
        false => vec![speeches.to_owned()],
    };
    let folder = root().join(".cache").join(format!("smollm2-{}", how.name));
    let about = folder.join(ABOUT);
    if !about.exists() {
        println!("quantising {}; one core takes some minutes", how.name);
        let mut quantize = Command::new(qat);
        quantize.args(["llm", "quantize"]).arg(model);
        texts.iter().for_each(|text| {
            quantize.arg("--text").arg(text);
        });
        quantize.args(["--bits", how.bits, "--block", how.block, "--windows", how.windows]);
        quantize.args(["--json", "--out"]).arg(&folder);
        let answer = output(&mut quantize)?;
        fs::write(&about, answer).with_context(|| about.display().to_string())?;
    }
    let text = fs::read_to_string(&about).with_context(|| about.display().to_string())?;
    let answer: Value = serde_json::from_str(&text).with_context(|| about.display().to_string())?;
    let bits = answer["bits"].as_f64().with_context(|| format!("{}: no `bits`", about.display()))?;
    Ok((folder, bits))
}

/// What trainings by run descriptions begin with.
pub(super) const TWO_TEXTS: [Compensated; 2] = [
    Compensated { name: "ptq_two_texts_3bit", own_texts: true, ..FINE_3_BITS },
    Compensated { name: "ptq_two_texts_2bit", own_texts: true, ..FINE_2_BITS },
];

/// The answer of `qat llm quantize`, written when all else is there.
const ABOUT: &str = "quantisation.json";
