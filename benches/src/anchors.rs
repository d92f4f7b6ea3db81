//! What others reach and what we aim at: for each, the figure of ours that answers it, the figures beside it, and the goal.
//!
//! Figures of ours, and of everybody who was measured here, are those of the results files; stated here are goals, and what
//! others publish about themselves or what was measured once outside this repository. `benches/RESULTS.md` is made of both.

/// A part of the page.
#[derive(Debug)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// What a reader has to know about all of its rows.
    pub note: &'static str,
    /// In the order of the page.
    pub anchors: Vec<Anchor>,
}

/// Suite, case and metric of a figure.
pub type Key = [String; 3];

/// One row: a quantity with a goal or a rival.
#[derive(Debug)]
pub struct Anchor {
    /// What it is, for people.
    pub what: String,
    /// Ours.
    pub ours: Ours,
    /// What ours is to reach.
    pub goal: Goal,
    /// Others, beside those that the results file names in the row itself.
    pub rivals: Vec<Rival>,
}

/// A figure of ours.
#[derive(Debug)]
pub enum Ours {
    /// In a results file; it is an error if it is not there.
    Recorded(Key),
    /// Not there until somebody has measured it; why that has not happened.
    Awaited(Key, &'static str),
}

/// What a figure is to reach.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Nothing is asked for.
    None,
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// No more than what the results file states in the row itself.
    AtMostRecorded,
}

/// Somebody else's figure.
#[derive(Debug)]
pub enum Rival {
    /// Published, or measured outside of this repository.
    Stated(&'static str, f64),
    /// In another unit, so that there is no ratio to it.
    Unlike(&'static str),
    /// A row of a results file, under this name.
    Figure(&'static str, Key),
    /// The rival that a results file names in this row.
    RivalOf(Key),
}

/// The figure `metric` of `case` in `suite`.
fn key(suite: &str, case: &str, metric: &str) -> Key {
    [suite, case, metric].map(str::to_owned)
}

fn recorded(what: &str, [suite, case, metric]: [&str; 3], goal: Goal) -> Anchor {
    Anchor { what: what.into(), ours: Ours::Recorded(key(suite, case, metric)), goal, rivals: Vec::new() }
}

fn awaited(what: &str, [suite, case, metric]: [&str; 3], goal: Goal, why: &'static str) -> Anchor {
    Anchor { what: what.into(), ours: Ours::Awaited(key(suite, case, metric), why), goal, rivals: Vec::new() }
}

impl Anchor {
    fn beside(self, rivals: impl IntoIterator<Item = Rival>) -> Self {
        Self { rivals: rivals.into_iter().collect(), ..self }
    }
}

/// Everything, in the order of the page.
#[must_use]
pub fn sections() -> Vec<Section> {
    vec![cortex_m4(), other_cores(), models(), bitnetmcu(), quantisers(), steps(), host(), gpu(), accuracy()]
}

fn cortex_m4() -> Section {
    use Rival::{Figure, RivalOf, Stated};
    let layers = [
        ("fc_256x128", "fully connected 256 → 128"),
        ("fc_640x128", "fully connected 640 → 128"),
        ("conv3x3_16x32", "3×3 convolution 16 → 32, 16×16"),
        ("conv1x1_64x64", "1×1 convolution 64 → 64, 25×5"),
        ("dw3x3_64", "depthwise 3×3, 64 channels, 25×5"),
    ];
    let mut anchors = Vec::new();
    for (layer, name) in layers {
        let figure = |kernel: &str| key("mcu", &format!("m4_{layer}_{kernel}"), "insns_per_mac");
        let mut rivals = vec![
            RivalOf(figure("4bit")),
            Figure("embedded-nn int8", figure("int8_embedded_nn")),
            Figure("microflow int8", figure("int8_microflow")),
        ];
        match layer {
            "conv3x3_16x32" => rivals.extend([
                Stated("CMix-NN u8 × 2 bits", 2.57),
                Stated("CMix-NN u8 × 2 bits, its better form", 1.86),
            ]),
            "conv1x1_64x64" => rivals.push(Stated("CMix-NN u8 × 2 bits", 2.75)),
            _ => {}
        }
        let case = format!("m4_{layer}_2bit");
        anchors.push(
            recorded(&format!("{name}, 2 bits"), ["mcu", &case, "insns_per_mac"], Goal::AtMostRecorded)
                .beside(rivals),
        );
    }
    for (layer, name) in &layers[..2] {
        let case = format!("m4_{layer}_3bit");
        anchors.push(recorded(
            &format!("{name}, 3 bits"),
            ["mcu", &case, "insns_per_mac"],
            Goal::AtMostRecorded,
        ));
    }
    Section {
        title: "Kernels on a Cortex-M4F",
        note: "Instructions per multiply-accumulate of a whole run, requantisation included, counted on an emulated core. \
               CMSIS-NN at commit 99f736a with gcc 12.2 -O3 and CMix-NN were counted once by the same counter; embedded-nn and \
               microflow are counted by the tests.",
        anchors,
    }
}

fn other_cores() -> Section {
    let cores = [
        ("m3", "Cortex-M3", true),
        ("m0", "Cortex-M0", true),
        ("m55", "Cortex-M55", true),
        ("rv32", "RV32IMC", false),
    ];
    let mut anchors = Vec::new();
    for (core, name, counted) in cores {
        for columns in [256, 640] {
            let case = format!("{core}_fc_{columns}x128_2bit");
            let anchor = recorded(
                &format!("{name}, fully connected {columns} → 128, 2 bits"),
                ["mcu", &case, "insns_per_mac"],
                Goal::AtMostRecorded,
            );
            // What CMSIS-NN's int4 kernels take is kept at the rows of our 4-bit kernels, at the first layer of each core.
            let int4 = key("mcu", &format!("{core}_fc_{columns}x128_4bit"), "insns_per_mac");
            let compared = counted && (columns == 256 || core == "m55");
            anchors.push(anchor.beside(compared.then_some(Rival::RivalOf(int4))));
        }
    }
    Section {
        title: "Kernels on other cores",
        note: "As above. The emulated Cortex-M0 executes the instruction set of an M0+.",
        anchors,
    }
}

fn models() -> Section {
    let networks = [
        ("ds_cnn", "DS-CNN (keywords)", "43.2 ms at 120 MHz: 1.95 cycles per MAC", "at least 90 %", 90.0),
        ("resnet8", "ResNet-8 (images)", "165.1 ms at 120 MHz: 1.58 cycles per MAC", "at least 85 %", 85.0),
        (
            "mobilenet",
            "MobileNetV1 0.25 (persons)",
            "88.9 ms at 120 MHz: 1.42 cycles per MAC",
            "at least 80 %",
            80.0,
        ),
        (
            "autoencoder",
            "autoencoder (anomalies)",
            "4.05 ms at 120 MHz: 1.84 cycles per MAC",
            "area at least 0.85",
            0.85,
        ),
    ];
    let mut anchors = Vec::new();
    for (network, name, best, _, _) in networks {
        let case = format!("{network}_m4");
        let row =
            |what: &str, metric, goal| recorded(&format!("{name}, {what}"), ["models", &case, metric], goal);
        anchors.extend([
            row("instructions per MAC", "insns_per_mac", Goal::AtMost(1.1)).beside([Rival::Unlike(best)]),
            row("weight bytes over int8 weight bytes", "weight_bytes_ratio", Goal::AtMostRecorded),
            row("weight bytes over the int8 file", "weight_bytes_to_int8_file", Goal::AtMostRecorded),
            row("bytes of the file", "file_bytes", Goal::None),
            row("logits that differ from the host's", "mismatches", Goal::AtMost(0.0)),
        ]);
    }
    for (network, name, _, wanted, least) in networks {
        let case = format!("{network}_mlperf_2bit");
        anchors.push(awaited(
            &format!("{name}, accuracy on its own data ({wanted})"),
            ["presets", &case, "accuracy_mean"],
            Goal::AtLeast(least),
            "not trained on that data",
        ));
    }
    Section {
        title: "Whole models on a Cortex-M4F",
        note: "The four networks of MLPerf Tiny v1.2 with generated weights: what they cost does not depend on what they learned. \
               Beside them the best published times on a NUCLEO-L4R5ZI; cycles are not instructions, so there is no ratio.",
        anchors,
    }
}

fn bitnetmcu() -> Section {
    let goal = Goal::AtLeast(99.3);
    Section {
        title: "Small networks for handwritten digits",
        note: "BitNetMCU's convolutional network and ours, trained on the same 8,000 digits, tested on the same 2,000. On MNIST it \
               states 99.55 % with 11 kB; the 99.25 % are its own recipe on our digits, 150 epochs and one seed.",
        anchors: vec![
            recorded(
                "`digits-small`, accuracy in 12 KiB",
                ["presets", "digits_small_2bit", "accuracy_mean"],
                goal,
            )
            .beside([Rival::Stated("BitNetMCU's recipe, 11,264 weight bytes", 99.25)]),
            recorded(
                "the same for as many steps, one seed",
                ["presets", "digits_small_2bit", "accuracy_beside_peers"],
                Goal::None,
            ),
            recorded(
                "bytes of the file",
                ["presets", "digits_small_2bit", "file_bytes"],
                Goal::AtMost(12_288.0),
            ),
            recorded(
                "images on which host and device disagree, of 2,000",
                ["demo", "digits", "mismatches"],
                Goal::AtMost(0.0),
            )
            .beside([Rival::Unlike("BitNetMCU: 1 of 10,000")]),
        ],
    }
}

fn quantisers() -> Section {
    Section {
        title: "Speed of the quantisers",
        note: "Processor time over that of copying as many bytes, medians over the rounds of one run; no time on the clock is kept. \
               A goal of 1.2 is 20 % above the limit that memory sets. The machine matters: these are of a Xeon with AVX-512 and two \
               cores; on one with sixteen LSQ took 1.3 copies, on an AMD EPYC of the first generation, which has no AVX-512, 1.5 to 2.3 \
               (2026-11-27).",
        anchors: vec![
            recorded(
                "LSQ forward and backward, 4096×4096, a step per row, 2 threads",
                ["quantisers", "lsq_fwd_bwd_4096x4096", "ratio_to_copy"],
                Goal::AtMost(1.2),
            ),
            recorded(
                "the same, in the run with its peers",
                ["quantisers", "lsq_fwd_bwd_4096x4096", "ratio_to_copy_beside_peers"],
                Goal::AtMost(1.2),
            ),
            recorded(
                "LSQ gradient, AdamW and requantisation in one pass",
                ["quantisers", "lsq_adamw_4096x4096", "ratio_to_copy"],
                Goal::AtMost(1.2),
            ),
            recorded(
                "gradient of the steps alone, 4864×896, 1 thread",
                ["quantisers", "scale_grad_4864x896", "ratio_to_copy"],
                Goal::AtMostRecorded,
            ),
            recorded(
                "the same, in the run with its peers",
                ["quantisers", "scale_grad_4864x896", "ratio_to_copy_beside_peers"],
                Goal::AtMostRecorded,
            ),
        ],
    }
}

fn steps() -> Section {
    use Rival::Stated;
    Section {
        title: "What quantisation adds to a training step",
        note: "Time of a step with quantisation over one without, on the CPU, one thread. The others were measured on the block of a \
               Qwen2.5-0.5B with 2×128 tokens.",
        anchors: vec![
            awaited(
                "a block of Qwen2.5-0.5B",
                ["training", "qwen_block", "qat_over_fp32"],
                Goal::AtMost(1.1),
                "not measured yet",
            )
            .beside([
                Stated("custom LSQ in torch", 1.27),
                Stated("torchao, its faster form", 1.30),
                Stated("torch's operator", 1.49),
                Stated("Brevitas, its faster form", 1.54),
                Stated("PARQ", 1.97),
            ]),
            recorded("MLP of 4 × 1024²", ["training", "mlp_4x1024", "qat_over_fp32"], Goal::AtMost(1.1)),
            recorded(
                "the same beside peers (`benches/peers/overhead.py`)",
                ["training", "mlp_4x1024", "qat_over_fp32_beside_peers"],
                Goal::AtMost(1.1),
            ),
            recorded(
                "ResNet-8, batch normalisation folded while quantised",
                ["training", "resnet8", "qat_over_fp32"],
                Goal::AtMost(1.1),
            ),
            recorded(
                "ResNet-8, without batch normalisation in either",
                ["training", "resnet8", "qat_over_fp32_without_bn"],
                Goal::AtMost(1.1),
            ),
        ],
    }
}

fn host() -> Section {
    let row = |what: &str, case: &str, metric, goal| recorded(what, ["host", case, metric], goal);
    Section {
        title: "Packed matrices on a workstation",
        note: "A 2-bit 4096×4096 matrix and int8 activations, one thread. `times torch` is torch's f32 product over ours, `readings` our \
               time over that of reading the packed bytes once. These are of a Xeon with \
               AVX-512 VNNI; on an AMD EPYC of the first generation it is 5.5 and 3.5 times (2026-11-27).",
        anchors: vec![
            row("times torch, one vector", "matvec_4096x4096_2bit", "speedup_over_f32", Goal::AtLeast(4.0)),
            row(
                "times torch, sixteen vectors",
                "matmul16_4096x4096_2bit",
                "speedup_over_f32",
                Goal::AtLeast(4.0),
            ),
            row("readings, one vector", "matvec_4096x4096_2bit", "ratio_to_reading", Goal::None),
        ],
    }
}

fn gpu() -> Section {
    let row = |what: &str, case, metric, goal| recorded(what, ["gpu", case, metric], Goal::AtMost(goal));
    let torch = |name, case| Rival::Figure(name, key("gpu", case, "step_ms"));
    Section {
        title: "GPU (one H100, 494 million parameters, 8×512 tokens)",
        note: "Goals from paper: 25 ms of arithmetic at half of the peak, 4 ms of AdamW, 1.5 ms of fused quantisers.",
        anchors: vec![
            row("a step of full training at 2 bits, ms", "qwen_0_5b_full", "step_ms", 40.0).beside([
                torch("torchao, 2 bits", "qwen_0_5b_torchao_full"),
                torch("PyTorch, plain", "qwen_0_5b_pytorch_plain"),
            ]),
            row("the same at 3 bits, ms", "qwen_0_5b_full_3bit", "step_ms", 40.0),
            row("peak memory, LoRA of rank 16 on a packed base, GB", "qwen_0_5b_lora_packed", "peak_gb", 1.1),
            row("the same, merged, GB", "qwen_0_5b_lora_merged", "peak_gb", 1.75),
            row("gradient of a layer's steps, µs", "scale_grad_4864x896", "time_us", 50.0),
        ],
    }
}

fn accuracy() -> Section {
    let mut anchors = Vec::new();
    for preset in ["digits", "digits_mlp", "letter", "imu"] {
        for (bits, least) in [(2, 97.0), (3, 99.0)] {
            let case = format!("{preset}_{bits}bit");
            anchors.push(awaited(
                &format!("`{}` at {bits} bits, kept of floating point", preset.replace('_', "-")),
                ["presets", &case, "retention_percent"],
                Goal::AtLeast(least),
                "not measured yet",
            ));
        }
    }
    for (bits, least) in [(2, 90.0), (3, 97.0)] {
        let reasoning = |how: &str, case: &str, goal| {
            let case = format!("reasoning_{bits}bit_{case}");
            awaited(
                &format!("generated chains of reasoning at {bits} bits, {how}, kept of floating point"),
                ["llm", &case, "retention_percent"],
                goal,
                "not measured yet",
            )
        };
        anchors.push(reasoning("trained quantised", "qat", Goal::AtLeast(least)));
        anchors.push(reasoning("rounded after training", "ptq", Goal::None));
    }
    Section {
        title: "Accuracy kept",
        note: "The integer engine's accuracy over that of the floating-point network, means of the seeds. Published figures on other \
               data, for orientation: ParetoQ, 600 million parameters, eight zero-shot tasks: 58.2 → 56.6 at 2 bits and 58.5 at 3; \
               BitDistiller, GSM8K, 7 billion: 66.4 → 51.0 at 2 bits and 64.4 at 3, and 0.0 when rounded to 2 bits after training; \
               ResNet-18 with 2-bit weights and activations: PACT 64.4, LSQ 67.6, N2UQ 69.4. None of them was trained here.",
        anchors,
    }
}
