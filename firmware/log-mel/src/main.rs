//! Computes the log-mel features of every frame of `samples.bin` (16-bit samples, low byte first) and writes them to
//! `logits.bin` in the same way. `cargo xtask logmel` compares them with the host's and counts instructions.
#![no_std]
#![no_main]

#[cfg(target_arch = "arm")]
use cortex_m_rt::entry;
use harness::{Buffers, Failure, Once, counted, finish, for_each_sample};
use qat_kernels::frontend::{LogMel, LogMelConfig};
#[cfg(target_arch = "riscv32")]
use riscv_rt::entry;

/// 30 ms of 16 kHz every 20 ms, 40 bands; as in `xtask/src/logmel.rs`.
const CONFIG: LogMelConfig = LogMelConfig {
    sample_rate: 16_000,
    frame: FRAME as u16,
    hop: 320,
    mels: MELS as u16,
    f_min: 20,
    f_max: 7_600,
};
const FRAME: usize = 480;
const MELS: usize = 40;
/// Words that the front end needs: the power of two that a frame fits into.
const SCRATCH: usize = FRAME.next_power_of_two();
/// Checked when the program is built.
const FRONT_END: Option<LogMel> = match LogMel::new(CONFIG) {
    Ok(front_end) => Some(front_end),
    Err(_) => None,
};

/// The bytes of a frame and of its features, and both as numbers.
struct Memory {
    input: [i8; 2 * FRAME],
    output: [i8; 2 * MELS],
    samples: [i16; FRAME],
    features: [i16; MELS],
    scratch: [i32; SCRATCH],
}

static MEMORY: Once<Memory> = Once::new(Memory {
    input: [0; 2 * FRAME],
    output: [0; 2 * MELS],
    samples: [0; FRAME],
    features: [0; MELS],
    scratch: [0; SCRATCH],
});

#[entry]
fn main() -> ! {
    finish(features())
}

fn features() -> Result<(), Failure> {
    let front_end = FRONT_END.ok_or(Failure::new("the parameters are refused"))?;
    let memory = MEMORY.take().ok_or(Failure::new("the memory is taken"))?;
    let Memory { input, output, samples, features, scratch } = memory;
    for_each_sample(2 * FRAME, 2 * MELS, Buffers { input, output }, |input, output| {
        for (sample, &bytes) in samples.iter_mut().zip(input.as_chunks::<2>().0) {
            *sample = i16::from_le_bytes(bytes.map(i8::cast_unsigned));
        }
        counted(|| front_end.frame(samples, scratch, features))
            .map_err(|_| Failure::new("the front end refuses its buffers"))?;
        for (bytes, y) in output.as_chunks_mut::<2>().0.iter_mut().zip(&*features) {
            *bytes = y.to_le_bytes().map(u8::cast_signed);
        }
        Ok(())
    })
}
