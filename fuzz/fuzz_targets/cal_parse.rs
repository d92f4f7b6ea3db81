//! Arbitrary bytes as a `.cal` file. Either they are refused, or what was read is valid, carries its provenance, and comes
//! back from a file written of it (INV-5).
#![no_main]

use fuzz::sealed;
use libfuzzer_sys::fuzz_target;
use qat_kernels::calibration::CalibrationArtifact;
use qat_kernels::invariants;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&sealed(bytes));
});

fn check(bytes: &[u8]) {
    let Ok(artifact) = CalibrationArtifact::<8>::from_bytes(bytes) else { return };
    assert_eq!(artifact.validate(), Ok(()));
    assert_eq!(invariants::provenance(artifact.provenance()), Ok(()));
    let mut file = vec![0; artifact.file_len().expect("what fits in memory fits in a file")];
    let file = artifact.to_slice(&mut file).expect("what is valid can be written");
    assert_eq!(invariants::round_trip(&artifact, CalibrationArtifact::from_bytes(file)), Ok(()));
}
