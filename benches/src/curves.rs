//! How the cost grows with the size of the work: pictures made of the results files, drawn as those of a training's report.

#[allow(dead_code, reason = "a report has more kinds of marks")]
#[path = "../../qat-trainer/src/report/svg.rs"]
mod svg;

use crate::results::value;
use anyhow::{Context as _, Result};
use svg::{Axis, Plot};

/// A picture: `results/NAME.svg`.
#[derive(Debug)]
pub struct Curve {
    /// Of the file.
    pub name: &'static str,
    /// For those who cannot see it.
    pub title: &'static str,
    /// What it shows.
    pub note: &'static str,
    x: &'static str,
    y: &'static str,
    series: fn() -> Vec<Series>,
}

/// One line of a picture.
struct Series {
    name: String,
    points: Vec<Point>,
}

/// A size, and suite, case and metric of what it costs.
struct Point {
    x: f64,
    suite: &'static str,
    case: String,
    metric: &'static str,
}

/// Cores as cases and as people call them.
pub const CORES: [(&str, &str); 5] = [
    ("m0", "Cortex-M0"),
    ("m3", "Cortex-M3"),
    ("m4", "Cortex-M4F"),
    ("m55", "Cortex-M55"),
    ("rv32", "RV32IMC"),
];
/// Inputs of the fully connected layers that are counted for the first picture, to 128 outputs.
pub const COLUMNS: [u16; 4] = [64, 128, 512, 1024];
/// Channels, in as out, of the 3×3 convolutions over 8×8 pixels that are counted for the second one.
pub const CHANNELS: [u16; 3] = [8, 16, 32];
/// Weights that are quantised for the fifth: two to this power.
pub const WEIGHTS: [u32; 6] = [14, 16, 18, 20, 22, 24];
/// Operations of that picture.
pub const OPERATIONS: [&str; 3] = ["lsq_fwd_bwd", "lsq_adamw", "pack_2bit"];
/// Vectors that a packed matrix multiplies at once.
pub const TOKENS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Bits of those matrices.
pub const BITS: [u8; 3] = [2, 3, 4];
/// Threads that share the rows.
pub const THREADS: [usize; 3] = [1, 2, 4];

const PER_MAC: &str = "instructions per multiply-accumulate";

/// All of them.
pub const CURVES: [Curve; 7] = [
    Curve {
        name: "by-columns",
        title: "Instructions per multiply-accumulate by inputs of a fully connected layer",
        note: "Fully connected, 2 bits, 128 outputs: what a layer costs once per output fades with its inputs.",
        x: "inputs",
        y: PER_MAC,
        series: by_columns,
    },
    Curve {
        name: "by-channels",
        title: "Instructions per multiply-accumulate by channels of a convolution",
        note: "3×3 convolution, 2 bits, 8×8 pixels, as many channels out as in.",
        x: "channels",
        y: PER_MAC,
        series: by_channels,
    },
    Curve {
        name: "by-group",
        title: "Instructions per multiply-accumulate by weights that share a k",
        note: "Cortex-M4F, 2 bits: what a divisor for every group costs. The rightmost point has one divisor a row.",
        x: "weights for each k",
        y: PER_MAC,
        series: by_group,
    },
    Curve {
        name: "by-bits",
        title: "Instructions per multiply-accumulate by bits of a weight",
        note: "Fully connected 256 → 128. Cores without a fast multiplier pay for every plane of bits.",
        x: "bits",
        y: PER_MAC,
        series: by_bits,
    },
    Curve {
        name: "by-weights",
        title: "Time of the quantisers over copying as many bytes, by number of weights",
        note: "One thread, rows of 1024; caches hold the smaller ones, and copies there are quicker than arithmetic.",
        x: "weights",
        y: "time / copy",
        series: by_weights,
    },
    Curve {
        name: "by-tokens",
        title: "Time for each vector over that of a single one, by vectors multiplied at once",
        note: "Packed 4096×4096 matrices, one thread: a batch unpacks once.",
        x: "vectors at once",
        y: "time for each / a single one",
        series: by_tokens,
    },
    Curve {
        name: "by-threads",
        title: "Processor time over that of one thread, by threads",
        note: "4096×4096: 1 means that sharing the work costs nothing. Threads are started anew for every run.",
        x: "threads",
        y: "processor time / one thread's",
        series: by_threads,
    },
];

fn instructions(suite: &'static str, x: f64, case: String) -> Point {
    Point { x, suite, case, metric: "insns_per_mac" }
}

fn by_columns() -> Vec<Series> {
    let series = CORES.map(|(core, name)| {
        let mut points: Vec<Point> = COLUMNS
            .map(|n| instructions("scaling", n.into(), format!("{core}_fc_{n}x128_2bit")))
            .into_iter()
            .chain([256.0, 640.0].map(|n| instructions("mcu", n, format!("{core}_fc_{n}x128_2bit"))))
            .collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Series { name: name.into(), points }
    });
    series.into()
}

fn by_channels() -> Vec<Series> {
    let series = CORES.map(|(core, name)| {
        let point = |n: u16| instructions("scaling", n.into(), format!("{core}_conv3x3_{n}x{n}_2bit"));
        Series { name: name.into(), points: CHANNELS.map(point).into() }
    });
    series.into()
}

fn by_group() -> Vec<Series> {
    let layers =
        [("fc_640x128", 640.0, "fully connected 640 → 128"), ("conv1x1_64x64", 64.0, "1×1, 64 → 64")];
    let series = layers.map(|(layer, row, name)| {
        let groups = [(8.0, "_adaptive8"), (16.0, "_adaptive"), (32.0, "_adaptive32"), (row, "")];
        let point = |(x, ending)| instructions("mcu", x, format!("m4_{layer}_2bit{ending}"));
        Series { name: name.into(), points: groups.map(point).into() }
    });
    series.into()
}

fn by_bits() -> Vec<Series> {
    let series = CORES.map(|(core, name)| {
        let point = |bits: u8| instructions("mcu", bits.into(), format!("{core}_fc_256x128_{bits}bit"));
        Series { name: name.into(), points: [2, 3, 4, 8].map(point).into() }
    });
    series.into()
}

fn by_weights() -> Vec<Series> {
    let series = OPERATIONS.map(|operation| {
        let point = |power: u32| Point {
            x: f64::from(1 << power),
            suite: "scaling",
            case: format!("{operation}_2e{power}"),
            metric: "ratio_to_copy",
        };
        Series { name: operation.replace('_', " "), points: WEIGHTS.map(point).into() }
    });
    series.into()
}

fn by_tokens() -> Vec<Series> {
    let series = BITS.map(|bits| {
        let point = |tokens: usize| Point {
            x: tokens as f64,
            suite: "scaling",
            case: format!("product_{bits}bit_{tokens}tokens"),
            metric: "ratio_to_single",
        };
        Series { name: format!("{bits} bits"), points: TOKENS.map(point).into() }
    });
    series.into()
}

fn by_threads() -> Vec<Series> {
    let series = OPERATIONS[..2].iter().map(|operation| {
        let point = |threads: usize| Point {
            x: threads as f64,
            suite: "scaling",
            case: format!("{operation}_{threads}threads"),
            metric: "ratio_to_one_thread",
        };
        Series { name: operation.replace('_', " "), points: THREADS.map(point).into() }
    });
    series.collect()
}

const SIZE: [f64; 2] = [640.0, 320.0];
/// Colours that people who see few of them can tell apart, on white.
const STYLE: &str = "<style>svg{font:11px system-ui,sans-serif}text{fill:#1c2330}.tick,.label{fill:#5b6577}.name{font-size:12px}\
    .grid{stroke:#dfe3ea}.axis{stroke:#5b6577}.line{fill:none;stroke-width:2}\
    .line.c0{stroke:#0072b2}.line.c1{stroke:#e69f00}.line.c2{stroke:#009e73}.line.c3{stroke:#cc79a7}.line.c4{stroke:#d55e00}\
    .dot.c0{fill:#0072b2}.dot.c1{fill:#e69f00}.dot.c2{fill:#009e73}.dot.c3{fill:#cc79a7}.dot.c4{fill:#d55e00}</style>\
    <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>";

impl Curve {
    /// The picture, as a file of its own.
    ///
    /// # Errors
    /// A figure that is not in the results files.
    pub fn draw(&self) -> Result<String> {
        let mut lines = Vec::new();
        for series in (self.series)() {
            let point = |p: &Point| Ok((p.x, value(p.suite, &p.case, p.metric)?.parse().context("a value")?));
            let points = series.points.iter().map(point).collect::<Result<Vec<(f64, f64)>>>()?;
            lines.push((series.name, points));
        }
        let all = || lines.iter().flat_map(|(_, points)| points);
        let [least, most] = [f64::min, f64::max].map(|best| all().map(|p| p.0).reduce(best).unwrap_or(1.0));
        let top = all().map(|p| p.1).fold(0.0, f64::max);
        // Room for the names behind the lines, on a logarithmic axis.
        let x = Axis::new(self.x, least * 0.9, least * (most / least).powf(1.35)).log();
        let mut plot = Plot::new(self.title, SIZE, x, Axis::new(self.y, 0.0, 1.08 * top));
        for (i, (name, points)) in lines.iter().enumerate() {
            let class = format!("c{i}");
            plot.line(&class, points);
            for &(x, y) in points {
                plot.dot(&class, (x, y), &format!("{name}, {x}: {y}"));
            }
        }
        for (at, name) in names(&lines, 0.06 * top) {
            plot.text(at, name);
        }
        let svg = plot.finish().replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1);
        Ok(svg.replacen("</title>", &format!("</title>{STYLE}"), 1) + "\n")
    }
}

/// Where the names go: at the ends of the lines, but not on one another.
fn names(lines: &[(String, Vec<(f64, f64)>)], apart: f64) -> Vec<((f64, f64), &str)> {
    let ends = lines.iter().filter_map(|(name, points)| Some((*points.last()?, name.as_str())));
    let mut names: Vec<_> = ends.collect();
    names.sort_by(|(a, _), (b, _)| a.1.total_cmp(&b.1));
    for i in 1..names.len() {
        names[i].0.1 = names[i].0.1.max(names[i - 1].0.1 + apart);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_has_a_line_and_a_name_for_each_series() {
        for curve in &CURVES {
            let (svg, series) = (curve.draw().unwrap(), (curve.series)());
            assert_eq!(svg.matches("<polyline").count(), series.len(), "{}", curve.name);
            assert!(series.iter().all(|s| svg.contains(&format!(">{}</text>", s.name))), "{}", curve.name);
            assert!(svg.starts_with("<svg xmlns=") && !svg.contains("NaN"), "{}", curve.name);
        }
    }

    #[test]
    fn names_stand_apart() {
        let line = |name: &str, y| (name.to_owned(), vec![(1.0, 9.0), (2.0, y)]);
        let lines = [line("a", 1.0), line("b", 3.0), line("c", 1.1)];
        assert_eq!(names(&lines, 0.5), [((2.0, 1.0), "a"), ((2.0, 1.5), "c"), ((2.0, 3.0), "b")]);
    }
}
