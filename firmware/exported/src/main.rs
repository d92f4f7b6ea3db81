//! A whole program around a module of `qat export --rust`: static memory, no heap, no panic. Where a product reads its
//! sensor and acts on the answer, this one reads a file of the host and writes the logits back.
#![no_std]
#![no_main]

#[cfg(target_arch = "arm")]
use cortex_m_rt::entry;
use harness::{Buffers, Failure, Once, finish, for_each_sample};
use model::{ARENA_LEN, INPUT_LEN, OUTPUT_LEN};
#[cfg(target_arch = "riscv32")]
use riscv_rt::entry;

mod model {
    #![allow(dead_code, unreachable_pub, reason = "the module offers more than one program uses")]
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

/// Arena, input and output, as large as the module says.
static MEMORY: Once<([u8; ARENA_LEN], [i8; INPUT_LEN], [i8; OUTPUT_LEN])> =
    Once::new(([0; ARENA_LEN], [0; INPUT_LEN], [0; OUTPUT_LEN]));

#[entry]
fn main() -> ! {
    finish(answer())
}

fn answer() -> Result<(), Failure> {
    let (arena, input, output) = MEMORY.take().ok_or(Failure::new("the memory is taken"))?;
    let model = model::model().map_err(Failure::refused)?;
    model.self_test(output, arena).map_err(|_| Failure::new("a known answer differs"))?;
    for_each_sample(INPUT_LEN, OUTPUT_LEN, Buffers { input, output }, |input, output| {
        model.run(input, output, arena).map_err(|_| Failure::new("the buffers do not fit"))
    })
}
