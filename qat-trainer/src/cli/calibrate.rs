//! `qat calibrate`.

use super::checkpoint::Source;
use super::export::Timestamp;
use super::output::{doubt, say, say_json};
use qat_kernels::calibration::Calibrated;
use qat_trainer::Result;
use qat_trainer::calibrate::{Engines, extremes, observe, ranges, write};
use qat_trainer::checkpoint::write_atomically;
use qat_trainer::data::Dataset;
use qat_trainer::graph::Graph;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `qat calibrate`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Where to write; default: model.cal beside the checkpoint. `qat quantize --calibration` reads it.
    #[arg(long, value_name = "FILE.cal")]
    out: Option<PathBuf>,
    /// Print one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    timestamp: Timestamp,
}

#[derive(Serialize)]
struct Answer {
    file: PathBuf,
    bytes: usize,
    method: &'static str,
    samples: usize,
    layers: Vec<Row>,
}

/// The range of one layer's output.
#[derive(Serialize)]
struct Row {
    layer: String,
    /// Smallest and largest value seen.
    seen: [f32; 2],
    /// The range that the method chose.
    range: [f32; 2],
    /// Share of the values outside it, 0 to 1.
    clipped: f32,
    scale: f32,
    zero_point: i8,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let bytes = self.source.read()?;
        let run = self.source.run()?;
        let time = self.timestamp.or_now()?;
        let checkpoint = self.source.tensors(&bytes)?;
        let data = Dataset::load(&run.data)?;
        let in_file = |e: qat_trainer::Error| e.file(self.source.file());
        let graph = Graph::from_checkpoint(&run.model, data.shape, data.classes.len(), &checkpoint)
            .map_err(in_file)?;
        let how = run.qat.calibration;
        let engines = observe(&graph, data.input, &data.train.features, how).map_err(in_file)?;
        let found = ranges(&engines)?;
        let bytes = write(&run, &data, &graph, &found, time)?;
        let file = self.out.clone().unwrap_or_else(|| self.source.beside("model.cal"));
        write_atomically(&file, &bytes)?;
        doubt(&data);
        let answer = Answer {
            file,
            bytes: bytes.len(),
            method: how.method.name(),
            samples: how.samples.min(data.train.len()),
            layers: rows(&graph, &engines, &found)?,
        };
        if self.json { say_json(&answer) } else { say(&answer.to_string()) }
    }
}

fn rows(graph: &Graph, engines: &Engines, found: &[Option<Calibrated>]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for ((node, engine), found) in graph.nodes.iter().zip(engines).zip(found) {
        let (Some(engine), Some(found)) = (engine, found) else { continue };
        let [observer] = engine.parts() else { continue };
        rows.push(Row {
            layer: node.name.clone(),
            seen: extremes(observer),
            range: [found.range.lo(), found.range.hi()],
            clipped: observer.clipped_share(found.range)?,
            scale: found.params.scale,
            zero_point: found.params.zero_point,
        });
    }
    Ok(rows)
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = ["layer", "smallest", "largest", "from", "to", "clipped %", "scale", "zero"];
        let [layer, rest @ ..] = head;
        write!(f, "{layer:<20}")?;
        rest.iter().try_for_each(|name| write!(f, " {name:>11}"))?;
        for row in &self.layers {
            let [(a, b), (c, d)] = [row.seen, row.range].map(|[a, b]| (a, b));
            write!(f, "\n{:<20} {a:>11.4} {b:>11.4} {c:>11.4} {d:>11.4}", row.layer)?;
            write!(f, " {:>11.4} {:>11.4e} {:>11}", 100.0 * row.clipped, row.scale, row.zero_point)?;
        }
        write!(
            f,
            "\n{}: {} bytes, {} on {} examples",
            self.file.display(),
            self.bytes,
            self.method,
            self.samples
        )
    }
}
