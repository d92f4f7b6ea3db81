//! The front end against its formulae in f64.

use super::*;

const SPEECH: LogMelConfig =
    LogMelConfig { sample_rate: 16_000, frame: 480, hop: 320, mels: 40, f_min: 20, f_max: 7_600 };

/// The features by the formulae of the module, the transform by its definition.
fn reference(config: LogMelConfig, samples: &[i16]) -> Vec<f64> {
    let (n, len) = (samples.len() as f64, config.frame.next_power_of_two());
    let tau = core::f64::consts::TAU;
    let windowed: Vec<f64> = samples
        .iter()
        .enumerate()
        .map(|(i, &x)| (1.0 - (tau * i as f64 / n).cos()) / 2.0 * 16_384.0 * f64::from(x))
        .collect();
    let mel = |f: f64| (1.0 + f / 700.0).log2();
    let (low, high) = (mel(config.f_min.into()), mel(config.f_max.into()));
    let mut energy = vec![0.0; config.mels.into()];
    for k in 1..=len / 2 {
        let (mut re, mut im) = (0.0, 0.0);
        for (i, x) in windowed.iter().enumerate() {
            let angle = tau * f64::from((u32::from(k) * i as u32) % u32::from(len)) / f64::from(len);
            (re, im) = (re + x * angle.cos(), im - x * angle.sin());
        }
        let power = (re * re + im * im) * (2.0 / f64::from(len)).powi(2);
        let f = f64::from(k) * f64::from(config.sample_rate) / f64::from(len);
        let p = (mel(f) - low) / (high - low) * (f64::from(config.mels) + 1.0);
        for (j, e) in energy.iter_mut().enumerate() {
            *e += (1.0 - (p - (j as f64 + 1.0)).abs()).max(0.0) * power;
        }
    }
    energy.iter().map(|e| (1.0 + e / 65_536.0).log2() * f64::from(STEPS_PER_OCTAVE)).collect()
}

/// Numbers that look random, in −1..1.
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed * 2 + 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    }
}

/// Generated sounds of `len` samples: noise, tones, sums of both, clicks, steps, and both ends of the range.
fn sounds(len: usize) -> Vec<Vec<i16>> {
    let mut all = vec![vec![0; len], vec![i16::MAX; len], vec![i16::MIN; len]];
    all.push((0..len).map(|i| if i % 2 == 0 { i16::MIN } else { i16::MAX }).collect());
    all.push((0..len).map(|i| if i / 7 % 2 == 0 { i16::MIN } else { i16::MAX }).collect());
    all.push((0..len).map(|i| if i == len / 2 { i16::MAX } else { 0 }).collect());
    all.push((0..len).map(|i| if i < len / 2 { -20_000 } else { 20_000 }).collect());
    for (seed, loudness) in [1.0, 3.0, 20.0, 300.0, 5_000.0, 32_767.0].into_iter().enumerate() {
        let mut random = noise(seed as u64 + 1);
        all.push((0..len).map(|_| (random() * loudness).round() as i16).collect());
        for frequency in [0.0031, 0.02, 0.11, 0.29, 0.45] {
            let tone = |i: usize| (core::f64::consts::TAU * frequency * i as f64).sin();
            all.push((0..len).map(|i| (tone(i) * loudness).round() as i16).collect());
            all.push(
                (0..len).map(|i| ((0.9 * tone(i) + 0.1 * random()) * loudness).round() as i16).collect(),
            );
        }
    }
    all
}

#[test]
fn features_are_within_their_bounds_of_the_formulae() {
    let configs = [
        SPEECH,
        LogMelConfig { frame: 32, mels: 3, ..SPEECH },
        LogMelConfig { frame: 401, mels: 23, f_min: 0, f_max: 8_000, ..SPEECH },
        LogMelConfig { sample_rate: 44_100, frame: 2_048, mels: 80, f_max: 20_000, ..SPEECH },
        LogMelConfig { sample_rate: 1_000, frame: 64, mels: 10, f_min: 50, f_max: 500, ..SPEECH },
    ];
    let mut worst = 0f64;
    for config in configs {
        let features = LogMel::new(config).unwrap();
        let mut scratch = vec![-1; features.scratch_len() + 1];
        let mut out = vec![-1; config.mels.into()];
        for sound in sounds(config.frame.into()) {
            features.frame(&sound, &mut scratch, &mut out).unwrap();
            for (j, (&y, wanted)) in out.iter().zip(reference(config, &sound)).enumerate() {
                let error = (f64::from(y) - wanted).abs();
                let bound = if wanted < 4_096.0 { 16.0 } else { 2.0 };
                assert!(error <= bound, "{config:?}, band {j}: {y}, not {wanted}; {:?}", &sound[..9]);
                worst = worst.max(error);
            }
        }
        assert_eq!(scratch.last(), Some(&-1));
    }
    assert!(worst > 0.4, "rounding alone gives half a step: {worst}");
}

#[test]
fn a_value_stays_what_it_is() {
    // Devices in the field compute these; a change would be another front end.
    let features = LogMel::new(LogMelConfig { mels: 8, ..SPEECH }).unwrap();
    let (mut scratch, mut out) = ([0; 512], [0; 8]);
    let mut random = noise(77);
    let sound: Vec<i16> = (0..480).map(|_| (random() * 9_000.0) as i16).collect();
    features.frame(&sound, &mut scratch, &mut out).unwrap();
    assert_eq!(out, [15947, 16115, 16212, 16592, 16595, 17059, 17229, 17290]);
}

#[test]
fn a_clip_is_its_frames() {
    let features = LogMel::new(SPEECH).unwrap();
    let mut random = noise(3);
    let sound: Vec<i16> = (0..1_500).map(|_| (random() * 30_000.0) as i16).collect();
    assert_eq!([0, 479, 480, 799, 800, 1_500].map(|n| features.frames(n)), [0, 0, 1, 1, 2, 4]);
    let (mut scratch, mut all, mut one) = ([0; 512], [0; 160], [0; 40]);
    features.clip(&sound, &mut scratch, &mut all).unwrap();
    for (i, frame) in all.chunks(40).enumerate() {
        features.frame(&sound[320 * i..][..480], &mut scratch, &mut one).unwrap();
        assert_eq!(frame, one);
    }
    let wrong = |e: Result<()>| matches!(e, Err(Error::Length { .. }));
    assert!(wrong(features.clip(&sound, &mut scratch, &mut one)));
    assert!(wrong(features.clip(&sound, &mut scratch[..511], &mut all)));
    assert!(wrong(features.frame(&sound[..479], &mut scratch, &mut one)));
    assert!(wrong(features.frame(&sound[..480], &mut scratch, &mut one[..39])));
    assert_eq!(features.clip(&sound[..9], &mut [], &mut []), Ok(()));
}

#[test]
fn impossible_parameters_are_refused() {
    let what = |config| match LogMel::new(config) {
        Err(Error::Range { what, .. } | Error::Empty { what }) => Some(what),
        _ => None,
    };
    for (config, wanted) in [
        (LogMelConfig { sample_rate: 999, f_max: 400, ..SPEECH }, What::SampleRate),
        (LogMelConfig { sample_rate: 192_001, ..SPEECH }, What::SampleRate),
        (LogMelConfig { frame: 31, ..SPEECH }, What::Frame),
        (LogMelConfig { frame: 2_049, ..SPEECH }, What::Frame),
        (LogMelConfig { hop: 0, ..SPEECH }, What::Hop),
        (LogMelConfig { mels: 0, ..SPEECH }, What::Bands),
        (LogMelConfig { mels: 129, ..SPEECH }, What::Bands),
        (LogMelConfig { f_max: 8_001, ..SPEECH }, What::Frequency),
        (LogMelConfig { f_min: 7_600, ..SPEECH }, What::Frequency),
        (LogMelConfig { f_min: u32::MAX, ..SPEECH }, What::Frequency),
        (LogMelConfig { mels: 100, ..SPEECH }, What::Bands), // 31 Hz from one frequency to the next
    ] {
        assert_eq!(what(config), Some(wanted), "{config:?}");
    }
    for config in [
        LogMelConfig { sample_rate: 192_000, frame: 2_048, hop: u16::MAX, mels: 1, f_min: 0, f_max: 96_000 },
        LogMelConfig { frame: 2_048, mels: 128, ..SPEECH },
    ] {
        assert_eq!(what(config), None, "{config:?}");
    }
}
