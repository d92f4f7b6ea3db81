//! Arbitrary bytes as a checkpoint: they are refused, or what was read comes back from a file written of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qat_trainer::checkpoint::Checkpoint;

fuzz_target!(|bytes: &[u8]| {
    for read in [Checkpoint::from_bytes, Checkpoint::import] {
        let Ok(checkpoint) = read(bytes) else { continue };
        let file = checkpoint.to_bytes().expect("what was read can be written");
        let again = Checkpoint::from_bytes(&file).expect("what was written can be read");
        // Bytes instead of numbers: a checkpoint of other programs may hold NaN.
        assert_eq!(again.to_bytes().expect("what was read can be written"), file);
    }
});
