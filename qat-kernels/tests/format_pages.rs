//! The hex dumps of `docs/format.md` and `docs/calibration-format.md` are those of real files, field by field.
//!
//! `QAT_REGENERATE=1 cargo test -p qat-kernels --features alloc --test format_pages` writes them anew.
#![cfg(feature = "alloc")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what cannot be built or read must fail the test"
)]

use qat_kernels::artifact::{InputTransform, Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
use qat_kernels::infer::Model;
use qat_kernels::{Grid, Levels};
use std::fmt::Write as _;

/// How a field's bytes are read aloud.
enum Kind {
    /// Its text says all.
    Plain,
    /// Unsigned, little-endian.
    Unsigned,
    /// Two's complement, little-endian.
    Signed,
    /// Binary32.
    Float,
    /// A length byte, then UTF-8.
    Text,
    /// LEB128.
    Varint,
    /// The start of something long, of which only the ends are shown.
    Long,
}
use Kind::{Float, Long, Plain, Signed, Text, Unsigned, Varint};

/// A file that is read from front to back.
struct Dump<'a> {
    bytes: &'a [u8],
    at: usize,
    text: String,
}

impl<'a> Dump<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, text: "```text\n".into() }
    }

    fn heading(&mut self, text: &str) {
        writeln!(self.text, "            {text}").unwrap();
    }

    /// The next field; `len` is not asked where the field tells it.
    fn field(&mut self, kind: Kind, len: usize, what: &str) {
        let rest = &self.bytes[self.at..];
        let len = match kind {
            Text => 1 + usize::from(rest[0]),
            Varint => 1 + rest.iter().position(|byte| byte & 0x80 == 0).unwrap(),
            _ => len,
        };
        let field = &rest[..len];
        let unsigned = || field.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
        let value = match kind {
            Plain | Long => String::new(),
            Unsigned => format!(": {}", unsigned()),
            Signed => format!(": {}", (unsigned() << (64 - 8 * len)).cast_signed() >> (64 - 8 * len)),
            Float => format!(": {}", f32::from_le_bytes(field.try_into().unwrap())),
            Text => format!(": {:?}", std::str::from_utf8(&field[1..]).unwrap()),
            Varint => {
                let n = field.iter().rev().fold(0u64, |n, &byte| n << 7 | u64::from(byte & 0x7F));
                format!(": {n}")
            }
        };
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(" ");
        let shown = match kind {
            Long => format!("{} … {}", hex(&field[..4]), hex(&field[len - 4..])),
            _ => hex(field),
        };
        // More than fits beside a remark goes on lines of its own.
        let mut lines =
            shown.as_bytes().chunks(3 * 12).map(|line| std::str::from_utf8(line).unwrap().trim_end());
        let (first, at) = (lines.next().unwrap_or_default(), self.at);
        let remark = format!("{what}{value}");
        if shown.contains('…') {
            writeln!(self.text, "{at:04X}  {shown:<35}  {remark}").unwrap();
        } else {
            writeln!(self.text, "{at:04X}  {first:<35}  {remark}").unwrap();
            lines.for_each(|line| writeln!(self.text, "      {line}").unwrap());
        }
        self.at += len;
    }

    /// Puts the dump between the markers of a page, or holds what is there against it.
    fn compare(mut self, page: &str) {
        assert_eq!(self.at, self.bytes.len(), "the whole file is shown");
        self.text += "```\n";
        let path = format!("{}/docs/{page}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once("<!-- dump:begin -->\n").expect("a marker for the begin");
        let (now, after) = rest.split_once("<!-- dump:end -->").expect("a marker for the end");
        if std::env::var_os("QAT_REGENERATE").is_some() {
            let new = format!("{before}<!-- dump:begin -->\n{}<!-- dump:end -->{after}", self.text);
            std::fs::write(&path, new).unwrap();
        } else {
            assert_eq!(now, self.text, "{page} shows another file; see the head of this test");
        }
    }
}

/// One linear layer: W = ¼·[−1.5, −0.5, 0.5] and ½·[1.5, 0.5, −0.5], b = [0.25, −1].
fn small_model() -> Vec<u8> {
    let mut builder = ModelBuilder::new(TensorSpec { shape: [1, 1, 3], scale: 0.5, zero_point: -4 });
    let steps = Steps::PerChannel(&[0.25, 0.5]);
    let weights =
        Weights { levels: Levels::new(2, Grid::MidRise).unwrap(), codes: &[-2, -1, 0, 1, 0, -1], steps };
    let output = Output::new(0.125, 3);
    builder.linear(builder.input(), &weights, &[0.25, -1.0], output).unwrap();
    let metadata = Metadata {
        name: "small",
        tool: "by hand",
        labels: "no\nyes",
        source_sha256: [0x11; 32],
        dataset_sha256: [0x22; 32],
        samples: 300,
        method: "mse",
        created: 0,
        input: InputTransform { mean: &0.5f32.to_le_bytes(), std: &2.0f32.to_le_bytes() },
    };
    builder.finish(&metadata, &[&[10, -20, 30]]).unwrap()
}

#[test]
fn the_model_on_the_page_is_a_model() {
    let file = small_model();
    let model = Model::parse(&file).unwrap();
    let mut dump = Dump::new(&file);
    dump.heading("file header");
    dump.field(Plain, 4, "magic");
    dump.field(Unsigned, 2, "format version");
    dump.field(Unsigned, 2, "sections");
    dump.field(Unsigned, 4, "bytes of the file");
    dump.field(Plain, 4, "zero");
    dump.heading("section table");
    for name in ["program", "parameters", "metadata", "known answers"] {
        dump.field(Unsigned, 2, &format!("kind, {name}"));
        dump.field(Plain, 2, "zero");
        dump.field(Unsigned, 4, "offset");
        dump.field(Unsigned, 4, "length");
    }
    dump.heading("section 1, program: the model");
    for name in ["input height", "input width", "input channels"] {
        dump.field(Unsigned, 2, name);
    }
    dump.field(Signed, 1, "input zero point");
    dump.field(Plain, 1, "zero");
    dump.field(Float, 4, "input scale");
    dump.field(Unsigned, 2, "operators");
    dump.field(Plain, 2, "zero");
    dump.field(Unsigned, 4, "bytes of the arena");
    dump.field(Plain, 12, "zero");
    dump.heading("its only operator");
    for name in ["kind, linear", "bits per weight", "grid, mid-rise", "layout, portable"] {
        dump.field(Unsigned, 1, name);
    }
    dump.field(Unsigned, 1, "weights per divisor, none");
    dump.field(Unsigned, 1, "n, the shift");
    dump.field(Signed, 1, "smallest output");
    dump.field(Signed, 1, "largest output");
    dump.field(Unsigned, 2, "tensor read");
    dump.field(Unsigned, 2, "second tensor, none");
    dump.field(Unsigned, 2, "kernel height");
    dump.field(Unsigned, 2, "kernel width");
    for name in ["stride down", "stride right", "padding above", "padding on the left"] {
        dump.field(Unsigned, 1, name);
    }
    for name in ["codes at", "divisors at, none", "channel parameters at"] {
        dump.field(Unsigned, 4, name);
    }
    dump.field(Signed, 4, "first multiplier, none");
    dump.field(Signed, 4, "second multiplier, none");
    for name in ["result height", "result width", "result channels"] {
        dump.field(Unsigned, 2, name);
    }
    dump.field(Signed, 1, "result zero point");
    dump.field(Plain, 1, "zero");
    dump.field(Float, 4, "result scale");
    dump.field(Plain, 4, "result at: the caller's output");
    dump.field(Unsigned, 4, "scratch at, none");
    dump.field(Plain, 4, "zero");
    dump.heading("section 2, parameters");
    dump.field(Plain, 1, "row 0: −2, −1, 0 = 10b, 11b, 00b from the least bits up");
    dump.field(Plain, 1, "row 1: 1, 0, −1 = 01b, 00b, 11b");
    dump.field(Plain, 2, "up to a multiple of 4");
    for channel in 0..2 {
        dump.field(Signed, 4, &format!("bias of output {channel}"));
        dump.field(Signed, 4, &format!("multiplier of output {channel}"));
    }
    dump.field(Plain, 12, "up to a multiple of 16");
    dump.heading("section 3, metadata");
    for name in ["name", "tool", "labels"] {
        dump.field(Text, 0, name);
    }
    dump.field(Long, 32, "SHA-256 of the checkpoint");
    dump.field(Long, 32, "SHA-256 of the calibration data");
    dump.field(Varint, 0, "samples");
    dump.field(Text, 0, "method");
    dump.field(Varint, 0, "time, not stated");
    for name in ["mean", "deviation"] {
        dump.field(Varint, 0, &format!("bytes of the {name}s"));
        dump.field(Float, 4, name);
    }
    dump.field(Plain, dump.at.next_multiple_of(16) - dump.at, "up to a multiple of 16");
    dump.heading("section 4, known answers");
    for i in 0..3 {
        dump.field(Signed, 1, &format!("input {i}"));
    }
    for i in 0..2 {
        dump.field(Signed, 1, &format!("output {i}"));
    }
    dump.heading("end");
    dump.field(Plain, 4, "CRC-32 of everything before it");
    // The answers that the page computes by hand.
    let answers: Vec<_> = model.known_answers().map(|known| known.output).collect();
    assert_eq!(answers, [[9, -13]]);
    dump.compare("format.md");
}

#[test]
fn the_calibration_on_the_page_is_a_calibration() {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/small-v1.cal")).unwrap();
    let mut dump = Dump::new(&file);
    dump.field(Plain, 4, "magic");
    dump.field(Unsigned, 2, "format version");
    dump.field(Plain, 2, "zero");
    dump.field(Unsigned, 4, "bytes of the file");
    dump.field(Long, 32, "SHA-256 of the data set");
    dump.field(Varint, 0, "samples");
    dump.field(Varint, 0, "time");
    dump.field(Unsigned, 1, "method, min-max");
    dump.field(Varint, 0, "domains");
    dump.field(Text, 0, "name");
    dump.field(Varint, 0, "examples");
    dump.field(Varint, 0, "tensors");
    dump.field(Text, 0, "name");
    dump.field(Unsigned, 1, "method, min-max");
    dump.field(Unsigned, 1, "bits");
    dump.field(Unsigned, 1, "scheme, affine");
    dump.field(Unsigned, 1, "granularity, per tensor");
    dump.field(Unsigned, 1, "outlier limit, none");
    dump.field(Varint, 0, "bytes of the parts, one part");
    for name in ["lo", "hi", "scale"] {
        dump.field(Float, 4, name);
    }
    dump.field(Signed, 1, "zero point");
    dump.field(Plain, 4, "CRC-32 of everything before it");
    dump.compare("calibration-format.md");
}
