use super::writer::Writer;
use super::*;
use std::io::Cursor;

fn good() -> Writer {
    Writer::default()
        .text("general.architecture", "llama")
        .u32("size", 7)
        .f32("real", 0.5)
        .truth("truth", true)
        .texts("texts", &["a", "", "ü"])
        .i32s("numbers", &[-1, 2])
        .tensor("a", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .raw_tensor("b", &[1, 2], 30, &[0x80, 0x3f, 0x00, 0xc0])
}

fn parse(bytes: &[u8]) -> Result<Gguf> {
    Gguf::parse(bytes, bytes.len() as u64)
}

#[test]
fn what_was_written_is_read() {
    for version in [2, 3] {
        let mut bytes = good().bytes();
        bytes[4] = version;
        let file = parse(&bytes).unwrap();
        assert_eq!(file.text("general.architecture").unwrap(), "llama");
        assert_eq!(file.size("size").unwrap(), 7);
        assert_eq!(file.real("real").unwrap(), 0.5);
        assert!(file.truth("truth").unwrap());
        assert_eq!(file.texts("texts").unwrap(), ["a", "", "ü"]);
        assert_eq!(file.integers("numbers").unwrap(), [-1, 2]);
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(file.dimensions("a").unwrap(), [2, 3]);
        let mut data = Cursor::new(&bytes);
        assert_eq!(file.read_tensor(&mut data, "a").unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(file.read_tensor(&mut data, "b").unwrap(), [1.0, -2.0]);
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = good().bytes();
    for len in 0..bytes.len() {
        assert_eq!(parse(&bytes[..len]).unwrap_err().kind(), ErrorKind::Model, "{len}");
        // Cut while it is read.
        assert!(Gguf::parse(&bytes[..len], bytes.len() as u64).is_err() || len > bytes.len() - 80, "{len}");
    }
}

/// Every error of the parser, with the place that it names.
#[test]
fn hostile_files_are_refused_with_their_place() {
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = good().bytes();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let list = |kind: u32, count: u64, rest: &[u8]| {
        let value = [&kind.to_le_bytes()[..], &count.to_le_bytes(), rest].concat();
        Writer::default().raw("k", 9, &value).bytes()
    };
    let nested = {
        let mut value = Vec::new();
        for _ in 0..20 {
            value.extend([&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat());
        }
        Writer::default().raw("k", 9, &value).bytes()
    };
    let w = Writer::default;
    let alignment = |value: u32| w().u32("general.alignment", value).tensor("a", &[1], &[1.0]).bytes();
    let huge = u64::MAX.to_le_bytes();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (changed(0, b"GGML"), "byte 0: the file does not begin"),
        (changed(4, &[1]), "byte 4: version 1 is not supported"),
        (changed(4, &[0, 0, 0, 3]), "byte 4: the file is big-endian"),
        (changed(8, &huge), "byte 8: 18446744073709551615 tensors do not fit"),
        (changed(16, &huge), "byte 16: 18446744073709551615 entries of metadata do not fit"),
        (changed(24, &huge), "byte 24: 18446744073709551615 bytes of text do not fit"),
        (changed(32, &[0xff]), "byte 24: a text is not UTF-8"),
        (w().raw("k", 13, &[]).bytes(), "there is no type 13"),
        (w().raw("k", 7, &[2]).bytes(), "2 is no truth value"),
        (list(77, 0, &[]), "there is no type 77"),
        (list(4, 1 << 62, &[]), "4611686018427387904 values of an array do not fit"),
        (list(8, 1 << 40, &[]), "1099511627776 values of an array do not fit"),
        (nested, "arrays are nested too deeply"),
        (w().u32("k", 1).u32("k", 2).bytes(), "key `k`: the key occurs twice"),
        (alignment(0), "key `general.alignment`: 0 is no power of two"),
        (alignment(48), "48 is no power of two"),
        (alignment(1 << 31), "is no power of two"),
        (
            w().text("general.alignment", "x").bytes(),
            "key `general.alignment`: it does not hold a whole number",
        ),
        (w().raw_tensor("a", &[], 0, &[]).bytes(), "tensor `a`: it has 0 dimensions"),
        (w().raw_tensor("a", &[1; 5], 0, &[0; 4]).bytes(), "tensor `a`: it has 5 dimensions"),
        (w().raw_tensor("a", &[0, 4], 0, &[0; 4]).bytes(), "tensor `a`: its dimensions [4, 0] are no size"),
        (w().raw_tensor("a", &[usize::MAX, 9], 0, &[0; 4]).bytes(), "are no size"),
        (
            w().raw_tensor("a", &[1, 33], 3, &[0; 40]).bytes(),
            "tensor `a`: rows of 33 do not fall into blocks",
        ),
        (w().raw_tensor("a", &[256], 14, &[0; 256]).bytes(), "tensor `a`: its format 14 is not supported"),
        (w().entry("a", &[1], 0, 8).bytes(), "tensor `a`: its offset 8 is no multiple of 32"),
        (
            w().entry("a", &[1 << 40], 0, 0).bytes(),
            "tensor `a`: 4398046511104 bytes at offset 0 reach beyond",
        ),
        (w().entry("a", &[1], 0, !31).bytes(), "reach beyond the end"),
        (good().entry("a", &[1], 0, 0).bytes(), "tensor `a`: the tensor occurs twice"),
        (good().entry("c", &[1], 0, 0).bytes(), "overlaps `"),
    ];
    for (bytes, expected) in cases {
        let e = parse(&bytes).expect_err(expected);
        assert_eq!(e.kind(), ErrorKind::Model);
        assert!(e.to_string().contains(expected), "{e}\n{expected}");
    }
}

#[test]
fn missing_and_mistaken_keys_are_named() {
    let file = parse(&good().bytes()).unwrap();
    for (e, expected) in [
        (file.text("none").unwrap_err(), "key `none`: this key is missing"),
        (file.text("size").unwrap_err(), "key `size`: it does not hold text"),
        (file.size("real").unwrap_err(), "key `real`: it does not hold a whole number"),
        (file.real("size").unwrap_err(), "it does not hold a real number"),
        (file.truth("size").unwrap_err(), "it does not hold a truth value"),
        (file.texts("numbers").unwrap_err(), "it does not hold a list of texts"),
        (file.integers("texts").unwrap_err(), "it does not hold a list of whole numbers"),
        (file.dimensions("none").unwrap_err(), "tensor `none`: this tensor is missing"),
        (file.read_tensor(Cursor::new(&[]), "none").unwrap_err(), "tensor `none`: this tensor is missing"),
        (file.read_tensor(Cursor::new(&[]), "a").unwrap_err(), "tensor `a`: cannot read"),
    ] {
        assert!(e.to_string().contains(expected), "{e}");
    }
}

#[test]
fn whatever_becomes_of_a_byte_every_tensor_that_is_left_can_be_read() {
    let good = good().bytes();
    let mut refused = 0;
    for at in 0..good.len() {
        for value in [0, 1, 7, 0x7f, 0x80, 0xff, !good[at]] {
            let mut bytes = good.clone();
            bytes[at] = value;
            match parse(&bytes) {
                Ok(file) => {
                    for name in file.names() {
                        let numbers = file.read_tensor(Cursor::new(&bytes), name).unwrap();
                        assert_eq!(numbers.len(), file.dimensions(name).unwrap().iter().product::<usize>());
                    }
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Model);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > good.len());
}
