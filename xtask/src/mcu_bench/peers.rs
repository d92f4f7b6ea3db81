//! `cargo xtask mcu-bench --peers`: the int8 and int4 kernels of microflow and embedded-nn on the layers of our own cases, the
//! same emulated core and counter (`firmware/peers`).

use std::iter::{repeat, zip};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use qat_kernels::infer::Model;

use super::{Case, Op, PER_MAC, SUITE, TOLERANCE, shapes};
use crate::bare_metal::{self, Toolchain};
use crate::cmd::{root, run as run_command, target_dir};
use crate::emulator::{M4, emulate};
use crate::results::{Figure, record, value};
use crate::samples::Samples;
use crate::tools::ensure;

/// Who has kernels for which bits, and whether for depthwise layers, too.
const KERNELS: [(&str, bool); 3] =
    [("int8_microflow", true), ("int8_embedded_nn", true), ("int4_embedded_nn", false)];
/// How they are built: at opt-level 3 as our own firmware is, and at opt-level s. What the compiler makes of loops over
/// iterators differs much, and a peer is to be judged by the better of the two.
const PROFILES: [&str; 2] = ["release", "small"];
/// Length of a case's name for the program.
const NAME: usize = 64;
/// An output may be this many steps off the exact value: half a step for its own rounding, and half a step for the rounding
/// of a multiplier or of a sum in f32.
const DEVIATION: u8 = 1;
/// Values that an output has to have at least, lest it be right because all of it is clamped: the smallest has 128 numbers.
const DIFFERENT: u8 = 64;

/// A peer's kernel on one of our layers.
struct Peer {
    /// As the program knows it: shape, bits, library.
    name: String,
    /// Multiply-accumulates, counted as for our own kernels.
    macs: u64,
}

impl Peer {
    /// Its name in the table.
    fn case(&self) -> String {
        format!("{}_{}", M4.core, self.name)
    }
}

/// All of them.
fn peers() -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for (kernel, depthwise) in KERNELS {
        for op in shapes(&M4) {
            if depthwise || !matches!(op, Op::Depthwise(_)) {
                let name = format!("{}_{kernel}", op.shape());
                let ours = Case { name: name.clone(), board: &M4, op, bits: 8, group: 0 };
                let (file, _) = ours.model()?;
                peers.push(Peer { name, macs: Model::parse(&file)?.macs() });
            }
        }
    }
    Ok(peers)
}

/// A program with all of them, built with one of the profiles of `firmware/peers`.
fn build(toolchain: &Toolchain, profile: &str) -> Result<PathBuf> {
    let folder = target_dir()?.join("firmware");
    let mut command = toolchain.cargo("build", M4.target, "core");
    command.current_dir(root().join("firmware/peers")).args(["-q", "--locked", "--profile", profile]);
    run_command(command.arg("--target-dir").arg(&folder))?;
    Ok(folder.join(M4.target).join(profile).join("peers"))
}

/// Instructions for each multiply-accumulate of each, after a look at what they compute.
fn measure(toolchain: &Toolchain, peers: &[Peer], profile: &str) -> Result<Vec<f64>> {
    let program = build(toolchain, profile)?;
    let names = peers.iter().flat_map(|peer| peer.name.bytes().chain(repeat(0)).take(NAME));
    let outcome = emulate(&M4, &program, &Samples::new(NAME, names.collect())?)?;
    let (answers, rest) = outcome.logits.as_chunks::<2>();
    if !rest.is_empty() || [answers.len(), outcome.counts.len()] != [peers.len(); 2] {
        bail!("{} kernels, {} answers, {} counts", peers.len(), answers.len(), outcome.counts.len());
    }
    for (peer, &[deviation, different]) in zip(peers, answers) {
        if deviation > DEVIATION || different < DIFFERENT {
            bail!("{}: {deviation} steps off, {different} different values", peer.name);
        }
    }
    Ok(zip(peers, outcome.counts).map(|(peer, count)| count as f64 / peer.macs as f64).collect())
}

/// Measures the cases whose names contain one of `only` (all if empty) and writes them to the table, each as the compiler
/// does it best.
pub(crate) fn run(only: &[String], yes: bool) -> Result<()> {
    ensure(&[M4.tool], yes)?;
    let toolchain = bare_metal::find(&[M4.target], yes)?;
    let mut peers = peers()?;
    peers.retain(|peer| only.is_empty() || only.iter().any(|part| peer.case().contains(part.as_str())));
    if peers.is_empty() {
        bail!("no case's name contains any of {only:?}");
    }
    let [fast, small] = PROFILES.map(|profile| measure(&toolchain, &peers, profile));
    let mut figures = Vec::new();
    for (peer, (fast, small)) in zip(&peers, zip(fast?, small?)) {
        println!("{:<34} {fast:.4} {PER_MAC} at opt-level 3, {small:.4} at s", peer.case());
        figures.push(Figure::new(peer.case(), PER_MAC, format!("{:.4}", fast.min(small)), ""));
    }
    record(SUITE, "cargo xtask mcu-bench --peers", &figures)
}

/// Measures one of the builds again: the table must not say of anybody that it takes more than it does.
pub(crate) fn check(toolchain: &Toolchain) -> Result<()> {
    let (peers, [fast, _]) = (peers()?, PROFILES);
    for (peer, measured) in zip(&peers, measure(toolchain, &peers, fast)?) {
        let case = peer.case();
        let committed: f64 = value(SUITE, &case, PER_MAC)?.parse().with_context(|| case.clone())?;
        println!("{case:<34} {measured:.4} {PER_MAC}, {committed:.4} committed");
        if committed > measured * (1.0 + TOLERANCE) {
            bail!("{case}: {measured:.4} {PER_MAC}, {committed:.4} were committed");
        }
    }
    Ok(())
}
