//! Arbitrary bytes as a `.piq` file, alone and at the start of a longer region. Either they are refused, or the model runs,
//! whatever its input, without an error and without reading what it did not write: two runs that start from different arenas
//! give the same output.
#![no_main]

use fuzz::sealed;
use libfuzzer_sys::fuzz_target;
use qat_kernels::artifact::file_in;
use qat_kernels::infer::Model;

/// Enough for every shape of interest; larger ones only cost time.
const MAX_ARENA: usize = 1 << 16;
const MAX_MACS: u64 = 1 << 16;
const MAX_OUTPUT: usize = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&sealed(bytes));
});

fn check(bytes: &[u8]) {
    if let Ok(file) = file_in(bytes) {
        assert!(bytes.starts_with(file), "a file begins where its region does");
    }
    let Ok(model) = Model::parse(bytes) else { return };
    let region = [bytes, &[0xFF; 7]].concat();
    assert_eq!(file_in(&region), Ok(bytes), "a file ends where its header says, whatever follows");
    let _ = model.metadata();
    for operator in model.operators() {
        assert!(operator.output_scale > 0.0);
    }
    let small = model.arena_len() <= MAX_ARENA && model.macs() <= MAX_MACS;
    if !small || model.input_len().max(model.output_len()) > MAX_OUTPUT {
        return;
    }
    let input: Vec<i8> = bytes.iter().cycle().take(model.input_len()).map(|b| b.cast_signed()).collect();
    let [first, second] = [0x00, 0xA5].map(|filling| {
        let mut arena = vec![filling; model.arena_len()];
        let mut output = vec![0; model.output_len()];
        model.run(&input, &mut output, &mut arena).expect("a parsed model accepts buffers of its own sizes");
        let _ = model.self_test(&mut output.clone(), &mut arena);
        output
    });
    assert_eq!(first, second, "the output depends on the arena's old contents");
}
