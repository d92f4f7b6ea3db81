//! Arbitrary bytes as a sound in two classes: they are refused, or give a data set that is fit for training.
#![no_main]

use fuzz::data::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let keys = "format = \"wav\"\ntrain = \".\"\nsample_rate = 8000\nclip = 400\n\
        log_mel = { frame = 128, hop = 100, mels = 6 }";
    check(keys, &["x/a.wav", "y/b.wav"].map(|name| (name, bytes)));
});
