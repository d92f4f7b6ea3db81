//! Arbitrary bytes as a GGUF file: they are refused, or every tensor lies in the file and has as many numbers as its
//! shape says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qat_trainer::llm::config::LlmConfig;
use qat_trainer::llm::gguf::Gguf;
use std::io::Cursor;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::parse(Cursor::new(bytes), bytes.len() as u64) else { return };
    for name in file.names() {
        let shape = file.dimensions(name).expect("a name that the file gave");
        let numbers = file.read_tensor(Cursor::new(bytes), name).expect("a parsed tensor lies in the file");
        assert_eq!(numbers.len(), shape.iter().product::<usize>());
    }
    if let Ok(config) = LlmConfig::from_gguf(&file) {
        assert_eq!(config.validate().map_err(|e| e.to_string()), Ok(()));
        let _ = config.parameters();
    }
});
