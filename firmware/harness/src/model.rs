//! Runs a model on all samples: what the programs of every board do.

use qat_kernels::infer::Model;

use crate::samples::write_stack;
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

/// Checks the known answers of `file`, then runs it on every sample and ends the program. The markers bracket `run`, so
/// that the counts are those of inference alone; what it needed of the stack at most goes to [`crate::STACK`].
pub fn run_model<const ARENA: usize, const INPUT: usize, const OUTPUT: usize>(
    file: &'static [u8],
    memory: &'static Once<Memory<ARENA, INPUT, OUTPUT>>,
) -> ! {
    let mut deepest = 0;
    let done = with_model(file, memory, |model, input, output, arena| {
        let (result, used) = stack_used(|| counted(|| model.run(input, output, arena)));
        deepest = deepest.max(used);
        result
    });
    finish(done.and_then(|()| write_stack(deepest)))
}

/// The same with a region for every operator of every sample; the last region of a sample is what remains at the end.
pub fn profile_model<const ARENA: usize, const INPUT: usize, const OUTPUT: usize>(
    file: &'static [u8],
    memory: &'static Once<Memory<ARENA, INPUT, OUTPUT>>,
) -> ! {
    finish(with_model(file, memory, |model, input, output, arena| {
        counted(|| model.run_observed(input, output, arena, |_, _| boundary()))
    }))
}

fn with_model<const ARENA: usize, const INPUT: usize, const OUTPUT: usize>(
    file: &'static [u8],
    memory: &'static Once<Memory<ARENA, INPUT, OUTPUT>>,
    mut run: impl FnMut(&Model<'_>, &[i8], &mut [i8], &mut [u8]) -> qat_kernels::Result<()>,
) -> Result<(), Failure> {
    let memory = memory.take().ok_or(Failure::new("the memory is taken"))?;
    let model = Model::parse(file).map_err(Failure::refused)?;
    for (what, needed, there) in [
        ("arena", model.arena_len(), ARENA),
        ("input buffer", model.input_len(), INPUT),
        ("output buffer", model.output_len(), OUTPUT),
    ] {
        if needed > there {
            return Err(Failure::too_small(what, needed, there));
        }
    }
    let Memory { arena, input, output } = memory;
    model
        .self_test(&mut output.0, &mut arena.0)
        .map_err(|_| Failure::new("a known answer of the model comes out differently"))?;
    let buffers = Buffers { input: &mut input.0, output: &mut output.0 };
    for_each_sample(model.input_len(), model.output_len(), buffers, |input, output| {
        run(&model, input, output, &mut arena.0).map_err(|_| Failure::new("the engine refuses its buffers"))
    })
}
