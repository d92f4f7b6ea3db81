//! Arbitrary bytes as a packed decoder, with the length and the checksum that they should have: they are refused, or the engine
//! runs, and its logits do not depend on how the tokens are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qat_trainer::llm::CausalModel;
use qat_trainer::llm::packed::{Contents, PackedDecoder};

/// Where the header has the length of the file.
const LENGTH: usize = 16;

/// The bytes with the right length and checksum.
fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    let length = (file.len() as u64).to_le_bytes();
    if let Some(field) = file.get_mut(LENGTH..LENGTH + 8) {
        field.copy_from_slice(&length);
        if let Some((body, checksum)) = file.split_last_chunk_mut() {
            *checksum = crc32fast::hash(body).to_le_bytes();
        }
    }
    file
}

fuzz_target!(|bytes: &[u8]| {
    let _ = Contents::parse(bytes);
    let Ok(decoder) = PackedDecoder::new(sealed(bytes.to_vec())) else { return };
    let vocabulary = decoder.config().vocabulary;
    let last = vocabulary as u32 - 1;
    let tokens = [0, last, last / 2];
    let run = |parts: &[usize]| -> Option<Vec<u32>> {
        let mut text = decoder.begin(tokens.len()).expect("a few tokens have room");
        let (mut rest, mut logits) = (tokens.as_slice(), Vec::new());
        for &part in parts {
            let (now, later) = rest.split_at(part);
            logits = text.feed(now).ok()?;
            rest = later;
        }
        assert_eq!(logits.len(), vocabulary);
        // Steps of any size overflow; which of two NaNs comes out is nobody's promise.
        Some(logits.into_iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect())
    };
    // A context of fewer tokens refuses them, in one piece or in three.
    let (whole, cut) = (run(&[3]), run(&[1, 1, 1]));
    assert!(whole == cut || decoder.config().context < tokens.len());
    let _ = decoder.self_test();
});
