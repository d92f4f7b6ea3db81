//! WAV files of 8- or 16-bit PCM, in a folder for each class, as log-mel features.
//!
//! The features are those of [`qat_kernels::frontend`], the module that devices run: what is learned from here is what they
//! will compute, bit for bit.

use super::folder::files;
use super::raw::{Kind, Places, Raw, RawLabels};
use super::{Opened, check_size};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::Shape;
use qat_kernels::frontend::{LogMel, LogMelConfig};
use std::path::Path;

/// What is to be made of the files.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    pub(super) log_mel: LogMelConfig,
    /// Samples of an example: longer recordings lose their end, shorter ones get silence there.
    pub(super) clip: usize,
    /// The separator behind the group in a file's name.
    pub(super) group: Option<&'a str>,
}

/// Reads a folder of class folders.
pub(super) fn read(opened: &mut Opened<'_>, folder: &Path, how: How<'_>) -> Result<Raw> {
    let front_end = LogMel::new(how.log_mel)?;
    let found = files(folder, &["wav"], how.group)?;
    let shape = Shape { h: front_end.frames(how.clip), w: how.log_mel.mels.into(), c: 1 };
    check_size(found.len(), shape, folder)?;
    let mut scratch = vec![0; front_end.scratch_len()];
    let mut features = Vec::new();
    for file in &found {
        let mut samples =
            decode(&opened.read(&file.path)?, how.log_mel.sample_rate).map_err(|e| e.file(&file.path))?;
        samples.resize(how.clip, 0);
        let mut values = vec![0; shape.len()];
        front_end.clip(&samples, &mut scratch, &mut values)?;
        features.extend(values.into_iter().map(f32::from));
    }
    Ok(Raw {
        file: folder.into(),
        label_file: folder.into(),
        features,
        labels: RawLabels::Texts(found.iter().map(|f| f.class.clone()).collect()),
        groups: found.iter().map(|f| f.group.clone()).collect(),
        places: Places::Files(found.into_iter().map(|f| f.path).collect()),
        shape,
        kind: Kind::Channels,
        columns: None,
    })
}

/// The samples of a RIFF/WAVE file (IBM and Microsoft 1991), two channels averaged, 8 bits as the upper half of 16.
fn decode(bytes: &[u8], sample_rate: u32) -> Result<Vec<i16>> {
    let bad = |problem: String, byte: usize| {
        Error::new(ErrorKind::Data, problem)
            .place(format!("byte {byte}"))
            .remedy("remove the file, or convert it to 16-bit PCM")
    };
    if !matches!((bytes.get(..4), bytes.get(8..12)), (Some(b"RIFF"), Some(b"WAVE"))) {
        return Err(bad("this is no RIFF file with WAVE in it".into(), 0));
    }
    let mut format = None;
    let mut at = 12;
    loop {
        let Some(header) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
            return Err(bad("the file ends before its samples".into(), bytes.len()));
        };
        let [a, b, c, d, len @ ..] = *header;
        let (kind, len) = ([a, b, c, d], u32::from_le_bytes(len) as usize);
        let body = bytes.get(at + 8..).unwrap_or_default();
        let Some(body) = body.get(..len) else {
            let there = body.len();
            return Err(bad(format!("a chunk of {len} bytes is cut short: there are {there}"), at));
        };
        match &kind {
            b"fmt " => format = Some(Format::read(body).map_err(|problem| bad(problem, at))?),
            b"data" => {
                let Some(format) = format else {
                    return Err(bad("the samples come before their format".into(), at));
                };
                if format.sample_rate != sample_rate {
                    return Err(Error::new(
                        ErrorKind::Data,
                        format!("{} samples a second, where {sample_rate} are asked for", format.sample_rate),
                    )
                    .remedy("set `sample_rate` of [data], or resample the file: a microphone would not be"));
                }
                return format.samples(body).map_err(|problem| bad(problem, at));
            }
            _ => {}
        }
        // Chunks begin at even places.
        at += 8 + len + len % 2;
    }
}

#[derive(Clone, Copy)]
struct Format {
    channels: usize,
    sample_rate: u32,
    /// Bytes of a sample of one channel.
    width: usize,
}

impl Format {
    fn read(chunk: &[u8]) -> Result<Self, String> {
        const PCM: u16 = 1;
        /// The kind is the first two bytes of a GUID further on.
        const EXTENSIBLE: u16 = 0xFFFE;
        let word = |at: usize| chunk.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let fields = (word(0), word(2), word(4), word(6), word(12), word(14));
        let (Some(kind), Some(channels), Some(low), Some(high), Some(align), Some(bits)) = fields else {
            return Err(format!("a format of {} bytes is too short", chunk.len()));
        };
        let kind = if kind == EXTENSIBLE { word(24).unwrap_or(EXTENSIBLE) } else { kind };
        if kind != PCM {
            return Err(format!("samples of kind {kind} are no PCM"));
        }
        if !(1..=2).contains(&channels) || !matches!(bits, 8 | 16) {
            return Err(format!("{channels} channels of {bits} bits; 1 or 2 of 8 or 16 can be read"));
        }
        if align != channels * (bits / 8) {
            return Err(format!("{align} bytes a sample for {channels} channels of {bits} bits"));
        }
        let sample_rate = u32::from(low) | u32::from(high) << 16;
        Ok(Self { channels: channels.into(), sample_rate, width: usize::from(bits / 8) })
    }

    fn samples(self, data: &[u8]) -> Result<Vec<i16>, String> {
        let block = self.channels * self.width;
        if data.is_empty() || !data.len().is_multiple_of(block) {
            return Err(format!("{} bytes of samples of {block} bytes", data.len()));
        }
        let values: Vec<i16> = match self.width {
            1 => data.iter().map(|&x| (i16::from(x) - 128) << 8).collect(),
            _ => data.as_chunks().0.iter().map(|&x| i16::from_le_bytes(x)).collect(),
        };
        Ok(match self.channels {
            1 => values,
            _ => {
                let mean = |&[a, b]: &[i16; 2]| ((i32::from(a) + i32::from(b)) >> 1) as i16;
                values.as_chunks().0.iter().map(mean).collect()
            }
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file of 16-bit PCM.
    pub(in crate::data) fn wav(channels: u16, sample_rate: u32, samples: &[i16]) -> Vec<u8> {
        let data: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
        file(1, channels, sample_rate, 16, &data)
    }

    fn file(kind: u16, channels: u16, sample_rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
        let align = channels * (bits / 8);
        let mut format = [kind, channels].map(u16::to_le_bytes).concat();
        format.extend([sample_rate, sample_rate * u32::from(align)].map(u32::to_le_bytes).concat());
        format.extend([align, bits].map(u16::to_le_bytes).concat());
        riff(&[(b"LIST", b"odd"), (b"fmt ", &format), (b"data", data)])
    }

    fn riff(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut bytes = b"RIFF\0\0\0\0WAVE".to_vec();
        for (kind, body) in chunks {
            bytes.extend_from_slice(*kind);
            bytes.extend((body.len() as u32).to_le_bytes());
            bytes.extend_from_slice(body);
            bytes.resize(bytes.len().next_multiple_of(2), 0);
        }
        bytes
    }

    #[test]
    fn both_widths_and_channel_counts_are_read() {
        assert_eq!(decode(&wav(1, 8_000, &[1, -2, 3]), 8_000).unwrap(), [1, -2, 3]);
        assert_eq!(decode(&wav(2, 8_000, &[1, 2, -3, -4, 32767, 32767]), 8_000).unwrap(), [1, -4, 32767]);
        let eight = file(1, 1, 8_000, 8, &[0, 128, 255]);
        assert_eq!(decode(&eight, 8_000).unwrap(), [-32768, 0, 127 << 8]);
    }

    #[test]
    fn hostile_files_are_refused_with_a_place() {
        let good = wav(1, 8_000, &[1, 2]);
        for cut in 0..good.len() {
            let e = decode(&good[..cut], 8_000).unwrap_err().to_string();
            assert!(e.contains("byte "), "{cut}: {e}");
        }
        let format = &good[32..48];
        assert_eq!(format[..2], [1, 0]);
        let with = |at: usize, value: u8| {
            let mut format = format.to_vec();
            format[at] = value;
            riff(&[(b"fmt ", &format), (b"data", &[0; 4])])
        };
        for (bytes, wanted) in [
            (b"RIFX____WAVE".to_vec(), "no RIFF"),
            (riff(&[(b"data", &[0; 4])]), "before their format"),
            (riff(&[(b"fmt ", &format[..14]), (b"data", &[0; 4])]), "too short"),
            (riff(&[(b"fmt ", format)]), "ends before its samples"),
            (riff(&[(b"fmt ", format), (b"data", &[0; 3])]), "3 bytes of samples"),
            (riff(&[(b"fmt ", format), (b"data", &[])]), "0 bytes of samples"),
            (with(0, 3), "kind 3"),
            (with(2, 3), "3 channels"),
            (with(2, 0), "0 channels"),
            (with(14, 24), "24 bits"),
            (with(12, 4), "4 bytes a sample"),
            (wav(1, 44_100, &[1, 2]), "44100 samples a second"),
        ] {
            let e = decode(&bytes, 8_000).unwrap_err().to_string();
            assert!(e.contains(wanted), "{e}");
        }
        let mut claims = good;
        let at = claims.len() - 8;
        claims[at..at + 4].fill(0xFF);
        assert!(decode(&claims, 8_000).unwrap_err().to_string().contains("cut short"));
    }
}
