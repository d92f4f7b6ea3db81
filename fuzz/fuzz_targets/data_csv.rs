//! Arbitrary bytes as tables: they are refused, or give a data set that is fit for training.
#![no_main]

use fuzz::data::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check("format = \"csv\"\ntrain = \"a.csv\"", &[("a.csv", bytes)]);
    check("format = \"csv\"\ntrain = \"a.csv\"\nlabel = 1\nheader = false", &[("a.csv", bytes)]);
});
