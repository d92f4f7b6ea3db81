//! Arbitrary bytes as IDX files, images up to the place that the first two bytes tell and labels from there: they are refused, or give a data set that is fit for training.
#![no_main]

use fuzz::data::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((at, files)) = bytes.split_first_chunk() else { return };
    let (images, labels) = files.split_at(usize::from(u16::from_le_bytes(*at)).min(files.len()));
    let keys = "format = \"idx\"\ntrain_images = \"images\"\ntrain_labels = \"labels\"";
    check(keys, &[("images", images), ("labels", labels)]);
    check(&format!("{keys}\nresize = [3, 5]"), &[("images", images), ("labels", labels)]);
});
