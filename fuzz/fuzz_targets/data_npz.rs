//! Arbitrary bytes as arrays of NumPy: they are refused, or give a data set that is fit for training.
#![no_main]

use fuzz::data::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check("format = \"npz\"\ntrain = \"a.npz\"", &[("a.npz", bytes)]);
});
