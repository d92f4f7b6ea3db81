//! Table of training steps on a GPU.

use crate::results::value;
use anyhow::Result;

/// Rows: case, and what is trained, by whom if not by this crate.
const STEPS: [(&str, &str); 8] = [
    ("plain", "everything as it is"),
    ("full", "2 bits, everything learns"),
    ("full_3bit", "3 bits, everything learns"),
    ("distilled", "2 bits, half of the loss from a teacher of the same size"),
    ("lora_packed", "adapters of rank 16 beside packed 2-bit matrices"),
    ("lora_merged", "adapters of rank 16, quantised with the matrices as one"),
    ("pytorch_plain", "PyTorch (transformers, autocast, fused AdamW): everything as it is"),
    ("torchao_full", "the same with torchao's 2-bit quantiser"),
];

/// Milliseconds of a step and the memory of its tensors at most.
pub(super) fn steps() -> Result<String> {
    let mut table = String::from("| trained | a step | tensors at most |\n|---|---|---|\n");
    for (case, name) in STEPS {
        let figure = |metric: &str| value("gpu", &format!("qwen_0_5b_{case}"), metric);
        table += &format!("| {name} | {} ms | {} GB |\n", figure("step_ms")?, figure("peak_gb")?);
    }
    Ok(table)
}
