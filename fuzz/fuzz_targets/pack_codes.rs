//! Packing: codes of the grid come back, one by one and all together, and others are refused; any bytes unpack to codes that
//! pack to the same bits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qat_kernels::pack::{code_at, pack, packed_len, unpack};

fuzz_target!(|input: (u8, Vec<i8>, Vec<u8>)| {
    let (bits, codes, bytes) = input;
    let bits = 1 + bits % 9;
    let mut packed = vec![0xA5; packed_len(codes.len(), bits)];
    let in_range = (2..=8).contains(&bits)
        && codes.iter().all(|&q| i32::from(q) >= -(1 << (bits - 1)) && i32::from(q) < 1 << (bits - 1));
    match pack(bits, &codes, &mut packed) {
        Ok(()) => {
            assert!(in_range);
            let mut back = vec![0x55; codes.len()];
            unpack(bits, &packed, &mut back).expect("what was packed unpacks");
            assert_eq!(back, codes);
            for (i, &q) in codes.iter().enumerate() {
                assert_eq!(code_at(bits, &packed, i), Some(q.into()));
            }
        }
        Err(_) => assert!(!in_range),
    }

    if (2..=8).contains(&bits) {
        let count = bytes.len() * 8 / usize::from(bits);
        let bytes = &bytes[..packed_len(count, bits)];
        let mut codes = vec![0; count];
        unpack(bits, bytes, &mut codes).expect("every bit pattern is a code");
        let mut again = vec![0; bytes.len()];
        pack(bits, &codes, &mut again).expect("codes of the grid");
        // All but the bits behind the last code, which `pack` leaves zero.
        let used = count * usize::from(bits);
        for (i, (a, b)) in bytes.iter().zip(&again).enumerate() {
            let mask = if (i + 1) * 8 <= used { 0xFF } else { (1u16 << (used - i * 8)) as u8 - 1 };
            assert_eq!(a & mask, b & mask);
        }
    }
});
