//! Tables of measured figures for `qat-kernels/README.md`, made of the results files.

use crate::results::value;
use anyhow::{Context as _, Result};
use std::path::PathBuf;

/// Schemes of the table of errors: as the results and as the table name them.
const SCHEMES: [(&str, &str); 8] = [
    ("fixed_k_midtread", "Pi, one k per row (= uniform, one step per row), mid-tread"),
    ("fixed_k_midrise", "Pi, one k per row (= uniform, one step per row), mid-rise"),
    ("uniform_f16_g128_midrise", "uniform, binary16 step per 128"),
    ("uniform_f16_g32_midrise", "uniform, binary16 step per 32"),
    ("uniform_f16_g16_midrise", "uniform, binary16 step per 16"),
    ("adaptive_k_g32_midrise", "adaptive k, groups of 32"),
    ("adaptive_k_g16_midrise", "**adaptive k, groups of 16**"),
    ("adaptive_k_g8_midrise", "adaptive k, groups of 8"),
];

/// Rows of the table of speed: case, what it is, what is copied.
const SPEEDS: [(&str, &str); 8] = [
    ("lsq_fwd_bwd_4096x4096", "LSQ forward and backward, a step per row, 2 threads"),
    ("pi_fwd_bwd_4096x4096", "the same through the Pi quantiser, 2 threads"),
    ("lsq_adamw_4096x4096", "LSQ gradient, AdamW and requantisation in one pass, 2 threads"),
    ("scale_grad_4864x896", "gradient of the steps alone"),
    ("pack_2bit_4096x4096", "packing 2-bit codes"),
    ("unpack_2bit_4096x4096", "unpacking 2-bit codes"),
    ("hadamard_32x4096", "randomised Hadamard rotation of rows of 4096 in the second-level cache"),
    ("hadamard_4096", "the same of one row in the first-level cache"),
];

/// The file that the tables are in.
#[must_use]
pub fn readme() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../qat-kernels/README.md")
}

/// The text with every table made anew.
///
/// # Errors
/// A figure or a marker is missing.
pub fn renew(text: &str) -> Result<String> {
    let text = between(text, "sqnr", &errors()?)?;
    between(&text, "speed", &speeds()?)
}

/// SQNR of each scheme against its bits.
fn errors() -> Result<String> {
    let mut table = String::from(
        "| scheme | bits per weight | Gaussian | Laplace | MiniLM | bits per weight | Gaussian | Laplace | MiniLM |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (scheme, name) in SCHEMES {
        let mut cells = vec![name.to_owned()];
        for bits in [2, 3] {
            let figure = |data: &str, metric| number("sqnr", &format!("{data}_{bits}bit_{scheme}"), metric);
            cells.push(figure("gaussian", "bits_per_weight")?);
            for data in ["gaussian", "laplace", "minilmfull"] {
                cells.push(figure(data, "sqnr_db")?);
            }
        }
        table += &format!("| {} |\n", cells.join(" | "));
    }
    Ok(table)
}

/// Times as ratios to copies.
fn speeds() -> Result<String> {
    let mut table = String::from("| operation | time / copy |\n|---|---|\n");
    for (case, name) in SPEEDS {
        table += &format!("| {name} | {} |\n", number("quantisers", case, "ratio_to_copy")?);
    }
    Ok(table)
}

/// A figure with two decimals.
fn number(suite: &str, case: &str, metric: &str) -> Result<String> {
    let text = value(suite, case, metric)?;
    let number: f64 = text.parse().with_context(|| format!("{case} {metric}"))?;
    Ok(format!("{number:.2}"))
}

/// Replaces what stands between a table's markers.
fn between(text: &str, name: &str, table: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let (before, rest) = text.split_once(&begin).with_context(|| format!("no marker {begin}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("no marker {end}"))?;
    Ok(format!("{before}{begin}{table}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readmes_tables_are_the_recorded_figures() {
        let text = std::fs::read_to_string(readme()).unwrap();
        assert_eq!(text, renew(&text).unwrap(), "run: cargo run -p qat-benches --bin tables");
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb";
        assert_eq!(between(text, "x", "new\n").unwrap(), "a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb");
        assert!(between("<!-- x:begin -->\n", "x", "").is_err());
    }
}
