//! Arbitrary text as the `config.json` of a language model: it is refused, or its shape is valid and survives being written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qat_trainer::llm::config::LlmConfig;

fuzz_target!(|text: &str| {
    let Ok(config) = LlmConfig::from_json(text) else { return };
    assert_eq!(config.validate().map_err(|e| e.to_string()), Ok(()));
    let _ = config.parameters();
    let written = config.to_json("float32").expect("a valid configuration can be written");
    assert_eq!(LlmConfig::from_json(&written).expect("what was written can be read"), config);
});
