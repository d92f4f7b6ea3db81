//! What the programs of every board share: test samples come in and logits go out through semihosting (the debugger's
//! file access, which emulators offer too), and two marker instructions bracket what is counted.
//!
//! Nothing here formats text with `core::fmt` or indexes a slice: a program built from it has no panic path, and
//! `cargo xtask mcu` proves that by looking for one in the linked program.
#![no_std]

mod failure;
mod model;
mod once;
mod region;
mod samples;
mod semihosting;
mod stack;

pub use failure::{Failure, finish};
pub use model::{Aligned, Memory, profile_model, run_model};
pub use once::Once;
pub use region::{boundary, counted};
pub use samples::{Buffers, LOGITS, SAMPLES, STACK, for_each_sample, write_stack};
pub use stack::stack_used;

/// Ends the program with an error. The linker drops it when nothing can panic, so its name in a linked program
/// is the sign of a panic path.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    finish(Err(Failure::new("panic")))
}
