//! Arbitrary bytes as CIFAR records: they are refused, or give a data set that is fit for training.
#![no_main]

use fuzz::data::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for (format, label) in [("cifar10", ""), ("cifar100", "label = \"coarse\"\n")] {
        let keys = format!("format = \"{format}\"\ntrain = [\"a.bin\"]\n{label}resize = [3, 2]");
        check(&keys, &[("a.bin", bytes)]);
    }
});
