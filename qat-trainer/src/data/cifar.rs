//! The binary versions of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): records of one or two label bytes and 3,072 bytes of
//! a 32×32 image, all red values, then green, then blue, row by row.

use super::raw::{Kind, Places, Raw, RawLabels};
use super::{Opened, check_size, resize_area};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::Shape;
use std::path::PathBuf;

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;

/// The labels of a record.
#[derive(Clone, Copy)]
pub(super) struct Labels {
    /// Whether there are two of them, coarse and fine.
    pub(super) two: bool,
    /// Whether the coarse one counts.
    pub(super) coarse: bool,
}

/// Reads files of records, one after the other.
pub(super) fn read(
    opened: &mut Opened<'_>,
    files: &[PathBuf],
    labels: Labels,
    resize: Option<[usize; 2]>,
) -> Result<Raw> {
    let header = if labels.two { 2 } else { 1 };
    let record = header + 3 * PIXELS;
    let classes = match (labels.two, labels.coarse) {
        (false, _) => 10,
        (true, true) => 20,
        (true, false) => 100,
    };
    let [h, w] = resize.unwrap_or([SIDE, SIDE]);
    let shape = Shape { h, w, c: 3 };
    let (mut features, mut numbers, mut last) = (Vec::new(), Vec::new(), PathBuf::new());
    for file in files {
        let bytes = opened.read(file)?;
        let at = |place: String, problem: String, remedy: &str| {
            Err(Error::new(ErrorKind::Data, problem).file(file).place(place).remedy(remedy))
        };
        let (records, rest) = (bytes.chunks_exact(record), bytes.len() % record);
        if rest > 0 {
            return at(
                format!("byte {}", bytes.len() - rest),
                format!("{rest} bytes are left after {} records of {record}", records.len()),
                "fetch the file again, or choose between cifar10 and cifar100",
            );
        }
        check_size(numbers.len().saturating_add(records.len()), shape, file)?;
        for (i, bytes) in records.enumerate() {
            let label = bytes[if labels.two && !labels.coarse { 1 } else { 0 }];
            if label >= classes {
                return at(
                    format!("byte {}, label {i}", i * record),
                    format!("the label {label} is none of 0 to {}", classes - 1),
                    "fetch the file again, or choose between cifar10 and cifar100",
                );
            }
            numbers.push(u32::from(label));
            let planes: Vec<Vec<u8>> = bytes[header..]
                .chunks_exact(PIXELS)
                .map(|plane| resize_area(plane, [SIDE, SIDE], [h, w]))
                .collect();
            features.extend((0..h * w).flat_map(|i| planes.iter().map(move |plane| f32::from(plane[i]))));
        }
        last.clone_from(file);
    }
    Ok(Raw {
        file: last.clone(),
        label_file: last,
        features,
        labels: RawLabels::Numbers(numbers),
        places: Places::Index,
        shape,
        kind: Kind::Pixels,
        columns: None,
        groups: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(bytes: &[u8], labels: Labels, resize: Option<[usize; 2]>) -> Result<Raw> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data_batch_1.bin");
        std::fs::write(&file, bytes).unwrap();
        read(&mut Opened { hash: None }, &[file.clone(), file], labels, resize)
    }

    fn record(labels: &[u8]) -> Vec<u8> {
        let pixels = (0..3 * PIXELS).map(|i| (i / PIXELS * 100 + i % PIXELS % 50) as u8);
        labels.iter().copied().chain(pixels).collect()
    }

    const ONE: Labels = Labels { two: false, coarse: false };

    #[test]
    fn planes_become_pixels() {
        let raw = load(&[record(&[3]), record(&[9])].concat(), ONE, None).unwrap();
        let RawLabels::Numbers(labels) = &raw.labels else { panic!() };
        assert_eq!((labels.as_slice(), raw.shape), (&[3, 9, 3, 9][..], Shape { h: 32, w: 32, c: 3 }));
        assert_eq!(raw.features[3 * 51..][..3], [1.0, 101.0, 201.0]); // pixel 51 is 1 more than pixel 50
        assert_eq!(raw.features.len(), 4 * 3 * PIXELS);
        let small = load(&record(&[3]), ONE, Some([16, 16])).unwrap();
        assert_eq!((small.shape.h, small.features.len()), (16, 2 * 3 * 256));
        for (coarse, want) in [(true, 7), (false, 55)] {
            let raw = load(&record(&[7, 55]), Labels { two: true, coarse }, None).unwrap();
            assert!(matches!(raw.labels, RawLabels::Numbers(n) if n == [want, want]));
        }
    }

    #[test]
    fn cut_and_foreign_files_are_refused() {
        let whole = record(&[3]);
        let error = |bytes: &[u8], labels| load(bytes, labels, None).unwrap_err().to_string();
        for n in [1, 2, 1000, whole.len() - 1] {
            let e = error(&whole[..n], ONE);
            assert!(e.contains("data_batch_1.bin: byte 0: ") && e.contains("records of 3073"), "{e}");
        }
        assert!(error(&record(&[10]), ONE).contains("byte 0, label 0: the label 10 is none of 0 to 9"));
        assert!(error(&[whole.clone(), record(&[255])].concat(), ONE).contains("byte 3073, label 1"));
        assert!(error(&whole, Labels { two: true, coarse: true }).contains("records of 3074"));
        assert!(error(&record(&[20, 0]), Labels { two: true, coarse: true }).contains("0 to 19"));
    }
}
