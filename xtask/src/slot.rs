//! A program with a slot in flash that takes one model after the other, as a device does whose models are sent to it: built
//! once for each board, where linking takes longer than running.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use object::read::elf::ElfFile32;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use crate::bare_metal::Toolchain;
use crate::cmd::target_dir;
use crate::emulator::{BOARDS, Board, M0};
use crate::firmware::build_with_room;
use crate::mcu::{Checked, Report, parse, run_program};
use crate::samples::Samples;

/// Name of the static of `firmware/infer` that is the slot.
const SLOT: &str = "FLASH";

/// A linked program, and where in it the slot is.
pub(crate) struct Slot {
    board: &'static Board,
    program: Vec<u8>,
    place: Range<usize>,
    checked: Checked,
}

/// Bytes for a file, an arena, an input and an output: what the models of tests and counts need at most, or else the program
/// says what is too small.
fn room(board: &Board) -> [usize; 4] {
    if board.core == M0.core {
        return [64 << 10, 5 << 10, 2 << 10, 2 << 10];
    }
    [160 << 10, 16 << 10, 8 << 10, 16 << 10]
}

impl Slot {
    /// The board's program, built if this is the first time.
    pub(crate) fn of(toolchain: &Toolchain, board: &'static Board) -> Result<&'static Self> {
        static SLOTS: [OnceLock<Slot>; BOARDS.len()] = [const { OnceLock::new() }; BOARDS.len()];
        let slot = BOARDS.iter().zip(&SLOTS).find(|(other, _)| other.core == board.core);
        let (_, slot) = slot.with_context(|| format!("{} is none of the boards", board.name))?;
        if let Some(built) = slot.get() {
            return Ok(built);
        }
        let built = Self::build(toolchain, board)?;
        Ok(slot.get_or_init(|| built))
    }

    fn build(toolchain: &Toolchain, board: &'static Board) -> Result<Self> {
        let room = room(board);
        let path = build_with_room(toolchain, board, room)?;
        let program = fs::read(&path).with_context(|| path.display().to_string())?;
        let place = place(&program, room[0]).with_context(|| path.display().to_string())?;
        Ok(Self { board, program, place, checked: Checked::new(&path)? })
    }

    /// Puts a model into the slot, and runs the program on all of `samples`.
    pub(crate) fn run(&self, name: &str, file: &[u8], samples: &Samples) -> Result<Report> {
        let path = self.program_with(file).with_context(|| name.to_owned())?;
        let model = parse(file, name.as_ref())?;
        run_program(self.board, &path, self.checked.clone(), &model, samples).with_context(|| name.to_owned())
    }

    /// Writes the program with the model in its slot.
    fn program_with(&self, file: &[u8]) -> Result<PathBuf> {
        let mut program = self.program.clone();
        let slot = &mut program[self.place.clone()];
        ensure!(file.len() <= slot.len(), "{} bytes, the slot has {}", file.len(), slot.len());
        slot[..file.len()].copy_from_slice(file);
        let folder = target_dir()?.join("slots");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let path = folder.join(self.board.core);
        fs::write(&path, program).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

/// Where in the file of a linked program its slot of `len` bytes lies.
fn place(program: &[u8], len: usize) -> Result<Range<usize>> {
    let elf: ElfFile32<'_> = ElfFile32::parse(program)?;
    let is_slot = |name: &str| name.contains(SLOT);
    let mut symbols =
        elf.symbols().filter(|symbol| symbol.size() == len as u64 && symbol.name().is_ok_and(is_slot));
    let symbol = symbols.next().with_context(|| format!("no static {SLOT} of {len} bytes"))?;
    ensure!(symbols.next().is_none(), "more than one static {SLOT} of {len} bytes");
    let index = symbol.section_index().context("the slot is in no section")?;
    let section = elf.section_by_index(index)?;
    let (offset, _) = section.file_range().context("the slot is not in the file")?;
    let start = usize::try_from(offset + symbol.address() - section.address())?;
    ensure!(program.len() >= start + len, "the slot ends behind the file");
    Ok(start..start + len)
}
