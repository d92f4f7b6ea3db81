//! Adapts the last layer of the model that was linked in to a stream of labelled samples, as it comes.
//!
//! A sample of `samples.bin` is a chunk of [`RECORDS`] records: the model's input, then the label, then how much of the
//! learning rate remains, in 127ths; 0 asks for a prediction only. A chunk's answer is one byte a record, the class that
//! the record was taken for (before learning from it), and the four bytes of the layer's digest, little-endian. The host
//! runs the same stream through the same functions: `xtask/src/adapt.rs`.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use harness::{Aligned, Buffers, Failure, counted, finish, for_each_sample};
use qat_kernels::fixed::{Adaptation, Head, HeadBuffers, Q32};
use qat_kernels::infer::Model;

static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/model.piq")));

/// Records of a chunk.
const RECORDS: usize = 375;
/// Bytes for activations.
const ARENA_LEN: usize = 64 << 10;
/// The longest chunk, in bytes.
const CHUNK_LEN: usize = 1 << 20;
/// The most weights of a last layer.
const WEIGHTS: usize = 64 << 10;
/// The most classes.
const CLASSES: usize = 256;

/// All memory of the program.
struct Memory {
    arena: Aligned<[u8; ARENA_LEN]>,
    chunk: [i8; CHUNK_LEN],
    answer: [i8; RECORDS + 4],
    steps: [Q32<24>; WEIGHTS],
    weights: [Q32<24>; WEIGHTS],
    codes: [i8; WEIGHTS],
    bias: [Q32<20>; CLASSES],
    logits: [Q32<16>; CLASSES],
    gradient: [Q32<30>; CLASSES],
}

#[entry]
fn main() -> ! {
    // `#[entry]` turns it into an exclusive reference: the function is called once.
    static mut MEMORY: Memory = Memory {
        arena: Aligned([0; ARENA_LEN]),
        chunk: [0; CHUNK_LEN],
        answer: [0; RECORDS + 4],
        steps: [Q32::from_raw(0); WEIGHTS],
        weights: [Q32::from_raw(0); WEIGHTS],
        codes: [0; WEIGHTS],
        bias: [Q32::from_raw(0); CLASSES],
        logits: [Q32::from_raw(0); CLASSES],
        gradient: [Q32::from_raw(0); CLASSES],
    };
    let head = HeadBuffers {
        steps: &mut MEMORY.steps,
        weights: &mut MEMORY.weights,
        codes: &mut MEMORY.codes,
        bias: &mut MEMORY.bias,
        logits: &mut MEMORY.logits,
        gradient: &mut MEMORY.gradient,
    };
    let buffers = Buffers { input: &mut MEMORY.chunk, output: &mut MEMORY.answer };
    finish(adapt(&MODEL.0, &mut MEMORY.arena.0, head, buffers))
}

fn adapt(
    file: &[u8],
    arena: &mut [u8],
    memory: HeadBuffers<'_, i32, 24>,
    buffers: Buffers<'_>,
) -> Result<(), Failure> {
    let model = Model::parse(file).map_err(Failure::refused)?;
    let layer = model.last_linear().map_err(|_| Failure::new("the model does not end in a linear layer"))?;
    let (classes, features, group) = (layer.classes(), layer.features(), layer.group());
    let weights = classes.saturating_mul(features);
    let memory = HeadBuffers {
        steps: first(memory.steps, weights.checked_div(group).unwrap_or(0))?,
        weights: first(memory.weights, weights)?,
        codes: first(memory.codes, weights)?,
        bias: first(memory.bias, classes)?,
        logits: first(memory.logits, classes)?,
        gradient: first(memory.gradient, classes)?,
    };
    let mut head = Head::from_layer(&layer, memory)
        .map_err(|_| Failure::new("the last layer's steps do not fit Q8.24"))?;
    let mut logits = [0; CLASSES];
    let logits = first(&mut logits, model.output_len())?;
    let arena = first(arena, model.arena_len())?;

    let record_len = model.input_len() + 2;
    for_each_sample(RECORDS * record_len, RECORDS + 4, buffers, |chunk, answer| {
        let (guesses, digest) = answer.split_at_mut_checked(RECORDS).ok_or(Failure::new("answer"))?;
        for (record, guess) in chunk.chunks_exact(record_len.max(1)).zip(guesses) {
            let (input, order) = record.split_at_checked(model.input_len()).ok_or(Failure::new("record"))?;
            let &[label, remaining] = order else { return Err(Failure::new("record")) };
            let features = model
                .features(input, logits, arena)
                .map_err(|_| Failure::new("the engine refuses its buffers"))?;
            let class = match u32::try_from(remaining) {
                Ok(remaining @ 1..) => {
                    let how = Adaptation::default().decayed(127 - remaining, 127);
                    counted(|| head.learn(&how, features, usize::from(label.cast_unsigned())))
                }
                _ => head.predict(features),
            };
            *guess = class.map_err(|_| Failure::new("a sample is refused; is its label a class?"))? as i8;
        }
        for (to, from) in digest.iter_mut().zip(head.digest().to_le_bytes()) {
            *to = from.cast_signed();
        }
        Ok(())
    })
}

/// The first `len` elements of `buffer`.
fn first<T>(buffer: &mut [T], len: usize) -> Result<&mut [T], Failure> {
    let there = buffer.len();
    buffer.get_mut(..len).ok_or(Failure::too_small("adaptation buffer", len, there))
}
