//! int8 activations to the stream of halfwords that the loops over bands read, in steps of 16 columns of one pixel.
//!
//! Each four activations become two words, columns (0, 2) and (1, 3); the words of pixels that are computed together
//! alternate. Where a window ends, the value that its sums start from is written to its head.

use crate::artifact::cortex_m4::{STEP, Stream};
#[cfg(core_family = "cortex-m4")]
use core::arch::naked_asm;
use core::marker::PhantomData;

/// What windows start from, with S the sum of the activations in one of them and S' in all up to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// There are no windows.
    None,
    /// `2^13 − ⌊3/2·S'⌋`, plus the `⌊…⌋` of the window before, so that the roundings do not add up.
    Two,
    /// `2^12 − ⌊1/2·S'⌋` likewise.
    Three,
    /// `2^15 + S·` this factor, `2^16 − 12` or −8; activations are multiplied by 8.
    Exact(i32),
}

/// How far a lane is filled. The loops use it in this order, a word a field.
#[repr(C)]
struct Lane {
    to: *mut u32,
    /// Sum of all activations; of those of a window where starts are exact.
    total: i32,
    /// The `⌊…⌋` of the window before; the factor of exact starts.
    taken: i32,
    /// Steps left in the window.
    left: usize,
    head: *mut u32,
    /// Bytes from where the lane goes on after a window to the head of the next one.
    to_head: usize,
}

/// How the lanes of a stream are filled.
#[derive(Clone, Copy)]
pub(crate) struct Lanes {
    stream: Stream,
    words: usize,
    steps: usize,
    /// Steps of the first window.
    first: usize,
    /// What all windows start from, without their sums.
    starts: i32,
    /// The factor of exact starts, or 0.
    factor: i32,
    /// Words of a head that are one pixel's.
    own: usize,
    run: Run,
}

/// Fills one pixel's lane of a stream, step by step.
pub(crate) struct Filler<'a> {
    lane: Lane,
    /// Steps still to be filled.
    steps: usize,
    starts: i32,
    run: Run,
    words: PhantomData<&'a mut [u32]>,
}

/// What has gone into a lane; of no use where starts are exact.
pub(crate) struct Filled {
    /// Sum of all activations.
    pub(crate) total: i32,
    /// Sum of what the windows start from.
    pub(crate) starts: i32,
}

/// # Safety
/// The lane must have room for so many steps, and as many must be readable.
#[cfg(core_family = "cortex-m4")]
type Run = unsafe extern "C" fn(&mut Lane, *const i8, usize);

/// What the twin has to know.
#[cfg(not(core_family = "cortex-m4"))]
type Run = (Stream, Start);

impl Lanes {
    /// `None` if there is no such stream.
    pub(crate) fn new(stream: Stream, start: Start, columns: usize) -> Option<Self> {
        let steps = columns.div_ceil(STEP);
        let (windows, first, bits) = match start {
            Start::Two => (steps.div_ceil(2), steps.wrapping_sub(1) % 2 + 1, 13),
            Start::Three => (steps.div_ceil(3), steps.wrapping_sub(1) % 3 + 1, 12),
            Start::None | Start::Exact(_) => (0, 0, 0),
        };
        let own = match stream.pixels {
            1 => stream.head,
            2 => stream.head / 2,
            _ => stream.head / 4,
        };
        Some(Self {
            stream,
            words: stream.words(columns)?,
            steps,
            first,
            starts: (windows as i32) << bits,
            factor: if let Start::Exact(factor) = start { factor } else { 0 },
            own,
            #[cfg(core_family = "cortex-m4")]
            run: loops::choose(&stream, start)?,
            #[cfg(not(core_family = "cortex-m4"))]
            run: (stream, start),
        })
    }

    /// Marks the end of a stream.
    pub(crate) fn end(&self, words: &mut [u32]) -> Option<()> {
        if self.stream.has_end {
            words.get_mut(self.words.checked_sub(self.stream.head)?..)?.fill(0);
        }
        Some(())
    }

    /// Begins to fill a lane; `None` unless `words` is such a stream and has that lane.
    #[inline]
    pub(crate) fn lane<'a>(&self, lane: usize, words: &'a mut [u32]) -> Option<Filler<'a>> {
        if words.len() != self.words || lane >= self.stream.pixels {
            return None;
        }
        let base = words.as_mut_ptr();
        Some(Filler {
            lane: Lane {
                to: base.wrapping_add(self.stream.head + lane),
                total: 0,
                taken: self.factor,
                left: self.first,
                head: base.wrapping_add(lane * self.own),
                to_head: (lane * self.own).wrapping_sub(lane).wrapping_mul(4),
            },
            steps: self.steps,
            starts: self.starts,
            run: self.run,
            words: PhantomData,
        })
    }
}

impl Filler<'_> {
    /// Fills whole steps; `None` if that are more than are left.
    #[inline(always)]
    pub(crate) fn steps(&mut self, x: &[[i8; STEP]]) -> Option<()> {
        self.steps = self.steps.checked_sub(x.len())?;
        if !x.is_empty() {
            #[cfg(core_family = "cortex-m4")]
            // SAFETY: the stream has its length, of which the lane's pointers are those of the steps that are left.
            unsafe {
                (self.run)(&mut self.lane, x.as_ptr().cast(), x.len());
            }
            #[cfg(not(core_family = "cortex-m4"))]
            // SAFETY: as above.
            unsafe {
                twin(&self.run, &mut self.lane, x);
            }
        }
        Some(())
    }

    /// Fills the last columns, with zeros behind them up to a whole step. `None` unless they are all that is left.
    #[inline(always)]
    pub(crate) fn finish(mut self, x: &[i8]) -> Option<Filled> {
        let (whole, tail) = x.as_chunks();
        self.steps(whole)?;
        if !tail.is_empty() {
            let mut step = [0; STEP];
            step.iter_mut().zip(tail).for_each(|(to, &from)| *to = from);
            self.steps(&[step])?;
        }
        self.filled()
    }

    /// What has gone into the lane; `None` unless it is full.
    #[inline(always)]
    pub(crate) fn filled(self) -> Option<Filled> {
        let filled = Filled { total: self.lane.total, starts: self.starts.wrapping_sub(self.lane.taken) };
        (self.steps == 0).then_some(filled)
    }
}

#[cfg(core_family = "cortex-m4")]
mod loops {
    use super::{Lane, Run, Start, Stream, naked_asm};

    pub(super) fn choose(stream: &Stream, start: Start) -> Option<Run> {
        Some(match (stream.pixels, start, stream.window) {
            (1, Start::None, _) => plain_1,
            (2, Start::None, _) => plain_2,
            (1, Start::Two, _) => two_1,
            (4, Start::Two, _) => two_4,
            (1, Start::Three, _) => three_1,
            (2, Start::Three, _) => three_2,
            (1, Start::Exact(_), 8) => exact_1_8,
            (4, Start::Exact(_), 8) => exact_4_8,
            (1, Start::Exact(_), _) => exact_1_16,
            (4, Start::Exact(_), _) => exact_4_16,
            _ => return None,
        })
    }

    /// Eight columns to words `$s` bytes apart; `$x` is what is done to them before.
    macro_rules! eight {
        ($s:literal, $x:expr) => {
            concat!(
                "ldr r9, [r1], #4\n ldr r11, [r1], #4\n",
                "sxtb16 r10, r9\n sxtb16 r9, r9, ror #8\n sxtb16 r12, r11\n sxtb16 r11, r11, ror #8\n",
                "smlad r4, r10, r8, r4\n smlad r4, r9, r8, r4\n smlad r4, r12, r8, r4\n smlad r4, r11, r8, r4\n",
                $x,
                "str r10, [r3], #", $s, "\n str r9, [r3], #", $s, "\n",
                "str r12, [r3], #", $s, "\n str r11, [r3], #", $s, "\n",
            )
        };
    }

    /// Times 8; the mask keeps the sign of a low halfword out of the high one.
    macro_rules! scaled {
        ($s:literal) => {
            eight!(
                $s,
                "and r10, lr, r10, lsl #3\n and r9, lr, r9, lsl #3\n and r12, lr, r12, lsl #3\n and r11, lr, r11, lsl #3\n"
            )
        };
    }

    /// The end of a window: its start is in r10 for `$store` to write; then to the next one, behind a head of `$head` bytes.
    macro_rules! window {
        ($centre:literal, $middle:literal, $store:literal, $head:literal, $steps:literal) => {
            concat!(
                "subs r6, r6, #1\n bne 2f\n",
                $centre,
                "sub r10, r5, r9\n add r10, r10, #",
                $middle,
                "\n mov r5, r9\n",
                $store,
                "ldr r9, [r0, #20]\n add r7, r3, r9\n add r3, r3, #",
                $head,
                "\n mov r6, #",
                $steps,
                "\n",
                "2:\n",
            )
        };
    }

    macro_rules! exact {
        ($head:literal) => {
            concat!(
                "mla r10, r4, r5, r6\n str r10, [r7]\n mov r7, r3\n add r3, r3, #",
                $head,
                "\n mov r4, #0\n"
            )
        };
    }

    /// In the loop: r0 lane, r1 activations, r2 steps, r3 words, r4 sum, r5 taken or factor, r6 steps left in the window or
    /// 2^15, r7 head, r8 ones, lr mask, the others activations.
    macro_rules! fill {
        ($name:ident, $before:literal, $step:expr) => {
            /// # Safety
            /// As [`Run`] says.
            #[unsafe(naked)]
            unsafe extern "C" fn $name(lane: &mut Lane, x: *const i8, steps: usize) {
                naked_asm!(
                    "push {{r4-r11, lr}}",
                    "ldm r0, {{r3-r7}}",
                    "mov r8, #0x00010001",
                    $before,
                    "1:",
                    $step,
                    "subs r2, r2, #1",
                    "bne.w 1b",
                    "stm r0, {{r3-r7}}",
                    "pop {{r4-r11, pc}}",
                )
            }
        };
    }

    macro_rules! two {
        ($s:literal, $store:literal, $head:literal) => {
            concat!(
                eight!($s, ""),
                eight!($s, ""),
                window!("add r9, r4, r4, lsl #1\n asr r9, r9, #1\n", "0x2000", $store, $head, "2")
            )
        };
    }

    macro_rules! three {
        ($s:literal, $head:literal) => {
            concat!(
                eight!($s, ""),
                eight!($s, ""),
                window!(
                    "asr r9, r4, #1\n",
                    "0x1000",
                    "str r10, [r7]\n str r10, [r7, #4]\n str r10, [r7, #8]\n",
                    $head,
                    "3"
                )
            )
        };
    }

    fill!(plain_1, "", concat!(eight!("4", ""), eight!("4", "")));
    fill!(plain_2, "", concat!(eight!("8", ""), eight!("8", "")));
    fill!(two_1, "", two!("4", "str r10, [r7]\n str r10, [r7, #4]\n", "8"));
    fill!(two_4, "", two!("16", "str r10, [r7]\n", "16"));
    fill!(three_1, "", three!("4", "12"));
    fill!(three_2, "", three!("8", "24"));
    fill!(
        exact_1_8,
        "mvn lr, #0x00070007\n mov r6, #0x8000\n",
        concat!(scaled!("4"), exact!("4"), scaled!("4"), exact!("4"))
    );
    fill!(
        exact_4_8,
        "mvn lr, #0x00070007\n mov r6, #0x8000\n",
        concat!(scaled!("16"), exact!("16"), scaled!("16"), exact!("16"))
    );
    fill!(
        exact_1_16,
        "mvn lr, #0x00070007\n mov r6, #0x8000\n",
        concat!(scaled!("4"), scaled!("4"), exact!("4"))
    );
    fill!(
        exact_4_16,
        "mvn lr, #0x00070007\n mov r6, #0x8000\n",
        concat!(scaled!("16"), scaled!("16"), exact!("16"))
    );
}

/// The same in Rust.
///
/// # Safety
/// The lane must have room for so many steps.
#[cfg(not(core_family = "cortex-m4"))]
unsafe fn twin((stream, start): &Run, lane: &mut Lane, x: &[[i8; STEP]]) {
    use super::instructions::{smlad, sxtb16, sxtb16_ror8};
    let window_end = |lane: &mut Lane, value: i32, copies: usize| {
        for copy in 0..copies {
            // SAFETY: a head comes before the activations of its window.
            unsafe { lane.head.add(copy).write(value.cast_unsigned()) };
        }
        lane.head = lane.to.wrapping_byte_add(lane.to_head);
        lane.to = lane.to.wrapping_add(stream.head);
    };
    for fours in x.iter().map(|step| step.as_chunks::<4>().0) {
        for (at, four) in fours.iter().enumerate() {
            let four = u32::from_le_bytes(four.map(i8::cast_unsigned));
            for halves in [sxtb16(four), sxtb16_ror8(four)] {
                lane.total = smlad(halves, 0x0001_0001, lane.total.cast_unsigned()).cast_signed();
                let is_scaled = matches!(start, Start::Exact(_));
                // SAFETY: the caller vouches for the room of a step.
                unsafe { lane.to.write(if is_scaled { halves << 3 & 0xFFF8_FFF8 } else { halves }) };
                lane.to = lane.to.wrapping_add(stream.pixels);
            }
            if let Start::Exact(factor) = *start
                && (at == 3 || stream.window == 8 && at == 1)
            {
                window_end(lane, (1 << 15) + factor.wrapping_mul(lane.total), 1);
                lane.total = 0;
            }
        }
        let (times, middle, steps, copies) = match start {
            Start::Two => (3, 1 << 13, 2, stream.head / stream.pixels),
            Start::Three => (1, 1 << 12, 3, 3),
            _ => continue,
        };
        lane.left -= 1;
        if lane.left == 0 {
            let centre = (times * lane.total) >> 1;
            window_end(lane, middle + lane.taken - centre, copies);
            (lane.taken, lane.left) = (centre, steps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::OpKind;

    #[test]
    fn words_and_heads_go_to_their_lane() {
        let x: Vec<i8> = (1..=16).collect();
        let lanes = Lanes::new(Stream::of(OpKind::Conv2d, 2, 0), Start::Two, 16).unwrap();
        let mut words = vec![9; 4 + 32 + 4];
        lanes.end(&mut words).unwrap();
        let filled = lanes.lane(1, &mut words).unwrap().finish(&x).unwrap();
        assert_eq!((filled.total, filled.starts), (136, (1 << 13) - 204));
        assert_eq!(words[..12], [9, 8192 - 204, 9, 9, 9, 0x0003_0001, 9, 9, 9, 0x0004_0002, 9, 9]);
        assert_eq!(words[36..], [0; 4]);
    }

    #[test]
    fn a_lane_takes_what_it_has_room_for() {
        let lanes = Lanes::new(Stream::of(OpKind::Linear, 8, 0), Start::None, 20).unwrap();
        let mut words = [0; 16];
        let mut fill = |len: usize| lanes.lane(0, &mut words)?.finish(&vec![1; len]);
        assert_eq!(fill(20).unwrap().total, 20);
        assert!(fill(40).is_none() && fill(16).is_none());
        assert!(lanes.lane(1, &mut words).is_none());
        assert!(lanes.lane(0, &mut [0; 15]).is_none());
    }
}
