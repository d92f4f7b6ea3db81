//! `[qat]` of a language model.

use crate::error::Result;
use crate::spec::Source;
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels, MAX_BITS, MIN_BITS};
use serde::Deserialize;

/// How matrices are quantised while they are trained. Without `[qat]` they are not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlmQatSpec {
    /// Codes of the matrices of all blocks. TOML: `bits`, 2 to 8, and `grid`, default `"mid-rise"`.
    pub levels: Levels,
    /// Their steps, with an α per row. TOML: `step`, default `{ pi-adaptive = { group = 16 } }`.
    pub step: StepRule,
    /// Bits of embedding and head, with the same kind of steps; default: not quantised. TOML: `table_bits`.
    pub tables: Option<Levels>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQat {
    bits: u8,
    grid: Option<Grid>,
    step: Option<StepRule>,
    table_bits: Option<u8>,
}

impl LlmQatSpec {
    pub(super) fn from_raw(raw: &RawQat, source: Source<'_>) -> Result<Self> {
        let grid = raw.grid.unwrap_or(Grid::MidRise);
        let levels = |key: &str, bits: u8| {
            Levels::new(bits, grid).map_err(|e| {
                source.error("qat", key, e.to_string()).remedy(format!("allowed: {MIN_BITS} to {MAX_BITS}"))
            })
        };
        let step = raw.step.unwrap_or(StepRule::PiAdaptive { group: 16 });
        match step {
            StepRule::Pi { k } if !(2..=5).contains(&k) => {
                return Err(source
                    .error("qat", "step", format!("k = {k} is no divisor"))
                    .remedy("allowed: 2 to 5"));
            }
            StepRule::PiAdaptive { group } if ![8, 16, 32].contains(&group) => {
                let problem = format!("groups of {group} are not supported");
                return Err(source.error("qat", "step", problem).remedy("allowed: 8, 16, 32"));
            }
            _ => {}
        }
        let tables = raw.table_bits.map(|bits| levels("table_bits", bits)).transpose()?;
        Ok(Self { levels: levels("bits", raw.bits)?, step, tables })
    }
}
