//! `[lora]` of a language model.

use super::qat::LlmQatSpec;
use crate::error::Result;
use crate::spec::Source;
use serde::Deserialize;

/// What is quantised where adapters are learned, and what is learned.
///
/// ```
/// use qat_trainer::spec::{LlmRun, LoraMode};
/// let toml = r#"
/// # data = { format = "arithmetic" }
/// # model = { layers = 1, hidden = 16, heads = 2, mlp = 32 }
/// # train = { steps = 100 }
/// [qat]
/// bits = 2
/// [lora]
/// mode = "scales"
/// "#;
/// let lora = LlmRun::parse(toml, "run.toml".as_ref())?.lora;
/// assert_eq!(lora.map(|lora| lora.mode), Some(LoraMode::Scales));
/// // A rank is one of adapters, and there are none.
/// let e = LlmRun::parse(&format!("{toml}rank = 4"), "run.toml".as_ref()).unwrap_err();
/// assert!(e.to_string().contains("`rank` has no meaning for scales"), "{e}");
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoraMode {
    /// `Q(W) + s·U·D`.
    Packed,
    /// `Q(W + s·U·D)`.
    Merged,
    /// `level·Δ(α)`, without adapters.
    Scales,
}

/// The matrices of a decoder's block, by the last part of their names.
pub const BLOCK_MATRICES: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Adapters on the matrices that `[qat]` quantises, which are what learns; everything else is frozen. Without `[lora]` all
/// weights learn.
///
/// ```
/// use qat_trainer::spec::{LlmLoraSpec, LlmRun, LoraMode};
/// let toml = r#"
/// # data = { format = "arithmetic" }
/// # model = { layers = 1, hidden = 16, heads = 2, mlp = 32 }
/// # train = { steps = 100 }
/// [qat]
/// bits = 3
/// [lora]
/// rank = 8
/// targets = ["q_proj", "v_proj"]
/// "#;
/// let targets = ["q_proj", "v_proj"].map(String::from).to_vec();
/// let lora = LlmLoraSpec { mode: LoraMode::Packed, rank: 8, alpha: 16.0, targets }; // s = α/r = 2
/// assert_eq!(LlmRun::parse(toml, "run.toml".as_ref())?.lora, Some(lora));
/// # Ok::<(), qat_trainer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LlmLoraSpec {
    /// TOML: `mode = "packed"` (default), `"merged"` or `"scales"`.
    pub mode: LoraMode,
    /// r, at least 1 and at most the smaller side of each adapted matrix. TOML: `rank`, default 16.
    pub rank: usize,
    /// s·r, positive. TOML: `alpha`, default twice the rank.
    pub alpha: f32,
    /// Last names of the matrices that are adapted. TOML: `targets`, default all of [`BLOCK_MATRICES`].
    pub targets: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLora {
    mode: Option<LoraMode>,
    rank: Option<usize>,
    alpha: Option<f32>,
    targets: Option<Vec<String>>,
}

impl LlmLoraSpec {
    pub(super) fn from_raw(raw: RawLora, qat: Option<&LlmQatSpec>, source: Source<'_>) -> Result<Self> {
        let error = |key: &str, problem: String| source.error("lora", key, problem);
        let mode = raw.mode.unwrap_or(LoraMode::Packed);
        let Some(qat) = qat else {
            return Err(error("mode", "adapters stand on quantised matrices, and there is no [qat]".into())
                .remedy("write [qat] with the bits of the matrices"));
        };
        if qat.tables.is_some() {
            return Err(source
                .error("qat", "table_bits", "embedding and head stay as they are beside adapters")
                .remedy("remove it"));
        }
        if mode == LoraMode::Merged && qat.codes.is_some() {
            let problem = "merged adapters are quantised anew with their matrix; codes have no meaning";
            return Err(source.error("qat", "codes", problem).remedy("remove it, or use mode = \"packed\""));
        }
        let foreign = [("rank", raw.rank.is_some()), ("alpha", raw.alpha.is_some())];
        if let Some((key, _)) = foreign.into_iter().find(|(_, there)| *there && mode == LoraMode::Scales) {
            return Err(error(key, format!("`{key}` has no meaning for scales")).remedy("remove it"));
        }
        let rank = raw.rank.unwrap_or(16);
        if rank == 0 {
            return Err(error("rank", "a rank of 0 learns nothing".into()).remedy("at least 1"));
        }
        let alpha = raw.alpha.unwrap_or(2.0 * rank as f32);
        if !(alpha > 0.0 && alpha.is_finite()) {
            return Err(error("alpha", format!("{alpha} is out of range")).remedy("allowed: above 0"));
        }
        let targets = raw.targets.unwrap_or_else(|| BLOCK_MATRICES.map(String::from).into());
        if targets.is_empty() {
            return Err(error("targets", "no matrix is named".into()).remedy("remove it for all of them"));
        }
        if let Some(target) = targets.iter().find(|target| !BLOCK_MATRICES.contains(&target.as_str())) {
            return Err(error("targets", format!("no matrix of a block is called `{target}`"))
                .remedy(format!("choose among {}", BLOCK_MATRICES.join(", "))));
        }
        Ok(Self { mode, rank, alpha, targets })
    }
}
