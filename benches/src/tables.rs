//! Tables and pictures of measured figures, made of the results files.

mod anchors;
mod fuzzing;
mod gpu;
mod language;
mod presets;
mod reasoning;

use crate::curves::CURVES;
use crate::results::{rival, value, value_if_any};
use anyhow::{Context as _, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

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

/// Columns of the table of cores: core, its name, whether CMSIS-NN was counted there.
const CORES: [(&str, &str, bool); 5] = [
    ("m0", "Cortex-M0", true),
    ("m3", "Cortex-M3", true),
    ("m4", "Cortex-M4F", true),
    ("m55", "Cortex-M55", true),
    ("rv32", "RV32IMC", false),
];

/// Rows of the table of cores: layer and bits as the results and as the table name them, and whether it is compared.
const LAYERS: [(&str, &str, bool); 9] = [
    ("fc_256x128_2bit", "fully connected 256 → 128, 2 bits", true),
    ("fc_640x128_2bit", "fully connected 640 → 128, 2 bits", true),
    ("fc_640x128_2bit_adaptive", "the same, k per group of 16", false),
    ("fc_256x128_3bit", "fully connected 256 → 128, 3 bits", false),
    ("fc_256x128_4bit", "4 bits", false),
    ("fc_256x128_8bit", "8 bits", false),
    ("conv3x3_16x32_2bit", "3×3 convolution 16 → 32, 2 bits", false),
    ("conv1x1_64x64_2bit", "1×1 convolution 64 → 64, 2 bits", false),
    ("dw3x3_64_2bit", "depthwise 3×3, 64 channels, 2 bits", false),
];

/// Rows of the table of peers on a Cortex-M4F: layer as the results and as the table name it, and whether embedded-nn has an
/// int4 kernel for it.
const PEERS: [(&str, &str, bool); 5] = [
    ("fc_256x128", "fully connected 256 → 128", true),
    ("fc_640x128", "fully connected 640 → 128", true),
    ("conv3x3_16x32", "3×3 convolution 16 → 32, 16×16", true),
    ("conv1x1_64x64", "1×1 convolution 64 → 64, 25×5", true),
    ("dw3x3_64", "depthwise 3×3, 64 channels, 25×5", false),
];

/// Rows of the table of whole models.
const MODELS: [(&str, &str); 4] = [
    ("ds_cnn", "DS-CNN (keywords)"),
    ("resnet8", "ResNet-8 (images)"),
    ("mobilenet", "MobileNetV1 0.25 (persons)"),
    ("autoencoder", "autoencoder (anomalies)"),
];

/// Makes the new text of a file from its old one.
type Renew = Box<dyn Fn(&str) -> Result<String>>;

/// A file that is made of the results files, or has tables that are.
pub struct Page {
    /// Where it is.
    pub path: PathBuf,
    renew: Renew,
}

impl Page {
    fn new(path: &str, renew: impl Fn(&str) -> Result<String> + 'static) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Self { path: root.join(path), renew: Box::new(renew) }
    }

    /// What is in the file now, and what has to be.
    ///
    /// # Errors
    /// A file that cannot be read, a table without its markers, a figure that is not recorded.
    pub fn texts(&self) -> Result<[String; 2]> {
        let name = || self.path.display().to_string();
        let text = match std::fs::read_to_string(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.with_context(name)?,
        };
        let new = (self.renew)(&text).with_context(name)?;
        Ok([text, new])
    }
}

/// All such files.
#[must_use]
pub fn pages() -> Vec<Page> {
    let mut pages = vec![
        Page::new("README.md", renew_front),
        Page::new("qat-kernels/README.md", renew_kernels),
        Page::new("firmware/README.md", |text| between(text, "memory", &memory()?)),
        Page::new("docs/quantisation.md", |text| between(text, "sqnr", &errors()?)),
        Page::new("docs/language-models.md", renew_language),
        Page::new("docs/distillation-and-reasoning.md", |text| {
            between(text, "ablation", &reasoning::ablation()?)
        }),
        Page::new("docs/gpu-workstation.md", |text| between(text, "gpu", &gpu::steps()?)),
        Page::new("fuzz/RESULTS.md", |text| between(text, "fuzz", &fuzzing::targets()?)),
        Page::new("benches/RESULTS.md", |_| anchors::page()),
    ];
    pages.extend(
        CURVES
            .iter()
            .map(|curve| Page::new(&format!("benches/results/{}.svg", curve.name), move |_| curve.draw())),
    );
    pages
}

/// Brings every page up to date.
///
/// # Errors
/// As [`Page::texts`], and a file that cannot be written.
pub fn renew() -> Result<()> {
    for page in pages() {
        let [old, new] = page.texts()?;
        if old != new {
            std::fs::write(&page.path, new).with_context(|| page.path.display().to_string())?;
        }
    }
    Ok(())
}

/// The front page with every table made anew.
fn renew_front(text: &str) -> Result<String> {
    let text = between(text, "demo", &presets::demo()?)?;
    let text = between(&text, "cores", &cores()?)?;
    let text = between(&text, "peers", &peers()?)?;
    let text = between(&text, "models", &models()?)?;
    let text = between(&text, "presets", &presets::presets()?)?;
    between(&text, "trained", &presets::peers()?)
}

/// The kernels' page with every table made anew.
fn renew_kernels(text: &str) -> Result<String> {
    let text = between(text, "sqnr", &errors()?)?;
    between(&text, "speed", &speeds()?)
}

/// The page on language models with every table made anew.
fn renew_language(text: &str) -> Result<String> {
    let text = between(text, "smollm2", &language::perplexities()?)?;
    let text = between(&text, "trials", &language::trials()?)?;
    between(&text, "packed", &language::packed()?)
}

/// Instructions per multiply-accumulate of each layer on each core.
fn cores() -> Result<String> {
    let names = CORES.map(|(_, name, _)| name).join(" | ");
    let mut table = format!("| instructions per MAC | {names} |\n|---|{}\n", "---|".repeat(CORES.len()));
    for (layer, name, compared) in LAYERS {
        let mut cells = vec![name.to_owned()];
        for (core, _, counted) in CORES {
            let case = format!("{core}_{layer}");
            let ours = number("mcu", &case, "insns_per_mac")?;
            cells.push(match compared && counted {
                true => format!("**{ours}** ({})", rival("mcu", &case, "insns_per_mac")?),
                false => ours,
            });
        }
        table += &format!("| {} |\n", cells.join(" | "));
    }
    Ok(table)
}

/// Instructions per multiply-accumulate of other people's kernels beside ours, on the Cortex-M4F.
fn peers() -> Result<String> {
    let mut table = String::from(
        "| instructions per MAC | ours, 2 bits | 4 bits | 8 bits | CMSIS-NN int8 | int4 | embedded-nn int8 | int4 | microflow int8 |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (layer, name, int4) in PEERS {
        let case = |kernel: &str| format!("m4_{layer}_{kernel}");
        let count = |kernel| number("mcu", &case(kernel), "insns_per_mac");
        let cmsis = |kernel| two_decimals(&rival("mcu", &case(kernel), "insns_per_mac")?);
        let cells = [
            name.to_owned(),
            format!("**{}**", count("2bit")?),
            count("4bit")?,
            count("8bit")?,
            cmsis("8bit")?,
            cmsis("4bit")?,
            count("int8_embedded_nn")?,
            if int4 { count("int4_embedded_nn")? } else { "–".into() },
            count("int8_microflow")?,
        ];
        table += &format!("| {} |\n", cells.join(" | "));
    }
    Ok(table)
}

/// Whole models on the Cortex-M4F, and their counts on the other cores.
fn models() -> Result<String> {
    let mut table = String::from(
        "| network | MACs | M4F | M3 | M55 | RV32 | weight bytes | `.piq` | arena | stack |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (model, name) in MODELS {
        let m4 = |metric| value("models", &format!("{model}_m4"), metric);
        let mut cells = vec![name.to_owned(), m4("macs")?];
        for core in ["m4", "m3", "m55", "rv32"] {
            cells.push(number("models", &format!("{model}_{core}"), "insns_per_mac")?);
        }
        for metric in ["weight_bytes", "file_bytes", "arena_bytes", "stack_bytes"] {
            cells.push(m4(metric)?);
        }
        table += &format!("| {} |\n", cells.join(" | "));
    }
    Ok(table)
}

/// Bytes of each whole model on each core that has room for it.
fn memory() -> Result<String> {
    let mut table = String::from(
        "| network | core | flash | code | `.piq` | of it weights | RAM | of it arena | stack | instructions |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (model, name) in MODELS {
        for (core, core_name, _) in CORES {
            let case = format!("{model}_{core}");
            let Some(flash) = value_if_any("models", &case, "flash_bytes")? else { continue };
            let mut cells = vec![name.to_owned(), core_name.to_owned(), flash];
            for metric in [
                "code_bytes",
                "file_bytes",
                "weight_bytes",
                "ram_bytes",
                "arena_bytes",
                "stack_bytes",
                "instructions",
            ] {
                cells.push(value("models", &case, metric)?);
            }
            table += &format!("| {} |\n", cells.join(" | "));
        }
    }
    Ok(table)
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
    two_decimals(&value(suite, case, metric)?).with_context(|| format!("{case} {metric}"))
}

fn two_decimals(text: &str) -> Result<String> {
    Ok(format!("{:.2}", text.parse::<f64>()?))
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
    fn tables_and_pictures_are_the_recorded_figures() {
        for page in pages() {
            let [old, new] = page.texts().unwrap();
            assert_eq!(old, new, "{}: run: cargo run -p qat-benches --bin tables", page.path.display());
        }
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb";
        assert_eq!(between(text, "x", "new\n").unwrap(), "a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb");
        assert!(between("<!-- x:begin -->\n", "x", "").is_err());
    }
}
