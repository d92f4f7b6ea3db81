//! What all loops over bands of channels share: what they are called with, the requantisation of their sums, and what
//! happens with channels that fill no band and pixels that fill no group.

use crate::artifact::OpKind;
use crate::artifact::cortex_m4::{STEP, Stream, band, band_divisors};

/// A layer with its activations.
pub(crate) struct Layer<'a> {
    /// The stream of activations.
    pub(crate) words: &'a [u32],
    pub(crate) weights: &'a [u8],
    pub(crate) divisors: &'a [u8],
    /// Bias and multiplier of every channel.
    pub(crate) params: &'a [[u8; 8]],
    /// What the sums of each pixel lack: first of channels that are stored without a sign, then of the others.
    pub(crate) missing: [[i32; 4]; 2],
    pub(crate) rounding: Rounding,
}

/// How accumulators become results: `sat8(zero_point + ((acc << left)·M + 2^31 >> 32))`.
#[derive(Clone, Copy)]
pub(crate) struct Rounding {
    pub(crate) left: u32,
    pub(crate) zero_point: i32,
}

/// What one call of a loop computes: the loops read it in this order, a word a field.
#[cfg(core_family = "cortex-m4")]
#[repr(C)]
pub(super) struct Task {
    stream: *const u32,
    weights: *const u8,
    params: *const [u8; 8],
    /// Bands of channels, not zero.
    bands: usize,
    out: *mut i8,
    /// Bytes from one pixel's results to the next one's.
    stride: usize,
    /// Left shift before the multiplication.
    left: u32,
    zero_point: i32,
    /// Steps of the first turn of the outer loop; all others are whole.
    first: usize,
    missing: [[i32; 4]; 2],
    divisors: *const u8,
    /// Turns of the outer loop, not zero.
    turns: usize,
    factors: *const [u32; 2],
}

/// The loops over bands and pixels.
///
/// # Safety
/// All pointers of the task must be valid for the lengths that its bands, its turns and its stride imply, weights aligned to
/// words.
#[cfg(core_family = "cortex-m4")]
pub(super) type Loops = unsafe extern "C" fn(&mut Task);

/// The sums of a band, by channel and pixel, without what the layer says is missing.
#[cfg(not(core_family = "cortex-m4"))]
pub(super) type Loops = fn(&Band<'_>) -> [[u32; 4]; 4];

/// What the loops read for a band.
#[cfg(not(core_family = "cortex-m4"))]
pub(super) struct Band<'a> {
    pub(super) words: &'a [u32],
    pub(super) weights: &'a [u32],
    pub(super) divisors: &'a [u8],
    pub(super) pixels: usize,
    pub(super) group: u8,
    pub(super) first: usize,
    pub(super) turns: usize,
}

/// The loops for one kind of layer.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    kind: OpKind,
    bits: u8,
    group: u8,
    pub(crate) stream: Stream,
    loops: Loops,
}

/// Results of a band of channels at once, for those that fill no band; as many as there can be.
const BAND_RESULTS: usize = 8;

impl Kernel {
    /// `None` where there is none.
    pub(crate) fn of(kind: OpKind, bits: u8, group: u8) -> Option<Self> {
        let [linear, conv2d] = match (bits, group) {
            (2, 0) => super::two_bits::LOOPS,
            (2, 8) => super::two_bits_grouped::LOOPS_8,
            (2, 16) => super::two_bits_grouped::LOOPS_16,
            (2, 32) => super::two_bits_grouped::LOOPS_32,
            (3, 0) => super::three_bits::LOOPS,
            (4, 0) => super::four_bits::LOOPS,
            (8, 0) => super::eight_bits::LOOPS,
            _ => return None,
        };
        let loops = if matches!(kind, OpKind::Linear) { linear } else { conv2d };
        Some(Self { kind, bits, group, stream: Stream::of(kind, bits, group), loops })
    }

    /// Steps of a turn of the outer loop.
    const fn turn_steps(&self) -> usize {
        match (self.bits, self.group) {
            (2, 8) => 1,
            (2, _) => 2,
            (3, _) => 3,
            _ => super::WIDE_STEPS,
        }
    }

    /// All channels of up to as many pixels as the stream has lanes, one after the other in `out`; `columns` meet in each.
    /// `None` unless everything has its length.
    pub(crate) fn run(&self, columns: usize, layer: &Layer<'_>, out: &mut [i8]) -> Option<()> {
        let channels = band(self.kind, self.bits);
        let stride = layer.params.len();
        let (bands, whole) = (stride.div_ceil(channels), stride / channels);
        let steps = columns.div_ceil(STEP);
        let band_bytes = steps.checked_mul(2 * usize::from(self.bits) * channels)?;
        let band_divisors = match columns.checked_div(self.group.into()) {
            Some(groups) => band_divisors(self.kind, self.group, groups),
            None => 0,
        };
        let pixels = out.len().checked_div(stride)?;
        if steps == 0
            || !self.is_whole(layer.words, columns)
            || layer.weights.len() != bands.checked_mul(band_bytes)?
            || layer.divisors.len() != bands.checked_mul(band_divisors)?
            || !is_aligned(layer.weights)
            || out.len() != pixels.checked_mul(stride)?
        {
            return None;
        }
        let part = |first: usize, count: usize| {
            Some(Layer {
                weights: layer.weights.get(first * band_bytes..)?.get(..count * band_bytes)?,
                divisors: layer.divisors.get(first * band_divisors..)?.get(..count * band_divisors)?,
                ..*layer
            })
        };
        let mut first = 0;
        if pixels == self.stream.pixels && whole > 0 {
            self.bands(steps, &part(0, whole)?, whole, out, stride);
            first = whole;
        }
        // Bands of less channels, and groups of less pixels, through a place where all of them have room.
        for band in first..bands {
            let (mut params, mut results) = ([[0; 8]; 4], [0; BAND_RESULTS]);
            let channel = band * channels;
            let from = layer.params.get(channel..)?;
            params.iter_mut().zip(from).take(channels).for_each(|(to, &from)| *to = from);
            let room = results.get_mut(..self.stream.pixels * channels)?;
            self.bands(steps, &Layer { params: &params, ..part(band, 1)? }, 1, room, channels);
            let rows = out.chunks_exact_mut(stride).zip(room.chunks_exact(channels));
            for (to, from) in rows.take(pixels) {
                to.get_mut(channel..)?.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
            }
        }
        Some(())
    }

    /// Whether a stream has its length and its end; then the loops stay inside it whatever it holds.
    fn is_whole(&self, words: &[u32], columns: usize) -> bool {
        let end = words.len().checked_sub(self.stream.head).and_then(|at| words.get(at));
        self.stream.words(columns) == Some(words.len()) && (!self.stream.has_end || end == Some(&0))
    }

    /// Whole bands and all pixels. The caller has compared all lengths.
    #[inline]
    fn bands(&self, steps: usize, layer: &Layer<'_>, bands: usize, out: &mut [i8], stride: usize) {
        let channels = band(self.kind, self.bits);
        debug_assert_eq!(layer.weights.len(), bands * steps * 2 * usize::from(self.bits) * channels);
        debug_assert!(layer.params.len() >= bands * channels);
        debug_assert!(out.len() >= (self.stream.pixels - 1) * stride + bands * channels);
        // Neither is a division by what is not a constant.
        let turns = match self.turn_steps() {
            1 => steps,
            2 => steps.div_ceil(2),
            3 => steps.div_ceil(3),
            _ => steps.div_ceil(super::WIDE_STEPS),
        };
        let first = steps - (turns - 1) * self.turn_steps();
        #[cfg(core_family = "cortex-m4")]
        {
            let mut task = Task {
                stream: layer.words.as_ptr(),
                weights: layer.weights.as_ptr(),
                params: layer.params.as_ptr(),
                bands,
                out: out.as_mut_ptr(),
                stride,
                left: layer.rounding.left,
                zero_point: layer.rounding.zero_point,
                first,
                missing: layer.missing,
                divisors: layer.divisors.as_ptr(),
                turns,
                factors: super::two_bits_grouped::FACTORS.as_ptr(),
            };
            // SAFETY: the stream was found whole, so the loops read it up to its end and no further; weights, divisors,
            // parameters and results have the lengths that `run` has compared, and weights are aligned.
            unsafe { (self.loops)(&mut task) }
        }
        #[cfg(not(core_family = "cortex-m4"))]
        self.twin(layer, bands, [first, turns], out, stride);
    }

    /// What the loops do, with sums computed in Rust.
    #[cfg(not(core_family = "cortex-m4"))]
    fn twin(
        &self,
        layer: &Layer<'_>,
        bands: usize,
        [first, turns]: [usize; 2],
        out: &mut [i8],
        stride: usize,
    ) {
        use super::instructions::rounded_product;
        let (channels, pixels) = (band(self.kind, self.bits), self.stream.pixels);
        let unsigned = |channel: usize| match self.bits {
            2 | 8 => channel.is_multiple_of(2),
            3 => channel == 3,
            _ => channel < 3,
        };
        for band in 0..bands {
            let share = |bytes: &'_ [u8]| bytes[bytes.len() / bands * band..][..bytes.len() / bands].to_vec();
            let words = share(layer.weights).as_chunks().0.iter().map(|&w| u32::from_le_bytes(w)).collect::<Vec<_>>();
            let sums = (self.loops)(&Band {
                words: layer.words,
                weights: &words,
                divisors: &share(layer.divisors),
                pixels,
                group: self.group,
                first,
                turns,
            });
            for (channel, pixel) in (0..channels).flat_map(|c| (0..pixels).map(move |p| (c, p))) {
                let at = band * channels + channel;
                let [b0, b1, b2, b3, m0, m1, m2, m3] = layer.params[at];
                let missing = layer.missing[usize::from(!unsigned(channel))][pixel];
                let bias = i32::from_le_bytes([b0, b1, b2, b3]).wrapping_add(missing);
                let acc = sums[channel][pixel].cast_signed().wrapping_add(bias) << layer.rounding.left;
                let multiplier = i32::from_le_bytes([m0, m1, m2, m3]);
                let y = rounded_product(acc, multiplier, layer.rounding.zero_point);
                out[pixel * stride + at] = y.clamp(-128, 127) as i8;
            }
        }
    }
}

fn is_aligned(weights: &[u8]) -> bool {
    cfg!(not(core_family = "cortex-m4")) || weights.as_ptr().addr().is_multiple_of(4)
}

/// `$acc` times `$m` to int8; `$n` is `left`, with a shift by r12 before, or `straight`; zero point in `$z`.
#[cfg(core_family = "cortex-m4")]
macro_rules! round {
    (left, $acc:literal, $m:literal, $z:literal, $left:literal) => {
        concat!("lsl ", $acc, ", ", $acc, ", ", $left, "\n", round!(straight, $acc, $m, $z, $left))
    };
    (straight, $acc:literal, $m:literal, $z:literal, $left:literal) => {
        concat!("smmlar ", $acc, ", ", $acc, ", ", $m, ", ", $z, "\n ssat ", $acc, ", #8, ", $acc, "\n")
    };
}

/// Results of four channels of one pixel. In: r4–r7 sums of codes as they are stored, r12 task; `$m0`–`$m3` are r2 for
/// channels without a sign and r3 for the others. Changes everything but r1 and r12.
#[cfg(core_family = "cortex-m4")]
macro_rules! quad_results {
    ($m0:literal, $m1:literal, $m2:literal, $m3:literal) => {
        concat!(
            "ldr r2, [r12, #36]\n ldr r3, [r12, #52]\n ldrd r8, r9, [r12, #24]\n",
            "ldr r10, [r12, #8]\n ldr r11, [r12, #16]\n",
            "add r4, ",
            $m0,
            ", r4, lsl #1\n add r5, ",
            $m1,
            ", r5, lsl #1\n add r6, ",
            $m2,
            ", r6, lsl #1\n add r7, ",
            $m3,
            ", r7, lsl #1\n",
            "cmp r8, #0\n bne.w 94f\n",
            quad_results!(straight),
            "b.w 95f\n 94:\n",
            quad_results!(left),
            "95:\n",
            "strb r4, [r11], #1\n strb r5, [r11], #1\n strb r6, [r11], #1\n strb r7, [r11], #1\n",
            "str r10, [r12, #8]\n str r11, [r12, #16]\n",
        )
    };
    ($shift:ident) => {
        concat!(
            "ldrd r0, lr, [r10], #8\n add r4, r4, r0\n",
            round!($shift, "r4", "lr", "r9", "r8"),
            "ldrd r0, lr, [r10], #8\n add r5, r5, r0\n",
            round!($shift, "r5", "lr", "r9", "r8"),
            "ldrd r0, lr, [r10], #8\n add r6, r6, r0\n",
            round!($shift, "r6", "lr", "r9", "r8"),
            "ldrd r0, lr, [r10], #8\n add r7, r7, r0\n",
            round!($shift, "r7", "lr", "r9", "r8"),
        )
    };
}

/// Results of four channels of two pixels. In: r4–r7 and r8–r11 sums of codes as they are stored, r1 weights, r12 task;
/// `$a` and `$b` are r0, r1 for channels without a sign and r2, r3 for the others. Leaves r12 as it is.
#[cfg(core_family = "cortex-m4")]
macro_rules! quads_results {
    ($a0:literal, $b0:literal, $a1:literal, $b1:literal, $a2:literal, $b2:literal, $a3:literal, $b3:literal) => {
        concat!(
            "str r1, [r12, #4]\n ldrd r0, r1, [r12, #36]\n ldrd r2, r3, [r12, #52]\n",
            "add r4, ",
            $a0,
            ", r4, lsl #1\n add r8, ",
            $b0,
            ", r8, lsl #1\n add r5, ",
            $a1,
            ", r5, lsl #1\n add r9, ",
            $b1,
            ", r9, lsl #1\n add r6, ",
            $a2,
            ", r6, lsl #1\n add r10, ",
            $b2,
            ", r10, lsl #1\n add r7, ",
            $a3,
            ", r7, lsl #1\n add r11, ",
            $b3,
            ", r11, lsl #1\n",
            "ldr r0, [r12, #8]\n ldrd r3, lr, [r12, #24]\n",
            "cmp r3, #0\n bne.w 94f\n",
            quads_results!(straight),
            "b.w 95f\n 94:\n",
            quads_results!(left),
            "95:\n",
            "str r0, [r12, #8]\n ldrd r0, r1, [r12, #16]\n add r1, r0, r1\n",
            "strb r4, [r0], #1\n strb r5, [r0], #1\n strb r6, [r0], #1\n strb r7, [r0], #1\n",
            "strb r8, [r1], #1\n strb r9, [r1], #1\n strb r10, [r1], #1\n strb r11, [r1]\n",
            "str r0, [r12, #16]\n",
        )
    };
    ($shift:ident) => {
        concat!(
            quads_results!(channel, $shift, "r4", "r8"),
            quads_results!(channel, $shift, "r5", "r9"),
            quads_results!(channel, $shift, "r6", "r10"),
            quads_results!(channel, $shift, "r7", "r11"),
        )
    };
    (channel, $shift:ident, $a:literal, $b:literal) => {
        concat!(
            "ldrd r1, r2, [r0], #8\n add ",
            $a,
            ", ",
            $a,
            ", r1\n add ",
            $b,
            ", ",
            $b,
            ", r1\n",
            round!($shift, $a, "r2", "lr", "r3"),
            round!($shift, $b, "r2", "lr", "r3"),
        )
    };
}

/// To the next band: back to `3` unless it was the last one. In: r12 task.
#[cfg(core_family = "cortex-m4")]
macro_rules! next_band {
    () => {
        "ldr r0, [r12, #12]\n subs r0, r0, #1\n str r0, [r12, #12]\n bne.w 3b\n"
    };
}

#[cfg(core_family = "cortex-m4")]
pub(super) use {next_band, quad_results, quads_results, round};
