//! Event files for TensorBoard: scalars over steps.
//!
//! The format is public: a file is a row of records (TensorFlow's `record_writer.h`), each the length of its data as a
//! little-endian u64, the masked CRC-32C of those eight bytes, the data, and the masked CRC-32C of the data; the data is
//! one protocol-buffer message `Event` (`event.proto`), of which a few fields are enough.

use crate::error::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file, open at its end.
///
/// ```
/// use qat_trainer::tensorboard::EventWriter;
/// # let dir = tempfile::tempdir()?;
/// # let folder = dir.path();
/// let mut curves = EventWriter::create(folder, 1)?;
/// for (step, loss) in [(1, 2.5), (2, 1.25)] {
///     curves.scalar(step, "loss", loss)?;
/// }
/// drop(curves); // what was added is on the disk: one file, in which each record of a value names its curve
/// let file = std::fs::read_dir(folder)?.next().ok_or("no file")??.path();
/// assert_eq!(std::fs::read(file)?.windows(4).filter(|bytes| bytes == b"loss").count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Starts a new file in `folder`, which is made if it is not there. TensorBoard reads all files of a folder as one
    /// run, and forgets what earlier ones say about `first_step` and later, which a training that was interrupted reports
    /// again.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    ///
    /// ```
    /// use qat_trainer::tensorboard::EventWriter;
    /// # let dir = tempfile::tempdir()?;
    /// let folder = dir.path().join("runs/second/events"); // none of these is there
    /// EventWriter::create(&folder, 100)?;
    /// let name = std::fs::read_dir(&folder)?.next().ok_or("no file")??.file_name();
    /// assert!(name.to_string_lossy().starts_with("events.out.tfevents.")); // what TensorBoard looks for
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create(folder: &Path, first_step: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, &e))?;
        let time = now();
        // TensorBoard looks for `tfevents` in the name, and reads a folder's files in the order of their names.
        let name = format!("events.out.tfevents.{:017.6}.{}.qat", time, std::process::id());
        let path = folder.join(name);
        let file = File::create_new(&path).map_err(|e| Error::io("create", &path, &e))?;
        let mut writer = Self { path, file: BufWriter::new(file) };
        writer.event(time, 0, |event| message::text(event, FILE_VERSION, "brain.Event:2"))?;
        writer.event(time, first_step, |event| {
            let mut session = Vec::new();
            message::number(&mut session, STATUS, START);
            message::bytes(event, SESSION_LOG, &session);
        })?;
        writer.flush()?;
        Ok(writer)
    }

    /// Adds a value of the curve `tag`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    ///
    /// ```
    /// use qat_trainer::tensorboard::EventWriter;
    /// # let dir = tempfile::tempdir()?;
    /// let mut curves = EventWriter::create(dir.path(), 1)?;
    /// curves.scalar(1, "accuracy", 0.75)?;
    /// curves.flush()?;
    /// let file = std::fs::read_dir(dir.path())?.next().ok_or("no file")??.path();
    /// let bytes = std::fs::read(file)?;
    /// let (event, _checksum) = bytes.split_at(bytes.len() - 4);
    /// assert!(event.ends_with(b"\x0a\x08accuracy\x15\0\0\x40\x3f")); // the tag with its length, 0.75 as a float
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn scalar(&mut self, step: u64, tag: &str, value: f32) -> Result<()> {
        self.event(now(), step, |event| {
            let (mut summary, mut one) = (Vec::new(), Vec::new());
            message::text(&mut one, TAG, tag);
            message::float(&mut one, SIMPLE_VALUE, value);
            message::bytes(&mut summary, VALUE, &one);
            message::bytes(event, SUMMARY, &summary);
        })
    }

    /// Makes what was added visible.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    ///
    /// ```
    /// use qat_trainer::tensorboard::EventWriter;
    /// # let dir = tempfile::tempdir()?;
    /// let mut curves = EventWriter::create(dir.path(), 1)?;
    /// let file = std::fs::read_dir(dir.path())?.next().ok_or("no file")??.path();
    /// let started = file.metadata()?.len();
    /// curves.scalar(1, "loss", 0.5)?;
    /// assert_eq!(file.metadata()?.len(), started); // it waits in memory
    /// curves.flush()?;
    /// assert!(file.metadata()?.len() > started);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::io("write", &self.path, &e))
    }

    fn event(&mut self, time: f64, step: u64, fill: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let mut event = Vec::new();
        message::double(&mut event, WALL_TIME, time);
        message::number(&mut event, STEP, step);
        fill(&mut event);
        let bytes = record(&event)?;
        self.file.write_all(&bytes).map_err(|e| Error::io("write", &self.path, &e))
    }
}

// Fields of Event, Summary, Summary.Value and SessionLog; START is a value of SessionLog.status.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;
const SESSION_LOG: u64 = 7;
const VALUE: u64 = 1;
const TAG: u64 = 1;
const SIMPLE_VALUE: u64 = 2;
const STATUS: u64 = 1;
const START: u64 = 1;

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A record with its length and checksums.
fn record(data: &[u8]) -> Result<Vec<u8>> {
    let length = u64::try_from(data.len())
        .map_err(|_| Error::new(ErrorKind::Io, "an event is too long"))?
        .to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked(crc32c(&length)).to_le_bytes());
    out.extend(data);
    out.extend(masked(crc32c(data)).to_le_bytes());
    Ok(out)
}

/// The rotation that keeps a checksum of data with checksums in it sound.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: events are a few dozen bytes.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in data {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// Fields of protocol-buffer messages.
mod message {
    fn varint(out: &mut Vec<u8>, mut n: u64) {
        while n >= 0x80 {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    }

    /// A field's number with its wire type.
    fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
        varint(out, field << 3 | wire_type);
    }

    pub(super) fn number(out: &mut Vec<u8>, field: u64, n: u64) {
        key(out, field, 0);
        varint(out, n);
    }

    pub(super) fn double(out: &mut Vec<u8>, field: u64, x: f64) {
        key(out, field, 1);
        out.extend(x.to_le_bytes());
    }

    pub(super) fn bytes(out: &mut Vec<u8>, field: u64, data: &[u8]) {
        key(out, field, 2);
        varint(out, data.len() as u64);
        out.extend(data);
    }

    pub(super) fn text(out: &mut Vec<u8>, field: u64, text: &str) {
        bytes(out, field, text.as_bytes());
    }

    pub(super) fn float(out: &mut Vec<u8>, field: u64, x: f32) {
        key(out, field, 5);
        out.extend(x.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_standards() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn messages_are_those_of_the_proto_file() {
        // { 1: 1.5 as double, 2: 300 as varint, 3: "v" } written by hand after the encoding's specification.
        let mut out = Vec::new();
        message::double(&mut out, 1, 1.5);
        message::number(&mut out, 2, 300);
        message::text(&mut out, 3, "v");
        message::float(&mut out, 2, 1.0);
        let wanted = [9, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x10, 0xac, 2, 0x1a, 1, b'v', 0x15, 0, 0, 0x80, 0x3f];
        assert_eq!(out, wanted);
    }

    #[test]
    fn a_file_is_a_row_of_sound_records() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("runs/a");
        let mut writer = EventWriter::create(&folder, 40).unwrap();
        writer.scalar(41, "loss", 0.25).unwrap();
        writer.flush().unwrap();
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(files.len(), 1);
        assert!(files[0].to_str().unwrap().contains("tfevents"));
        let bytes = std::fs::read(&files[0]).unwrap();
        let mut events: Vec<&[u8]> = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            let n = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            assert_eq!(after[..4], masked(crc32c(length)).to_le_bytes());
            let data = &after[4..4 + n];
            assert_eq!(after[4 + n..8 + n], masked(crc32c(data)).to_le_bytes());
            events.push(data);
            rest = &after[8 + n..];
        }
        assert_eq!(events.len(), 3);
        assert!(events[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        assert!(events[1].ends_with(&[0x10, 40, 0x3a, 2, 8, 1]));
        assert!(events[2].ends_with(b"\x10\x29\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x80\x3e"));
    }
}
