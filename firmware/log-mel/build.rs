//! Links for the board's memory map.

#[path = "../build-support/memory.rs"]
mod memory;

fn main() {
    memory::place();
}
