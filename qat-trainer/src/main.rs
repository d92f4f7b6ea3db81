//! The command `qat`; see `qat --help`.

fn main() {}
