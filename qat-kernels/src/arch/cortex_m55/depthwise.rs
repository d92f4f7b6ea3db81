//! The sums of one pixel of a depthwise convolution: `VMULLB` and `VMULLT` multiply the even and the odd channels of a vector.
//!
//! Levels of a byte make products and sums of sixteen bits, sixteen channels at a time; wider ones make sums of 32 bits, eight
//! channels at a time.

use crate::arch::tap::Tap;

#[cfg(core_family = "cortex-m55")]
use core::arch::naked_asm;

/// Twice the levels of a layer: for each block of channels and each tap the levels of the block's channels, zero where there is
/// none.
#[derive(Clone, Copy)]
pub(crate) enum BlockLevels<'a> {
    /// Blocks of sixteen channels. The sums of all products must fit sixteen bits.
    Narrow(&'a [[i8; 16]]),
    /// Blocks of eight channels.
    Wide(&'a [[i16; 8]]),
}

impl BlockLevels<'_> {
    /// Blocks for so many channels, and channels of a block.
    fn blocks(&self, channels: usize) -> (usize, usize) {
        match self {
            Self::Narrow(_) => (channels.div_ceil(16), 16),
            Self::Wide(_) => (channels.div_ceil(8), 8),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Narrow(levels) => levels.len(),
            Self::Wide(levels) => levels.len(),
        }
    }
}

/// What one call computes; the loops read it in this order, a word a field.
#[cfg(core_family = "cortex-m55")]
#[repr(C)]
struct Task<'a> {
    taps: *const Tap<'a>,
    count: usize,
    levels: *const u8,
    sums: *mut u32,
    channels: usize,
}

/// `Σ level2·x` over all taps for the first `channels` channels, in whole blocks: `sums` has room for every channel of them.
/// `None` unless everything has its length.
#[inline(always)]
pub(crate) fn depthwise_sums(
    taps: &[Tap<'_>],
    levels: BlockLevels<'_>,
    channels: usize,
    sums: &mut [u32],
) -> Option<()> {
    let (blocks, of_block) = levels.blocks(channels);
    if taps.is_empty()
        || channels == 0
        || levels.len() != blocks.checked_mul(taps.len())?
        || sums.len() != blocks.checked_mul(of_block)?
        || taps.iter().any(|tap| tap.len() < channels)
    {
        return None;
    }
    #[cfg(core_family = "cortex-m55")]
    {
        let (kernel, levels): (unsafe extern "C" fn(&Task<'_>), _) = match levels {
            BlockLevels::Narrow(levels) => (narrow, levels.as_ptr().cast()),
            BlockLevels::Wide(levels) => (wide, levels.as_ptr().cast()),
        };
        let task = Task { taps: taps.as_ptr(), count: taps.len(), levels, sums: sums.as_mut_ptr(), channels };
        // SAFETY: the lengths have just been compared; the last block of every tap is read by predication up to `channels` and
        // no further. Levels are aligned to their width and sums to words.
        unsafe { kernel(&task) };
    }
    #[cfg(not(core_family = "cortex-m55"))]
    match levels {
        BlockLevels::Narrow(levels) => twin(taps, levels, |x, level| i16::from(x) * i16::from(level), sums),
        BlockLevels::Wide(levels) => twin(taps, levels, |x, level| i32::from(x) * i32::from(level), sums),
    }
    Some(())
}

/// The loop over blocks. r0 task, r1 taps, r2 levels, r3 sums, r4 channels left, r5 channel, r6 number of taps, r8 tap, r7 its
/// activations; q0 activations, q1 levels, q2 and q3 sums, q4 products. `$load` loads activations, the last block's by
/// predication; `$widen` turns q2 and q3 into words and stores them.
#[cfg(core_family = "cortex-m55")]
macro_rules! kernel {
    ($name:ident, $block:literal, $lanes:literal, $load:literal, $levels:literal, $from:literal, $to:literal, $store:expr) => {
        /// # Safety
        /// All pointers of the task must be valid for its taps and channels, of which there is at least one each.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(task: &Task<'_>) {
            naked_asm!(
                helium!(),
                "push {{r4-r8, lr}}",
                "vpush {{d8-d9}}",
                "ldrd r1, r6, [r0]",
                "ldrd r2, r3, [r0, #8]",
                "ldr r4, [r0, #16]",
                "mov r5, #0",
                "2:",
                "mov r8, r1",
                "vmov.i32 q2, #0",
                "vmov.i32 q3, #0",
                concat!("cmp r4, #", $block),
                "dls lr, r6",
                "blo 4f",
                "3:",
                "ldr r7, [r8], #8",
                "add r7, r7, r5",
                concat!("vldrb.", $load, " q0, [r7]"),
                concat!($levels, " q1, [r2], #16"),
                concat!("vmullb.", $from, " q4, q0, q1"),
                concat!("vadd.", $to, " q2, q2, q4"),
                concat!("vmullt.", $from, " q4, q0, q1"),
                concat!("vadd.", $to, " q3, q3, q4"),
                "le lr, 3b",
                "b 5f",
                "4:",
                concat!("vctp.", $lanes, " r4"),
                "6:",
                "ldr r7, [r8], #8",
                "add r7, r7, r5",
                "vpst",
                concat!("vldrbt.", $load, " q0, [r7]"),
                concat!($levels, " q1, [r2], #16"),
                concat!("vmullb.", $from, " q4, q0, q1"),
                concat!("vadd.", $to, " q2, q2, q4"),
                concat!("vmullt.", $from, " q4, q0, q1"),
                concat!("vadd.", $to, " q3, q3, q4"),
                "le lr, 6b",
                "5:",
                $store,
                concat!("add r5, r5, #", $block),
                concat!("subs r4, r4, #", $block),
                "bgt 2b",
                "vpop {{d8-d9}}",
                "pop {{r4-r8, pc}}",
            )
        }
    };
}

// Even channels are in q2, odd ones in q3; of the even ones, every other one is in the bottom halves.
#[cfg(core_family = "cortex-m55")]
kernel!(
    narrow,
    "16",
    "8",
    "u8",
    "vldrb.u8",
    "s8",
    "i16",
    concat!(
        "vmovlb.s16 q0, q2\n vmovlb.s16 q1, q3\n vmovlt.s16 q2, q2\n vmovlt.s16 q3, q3\n",
        "vst40.32 {{q0, q1, q2, q3}}, [r3]\n vst41.32 {{q0, q1, q2, q3}}, [r3]\n",
        "vst42.32 {{q0, q1, q2, q3}}, [r3]\n vst43.32 {{q0, q1, q2, q3}}, [r3]!\n",
    )
);
#[cfg(core_family = "cortex-m55")]
kernel!(
    wide,
    "8",
    "16",
    "s16",
    "vldrh.u16",
    "s16",
    "i32",
    "vst20.32 {{q2, q3}}, [r3]\n vst21.32 {{q2, q3}}, [r3]!\n"
);

/// The same loops in Rust.
#[cfg(not(core_family = "cortex-m55"))]
fn twin<L: Copy, S, const BLOCK: usize>(
    taps: &[Tap<'_>],
    levels: &[[L; BLOCK]],
    product: impl Fn(i8, L) -> S,
    sums: &mut [u32],
) where
    S: Copy + Default + core::ops::Add<Output = S> + Into<i32>,
{
    let blocks = levels.chunks_exact(taps.len()).zip(sums.as_chunks_mut::<BLOCK>().0);
    for (block, (levels, sums)) in blocks.enumerate() {
        let mut accs = [S::default(); BLOCK];
        for (tap, levels) in taps.iter().zip(levels) {
            let x = tap.channels().iter().skip(block * BLOCK).copied().chain(core::iter::repeat(0));
            for ((acc, &level), x) in accs.iter_mut().zip(levels).zip(x) {
                *acc = *acc + product(x, level);
            }
        }
        sums.iter_mut().zip(accs).for_each(|(sum, acc)| *sum = acc.into().cast_unsigned());
    }
}
