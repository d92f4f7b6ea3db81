//! What a device does with files that come from outside: each sample is the length of a file and the file; the answer is a
//! verdict, and for a file that is accepted the output of its model, which runs at once.
//!
//! The markers bracket the check of the file, so that its instructions are counted; what it needed of the stack at most is
//! written down as well.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use harness::{Aligned, Buffers, Failure, Once, counted, finish, for_each_sample, stack_used, write_stack};
use qat_kernels::{Result, infer::Model};

/// Bytes of a sample: a u16 with the length of the file, and room for it.
const SAMPLE_LEN: usize = 2048;
/// A verdict and as many outputs as fit.
const ANSWER_LEN: usize = 32;
const ARENA_LEN: usize = 8192;

/// The file is refused; nothing of it has run.
const REFUSED: i8 = 0;
/// The file is fine, but this device has too little memory for it.
const TOO_LARGE: i8 = 1;
/// The file is fine, and its model has run on an input of zeros.
const RAN: i8 = 2;

struct Memory {
    sample: Aligned<[i8; SAMPLE_LEN]>,
    file: Aligned<[u8; SAMPLE_LEN]>,
    arena: Aligned<[u8; ARENA_LEN]>,
    input: [i8; ARENA_LEN],
    answer: [i8; ANSWER_LEN],
}

static MEMORY: Once<Memory> = Once::new(Memory {
    sample: Aligned([0; SAMPLE_LEN]),
    file: Aligned([0; SAMPLE_LEN]),
    arena: Aligned([0; ARENA_LEN]),
    input: [0; ARENA_LEN],
    answer: [0; ANSWER_LEN],
});

#[cfg(feature = "signed")]
fn parse(file: &[u8]) -> Result<Model<'_>> {
    Model::parse_signed(file, include_bytes!(concat!(env!("OUT_DIR"), "/key.bin")))
}

#[cfg(not(feature = "signed"))]
fn parse(file: &[u8]) -> Result<Model<'_>> {
    Model::parse(file)
}

#[entry]
fn main() -> ! {
    finish(answer())
}

fn answer() -> core::result::Result<(), Failure> {
    let Memory { sample, file, arena, input, answer } =
        MEMORY.take().ok_or(Failure::new("the memory is taken"))?;
    let mut deepest = 0;
    let buffers = Buffers { input: &mut sample.0, output: answer };
    for_each_sample(SAMPLE_LEN, ANSWER_LEN, buffers, |sample, answer| {
        answer.fill(0);
        let file = copy(sample, &mut file.0).ok_or(Failure::new("a sample is longer than it can be"))?;
        let (model, used) = stack_used(|| counted(|| parse(file)));
        deepest = deepest.max(used);
        let verdict = match model {
            Err(_) => REFUSED,
            Ok(model) => run(&model, input, answer, &mut arena.0)?,
        };
        answer.iter_mut().take(1).for_each(|first| *first = verdict);
        Ok(())
    })?;
    write_stack(deepest)
}

/// The file in a sample, moved to where weights are aligned.
fn copy<'a>(sample: &[i8], to: &'a mut [u8]) -> Option<&'a [u8]> {
    let (len, file) = sample.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_le_bytes(len.map(i8::cast_unsigned)));
    let to = to.get_mut(..len)?;
    let file = file.get(..len)?;
    to.iter_mut().zip(file).for_each(|(to, from)| *to = from.cast_unsigned());
    Some(to)
}

/// A model that has been accepted has nothing left to go wrong but the size of the buffers.
fn run(
    model: &Model<'_>,
    input: &mut [i8],
    answer: &mut [i8],
    arena: &mut [u8],
) -> core::result::Result<i8, Failure> {
    let input = input.get_mut(..model.input_len());
    let output = answer.get_mut(1..).and_then(|rest| rest.get_mut(..model.output_len()));
    match (input, output) {
        (Some(input), Some(output)) if model.arena_len() <= arena.len() => {
            model.run(input, output, arena).map_err(|_| Failure::new("an accepted model did not run"))?;
            Ok(RAN)
        }
        _ => Ok(TOO_LARGE),
    }
}
