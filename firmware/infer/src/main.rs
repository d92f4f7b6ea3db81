//! Runs the model in its flash on every sample of `samples.bin` and writes all logits to `logits.bin`.
//!
//! The model is read where it lies. Either it was linked in, and there is just the memory that it asks for; or there is room
//! for any of several, erased, which whoever programs the flash puts one into.
#![no_std]
#![no_main]

use core::hint::black_box;

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

static FLASH: Aligned<[u8; FLASH_LEN]> = Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/flash.bin")));

static MEMORY: Once<Memory<ARENA_LEN, INPUT_LEN, OUTPUT_LEN>> = Once::new(Memory::new());

#[entry]
fn main() -> ! {
    // What is there when the program is compiled need not be there when it runs.
    run_model(&black_box(&FLASH).0, &MEMORY)
}
