//! What all loops over bands of channels share: what they are called with, the requantisation of their sums, and what
//! happens with channels that fill no band and pixels that fill no group.

use super::wide::WIDE_STEPS;
use crate::artifact::OpKind;
use crate::artifact::cortex_m4::{STEP, Stream, band, band_divisors};
use core::ops::Range;

/// How accumulators become results: `sat8(zero_point + ((acc << left)·M + 2^31 >> 32))`.
#[derive(Clone, Copy)]
pub(crate) struct Rounding {
    pub(crate) left: u32,
    pub(crate) zero_point: i32,
}

/// What one call of a loop computes. The loops read it in this order, a word a field, and change the first three.
#[cfg(core_family = "cortex-m4")]
#[repr(C)]
pub(super) struct Task {
    /// Bands of channels, not zero.
    bands: usize,
    params: *const [u8; 8],
    out: *mut i8,
    /// Left shift before the multiplication.
    left: u32,
    zero_point: i32,
    missing: [[i32; 4]; 2],
    /// Bytes from one pixel's results to the next one's.
    stride: usize,
    stream: *const u32,
    weights: *const u8,
    /// Steps of the first turn of the outer loop; all others are whole.
    first: usize,
    divisors: *const u8,
    /// Turns of the outer loop, not zero.
    turns: usize,
    factors: *const [u32; 2],
    end: *const u32,
}

/// Where the loops look for the fields.
#[cfg(core_family = "cortex-m4")]
const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Task, bands) == 0 && offset_of!(Task, params) == 4 && offset_of!(Task, out) == 8);
    assert!(offset_of!(Task, left) == 12 && offset_of!(Task, zero_point) == 16);
    assert!(offset_of!(Task, missing) == 20 && offset_of!(Task, stride) == 52);
    assert!(offset_of!(Task, stream) == 56 && offset_of!(Task, weights) == 60);
    assert!(offset_of!(Task, first) == 64 && offset_of!(Task, divisors) == 68);
    assert!(offset_of!(Task, turns) == 72 && offset_of!(Task, factors) == 76);
    assert!(offset_of!(Task, end) == 80);
};

/// The loops over bands and pixels.
///
/// # Safety
/// All pointers of the task must be valid for the lengths that its bands, its turns and its stride imply, weights aligned to
/// words.
#[cfg(core_family = "cortex-m4")]
pub(super) type Loops = unsafe extern "C" fn(&mut Task);

/// The sums of a band's channels for one pixel, without what the caller says is missing.
#[cfg(not(core_family = "cortex-m4"))]
pub(super) type Loops = fn(&Band<'_>, usize) -> [u32; 4];

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

/// Results of a band of channels at once, for those that fill no band; as many as there can be.
const BAND_RESULTS: usize = 8;

/// The weights of a layer, with the loops for them.
pub(crate) struct Bands<'a> {
    loops: Loops,
    #[cfg(not(core_family = "cortex-m4"))]
    bits: u8,
    #[cfg(not(core_family = "cortex-m4"))]
    group: u8,
    /// Of groups, by their divisors.
    #[cfg(core_family = "cortex-m4")]
    factors: &'static [[u32; 2]],
    stream: Stream,
    /// Words of the stream.
    words: usize,
    weights: &'a [u8],
    divisors: &'a [u8],
    /// Bias and multiplier of every channel.
    params: &'a [[u8; 8]],
    rounding: Rounding,
    /// Channels of a band, and bytes of its weights and of its divisors.
    channels: usize,
    band_bytes: usize,
    band_divisors: usize,
    /// Whole bands, and all.
    whole: usize,
    count: usize,
    /// Steps of the first turn of the outer loop, and turns.
    first: usize,
    turns: usize,
}

impl<'a> Bands<'a> {
    /// A linear layer or a convolution in which `columns` meet in every output. `None` if there are no loops for it, or
    /// unless everything has its length.
    pub(crate) fn new(
        (kind, bits, group): (OpKind, u8, u8),
        columns: usize,
        (weights, divisors): (&'a [u8], &'a [u8]),
        params: &'a [[u8; 8]],
        rounding: Rounding,
    ) -> Option<Self> {
        let steps = columns.div_ceil(STEP);
        let stream = Stream::of(kind, bits, group);
        // Steps of a turn; divisions by constants only.
        let (loops, turn, turns) = match (bits, group) {
            (2, 0) => (super::two_bits::LOOPS, 2, steps.div_ceil(2)),
            (2, 8) => (super::two_bits_grouped::LOOPS_8, 1, steps),
            (2, 16) => (super::two_bits_grouped::LOOPS_16, 2, steps.div_ceil(2)),
            (2, 32) => (super::two_bits_grouped::LOOPS_32, 2, steps.div_ceil(2)),
            (3, 0) => (super::three_bits::LOOPS, 3, steps.div_ceil(3)),
            (4, 0) => (super::four_bits::LOOPS, WIDE_STEPS, steps.div_ceil(WIDE_STEPS)),
            (8, 0) => (super::eight_bits::LOOPS, WIDE_STEPS, steps.div_ceil(WIDE_STEPS)),
            _ => return None,
        };
        let [linear, conv2d] = loops;
        let channels = band(kind, bits);
        let (whole, count) = match (channels, params.len()) {
            (2, n) => (n / 2, n.div_ceil(2)),
            (_, n) => (n / 4, n.div_ceil(4)),
        };
        let band_divisors = match columns.checked_div(group.into()) {
            Some(groups) => band_divisors(kind, group, groups),
            None => 0,
        };
        let bands = Self {
            loops: if matches!(kind, OpKind::Linear) { linear } else { conv2d },
            #[cfg(not(core_family = "cortex-m4"))]
            bits,
            #[cfg(not(core_family = "cortex-m4"))]
            group,
            #[cfg(core_family = "cortex-m4")]
            factors: match (kind, group) {
                (OpKind::Conv2d, 32) => &super::two_bits_grouped::FACTORS_32,
                _ => &super::two_bits_grouped::FACTORS,
            },
            stream,
            words: stream.words(columns)?,
            weights,
            divisors,
            params,
            rounding,
            channels,
            band_bytes: steps.checked_mul(2 * usize::from(bits) * channels)?,
            band_divisors,
            whole,
            count,
            first: steps - turns.checked_sub(1)? * turn,
            turns,
        };
        let fits = weights.len() == count.checked_mul(bands.band_bytes)?
            && divisors.len() == count.checked_mul(band_divisors)?
            && is_aligned(weights);
        fits.then_some(bands)
    }

    /// The stream that [`Self::run`] reads.
    pub(crate) fn stream(&self) -> Stream {
        self.stream
    }

    /// All channels of up to as many pixels as the stream has lanes, one after the other in `out`. `missing` is what the
    /// sums of each pixel lack: first of channels that are stored without a sign, then of the others. `None` unless `words`
    /// is a stream and `out` has a length that can be.
    pub(crate) fn run(&self, words: &[u32], missing: &[[i32; 4]; 2], out: &mut [i8]) -> Option<()> {
        // With its length and its end, the loops stay inside a stream whatever it holds.
        let end = words.len().checked_sub(self.stream.head).and_then(|at| words.get(at));
        if words.len() != self.words || (self.stream.has_end && end != Some(&0)) {
            return None;
        }
        let stride = self.params.len();
        let mut first = 0;
        let rest = out.len().checked_sub(self.stream.pixels.checked_mul(stride)?);
        if rest == Some(0) && self.whole > 0 {
            self.bands(words, missing, 0..self.whole, self.params, out, stride);
            if self.whole == self.count {
                return Some(());
            }
            first = self.whole;
        }
        // Bands of less channels, and groups of less pixels, through a place where all of them have room.
        if rest.is_some_and(|rest| rest > 0) {
            return None;
        }
        for band in first..self.count {
            let (mut params, mut results) = ([[0; 8]; 4], [0; BAND_RESULTS]);
            let channel = band * self.channels;
            let from = self.params.get(channel..)?;
            params.iter_mut().zip(from).take(self.channels).for_each(|(to, &from)| *to = from);
            let room = results.get_mut(..self.stream.pixels * self.channels)?;
            self.bands(words, missing, band..band + 1, &params, room, self.channels);
            for (to, from) in out.chunks_exact_mut(stride.max(1)).zip(room.chunks_exact(self.channels.max(1)))
            {
                to.get_mut(channel..)?.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
            }
        }
        Some(())
    }

    /// Whole bands and all pixels; the first of `params` is that of the first of the bands. The caller has compared all
    /// lengths.
    #[inline]
    fn bands(
        &self,
        words: &[u32],
        missing: &[[i32; 4]; 2],
        bands: Range<usize>,
        params: &[[u8; 8]],
        out: &mut [i8],
        stride: usize,
    ) {
        debug_assert!(bands.end * self.band_bytes <= self.weights.len());
        debug_assert!(bands.end * self.band_divisors <= self.divisors.len());
        debug_assert!(params.len() >= bands.len() * self.channels);
        debug_assert!(out.len() >= (self.stream.pixels - 1) * stride + bands.len() * self.channels);
        #[cfg(core_family = "cortex-m4")]
        {
            let mut task = Task {
                bands: bands.len(),
                params: params.as_ptr(),
                out: out.as_mut_ptr(),
                left: self.rounding.left,
                zero_point: self.rounding.zero_point,
                missing: *missing,
                stride,
                stream: words.as_ptr(),
                weights: self.weights.as_ptr().wrapping_add(bands.start * self.band_bytes),
                first: self.first,
                divisors: self.divisors.as_ptr().wrapping_add(bands.start * self.band_divisors),
                turns: self.turns,
                factors: self.factors.as_ptr(),
                end: words.as_ptr_range().end,
            };
            // SAFETY: the stream was found whole, so the loops read it up to its end and no further; weights, divisors,
            // parameters and results have the lengths that the assertions above state, and weights are aligned.
            unsafe { (self.loops)(&mut task) }
        }
        #[cfg(not(core_family = "cortex-m4"))]
        self.twin(words, missing, bands, params, out, stride);
    }

    /// What the loops do, with sums computed in Rust.
    #[cfg(not(core_family = "cortex-m4"))]
    fn twin(
        &self,
        words: &[u32],
        missing: &[[i32; 4]; 2],
        bands: Range<usize>,
        params: &[[u8; 8]],
        out: &mut [i8],
        stride: usize,
    ) {
        use super::instructions::rounded_product;
        let unsigned = |channel: usize| match self.bits {
            2 | 8 => channel.is_multiple_of(2),
            3 => channel == 3,
            _ => channel < 3,
        };
        for (index, band) in bands.enumerate() {
            let weights: Vec<u32> = self.weights[band * self.band_bytes..][..self.band_bytes]
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| u32::from_le_bytes(bytes))
                .collect();
            let band = Band {
                words,
                weights: &weights,
                divisors: &self.divisors[band * self.band_divisors..][..self.band_divisors],
                pixels: self.stream.pixels,
                group: self.group,
                first: self.first,
                turns: self.turns,
            };
            for pixel in 0..self.stream.pixels {
                let sums = (self.loops)(&band, pixel).into_iter().take(self.channels);
                for (channel, sum) in sums.enumerate() {
                    let at = index * self.channels + channel;
                    let [b0, b1, b2, b3, m0, m1, m2, m3] = params[at];
                    let missing = missing[usize::from(!unsigned(channel))][pixel];
                    let bias = i32::from_le_bytes([b0, b1, b2, b3]).wrapping_add(missing);
                    let acc = sum.cast_signed().wrapping_add(bias) << self.rounding.left;
                    let multiplier = i32::from_le_bytes([m0, m1, m2, m3]);
                    let y = rounded_product(acc, multiplier, self.rounding.zero_point);
                    out[pixel * stride + at] = y.clamp(-128, 127) as i8;
                }
            }
        }
    }
}

fn is_aligned(weights: &[u8]) -> bool {
    cfg!(not(core_family = "cortex-m4")) || weights.as_ptr().addr().is_multiple_of(4)
}

/// `$acc` times `$m` to int8, after a shift by `$left` if there is one; zero point in `$z`.
#[cfg(core_family = "cortex-m4")]
macro_rules! round {
    ($acc:literal, $m:literal, $z:literal) => {
        concat!("smmlar ", $acc, ", ", $acc, ", ", $m, ", ", $z, "\n ssat ", $acc, ", #8, ", $acc, "\n")
    };
    ($acc:literal, $m:literal, $z:literal, $left:literal) => {
        concat!("lsl ", $acc, ", ", $acc, ", ", $left, "\n", round!($acc, $m, $z))
    };
}

/// Results of four channels of one pixel, then back to label 3 unless it was the last band. In: r4–r7 sums of codes as they
/// are stored, r12 task; `$m0`–`$m3` are r0 for channels without a sign and lr for the others. Leaves r1 and r12 as they are.
///
/// With a shift, which is rare, it goes the way of [`quad_shifted`].
#[cfg(core_family = "cortex-m4")]
macro_rules! quad_results {
    ($m0:literal, $m1:literal, $m2:literal, $m3:literal) => {
        concat!(
            "ldr r0, [r12, #20]\n ldr lr, [r12, #36]\n",
            "add r4, ",
            $m0,
            ", r4, lsl #1\n add r5, ",
            $m1,
            ", r5, lsl #1\n",
            "add r6, ",
            $m2,
            ", r6, lsl #1\n add r7, ",
            $m3,
            ", r7, lsl #1\n",
            "ldm r12, {{r2, r8, r9, r10, r11}}\n cmp r10, #0\n bne.w 94f\n",
            "ldm r8!, {{r0, r3, r10, lr}}\n add r4, r4, r0\n add r5, r5, r10\n",
            round!("r4", "r3", "r11"),
            round!("r5", "lr", "r11"),
            "ldm r8!, {{r0, r3, r10, lr}}\n add r6, r6, r0\n add r7, r7, r10\n",
            round!("r6", "r3", "r11"),
            round!("r7", "lr", "r11"),
            "95:\n",
            "strb r4, [r9], #1\n strb r5, [r9], #1\n strb r6, [r9], #1\n strb r7, [r9], #1\n",
            "subs r2, r2, #1\n stm r12, {{r2, r8, r9}}\n bne.w 3b\n",
        )
    };
}

/// Where [`quad_results`] goes if there is a shift.
#[cfg(core_family = "cortex-m4")]
macro_rules! quad_shifted {
    () => {
        concat!(
            "94:\n",
            "ldrd r0, r3, [r8], #8\n add r4, r4, r0\n",
            round!("r4", "r3", "r11", "r10"),
            "ldrd r0, r3, [r8], #8\n add r5, r5, r0\n",
            round!("r5", "r3", "r11", "r10"),
            "ldrd r0, r3, [r8], #8\n add r6, r6, r0\n",
            round!("r6", "r3", "r11", "r10"),
            "ldrd r0, r3, [r8], #8\n add r7, r7, r0\n",
            round!("r7", "r3", "r11", "r10"),
            "b.w 95b\n",
        )
    };
}

/// Results of four channels of two pixels, then back to label 3 unless it was the last band. In: r4–r7 and r8–r11 sums of
/// codes as they are stored, r12 task; `$a` and `$b` are r0, r2 for channels without a sign and r3, lr for the others. Leaves
/// r1 and r12 as they are.
///
/// With a shift, which is rare, it goes the way of [`quads_shifted`].
#[cfg(core_family = "cortex-m4")]
macro_rules! quads_results {
    ($a0:literal, $b0:literal, $a1:literal, $b1:literal, $a2:literal, $b2:literal, $a3:literal, $b3:literal) => {
        concat!(
            "ldrd r0, r2, [r12, #20]\n ldrd r3, lr, [r12, #36]\n",
            "add r4, ",
            $a0,
            ", r4, lsl #1\n add r8, ",
            $b0,
            ", r8, lsl #1\n",
            "add r5, ",
            $a1,
            ", r5, lsl #1\n add r9, ",
            $b1,
            ", r9, lsl #1\n",
            "add r6, ",
            $a2,
            ", r6, lsl #1\n add r10, ",
            $b2,
            ", r10, lsl #1\n",
            "add r7, ",
            $a3,
            ", r7, lsl #1\n add r11, ",
            $b3,
            ", r11, lsl #1\n",
            "ldr r0, [r12, #4]\n ldrd r2, lr, [r12, #12]\n cmp r2, #0\n bne.w 94f\n",
            quads_results!("r4", "r8"),
            quads_results!("r5", "r9"),
            quads_results!("r6", "r10"),
            quads_results!("r7", "r11"),
            "95:\n",
            "ldr r2, [r12, #8]\n ldr r3, [r12, #52]\n add r3, r2, r3\n",
            "strb r4, [r2], #1\n strb r5, [r2], #1\n strb r6, [r2], #1\n strb r7, [r2], #1\n",
            "strb r8, [r3], #1\n strb r9, [r3], #1\n strb r10, [r3], #1\n strb r11, [r3]\n",
            "ldr lr, [r12]\n strd r0, r2, [r12, #4]\n subs lr, lr, #1\n str lr, [r12]\n bne.w 3b\n",
        )
    };
    ($a:literal, $b:literal) => {
        concat!(
            "ldrd r2, r3, [r0], #8\n add ",
            $a,
            ", ",
            $a,
            ", r2\n add ",
            $b,
            ", ",
            $b,
            ", r2\n",
            round!($a, "r3", "lr"),
            round!($b, "r3", "lr"),
        )
    };
}

/// Where [`quads_results`] goes if there is a shift.
#[cfg(core_family = "cortex-m4")]
macro_rules! quads_shifted {
    () => {
        concat!(
            "94:\n str r1, [r12, #60]\n mov r1, r2\n",
            quads_shifted!("r4", "r8"),
            quads_shifted!("r5", "r9"),
            quads_shifted!("r6", "r10"),
            quads_shifted!("r7", "r11"),
            "ldr r1, [r12, #60]\n b.w 95b\n",
        )
    };
    ($a:literal, $b:literal) => {
        concat!(
            "ldrd r2, r3, [r0], #8\n add ",
            $a,
            ", ",
            $a,
            ", r2\n add ",
            $b,
            ", ",
            $b,
            ", r2\n",
            round!($a, "r3", "lr", "r1"),
            round!($b, "r3", "lr", "r1"),
        )
    };
}

#[cfg(core_family = "cortex-m4")]
pub(super) use {quad_results, quad_shifted, quads_results, quads_shifted, round};
