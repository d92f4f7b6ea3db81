//! The pictures of a report.

use super::svg::{Axis, Plot, escape, number, picture, thousands};
use super::{Activation, Layer, Point};
use crate::report::history::{History, Phase};
use qat_kernels::Grid;

/// Width and height of a picture that takes half of the page.
const HALF: [f64; 2] = [470.0, 270.0];
/// Of one among many.
const SMALL: [f64; 2] = [300.0, 190.0];

/// Loss of the batches over the epochs.
pub(super) fn loss(history: &History) -> String {
    let steps = || history.phases.iter().flat_map(|p| &p.steps);
    let end = steps().map(|(x, _)| *x).fold(0.0, f64::max);
    let y = Axis::over("loss", steps().map(|(_, y)| y.max(1e-6)));
    let lowest = steps().map(|(_, y)| y.max(1e-6)).fold(f64::INFINITY, f64::min);
    let highest = steps().map(|(_, y)| *y).fold(0.0, f64::max);
    let y = if highest > 8.0 * lowest { Axis::new(y.label, 0.8 * lowest, 1.2 * highest).log() } else { y };
    curves("Loss over the epochs", history, Axis::new("epoch", 0.0, end), y, |p| &p.steps, 1.0)
}

/// Accuracy on the test split over the epochs.
pub(super) fn accuracy(history: &History) -> String {
    let all = || history.phases.iter().flat_map(|p| &p.accuracy);
    let end = all().map(|(x, _)| *x).fold(0.0, f64::max);
    // The first epochs would press everything else against the ceiling.
    let last = history.phases.iter().filter_map(|p| p.accuracy.last()).map(|(_, y)| *y).fold(0.0, f64::max);
    let floor = all().map(|(_, y)| *y).filter(|y| *y > last - 0.12).fold(last, f64::min);
    let y = Axis::over("test accuracy %", [100.0 * floor, 100.0 * last].into_iter());
    curves("Test accuracy over the epochs", history, Axis::new("epoch", 0.0, end), y, |p| &p.accuracy, 100.0)
}

fn curves(
    title: &str,
    history: &History,
    x: Axis<'_>,
    y: Axis<'_>,
    points: impl Fn(&Phase) -> &Vec<(f64, f64)>,
    scale: f64,
) -> String {
    let mut plot = Plot::new(title, HALF, x, y);
    for (i, phase) in history.phases.iter().enumerate() {
        let scaled: Vec<_> = points(phase).iter().map(|(x, y)| (*x, scale * y)).collect();
        if i > 0
            && let Some((start, _)) = scaled.first()
        {
            plot.upright("mark", start.floor());
        }
        plot.line(if i == 0 { "c0" } else { "c1" }, &scaled);
    }
    plot.finish()
}

/// Signal-to-noise ratio of every layer's weights.
pub(super) fn sqnr(layers: &[Layer]) -> String {
    let rows: Vec<_> = layers
        .iter()
        .map(|l| {
            let db = l.analysis.sqnr_db;
            let text = db.map_or_else(|| "nothing is lost".into(), |db| format!("{db:.1} dB"));
            Bar { name: &l.analysis.name, parts: vec![("c1", db.unwrap_or(0.0).max(0.0))], text }
        })
        .collect();
    bars("Signal-to-quantisation-noise ratio of the weights", &rows)
}

/// Bytes of every layer's weights, next to what f32 would take.
pub(super) fn bytes(layers: &[Layer]) -> String {
    let rows: Vec<_> = layers
        .iter()
        .map(|l| {
            let a = &l.analysis;
            let float = 4 * (a.weights + a.channels);
            let text = format!(
                "{} B, {} bits ({} B as f32)",
                thousands(l.bytes as f64),
                a.bits,
                thousands(float as f64)
            );
            Bar { name: &a.name, parts: vec![("c1", l.bytes as f64)], text }
        })
        .collect();
    bars("Bytes and bits of each layer", &rows)
}

struct Bar<'a> {
    name: &'a str,
    /// Class and length of each part, one behind the other.
    parts: Vec<(&'static str, f64)>,
    text: String,
}

/// Lying bars with their texts above them.
fn bars(title: &str, rows: &[Bar<'_>]) -> String {
    const ROW: f64 = 34.0;
    let [width, _] = HALF;
    let most =
        rows.iter().map(|r| r.parts.iter().map(|(_, n)| n).sum::<f64>()).fold(f64::MIN_POSITIVE, f64::max);
    let mut body = String::new();
    for (i, row) in rows.iter().enumerate() {
        let y = 6.0 + i as f64 * ROW;
        body.push_str(&format!(
            r#"<text class="name" x="2" y="{:.1}">{}</text><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            y + 11.0,
            escape(row.name),
            width - 2.0,
            y + 11.0,
            escape(&row.text)
        ));
        let mut x = 2.0;
        for (class, part) in &row.parts {
            let length = (part / most * (width - 4.0)).max(1.0);
            body.push_str(&format!(
                r#"<rect class="bar {class}" x="{x:.1}" y="{:.1}" width="{length:.1}" height="10" rx="2"/>"#,
                y + 16.0
            ));
            x += length;
        }
    }
    picture(title, [width, 10.0 + ROW * rows.len() as f64], &body)
}

/// A layer's weights in units of their steps, over the levels of the grid.
pub(super) fn weights(layer: &Layer) -> String {
    let h = &layer.analysis.histogram;
    let most = h.counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let share = 100.0 / layer.analysis.weights.max(1) as f64;
    let title = format!("Weights of {} over the quantisation grid", layer.analysis.name);
    let x = Axis::new("weight / step", h.from, h.to);
    let mut plot = Plot::new(&title, SMALL, x, Axis::new("weights %", 0.0, 1.05 * most * share).ticks(3));
    // 256 lines would be a surface.
    if h.levels.len() <= 32 {
        h.levels.iter().for_each(|&level| plot.upright("level", level));
    } else if let [first, .., last] = h.levels.as_slice() {
        plot.band("kept", [*first, *last]);
    }
    let width = (h.to - h.from) / h.counts.len().max(1) as f64;
    for (i, &count) in h.counts.iter().enumerate() {
        let start = h.from + i as f64 * width;
        plot.bar("c0", [start, start + width], count as f64 * share);
    }
    plot.finish()
}

/// What stands below the picture of a layer's weights.
pub(super) fn weights_caption(layer: &Layer) -> String {
    let a = &layer.analysis;
    let grid = match a.grid {
        Grid::MidTread => "mid-tread",
        Grid::MidRise => "mid-rise",
    };
    let divisors = match a.divisors {
        [0, 0, 0, 0] => String::new(),
        [two, three, four, five] => format!("; groups with k = 2, 3, 4, 5: {two}, {three}, {four}, {five}"),
    };
    let [from, to] = a.steps.map(|s| number(f64::from(s)));
    format!("{} bits, {grid}, steps {from} to {to}{divisors}", a.bits)
}

/// Outputs of a layer with the range that calibration chose.
pub(super) fn activation(a: &Activation) -> String {
    let title = format!("Outputs of {} and the chosen range", a.layer);
    let [lo, hi] = [a.seen[0].min(a.chosen[0]), a.seen[1].max(a.chosen[1])];
    let most = a.counts.iter().copied().fold(1.0, f32::max);
    let x = Axis::over("output of the layer", [lo, hi].into_iter());
    let y = Axis::new("values", 0.5, f64::from(most) * 1.6).log().ticks(4);
    let mut plot = Plot::new(&title, SMALL, x, y);
    plot.band("kept", a.chosen);
    let width = (a.seen[1] - a.seen[0]) / a.counts.len().max(1) as f64;
    for (i, &count) in a.counts.iter().enumerate() {
        if count >= 0.5 {
            let start = a.seen[0] + i as f64 * width;
            plot.bar("c0", [start, start + width], f64::from(count));
        }
    }
    a.chosen.iter().for_each(|&edge| plot.upright("edge", edge));
    plot.finish()
}

/// What stands below it.
pub(super) fn activation_caption(a: &Activation) -> String {
    let [lo, hi] = a.chosen.map(number);
    let zeros = if a.zeros > 0 {
        format!("; {} exact zeros not drawn", thousands(a.zeros as f64))
    } else {
        String::new()
    };
    format!("kept: {lo} to {hi}{zeros}")
}

/// How often each class was taken for each.
pub(super) fn confusion(counts: &[Vec<u32>], names: &[String]) -> String {
    let n = counts.len().max(1) as f64;
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(1).min(16) as f64;
    let side = (760.0 / n).clamp(18.0, 46.0);
    let (left, top) = (34.0 + 7.0 * longest, 34.0);
    let size = [left + n * side + 8.0, top + n * side + 26.0];
    let mut body = format!(
        r#"<text class="label" x="{:.1}" y="12" text-anchor="middle">answer</text><text class="label" transform="translate(12 {:.1}) rotate(-90)" text-anchor="middle">class</text>"#,
        left + n * side / 2.0,
        top + n * side / 2.0
    );
    let short = |name: &str| name.chars().take(16).collect::<String>();
    for (i, (row, name)) in counts.iter().zip(names).enumerate() {
        let (y, total) = (top + i as f64 * side, row.iter().sum::<u32>().max(1));
        body.push_str(&format!(
            r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            left - 6.0,
            y + side / 2.0 + 4.0,
            escape(&short(name))
        ));
        // Long names would run into each other; the rows have them.
        let column: String = name.chars().take(if longest <= 3.0 { 3 } else { 2 }).collect();
        body.push_str(&format!(
            r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            left + (i as f64 + 0.5) * side,
            top - 6.0,
            escape(&column)
        ));
        for (j, &count) in row.iter().enumerate() {
            let x = left + j as f64 * side;
            let share = f64::from(count) / f64::from(total);
            let (class, strength) = if i == j { ("c0", share) } else { ("bad", (share * 8.0).min(1.0)) };
            let strength = if count == 0 { 0.0 } else { 0.12 + 0.88 * strength };
            body.push_str(&format!(
                r#"<rect class="cell" x="{x:.1}" y="{y:.1}" width="{0:.1}" height="{0:.1}"/>"#,
                side - 1.5
            ));
            if count > 0 {
                let inverse = if strength > 0.55 { " inverse" } else { "" };
                body.push_str(&format!(
                    r#"<rect class="bar {class}" fill-opacity="{strength:.2}" x="{x:.1}" y="{y:.1}" width="{0:.1}" height="{0:.1}"><title>{1} taken for {2}: {count} of {total}</title></rect>"#,
                    side - 1.5,
                    escape(name),
                    escape(names.get(j).map_or("", String::as_str))
                ));
                let digits = count.to_string();
                if digits.len() as f64 * 7.0 < side {
                    body.push_str(&format!(
                        r#"<text class="count{inverse}" x="{:.1}" y="{:.1}" text-anchor="middle">{digits}</text>"#,
                        x + side / 2.0,
                        y + side / 2.0 + 4.0
                    ));
                }
            }
        }
    }
    picture("Confusion matrix of the test split", size, &body)
}

/// Accuracy against bytes of every file.
pub(super) fn accuracy_bytes(runs: &[Point]) -> String {
    let (least, most) = runs
        .iter()
        .map(|p| p.bytes as f64)
        .fold((f64::INFINITY, 1.0), |(a, b), x| (f64::min(a, x), f64::max(b, x)));
    let x = Axis::new(
        "bytes of the file",
        least - 0.25 * (most - least).max(0.2 * most),
        most + 0.25 * (most - least).max(0.2 * most),
    );
    let y = Axis::over("test accuracy %", runs.iter().map(|p| 100.0 * p.accuracy));
    let mut plot = Plot::new("Accuracy against bytes", [760.0, 320.0], x, y);
    // Own points last, on top.
    for own in [false, true] {
        for p in runs.iter().filter(|p| p.own == own) {
            let at = (p.bytes as f64, 100.0 * p.accuracy);
            let class = match (p.trained, p.own) {
                (true, true) => "c1",
                (true, false) => "c2",
                (false, _) => "hollow",
            };
            let kind = if p.trained { "trained with quantisation" } else { "quantised without training" };
            plot.dot(class, at, &format!("{}: {kind}, {:.2} %, {} B", p.name, at.1, p.bytes));
            plot.text(at, &if p.trained { p.name.clone() } else { format!("{} (PTQ)", p.name) });
        }
    }
    plot.finish()
}
