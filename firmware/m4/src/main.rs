//! Runs the model that was linked in on every sample of `samples.bin` and writes all logits to `logits.bin`.
//!
//! The model is read where it lies, in flash. `run` is what the markers bracket, so that the counts are those of
//! inference alone; the known answers of the file are checked first.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use harness::{Buffers, Failure, counted, finish, for_each_sample};
use qat_kernels::infer::Model;

/// Weights are aligned to 16 bytes within the file, so the file has to be too.
#[repr(align(16))]
struct Aligned<T: ?Sized>(T);

static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/model.piq")));

/// Bytes for activations. Of the board's 4 MiB; models that are meant for real parts need far less.
const ARENA_LEN: usize = 2 << 20;
/// The longest input, in values.
const INPUT_LEN: usize = 256 << 10;
/// The longest output, in values.
const OUTPUT_LEN: usize = 64 << 10;

#[entry]
fn main() -> ! {
    // `#[entry]` turns these into exclusive references: the function is called once.
    static mut ARENA: Aligned<[u8; ARENA_LEN]> = Aligned([0; ARENA_LEN]);
    static mut INPUT: Aligned<[i8; INPUT_LEN]> = Aligned([0; INPUT_LEN]);
    static mut OUTPUT: Aligned<[i8; OUTPUT_LEN]> = Aligned([0; OUTPUT_LEN]);
    static mut BYTES: [u8; INPUT_LEN] = [0; INPUT_LEN];
    let buffers = Buffers { input: &mut INPUT.0, output: &mut OUTPUT.0, bytes: BYTES };
    finish(infer(&MODEL.0, &mut ARENA.0, buffers))
}

fn infer(file: &[u8], arena: &mut [u8], buffers: Buffers<'_>) -> Result<(), Failure> {
    let model =
        Model::parse(file).map_err(|_| Failure::new("the model is refused; `qat verify` names the fault"))?;
    let arena_len = arena.len();
    let Some(arena) = arena.get_mut(..model.arena_len()) else {
        return Err(Failure::too_small("arena", model.arena_len(), arena_len));
    };
    if let Some(output) = buffers.output.get_mut(..model.output_len()) {
        model
            .self_test(output, arena)
            .map_err(|_| Failure::new("a known answer of the model comes out differently"))?;
    }
    for_each_sample(model.input_len(), model.output_len(), buffers, |input, output| {
        counted(|| model.run(input, output, arena))
            .map_err(|_| Failure::new("the engine refuses its buffers"))
    })
}
