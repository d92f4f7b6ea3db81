//! What a linked program takes of a microcontroller's memory.

use std::path::Path;

use anyhow::{Context as _, Result};
use object::read::elf::ElfFile32;
use object::{Object as _, ObjectSection as _, SectionFlags, SectionKind, elf};

/// Bytes of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// In flash: code, constants and the initial values of statics.
    pub(crate) flash: u64,
    /// In RAM: all statics, without the stack.
    pub(crate) ram: u64,
}

impl Footprint {
    /// Adds up the sections of `program`.
    pub(crate) fn of(program: &Path) -> Result<Self> {
        let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
        let elf: ElfFile32<'_> = ElfFile32::parse(&*bytes).with_context(|| program.display().to_string())?;
        let mut footprint = Self { flash: 0, ram: 0 };
        for section in elf.sections() {
            let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
            let is = |flag: elf::SectionFlags| sh_flags.0 & flag.0 != 0;
            // The stack and the heap are what the linker script leaves over, not what the program takes.
            if !is(elf::SHF_ALLOC) || matches!(section.name(), Ok(".stack" | ".heap")) {
                continue;
            }
            let uninitialised = section.kind() == SectionKind::UninitializedData;
            footprint.flash += if uninitialised { 0 } else { section.size() };
            footprint.ram += if is(elf::SHF_WRITE) { section.size() } else { 0 };
        }
        Ok(footprint)
    }
}
