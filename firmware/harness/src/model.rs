//! Runs a model on all samples: what the programs of every board do.

use qat_kernels::artifact::file_in;
use qat_kernels::infer::Model;

use crate::samples::{first, write_stack};
use crate::{Buffers, Failure, Once, boundary, counted, finish, for_each_sample, stack_used};

/// Memory on a boundary of 16 bytes: weights are aligned within a file, so the file has to be too.
#[repr(align(16))]
pub struct Aligned<T: ?Sized>(pub T);

/// Everything that inference needs besides the stack.
pub struct Memory<const ARENA: usize, const INPUT: usize, const OUTPUT: usize> {
    arena: Aligned<[u8; ARENA]>,
    input: Aligned<[i8; INPUT]>,
    output: Aligned<[i8; OUTPUT]>,
}

impl<const ARENA: usize, const INPUT: usize, const OUTPUT: usize> Memory<ARENA, INPUT, OUTPUT> {
    /// All zero.
    #[allow(clippy::new_without_default, reason = "it is for statics")]
    pub const fn new() -> Self {
        Self { arena: Aligned([0; ARENA]), input: Aligned([0; INPUT]), output: Aligned([0; OUTPUT]) }
    }
}

/// Checks the known answers of the file that `flash` begins with, then runs it on every sample and ends the program. The
/// markers bracket `run`, so that the counts are those of inference alone; what it needed of the stack at most goes to [`crate::STACK`].
pub fn run_model<const ARENA: usize, const INPUT: usize, const OUTPUT: usize>(
    flash: &'static [u8],
    memory: &'static Once<Memory<ARENA, INPUT, OUTPUT>>,
) -> ! {
    let mut deepest = 0;
    let done = with_model(flash, memory, |model, input, output, arena| {
        let (result, used) = stack_used(|| counted(|| model.run(input, output, arena)));
        deepest = deepest.max(used);
        result
    });
    finish(done.and_then(|()| write_stack(deepest)))
}

/// The same with a region for every operator of every sample; the last region of a sample is what remains at the end.
pub fn profile_model<const ARENA: usize, const INPUT: usize, const OUTPUT: usize>(
    flash: &'static [u8],
    memory: &'static Once<Memory<ARENA, INPUT, OUTPUT>>,
) -> ! {
    finish(with_model(flash, memory, |model, input, output, arena| {
        counted(|| model.run_observed(input, output, arena, |_, _| boundary()))
    }))
}

fn with_model<const ARENA: usize, const INPUT: usize, const OUTPUT: usize>(
    flash: &'static [u8],
    memory: &'static Once<Memory<ARENA, INPUT, OUTPUT>>,
    mut run: impl FnMut(&Model<'_>, &[i8], &mut [i8], &mut [u8]) -> qat_kernels::Result<()>,
) -> Result<(), Failure> {
    let memory = memory.take().ok_or(Failure::new("the memory is taken"))?;
    let model = file_in(flash).and_then(Model::parse).map_err(Failure::refused)?;
    // Not a byte more than it asks for, even where there is room for larger models.
    let arena = first("arena", &mut memory.arena.0, model.arena_len())?;
    let input = first("input buffer", &mut memory.input.0, model.input_len())?;
    let output = first("output buffer", &mut memory.output.0, model.output_len())?;
    model
        .self_test(output, arena)
        .map_err(|_| Failure::new("a known answer of the model comes out differently"))?;
    let buffers = Buffers { input, output };
    for_each_sample(model.input_len(), model.output_len(), buffers, |input, output| {
        run(&model, input, output, arena).map_err(|_| Failure::new("the engine refuses its buffers"))
    })
}
