//! Runs the model that was linked in on every sample of `samples.bin` and writes all logits to `logits.bin`.
//!
//! The model is read where it lies, in flash, and has just the memory that it asks for.
#![no_std]
#![no_main]

#[cfg(target_arch = "arm")]
use cortex_m_rt::entry;
#[cfg(feature = "profile")]
use harness::profile_model as run_model;
#[cfg(not(feature = "profile"))]
use harness::run_model;
use harness::{Aligned, Memory, Once};
#[cfg(target_arch = "riscv32")]
use riscv_rt::entry;

include!(concat!(env!("OUT_DIR"), "/sizes.rs"));

static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/model.piq")));

static MEMORY: Once<Memory<ARENA_LEN, INPUT_LEN, OUTPUT_LEN>> = Once::new(Memory::new());

#[entry]
fn main() -> ! {
    run_model(&MODEL.0, &MEMORY)
}
