//! `[qat]` of a language model.

use crate::error::Result;
use crate::spec::Source;
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels, MAX_BITS, MIN_BITS};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// How matrices are quantised while they are trained. Without `[qat]` they are not.
///
/// ```
/// use qat_kernels::{Grid, Levels, StepRule};
/// use qat_trainer::spec::{LlmQatSpec, LlmRun};
/// let toml = r#"
/// # data = { format = "arithmetic" }
/// # model = { layers = 1, hidden = 64, heads = 2, mlp = 128 }
/// # train = { steps = 100 }
/// [qat]
/// bits = 2
/// block = 64
/// table_bits = 8
/// "#;
/// let [levels, tables] = [Levels::new(2, Grid::MidRise)?, Levels::new(8, Grid::MidRise)?];
/// let step = StepRule::PiAdaptive { group: 16 }; // α for 64 weights, k for 16
/// let qat = LlmQatSpec { levels, step, block: Some(64), codes: None, tables: Some(tables) };
/// assert_eq!(LlmRun::parse(toml, "run.toml".as_ref())?.qat, Some(qat));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LlmQatSpec {
    /// Codes of the matrices of all blocks. TOML: `bits`, 2 to 8, and `grid`, default `"mid-rise"`.
    pub levels: Levels,
    /// Their steps, with an α per block. TOML: `step`, default `{ pi-adaptive = { group = 16 } }`.
    pub step: StepRule,
    /// Weights of a row that share an α; default: the whole row. TOML: `block`.
    pub block: Option<usize>,
    /// `codes.safetensors` of `qat llm quantize`, at whose codes and steps training begins; they have these bits, steps and
    /// blocks. TOML: `codes`.
    pub codes: Option<PathBuf>,
    /// Bits of embedding and head, with the same kind of steps; default: not quantised. TOML: `table_bits`.
    pub tables: Option<Levels>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQat {
    bits: u8,
    grid: Option<Grid>,
    step: Option<StepRule>,
    block: Option<usize>,
    codes: Option<PathBuf>,
    table_bits: Option<u8>,
}

impl LlmQatSpec {
    pub(super) fn from_raw(raw: RawQat, base: &Path, source: Source<'_>) -> Result<Self> {
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
        if raw.block == Some(0) {
            return Err(source.error("qat", "block", "blocks of 0 hold nothing").remedy("at least 1"));
        }
        let codes = raw.codes.map(|codes| base.join(codes));
        let tables = raw.table_bits.map(|bits| levels("table_bits", bits)).transpose()?;
        Ok(Self { levels: levels("bits", raw.bits)?, step, block: raw.block, codes, tables })
    }
}
