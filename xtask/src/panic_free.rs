//! Looks for panic paths in a linked program: a path that can panic ends in `core::panicking`, and from there in the
//! program's panic handler. With unreferenced sections removed by the linker, their names are in the symbol table only
//! if something still reaches them.

use std::path::Path;

use anyhow::{Context as _, Result};
use object::read::elf::ElfFile32;
use object::{Object as _, ObjectSymbol as _};

/// Parts of the names that panic paths leave behind, mangled the old or the new way.
const SIGNS: [&str; 4] = ["panicking", "rust_begin_unwind", "unwrap_failed", "expect_failed"];

/// Names of the functions in `program` that belong to panicking; empty if it cannot panic.
pub(crate) fn panic_paths(program: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
    let elf: ElfFile32<'_> = ElfFile32::parse(&*bytes).with_context(|| program.display().to_string())?;
    let names: Vec<&str> = elf.symbols().filter_map(|symbol| symbol.name().ok()).collect();
    // Without symbols nothing would be found either way.
    if !names.iter().any(|name| name.contains("main")) {
        anyhow::bail!("{}: no symbols", program.display());
    }
    let suspects = names.into_iter().filter(|name| SIGNS.iter().any(|sign| name.contains(sign)));
    Ok(suspects.map(str::to_owned).collect())
}
