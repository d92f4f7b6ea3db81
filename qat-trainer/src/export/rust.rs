//! A `.piq` file as a Rust module for firmware: the bytes, and the sizes as constants, so that memory can be static.

use crate::error::Result;
use qat_kernels::infer::Model;
use std::fmt::Write as _;

/// The source of a module that stands beside `model.piq` and takes it in. It needs nothing but `qat-kernels` without
/// features; for a signed file with the feature `signature`, and then it accepts what the same signer has signed and
/// nothing else. Its test recomputes the known answers wherever it runs.
///
/// # Errors
/// [`crate::ErrorKind::Model`] if the bytes are not a model.
pub fn rust_module(file: &[u8]) -> Result<String> {
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
    Ok(text)
}
