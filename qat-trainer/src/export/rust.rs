//! A `.piq` file as a Rust module for firmware: the bytes, and the sizes as constants, so that memory can be static.

use crate::error::Result;
use qat_kernels::frontend::{LogMel, LogMelConfig};
use qat_kernels::infer::Model;
use std::fmt::Write as _;

/// The source of a module that stands beside `model.piq` and takes it in. It needs nothing but `qat-kernels` without
/// features; for a signed file with the feature `signature`, and then it accepts what the same signer has signed and
/// nothing else. Its test recomputes the known answers wherever it runs. With `front_end`, for a model of sounds, it has the
/// parameters of the front end and the length of a clip: firmware computes the features that training saw.
///
/// # Errors
/// [`crate::ErrorKind::Model`] if the bytes are not a model.
///
/// ```
/// use qat_trainer::{export::{Options, rust_module}, seeded::seeded, spec::Run};
/// let toml = r#"
/// data = { format = "none", shape = [1, 1, 4], classes = ["no", "yes"] }
/// model = { layers = [{ op = "linear", out = 8, act = "relu" }, { op = "linear", out = 2 }] }
/// "#;
/// let file = seeded(&Run::parse(toml, "tiny.toml".as_ref())?, 1, Options::default())?;
/// let text = rust_module(&file, None)?; // for `model.rs` beside `model.piq`
/// assert!(text.contains("pub const INPUT_LEN: usize = 4;\n"));
/// assert!(text.contains(r#"pub const LABELS: [&str; 2] = ["no", "yes"];"#));
/// assert!(rust_module(&file[1..], None).is_err());
/// # Ok::<(), qat_trainer::Error>(())
/// ```
pub fn rust_module(file: &[u8], front_end: Option<(LogMelConfig, usize)>) -> Result<String> {
    let model = Model::parse(file)?;
    let metadata = model.metadata()?;
    let labels: Vec<&str> = metadata.label_list().collect();
    let (key, parse) = match model.signature() {
        None => (String::new(), "Model::parse(&FILE.0)"),
        Some(signature) => (
            format!(
                "/// Who has to have signed the model.\npub const PUBLIC_KEY: [u8; 32] = {:?};\n",
                signature.signer
            ),
            "Model::parse_signed(&FILE.0, &PUBLIC_KEY)",
        ),
    };
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        text,
        r#"// Written by {tool}: model {name:?}, {bytes} bytes. Export it again rather than edit it.

use qat_kernels::{{Error, infer::Model}};

/// Values of an input.
pub const INPUT_LEN: usize = {input};
/// Values of an output.
pub const OUTPUT_LEN: usize = {output};
/// Bytes of memory that inference needs.
pub const ARENA_LEN: usize = {arena};
/// What the outputs stand for, in their order.
pub const LABELS: [&str; {count}] = {labels:?};
{key}
/// Weights are aligned within the file, so the file has to be too.
#[repr(align(16))]
struct Aligned<T: ?Sized>(T);

static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("model.piq"));

/// The model, checked.
///
/// # Errors
/// [`Error::File`] or [`Error::Op`] if the flash holds something else than what was exported, or this core is of another
/// family than the file was packed for.
pub fn model() -> Result<Model<'static>, Error> {{
    {parse}
}}

#[cfg(test)]
#[test]
fn known_answers_come_out() {{
    let (mut output, mut arena) = ([0; OUTPUT_LEN], [0; ARENA_LEN]);
    assert_eq!(model().and_then(|model| model.self_test(&mut output, &mut arena)), Ok({answers}));
}}
"#,
        tool = metadata.tool,
        name = metadata.name,
        bytes = file.len(),
        input = model.input_len(),
        output = model.output_len(),
        arena = model.arena_len(),
        count = labels.len(),
        answers = model.known_answers().count(),
    );
    if let Some((config, clip)) = front_end {
        sounds(&mut text, config, clip)?;
    }
    Ok(text)
}

/// The part of the module that belongs to a model of sounds.
fn sounds(text: &mut String, config: LogMelConfig, clip: usize) -> Result<()> {
    let LogMelConfig { sample_rate, frame, hop, mels, f_min, f_max } = config;
    let front_end = LogMel::new(config)?;
    let _ = write!(
        text,
        r#"
/// The front end. From 16-bit samples, two channels averaged, it makes the raw features of the model, which
/// `Metadata::input` turns into its input: `FRAMES` × `MELS`, the bands of a frame side by side.
pub const FRONT_END: qat_kernels::frontend::LogMelConfig = qat_kernels::frontend::LogMelConfig {{
    sample_rate: {sample_rate},
    frame: {frame},
    hop: {hop},
    mels: {mels},
    f_min: {f_min},
    f_max: {f_max},
}};
/// Samples of a clip.
pub const CLIP_LEN: usize = {clip};
/// Frames of a clip.
pub const FRAMES: usize = {frames};
/// Bands of a frame.
pub const MELS: usize = {mels};
/// Words of memory that the front end needs.
pub const FRONT_END_SCRATCH_LEN: usize = {scratch};
"#,
        frames = front_end.frames(clip),
        scratch = front_end.scratch_len(),
    );
    Ok(())
}
