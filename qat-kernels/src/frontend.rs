//! Log-mel features of sound, in integers: the same bits on a workstation and on a microcontroller.
//!
//! A frame of n samples becomes m features, each the logarithm of the energy in a band of frequencies:
//!
//! ```text
//! w_i = (1 − cos(2πi/n))/2                                    Hann window, Q31
//! X_k = 2/N · Σ_i 2^14·w_i·x_i·e^(−2πik/N)                    N: the least power of two ≥ n; int32, zeros behind the frame
//! p_k = (m + 1)·(mel(k·f_s/N) − mel(f_min))/(mel(f_max) − mel(f_min)),   mel(f) = log2(1 + f/700)      Q16
//! E_j = Σ_k max(0, 1 − |p_k − (j + 1)|)·|X_k|²                triangles on the mel scale; 64 bits
//! y_j = log2(1 + E_j/2^16) in steps of 1/512                  0 for silence, at most 22,016: int16
//! ```
//!
//! The scale of mel and the triangles on it are those of HTK (Young et al. 2006, equation 5.13); 2^16 is about the energy
//! that the rounding of 16-bit samples leaves in a band. There is no pre-emphasis and no cosine transform: the first layer
//! of a network learns what it needs of both. The transform is a complex one of half the length whose stages
//! halve; no step can overflow, whatever the samples are.
//!
//! **Cost.** A frame of 480 samples and 40 bands takes 149,733 instructions on an emulated Cortex-M4F (`cargo xtask mcu-bench
//! logmel`), 7.5 million a second at 50 frames a second, and 2 KiB of scratch memory.
//!
//! **Accuracy.** Against the formulae in f64 a feature of 4,096 (eight octaves above the floor) or more is off by at most 2
//! steps, which is 0.012 dB, a smaller one by at most 16, where the last bits of the transform are heard; the tests assert
//! it for noise, tones and steps from the faintest to the loudest. Nothing that runs on a frame uses floats or the heap,
//! or can panic.

mod fft;
mod tables;

use crate::error::{Error, Result, What};
use tables::log2;

/// Steps of a feature per factor of 2 in energy.
pub const STEPS_PER_OCTAVE: u32 = 512;
/// log2 of the energy that counts as 1.
const FLOOR_BITS: u32 = 16;
/// The frequency in Hz below which the mel scale is about linear.
const MEL_CORNER: u64 = 700;

/// What the features are made of.
///
/// ```
/// use qat_kernels::frontend::{LogMel, LogMelConfig};
/// // 30 ms every 20 ms, 40 bands.
/// let config = LogMelConfig { sample_rate: 16_000, frame: 480, hop: 320, mels: 40, f_min: 20, f_max: 7_600 };
/// const SECOND: usize = 16_000;
/// let features = LogMel::new(config)?;
/// assert_eq!((features.frames(SECOND), features.scratch_len()), (49, 512));
/// let (mut scratch, mut out) = ([0; 512], [0; 40]);
/// features.frame(&[0; 480], &mut scratch, &mut out)?;
/// assert_eq!(out, [0; 40]); // silence
/// # Ok::<(), qat_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogMelConfig {
    /// Samples a second, 1,000 to 192,000.
    pub sample_rate: u32,
    /// Samples of a frame, 32 to 2,048.
    pub frame: u16,
    /// Samples from one frame to the next, at least 1.
    pub hop: u16,
    /// Bands, 1 to 128.
    pub mels: u16,
    /// Lower end of the lowest band in Hz.
    pub f_min: u32,
    /// Upper end of the highest band in Hz: more than `f_min`, at most half the sample rate.
    pub f_max: u32,
}

/// A front end, checked. Small, `Copy`, and computable at compile time.
///
/// ```
/// use qat_kernels::frontend::{LogMel, LogMelConfig};
/// # use qat_kernels::Error;
/// const CONFIG: LogMelConfig =
///     LogMelConfig { sample_rate: 16_000, frame: 512, hop: 256, mels: 32, f_min: 0, f_max: 8_000 };
/// const FEATURES: Result<LogMel, Error> = LogMel::new(CONFIG);
/// // A tone of 1 kHz lies at 33·mel(1,000)/mel(8,000) = 11.6 on the scale of band centres, which counts from 1.
/// let tone: [i16; 512] = core::array::from_fn(|i| if i % 16 < 8 { 8_000 } else { -8_000 });
/// let (mut scratch, mut out) = ([0; 512], [0; 32]);
/// FEATURES?.frame(&tone, &mut scratch, &mut out)?;
/// assert_eq!(out.iter().max(), Some(&out[11]));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMel {
    config: LogMelConfig,
    /// N.
    len: u32,
    /// A sample's share of a turn of the window, in Q48: in Q32 the last samples would be off by more than their rounding.
    phase: u64,
    /// log2 of the lower end, in the units of [`Self::position`], Q24.
    low: u32,
    /// Bands per step of log2, times 2^32.
    scale: u64,
}

impl LogMel {
    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::Range`] for a parameter out of its range; [`Error::Empty`] if a band lies between two frequencies of the
    /// transform and would always be silent: take fewer bands, or longer frames.
    ///
    /// ```
    /// use qat_kernels::frontend::{LogMel, LogMelConfig};
    /// use qat_kernels::{Error, What};
    /// let config = LogMelConfig { sample_rate: 8_000, frame: 240, hop: 80, mels: 20, f_min: 0, f_max: 4_000 };
    /// assert_eq!(LogMel::new(config)?.config(), config);
    /// // A transform of 256 has steps of 31 Hz; the lowest of 100 bands are narrower.
    /// assert_eq!(LogMel::new(LogMelConfig { mels: 100, ..config }), Err(Error::Empty { what: What::Bands }));
    /// let above_nyquist = LogMel::new(LogMelConfig { f_max: 4_001, ..config });
    /// assert!(matches!(above_nyquist, Err(Error::Range { what: What::Frequency, max: 4_000.0, .. })));
    /// # Ok::<(), Error>(())
    /// ```
    pub const fn new(config: LogMelConfig) -> Result<Self> {
        const MAX_FRAME: u32 = fft::MAX_LEN as u32;
        let LogMelConfig { sample_rate, frame, hop, mels, f_min, f_max } = config;
        let ranges = [
            (What::SampleRate, sample_rate, 1_000, 192_000),
            (What::Frame, frame as u32, 32, MAX_FRAME),
            (What::Hop, hop as u32, 1, u16::MAX as u32),
            (What::Bands, mels as u32, 1, 128),
            (What::Frequency, f_max, f_min.saturating_add(1), sample_rate / 2),
        ];
        let mut i = 0;
        while i < ranges.len() {
            let (what, value, min, max) = ranges[i];
            if value < min || value > max {
                return Err(Error::Range { what, value: value as f32, min: min as f32, max: max as f32 });
            }
            i += 1;
        }
        let len = (frame as u32).next_power_of_two();
        let low = log2((MEL_CORNER + f_min as u64) * len as u64);
        let high = log2((MEL_CORNER + f_max as u64) * len as u64);
        // Different whole frequencies differ by far more than the error of the logarithm.
        let span = if high > low { high - low } else { 1 };
        let scale = ((mels as u64 + 1) << 48) / span as u64;
        let phase = (1 << 48) / frame as u64;
        let this = Self { config, len, phase, low, scale };
        if this.has_silent_band() { Err(Error::Empty { what: What::Bands }) } else { Ok(this) }
    }

    /// The parameters.
    ///
    /// ```
    /// use qat_kernels::frontend::{LogMel, LogMelConfig};
    /// let config = LogMelConfig { sample_rate: 16_000, frame: 640, hop: 160, mels: 24, f_min: 60, f_max: 7_800 };
    /// let features = LogMel::new(config)?;
    /// let frames_a_second = features.config().sample_rate / u32::from(features.config().hop);
    /// assert_eq!(frames_a_second, 100);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn config(&self) -> LogMelConfig {
        self.config
    }

    /// Words of scratch memory that a frame needs: the length of the transform.
    ///
    /// ```
    /// use qat_kernels::frontend::{LogMel, LogMelConfig};
    /// let config = LogMelConfig { sample_rate: 16_000, frame: 400, hop: 160, mels: 16, f_min: 100, f_max: 8_000 };
    /// assert_eq!(LogMel::new(config)?.scratch_len(), 512); // the least power of two that holds 400
    /// assert_eq!(LogMel::new(LogMelConfig { frame: 1_024, ..config })?.scratch_len(), 1_024);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn scratch_len(&self) -> usize {
        self.len as usize
    }

    /// Whole frames in this many samples.
    ///
    /// ```
    /// use qat_kernels::frontend::{LogMel, LogMelConfig};
    /// let config = LogMelConfig { sample_rate: 8_000, frame: 200, hop: 80, mels: 10, f_min: 50, f_max: 3_500 };
    /// let features = LogMel::new(config)?;
    /// assert_eq!([199, 200, 279, 280].map(|samples| features.frames(samples)), [0, 1, 1, 2]);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn frames(&self, samples: usize) -> usize {
        match samples.checked_sub(self.config.frame as usize) {
            // `new` has refused a hop of 0.
            Some(rest) => match rest.checked_div(self.config.hop as usize) {
                Some(hops) => hops + 1,
                None => 0,
            },
            None => 0,
        }
    }

    /// The features of one frame: `samples` has [`LogMelConfig::frame`] values, `out` [`LogMelConfig::mels`], `scratch` at
    /// least [`Self::scratch_len`].
    ///
    /// # Errors
    /// [`Error::Length`] for another length.
    ///
    /// ```
    /// use qat_kernels::frontend::{LogMel, LogMelConfig, STEPS_PER_OCTAVE};
    /// let config = LogMelConfig { sample_rate: 8_000, frame: 256, hop: 128, mels: 8, f_min: 0, f_max: 4_000 };
    /// let features = LogMel::new(config)?;
    /// let (mut scratch, mut quiet, mut loud) = ([0; 256], [0; 8], [0; 8]);
    /// let wave = |a: i16| -> [i16; 256] { core::array::from_fn(|i| if i % 8 < 4 { a } else { -a }) };
    /// features.frame(&wave(5_000), &mut scratch, &mut quiet)?;
    /// features.frame(&wave(10_000), &mut scratch, &mut loud)?;
    /// let difference = quiet.iter().max().zip(loud.iter().max()).map(|(quiet, loud)| loud - quiet);
    /// assert_eq!(difference, Some(2 * STEPS_PER_OCTAVE as i16)); // twice as loud is four times the energy
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn frame(&self, samples: &[i16], scratch: &mut [i32], out: &mut [i16]) -> Result<()> {
        let length = |what, expected: usize, got: usize| Error::Length { what, expected, got };
        let (frame, mels) = (usize::from(self.config.frame), usize::from(self.config.mels));
        if samples.len() != frame {
            return Err(length(What::Samples, frame, samples.len()));
        }
        if out.len() != mels {
            return Err(length(What::Output, mels, out.len()));
        }
        let got = scratch.len();
        let too_short = length(What::Arena, self.scratch_len(), got);
        let z = scratch.get_mut(..self.scratch_len()).ok_or(too_short)?.as_chunks_mut().0;
        self.load(samples, z);
        fft::transform(z).ok_or(too_short)?;
        self.bands(z, out);
        Ok(())
    }

    /// The features of every whole frame of a clip, one after the other, [`LogMelConfig::mels`] each.
    ///
    /// # Errors
    /// [`Error::Length`] unless `out` has room for exactly [`Self::frames`] of them, or for a short `scratch`.
    ///
    /// ```
    /// use qat_kernels::frontend::{LogMel, LogMelConfig};
    /// let config = LogMelConfig { sample_rate: 16_000, frame: 512, hop: 512, mels: 4, f_min: 20, f_max: 8_000 };
    /// let mut clip = [0; 1_100]; // two frames and a rest that is left out
    /// clip[800] = 20_000; // a click in the second
    /// let mut out = [0; 2 * 4];
    /// LogMel::new(config)?.clip(&clip, &mut [0; 512], &mut out)?;
    /// assert_eq!(out[..4], [0; 4]);
    /// assert!(out[4..].iter().all(|&y| y > 0)); // a click is in all bands
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn clip(&self, samples: &[i16], scratch: &mut [i32], out: &mut [i16]) -> Result<()> {
        let (frame, mels) = (usize::from(self.config.frame), usize::from(self.config.mels));
        let expected = self.frames(samples.len()).saturating_mul(mels);
        if out.len() != expected {
            return Err(Error::Length { what: What::Output, expected, got: out.len() });
        }
        let frames = samples.windows(frame.max(1)).step_by(usize::from(self.config.hop).max(1));
        for (samples, out) in frames.zip(out.chunks_exact_mut(mels.max(1))) {
            self.frame(samples, scratch, out)?;
        }
        Ok(())
    }

    /// Windowed samples in Q14, two to a complex number, in bit-reversed order; zeros behind them.
    fn load(&self, samples: &[i16], z: &mut [[i32; 2]]) {
        let unused_bits = z.len().leading_zeros().wrapping_add(1);
        let mut phase = 0u64;
        let mut windowed = |x: i16| {
            let window = (1i64 << 31) - i64::from(tables::cosine((phase >> 16) as u32)); // 2w in Q31
            phase = phase.wrapping_add(self.phase);
            // 2^14·w·x, at most 2^29.
            ((window * i64::from(x)).wrapping_add(1 << 17) >> 18) as i32
        };
        let mut pairs = samples.chunks(2);
        for i in 0..z.len() {
            let pair = match pairs.next() {
                Some(&[a, b]) => [windowed(a), windowed(b)],
                Some(&[a]) => [windowed(a), 0],
                _ => [0, 0],
            };
            if let Some(place) = z.get_mut(i.reverse_bits().wrapping_shr(unused_bits)) {
                *place = pair;
            }
        }
    }

    /// Energies of the bands, as logarithms. Triangles overlap with their neighbours only, and frequencies ascend, so that
    /// two sums are open at a time.
    fn bands(&self, z: &[[i32; 2]], out: &mut [i16]) {
        let bands = u32::from(self.config.mels);
        let mut out = out.iter_mut();
        let (mut falling, mut rising, mut open) = (0u64, 0u64, 0u32);
        let mut close = |falling: &mut u64, rising: &mut u64, open: &mut u32| {
            // The first one to be closed is the half below the lowest band.
            if *open > 0
                && let Some(y) = out.next()
            {
                *y = feature(*falling);
            }
            (*falling, *rising) = (*rising, 0);
            *open = open.wrapping_add(1);
        };
        for k in 1..=z.len() {
            let Some(position) = self.position(k as u32) else { continue };
            let (band, share) = (position >> 16, position & 0xFFFF);
            if band > bands {
                break;
            }
            while open < band {
                close(&mut falling, &mut rising, &mut open);
            }
            let power = fft::power(z, k);
            rising = rising.wrapping_add(weighted(power, share));
            falling = falling.wrapping_add(weighted(power, (1 << 16) - share));
        }
        while open <= bands {
            close(&mut falling, &mut rising, &mut open);
        }
    }

    /// p_k in Q16; `None` below the lowest band.
    const fn position(&self, k: u32) -> Option<u32> {
        let log = log2(MEL_CORNER * self.len as u64 + k as u64 * self.config.sample_rate as u64);
        match log.checked_sub(self.low) {
            Some(above) => Some(((above as u64 * self.scale) >> 32) as u32),
            None => None,
        }
    }

    /// Whether no frequency has a share in one of the bands.
    const fn has_silent_band(&self) -> bool {
        let bands = self.config.mels as u32;
        // All bands up to this one have a share.
        let mut heard = 0;
        let mut k = 1;
        while k <= self.len / 2 {
            if let Some(position) = self.position(k) {
                let (band, share) = (position >> 16, position & 0xFFFF);
                // A share of 0 in the band above is none.
                let above = if share > 0 { band + 1 } else { band };
                if band > heard {
                    return true;
                }
                if above > heard {
                    heard = above;
                }
            }
            k += 1;
        }
        heard < bands
    }
}

/// `power·share/2^16`, for powers of up to 64 bits.
#[inline]
fn weighted(power: u64, share: u32) -> u64 {
    let share = u64::from(share);
    (power >> 16).wrapping_mul(share).wrapping_add(((power & 0xFFFF) * share) >> 16)
}

/// `log2(1 + energy/2^16)` in steps of 1/512, rounded.
fn feature(energy: u64) -> i16 {
    const DROPPED: u32 = 24 - STEPS_PER_OCTAVE.trailing_zeros();
    let log = log2(energy.saturating_add(1 << FLOOR_BITS)).saturating_sub(FLOOR_BITS << 24);
    i16::try_from(log.saturating_add(1 << (DROPPED - 1)) >> DROPPED).unwrap_or(i16::MAX)
}

#[cfg(test)]
mod tests;
