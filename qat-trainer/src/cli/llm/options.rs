//! Options that the commands of `qat llm` share.
#![cfg_attr(
    not(feature = "tch"),
    allow(dead_code, reason = "parsed, so that the help is complete, and not used")
)]

use std::path::PathBuf;

/// Which model, and how it computes.
#[derive(clap::Args)]
pub(super) struct Model {
    /// A Hugging Face folder (config.json, safetensors, tokenizer.json) or a GGUF file of the Llama or Qwen2 family; for
    /// eval, generate and chat also a packed file of `qat llm export`, which computes by its codes.
    #[arg(value_name = "MODEL")]
    path: PathBuf,
    #[command(flatten)]
    compute: Compute,
}

/// Where and in what numbers.
#[derive(clap::Args)]
pub(super) struct Compute {
    /// The numbers to compute with; what is learned is f32 with either.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// What computes: cpu, cuda (the first GPU) or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// Threads to compute with; all cores if not given, or OMP_NUM_THREADS.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1024))]
    threads: Option<i32>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

/// Rounding of the matrices before use.
#[derive(clap::Args)]
pub(super) struct Rounding {
    /// Round the matrices of all blocks to so many bits first, without training.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=8))]
    bits: Option<u8>,
    /// How to round.
    #[arg(long, value_enum, default_value_t = SchemeName::PiAdaptive, requires = "bits")]
    scheme: SchemeName,
    /// Weights in a group; for pi-adaptive 8, 16 or 32.
    #[arg(long, value_name = "N", default_value_t = 16, requires = "bits")]
    group: usize,
    /// For pi-adaptive: weights of a row that share one α; the whole row if not given.
    #[arg(long, value_name = "N", requires = "bits")]
    block: Option<usize>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SchemeName {
    /// Δ = α·π/k on the mid-rise grid, α per block and k per group, fitted to the least squared error.
    PiAdaptive,
    /// Round to nearest between the least and the greatest weight of each group: the common baseline.
    Rtn,
}

/// How text is made.
#[derive(clap::Args)]
pub(super) struct Sample {
    /// At most so many new tokens (in an answer).
    #[arg(long, value_name = "N", default_value_t = 128)]
    tokens: usize,
    /// How freely tokens are drawn; 0 takes the most likely one every time.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Draw only from the most likely tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Seed of the drawing.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[cfg(feature = "tch")]
mod apply {
    use super::{Compute, Dtype, Model, Rounding, Sample, SchemeName};
    use qat_kernels::config::StepRule;
    use qat_kernels::{Grid, Levels};
    use qat_trainer::autograd::device;
    use qat_trainer::llm::packed::is_packed;
    use qat_trainer::llm::{BlockQuant, LanguageModel, Quantisation, Sampling, Scheme, TextModel, quantise};
    use qat_trainer::spec::WeightQuant;
    use qat_trainer::{Error, ErrorKind, Result};
    use tch::{Device, Kind};

    impl Compute {
        /// Makes it so, before the first tensor is made; returns the kind of numbers and the device.
        pub(in crate::cli::llm) fn begin(&self) -> Result<(Kind, Device)> {
            let device = device(&self.device)?;
            if let Some(threads) = self.threads {
                tch::set_num_threads(threads);
            }
            let kind = match self.dtype {
                Dtype::F32 => Kind::Float,
                Dtype::Bf16 => Kind::BFloat16,
            };
            Ok((kind, device))
        }
    }

    impl Model {
        /// Loads the model.
        pub(in crate::cli::llm) fn load(&self) -> Result<LanguageModel> {
            let (kind, device) = self.compute.begin()?;
            if is_packed(&self.path)? {
                return Err(Error::new(ErrorKind::Model, "a packed file holds codes, not weights")
                    .file(&self.path)
                    .remedy("use the folder that it was made from"));
            }
            LanguageModel::load(&self.path, kind, device)
        }

        /// Loads the model to make text, its matrices rounded if that is asked for: also a packed file, which is run as it is.
        pub(in crate::cli::llm) fn open(
            &self,
            rounding: &Rounding,
        ) -> Result<(TextModel, Option<Quantisation>)> {
            if !is_packed(&self.path)? {
                let mut model = self.load()?;
                let quantisation = rounding.apply(&mut model)?;
                return Ok((model.into(), quantisation));
            }
            let Compute { dtype, device, threads } = &self.compute;
            if rounding.bits.is_some() || matches!(dtype, Dtype::Bf16) || device != "cpu" {
                return Err(Error::new(
                    ErrorKind::Spec,
                    "a packed file has its bits and computes in its own numbers, on the CPU",
                )
                .file(&self.path)
                .remedy("leave --bits, --dtype and --device out"));
            }
            let from_environment = || std::env::var("OMP_NUM_THREADS").ok()?.parse().ok();
            if let Some(threads) = threads.or_else(from_environment) {
                // An earlier pool would be one of the same process, which opens one model.
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1) as usize);
                pool.build_global().map_err(|e| Error::new(ErrorKind::Io, format!("no threads: {e}")))?;
            }
            Ok((TextModel::load_packed(&self.path)?, None))
        }
    }

    impl Rounding {
        /// Rounds the model's matrices if that is asked for.
        pub(in crate::cli::llm) fn apply(&self, model: &mut LanguageModel) -> Result<Option<Quantisation>> {
            let Some(bits) = self.bits else { return Ok(None) };
            let scheme = match self.scheme {
                SchemeName::Rtn => Scheme::RoundToNearest { bits, group: self.group },
                SchemeName::PiAdaptive => {
                    let levels = Levels::new(bits, Grid::MidRise)?;
                    let step = StepRule::PiAdaptive { group: self.group };
                    Scheme::Fitted(BlockQuant { quant: WeightQuant { levels, step }, block: self.block })
                }
            };
            quantise(&mut model.decoder, scheme, |_| ()).map(Some)
        }
    }

    impl Sample {
        pub(in crate::cli::llm) fn tokens(&self) -> usize {
            self.tokens
        }

        pub(in crate::cli::llm) fn sampling(&self) -> Sampling {
            Sampling { temperature: self.temperature, top_p: self.top_p, seed: self.seed }
        }
    }
}
