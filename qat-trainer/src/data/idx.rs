//! IDX files (LeCun et al. 1998): two zero bytes, element type, number of dimensions, the dimensions as big-endian
//! 32-bit numbers, then the elements.

use super::raw::{Kind, Places, Raw, RawLabels};
use super::{Opened, check_size, resize_area};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::Shape;
use std::path::Path;

/// Unsigned bytes.
const UBYTE: u8 = 0x08;
/// Largest side of an image.
const MAX_SIDE: usize = 4096;

/// Reads a file of images and the file of their labels.
pub(super) fn read(
    opened: &mut Opened<'_>,
    image_file: &Path,
    label_file: &Path,
    resize: Option<[usize; 2]>,
) -> Result<Raw> {
    let pixels = images(&opened.read(image_file)?).map_err(|e| e.file(image_file))?;
    let [h, w] = resize.unwrap_or(pixels.size);
    let shape = Shape { h, w, c: 1 };
    check_size(pixels.count, shape, image_file).map_err(|e| e.place("byte 4"))?;
    let bytes = labels(&opened.read(label_file)?).map_err(|e| e.file(label_file))?;
    if bytes.len() != pixels.count {
        return Err(bad(
            4,
            format!("{} labels for {} images of {}", bytes.len(), pixels.count, image_file.display()),
        )
        .file(label_file)
        .remedy("name the two files of one data set"));
    }
    let features = match resize {
        Some(to) => resize_area(&pixels.data, pixels.size, to),
        None => pixels.data,
    };
    Ok(Raw {
        file: image_file.into(),
        label_file: label_file.into(),
        features: features.into_iter().map(f32::from).collect(),
        labels: RawLabels::Numbers(bytes.into_iter().map(u32::from).collect()),
        places: Places::Bytes { first: 8, stride: 1 },
        shape,
        kind: Kind::Pixels,
        columns: None,
        groups: None,
    })
}

/// Grey-scale images, one after the other, row by row.
pub(super) struct Images {
    pub(super) data: Vec<u8>,
    pub(super) count: usize,
    /// Height and width.
    pub(super) size: [usize; 2],
}

/// Reads a file of images (three dimensions).
pub(super) fn images(bytes: &[u8]) -> Result<Images> {
    let ([count, h, w], data) = parse::<3>(bytes, "images")?;
    if !(1..=MAX_SIDE).contains(&h) || !(1..=MAX_SIDE).contains(&w) {
        return Err(bad(8, format!("images of {h} by {w} pixels"))
            .remedy(format!("each side must lie in 1..={MAX_SIDE}; the file is damaged or something else")));
    }
    Ok(Images { data: data.to_vec(), count, size: [h, w] })
}

/// Reads a file of labels (one dimension).
pub(super) fn labels(bytes: &[u8]) -> Result<Vec<u8>> {
    let ([_], data) = parse::<1>(bytes, "labels")?;
    Ok(data.to_vec())
}

fn parse<'a, const N: usize>(bytes: &'a [u8], what: &str) -> Result<([usize; N], &'a [u8])> {
    let header = 4 + 4 * N;
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(bad(bytes.len(), format!("the file ends within the {header} bytes of its header"))
            .remedy("fetch the file again"));
    };
    let expected = [0, 0, UBYTE, N as u8];
    if *magic != expected {
        let remedy = match magic {
            [0, 0, UBYTE, 1] => "this is a file of labels: exchange it with the file of images".into(),
            [0, 0, UBYTE, 3] => "this is a file of images: exchange it with the file of labels".into(),
            [0, 0, _, _] => "only unsigned bytes are read, as in MNIST".to_string(),
            _ => "this is not an IDX file".into(),
        };
        let [found, wanted] = [*magic, expected].map(u32::from_be_bytes);
        return Err(bad(0, format!("the magic number is 0x{found:08x}; {what} begin with 0x{wanted:08x}"))
            .remedy(remedy));
    }
    let mut sizes = [0usize; N];
    for (i, size) in sizes.iter_mut().enumerate() {
        let Some(field) = rest.get(4 * i..).and_then(|r| r.first_chunk::<4>()) else {
            return Err(bad(bytes.len(), format!("the file ends within the {header} bytes of its header"))
                .remedy("fetch the file again"));
        };
        *size = u32::from_be_bytes(*field) as usize;
    }
    let data = &bytes[header..];
    let claimed = sizes.iter().fold(1u128, |n, &d| n * d as u128);
    if claimed != data.len() as u128 {
        let sizes = sizes.map(|d| d.to_string()).join(" x ");
        return Err(bad(
            4,
            format!("the header claims {sizes} = {claimed} bytes, but {} follow it", data.len()),
        )
        .remedy(if claimed > data.len() as u128 {
            "the file is cut short: fetch it again"
        } else {
            "the file is damaged: fetch it again"
        }));
    }
    if sizes[0] == 0 {
        return Err(bad(4, "the data set is empty".into()).remedy("take a file with examples in it"));
    }
    Ok((sizes, data))
}

fn bad(at: usize, problem: String) -> Error {
    Error::new(ErrorKind::Data, problem).place(format!("byte {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_headers_are_refused_with_their_offset() {
        let image = |n: u32, h: u32, w: u32, data: &[u8]| {
            [&[0, 0, 8, 3], &n.to_be_bytes()[..], &h.to_be_bytes(), &w.to_be_bytes(), data].concat()
        };
        let good = image(2, 1, 2, &[1, 2, 3, 4]);
        let read = images(&good).unwrap();
        assert_eq!((read.count, read.size, read.data), (2, [1, 2], vec![1, 2, 3, 4]));
        for n in 0..good.len() {
            assert!(images(&good[..n]).is_err(), "{n}");
        }
        let error = |b: &[u8]| images(b).err().unwrap().to_string();
        assert!(error(&image(u32::MAX, u32::MAX, u32::MAX, &[])).contains("byte 4: the header claims"));
        assert!(error(&image(2, 1, 2, &[0; 5])).contains("5 follow"));
        assert!(error(&image(0, 1, 2, &[])).contains("empty"));
        assert!(error(&image(0, 0, 0, &[])).contains("empty"));
        assert!(error(&image(1, 0, 2, &[])).contains("0 by 2"));
        assert!(error(&[0, 0, 8, 1, 0, 0, 0, 0]).contains("file of labels"));
        assert!(error(&[0, 0, 13, 3, 0, 0, 0, 0]).contains("unsigned bytes"));
        assert!(error(b"PK\x03\x04....").contains("not an IDX file"));
        assert_eq!(labels(&[0, 0, 8, 1, 0, 0, 0, 2, 7, 9]).unwrap(), [7, 9]);
    }
}
