//! Arbitrary text as a run description: it is refused with an error that says something, or describes a network whose
//! shapes fit together.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qat_trainer::spec::Run;
use std::path::Path;

fuzz_target!(|text: &str| {
    match Run::parse(text, Path::new("run.toml")) {
        Ok(run) => assert_eq!(run.text, text),
        Err(e) => assert!(e.to_string().contains("run.toml"), "{e}"),
    }
});
