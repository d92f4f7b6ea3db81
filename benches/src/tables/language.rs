//! Table of a language model quantised in several ways.

use crate::results::{rival, value, value_if_any};
use anyhow::Result;

/// Rows: the end of the case's name, and what was done.
const SCHEMES: [(&str, &str); 18] = [
    ("as_shipped", "as shipped"),
    ("rtn_g32_3bit", "rounded to nearest, 3 bits, asymmetric groups of 32"),
    ("ptq_compensated_b32_g16_3bit", "`qat llm quantize`, 3 bits, blocks of 32, k for each 16"),
    ("gpu_ptq_3bit", "`qat llm quantize`, 3 bits, blocks of 32, k for each 16, half on its own texts"),
    ("qat_adaptive_k_g16_3bit", "trained in 3 bits from rounding, blocks of 64, k for each 16"),
    ("own_texts_3bit", "trained in 3 bits from the codes of `qat llm quantize`, half on its own texts"),
    ("gpu_3bit", "trained in 3 bits from such codes, half on its own texts, on an H100, 9.0 million tokens"),
    (
        "gpu_merged_3bit",
        "adapters in front of 3-bit quantisers, from rounding, on an H100, 4.1 million tokens",
    ),
    ("lora_3bit", "adapters beside the codes of `qat llm quantize`, half on its own texts"),
    ("gpu_lora_3bit", "adapters beside such codes, half on its own texts, on an H100, 4.1 million tokens"),
    ("rtn_g32_2bit", "rounded to nearest, 2 bits, asymmetric groups of 32"),
    ("ptq_compensated_b32_g16_2bit", "`qat llm quantize`, 2 bits, blocks of 32, k for each 16"),
    ("gpu_ptq_2bit", "the same, half on its own texts"),
    ("qat_from_ptq_b32_g16_2bit", "trained in 2 bits from the codes of `qat llm quantize`"),
    ("own_texts_2bit", "the same, half on its own texts"),
    ("gpu_2bit", "trained in 2 bits from such codes, half on its own texts, on an H100, 9.8 million tokens"),
    ("lora_2bit", "adapters beside the codes of `qat llm quantize`, half on its own texts"),
    ("gpu_lora_2bit", "adapters beside such codes, half on its own texts, on an H100, 2.5 million tokens"),
];

/// Texts: as cases name them.
const TEXTS: [&str; 3] = ["lcet10", "alice29", "sotu"];

/// Perplexities on each text. What has not been measured yet is left out.
pub(super) fn perplexities() -> Result<String> {
    let mut table = String::from(
        "| SmolLM2-135M-Instruct | bits a weight | lcet10 | alice29 | held-out speeches |\n|---|---|---|---|---|\n",
    );
    for (scheme, name) in SCHEMES {
        let figures = |metric: &str| {
            let of = |text: &&str| value_if_any("llm", &format!("smollm2_{text}_{scheme}"), metric);
            TEXTS.iter().map(of).collect::<Result<Vec<_>>>()
        };
        let perplexities = figures("perplexity")?;
        if perplexities.iter().all(Option::is_none) {
            continue;
        }
        let bits = figures("bits_per_weight")?.into_iter().flatten().next();
        let cells = std::iter::once(bits).chain(perplexities).map(|cell| cell.unwrap_or_else(|| "–".into()));
        table += &format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | "));
    }
    Ok(table)
}

/// Trainings that differ in their text alone: the end of the case's name, what they began with, and what they learned from.
const TRIALS: [(&str, &str, &str); 5] = [
    ("gpu_rounded_speeches", "rounding, blocks of 64", "speeches"),
    ("gpu_rounded_both", "rounding, blocks of 64", "both"),
    ("gpu_rounded_own", "rounding, blocks of 64", "its own"),
    ("gpu_codes_speeches", "`qat llm quantize`, blocks of 32", "speeches"),
    ("gpu_codes_both", "`qat llm quantize`, blocks of 32", "both"),
];

/// Perplexities of those on each text.
pub(super) fn trials() -> Result<String> {
    let mut table = String::from(
        "| begun with | texts | lcet10 | alice29 | held-out speeches |\n|---|---|---|---|---|\n",
    );
    for (trial, begun, texts) in TRIALS {
        let of = |text: &&str| value("llm", &format!("smollm2_{text}_{trial}"), "perplexity");
        let perplexities = TEXTS.iter().map(of).collect::<Result<Vec<_>>>()?;
        table += &format!("| {begun} | {texts} | {} |\n", perplexities.join(" | "));
    }
    Ok(table)
}

/// Packed files of that model: the end of the case's name, and its bits.
const PACKED: [(&str, &str); 2] = [("packed_g16_3bit", "3"), ("packed_g16_2bit", "2")];

/// Bytes, perplexity on the engine that runs the codes, and its speed beside torch's on the dequantised model.
pub(super) fn packed() -> Result<String> {
    let mut table = String::from(
        "| bits | file | perplexity, dequantised | on the codes | tokens a second | torch, f32 | torch, bf16 |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (scheme, bits) in PACKED {
        let case = format!("smollm2_{scheme}");
        let cells = [
            bits.to_owned(),
            format!("{} B", value("llm", &case, "file_bytes")?),
            rival("llm", &case, "perplexity")?,
            value("llm", &case, "perplexity")?,
            format!("**{}**", value("llm", &case, "tokens_per_second")?),
            rival("llm", &case, "tokens_per_second")?,
            rival("llm", &case, "tokens_per_second_over_bf16")?,
        ];
        table += &format!("| {} |\n", cells.join(" | "));
    }
    Ok(table)
}
