//! Arbitrary bytes as an image, PNG or JPEG, in two classes: they are refused, or give a data set that is fit for training.
#![no_main]

use fuzz::data::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let names = if bytes.starts_with(b"\x89") { ["x/a.png", "y/b.png"] } else { ["x/a.jpg", "y/b.jpg"] };
    for keys in ["color = true", "resize = [3, 4]"] {
        check(&format!("format = \"images\"\ntrain = \".\"\n{keys}"), &names.map(|name| (name, bytes)));
    }
});
