//! Signed files: what the holder of the key signed is accepted, and nothing else.
#![cfg(all(feature = "signature", feature = "alloc"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "what cannot be signed or read must fail the test")]

use qat_kernels::artifact::signature::{SIGNATURE_LEN, public_key, sign};
use qat_kernels::crc32::crc32;
use qat_kernels::infer::Model;
use qat_kernels::{Error, FileFault};

const FILE: &[u8] = include_bytes!("golden/v1.piq");
/// Another model of the same shape, so that its sections fit into the first one's.
const OTHER: &[u8] = include_bytes!("golden/v1-apart.piq");
const PRIVATE: [u8; 32] = [7; 32];

/// With the CRC-32 and the length of the header made right again: what an attacker does, unlike an accident.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 4;
    let len = u32::try_from(bytes.len()).unwrap();
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    let crc = crc32(&bytes[..body]);
    bytes[body..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn fault_of(bytes: &[u8], key: &[u8; 32]) -> FileFault {
    match Model::parse_signed(bytes, key) {
        Err(Error::File { fault, .. }) => fault,
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn a_signed_file_is_the_same_model() {
    let signed = sign(FILE, &PRIVATE).unwrap();
    let key = public_key(&PRIVATE);
    let model = Model::parse_signed(&signed, &key).unwrap();
    assert_eq!(model.signature().unwrap().signer, &key);
    let (mut output, mut arena) = (vec![0; model.output_len()], vec![0; model.arena_len()]);
    assert_eq!(model.self_test(&mut output, &mut arena), Ok(model.known_answers().count()));
    let plain = Model::parse(FILE).unwrap();
    assert_eq!(plain.signature(), None);
    assert_eq!(model.metadata(), plain.metadata());
    assert!(Model::parse(&signed).is_ok(), "who does not ask for a signature is not kept from the model");
    assert_eq!(
        signed.len() - FILE.len(),
        12 + 4 + 96 + (16 - (FILE.len() - 4) % 16) % 16,
        "what a signature costs"
    );
}

#[test]
fn signing_is_deterministic_and_replaces() {
    let signed = sign(FILE, &PRIVATE).unwrap();
    assert_eq!(sign(&signed, &PRIVATE).unwrap(), signed);
    let again = sign(&signed, &[9; 32]).unwrap();
    assert!(Model::parse_signed(&again, &public_key(&[9; 32])).is_ok());
    assert_eq!(fault_of(&again, &public_key(&PRIVATE)), FileFault::OtherSigner);
    assert!(sign(&FILE[1..], &PRIVATE).is_err());
}

#[test]
fn a_file_without_a_signature_is_refused() {
    let key = public_key(&PRIVATE);
    assert_eq!(fault_of(FILE, &key), FileFault::Unsigned);
    assert_eq!(fault_of(b"", &key), FileFault::Magic);
}

/// Every byte of file and signature changed, with the checksum made right again. Most of these would parse.
#[test]
fn every_change_is_refused_even_with_the_right_checksum() {
    let signed = sign(FILE, &PRIVATE).unwrap();
    let key = public_key(&PRIVATE);
    let mut by_signature = 0;
    // The length in the header is the one thing that `resealed` undoes.
    for at in (0..signed.len() - 4).filter(|at| !(8..12).contains(at)) {
        for bit in [0, 7] {
            let mut bytes = signed.clone();
            bytes[at] ^= 1 << bit;
            let fault = fault_of(&resealed(bytes), &key);
            by_signature += usize::from(matches!(fault, FileFault::Signature | FileFault::OtherSigner));
        }
    }
    assert!(by_signature > signed.len(), "the outer layer does not know what a weight should be");
}

#[test]
fn a_signature_does_not_vouch_for_another_file() {
    let key = public_key(&PRIVATE);
    let (ours, theirs) = (sign(FILE, &PRIVATE).unwrap(), sign(OTHER, &PRIVATE).unwrap());
    // The signature of one file behind the sections of the other.
    let mut spliced = ours.clone();
    let (at, other_at) = (ours.len() - 4 - SIGNATURE_LEN, theirs.len() - 4 - SIGNATURE_LEN);
    spliced[at..at + SIGNATURE_LEN].copy_from_slice(&theirs[other_at..other_at + SIGNATURE_LEN]);
    assert_eq!(fault_of(&resealed(spliced), &key), FileFault::Signature);
    // Signed with another key, and the expected signer's name put in front.
    let mut renamed = sign(FILE, &[9; 32]).unwrap();
    let at = renamed.len() - 4 - SIGNATURE_LEN - 32;
    renamed[at..at + 32].copy_from_slice(&key);
    assert_eq!(fault_of(&resealed(renamed), &key), FileFault::Signature);
}

/// The signature cut off, and the traces of it removed: as if it had never been signed.
#[test]
fn a_stripped_file_is_refused() {
    let key = public_key(&PRIVATE);
    let signed = sign(FILE, &PRIVATE).unwrap();
    let mut stripped = signed.clone();
    let count = u16::from_le_bytes([signed[6], signed[7]]);
    stripped[6..8].copy_from_slice(&(count - 1).to_le_bytes());
    stripped.truncate(signed.len() - 96);
    let fault = fault_of(&resealed(stripped), &key);
    assert!(matches!(fault, FileFault::SectionTable | FileFault::Unsigned), "{fault:?}");
    // The honest spelling of it.
    assert_eq!(fault_of(FILE, &key), FileFault::Unsigned);
    let mut lowered = signed;
    lowered[4..6].copy_from_slice(&0u16.to_le_bytes());
    assert_eq!(fault_of(&resealed(lowered), &key), FileFault::Version { version: 0 });
}

/// With a key of small order a signature can be made that holds for many messages.
#[test]
fn weak_keys_are_refused() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut forged = sign(FILE, &PRIVATE).unwrap();
    let at = forged.len() - 4 - SIGNATURE_LEN;
    forged[at - 32..at].copy_from_slice(&identity);
    // R the identity, S zero: S·B = R + h·A for every h.
    forged[at..at + 32].copy_from_slice(&identity);
    forged[at + 32..at + SIGNATURE_LEN].fill(0);
    assert_eq!(fault_of(&resealed(forged), &identity), FileFault::PublicKey);
}
