//! The HTML around the pictures.

use super::svg::{escape, number, thousands};
use super::{Report, charts};

/// A page may fetch nothing: the browser is told so too.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub(super) fn html(report: &Report) -> String {
    let (s, m) = (&report.summary, &report.model);
    let name = escape(&s.name);
    let percent = |x: f64| format!("{:.2} %", 100.0 * x);
    let cards = [
        ("on the integer engine", percent(s.int_accuracy), "what runs on the device".into()),
        (
            "floating point",
            percent(s.fp32_accuracy),
            format!("kept: {}", percent(s.int_accuracy / s.fp32_accuracy.max(1e-9))),
        ),
        ("quantised without training", percent(s.ptq_accuracy), "the same network, rounded".into()),
        (
            "file",
            format!("{} B", thousands(m.file_bytes as f64)),
            format!("{} bits a weight", number(m.bits_per_weight)),
        ),
        ("memory", format!("{} B", thousands(m.arena_bytes as f64)), "scratch while it runs".into()),
        ("work", format!("{} MAC", thousands(m.macs as f64)), "of one inference".into()),
    ];
    let cards: String = cards
        .iter()
        .map(|(what, value, note)| {
            format!(
                "<div class=\"card\"><b>{}</b><span>{what}</span><small>{}</small></div>",
                escape(value),
                escape(note)
            )
        })
        .collect();

    let mut body = format!(
        "<header><h1>{name}</h1><p>{} weights in {} layers, {} classes, seed {}, trained in {} s</p></header>\
         <section class=\"cards\">{cards}</section>",
        thousands(m.weights as f64),
        report.layers.len(),
        m.labels.len(),
        s.seed,
        number(s.seconds)
    );
    let figure = |svg: &str, caption: &str| {
        format!("<figure>{svg}<figcaption>{}</figcaption></figure>", escape(caption))
    };
    let mut section = |title: &str, text: &str, class: &str, figures: String| {
        body.push_str(&format!(
            "<section><h2>{title}</h2><p>{text}</p><div class=\"{class}\">{figures}</div></section>"
        ));
    };

    section(
        "Training",
        "<i class=\"key c0\"></i>floating point, then <i class=\"key c1\"></i>with quantisation in the loop. Nothing is \
         chosen by the test split; what counts is the state after the last epoch.",
        "pair",
        figure(&charts::loss(&report.history), "Loss of the batches, averaged where they are many")
            + &figure(&charts::accuracy(&report.history), "Accuracy on the test split after each epoch"),
    );
    section(
        "Layers",
        "What each layer's weights lose and take. Signal-to-quantisation-noise ratio: 10·log₁₀ Σw² / Σ(w − ŵ)².",
        "pair",
        figure(&charts::sqnr(&report.layers), "SQNR of the weights")
            + &figure(&charts::bytes(&report.layers), "Bytes and bits in the file"),
    );
    let weights: String = report
        .layers
        .iter()
        .map(|l| titled(&l.analysis.name, &charts::weights(l), &charts::weights_caption(l)))
        .collect();
    section(
        "Weights over the grid",
        "Every weight in units of its own step; the lines are the levels it may take. Weights beyond the outermost level \
         are clipped to it.",
        "many",
        weights,
    );
    if let Some(measured) = &report.measured {
        let activations: String = measured
            .activations
            .iter()
            .map(|a| titled(&a.layer, &charts::activation(a), &charts::activation_caption(a)))
            .collect();
        section(
            "Calibration",
            "Outputs of the floating-point network on training examples (logarithmic), and the range that was chosen \
             before the quantised training.",
            "many",
            activations,
        );
        section(
            "Confusion",
            "The test split on the integer engine: rows are the classes, columns the answers.",
            "one",
            figure(
                &charts::confusion(&measured.confusion, &m.labels),
                "Mistakes are drawn eight times as strong as right answers",
            ),
        );
    }
    section(
        "Accuracy against bytes",
        "<i class=\"key c1\"></i>this run, <i class=\"key c2\"></i>others, <i class=\"key hollow\"></i>quantised without training.",
        "one",
        figure(&charts::accuracy_bytes(&report.runs), "Up and to the left is better"),
    );
    body.push_str(&provenance(report));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{name}: report</title><style>{STYLE}</style></head>\
         <body><main>{body}</main></body></html>\n"
    )
}

fn titled(name: &str, svg: &str, caption: &str) -> String {
    format!("<figure><h3>{}</h3>{svg}<figcaption>{}</figcaption></figure>", escape(name), escape(caption))
}

fn provenance(report: &Report) -> String {
    let m = &report.model;
    let rows = [
        ("quantised by", format!("{} on {} examples", m.method, m.samples)),
        ("written by", m.tool.clone()),
        ("checkpoint, SHA-256", m.source_sha256.clone()),
        ("training data, SHA-256", m.dataset_sha256.clone()),
        ("known answers in the file", m.known_answers.to_string()),
    ];
    let rows: String = rows
        .iter()
        .map(|(what, value)| format!("<tr><th>{what}</th><td>{}</td></tr>", escape(value)))
        .collect();
    format!(
        "<section><h2>Provenance</h2><table>{rows}</table><details><summary>Run description</summary><pre>{}</pre></details></section>",
        escape(&report.config)
    )
}
