//! PNG and JPEG files, in a folder for each class.

use super::folder::files;
use super::raw::{Kind, Places, Raw, RawLabels};
use super::{Opened, check_size, resize_area};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::Shape;
use std::io::Cursor;
use std::path::Path;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Largest side of an image.
const MAX_SIDE: usize = 16_384;
/// Most bytes that a decoder may use.
const MAX_BYTES: usize = 1 << 30;

/// What is to be made of the files.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    /// Three channels instead of grey.
    pub(super) color: bool,
    pub(super) resize: Option<[usize; 2]>,
    /// The separator behind the group in a file's name.
    pub(super) group: Option<&'a str>,
}

/// An image of 8 bits a channel, row by row, the channels of a pixel side by side.
#[derive(Debug, PartialEq)]
struct Image {
    size: [usize; 2],
    channels: usize,
    data: Vec<u8>,
}

/// Reads a folder of class folders.
pub(super) fn read(opened: &mut Opened<'_>, folder: &Path, how: How<'_>) -> Result<Raw> {
    let found = files(folder, &["png", "jpg", "jpeg"], how.group)?;
    let channels = if how.color { 3 } else { 1 };
    let mut features = Vec::new();
    let mut size = how.resize;
    for file in &found {
        let path = &file.path;
        let image = decode(&opened.read(path)?).map_err(|e| e.file(path))?.with_channels(channels);
        let [h, w] = *size.get_or_insert(image.size);
        if how.resize.is_none() && image.size != [h, w] {
            let [ih, iw] = image.size;
            return Err(Error::new(
                ErrorKind::Data,
                format!("{ih} by {iw} pixels, where others have {h} by {w}"),
            )
            .file(path)
            .remedy("give one size for all with `resize = [height, width]`"));
        }
        check_size(found.len(), Shape { h, w, c: channels }, folder)?;
        let planes: Vec<Vec<u8>> = (0..channels)
            .map(|c| {
                let plane: Vec<u8> = image.data.iter().skip(c).step_by(channels).copied().collect();
                if image.size == [h, w] { plane } else { resize_area(&plane, image.size, [h, w]) }
            })
            .collect();
        features.extend((0..h * w).flat_map(|i| planes.iter().map(move |plane| f32::from(plane[i]))));
    }
    let [h, w] = size.unwrap_or_default();
    Ok(Raw {
        file: folder.into(),
        label_file: folder.into(),
        features,
        labels: RawLabels::Texts(found.iter().map(|f| f.class.clone()).collect()),
        groups: found.iter().map(|f| f.group.clone()).collect(),
        places: Places::Files(found.into_iter().map(|f| f.path).collect()),
        shape: Shape { h, w, c: channels },
        kind: Kind::Pixels,
        columns: None,
    })
}

impl Image {
    /// The same as grey or as colour. Grey is ITU-R BT.601's luma, (299·R + 587·G + 114·B)/1000, rounded.
    fn with_channels(self, channels: usize) -> Self {
        let data = match (self.channels, channels) {
            (1, 3) => self.data.iter().flat_map(|&grey| [grey; 3]).collect(),
            (3, 1) => {
                let luma = |&[r, g, b]: &[u8; 3]| {
                    let [r, g, b] = [r, g, b].map(u32::from);
                    ((299 * r + 587 * g + 114 * b + 500) / 1000) as u8
                };
                self.data.as_chunks::<3>().0.iter().map(luma).collect()
            }
            _ => self.data,
        };
        Self { channels, data, ..self }
    }
}

/// Decodes a file by what it begins with.
fn decode(bytes: &[u8]) -> Result<Image> {
    let image = match bytes {
        [0x89, b'P', b'N', b'G', ..] => png(bytes),
        [0xFF, 0xD8, ..] => jpeg(bytes),
        _ => {
            return Err(bad("this is neither PNG nor JPEG".into())
                .place("byte 0")
                .remedy("remove the file, or convert it"));
        }
    };
    let image =
        image.map_err(|problem| bad(problem).remedy("the file is damaged: remove it or fetch it again"))?;
    match image.size {
        [h, w] if image.data.len() == h * w * image.channels && h > 0 && w > 0 => Ok(image),
        [h, w] => {
            Err(bad(format!("{} bytes for {h} by {w} pixels", image.data.len())).remedy("remove the file"))
        }
    }
}

fn bad(problem: String) -> Error {
    Error::new(ErrorKind::Data, problem)
}

/// PNG of any kind, as 8 bits a channel; transparency is left out.
fn png(bytes: &[u8]) -> Result<Image, String> {
    let damaged = |e: png::DecodingError| format!("the PNG cannot be decoded: {e}");
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_BYTES });
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (w, h) = reader.info().size();
    let [h, w] = sides(h as usize, w as usize)?;
    let len = reader.output_buffer_size().filter(|&n| n <= MAX_BYTES).ok_or("the image is too large")?;
    // The sides are bounded, so that this is at most what such an image needs.
    let mut data = vec![0; len];
    let info = reader.next_frame(&mut data).map_err(damaged)?;
    data.truncate(info.buffer_size());
    let samples = info.color_type.samples();
    let channels = if samples >= 3 { 3 } else { 1 };
    if samples != channels {
        data = data.chunks_exact(samples).flat_map(|pixel| &pixel[..channels]).copied().collect();
    }
    Ok(Image { size: [h, w], channels, data })
}

fn jpeg(bytes: &[u8]) -> Result<Image, String> {
    let options = DecoderOptions::default()
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(Cursor::new(bytes), options);
    let data = decoder.decode().map_err(|e| format!("the JPEG cannot be decoded: {e:?}"))?;
    let (w, h) = decoder.dimensions().ok_or("the JPEG has no size")?;
    let [h, w] = sides(h, w)?;
    let channels = if data.len() == h * w { 1 } else { 3 };
    Ok(Image { size: [h, w], channels, data })
}

fn sides(h: usize, w: usize) -> Result<[usize; 2], String> {
    let fit = (1..=MAX_SIDE).contains(&h) && (1..=MAX_SIDE).contains(&w);
    if fit { Ok([h, w]) } else { Err(format!("{h} by {w} pixels; each side must lie in 1..={MAX_SIDE}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A PNG of this kind with these rows.
    fn encode(w: u32, h: u32, color: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, w, h);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == png::ColorType::Indexed {
            encoder.set_palette(vec![0, 0, 0, 10, 20, 30]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        file
    }

    /// A grey JPEG of 8×8 pixels, all 128, written by libjpeg.
    const JPEG: &[u8] = include_bytes!("grey.jpg");

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        dir
    }

    fn load(dir: &tempfile::TempDir, color: bool, resize: Option<[usize; 2]>) -> Result<Raw> {
        read(&mut Opened { hash: None }, dir.path(), How { color, resize, group: None })
    }

    #[test]
    fn every_kind_of_png_becomes_grey_or_colour() {
        use png::{BitDepth::*, ColorType::*};
        let cases: [(Vec<u8>, [f32; 3]); 6] = [
            (encode(1, 1, Grayscale, Eight, &[77]), [77.0; 3]),
            (encode(1, 1, Grayscale, One, &[0x80]), [255.0; 3]),
            (encode(1, 1, GrayscaleAlpha, Eight, &[77, 0]), [77.0; 3]),
            (encode(1, 1, Rgb, Sixteen, &[10, 9, 20, 8, 30, 7]), [10.0, 20.0, 30.0]),
            (encode(1, 1, Rgba, Eight, &[10, 20, 30, 4]), [10.0, 20.0, 30.0]),
            (encode(1, 1, Indexed, Eight, &[1]), [10.0, 20.0, 30.0]),
        ];
        for (file, rgb) in &cases {
            let dir = folder(&[("a/1.png", file)]);
            let raw = load(&dir, true, None).unwrap();
            assert_eq!((raw.features.as_slice(), raw.shape), (&rgb[..], Shape { h: 1, w: 1, c: 3 }));
            let luma = (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]).round();
            assert_eq!(load(&dir, false, None).unwrap().features, [luma]);
        }
    }

    #[test]
    fn folders_are_classes_and_sizes_must_agree() {
        let small = encode(2, 1, png::ColorType::Grayscale, png::BitDepth::Eight, &[10, 20]);
        let dir = folder(&[("cat/1.png", &small), ("dog/2.png", &small), ("dog/3.jpg", JPEG)]);
        let e = load(&dir, false, None).unwrap_err().to_string();
        assert!(
            e.contains("dog/3.jpg: 8 by 8 pixels, where others have 1 by 2") && e.contains("resize"),
            "{e}"
        );
        let raw = load(&dir, false, Some([1, 1])).unwrap();
        assert!(matches!(&raw.labels, RawLabels::Texts(t) if *t == ["cat", "dog", "dog"]));
        assert_eq!(raw.features[..2], [15.0, 15.0]);
        assert!((raw.features[2] - 128.0).abs() <= 1.0, "{}", raw.features[2]);
        assert!(raw.place(2).ends_with("dog/3.jpg"));
    }

    #[test]
    fn damaged_files_are_named() {
        let good = encode(3, 3, png::ColorType::Rgb, png::BitDepth::Eight, &[5; 27]);
        let mut huge = good.clone();
        huge[16..24].copy_from_slice(&[0x7f; 8]); // width and height; the checksum is wrong too
        for bytes in
            [&good[..good.len() - 20], &good[..30], &huge, b"GIF89a", b"", &JPEG[..40], &[0xFF, 0xD8, 0xFF]]
        {
            let name = if bytes.starts_with(&[0xFF]) { "a/1.jpg" } else { "a/1.png" };
            let e = load(&folder(&[(name, bytes)]), true, Some([2, 2])).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Data);
            assert!(e.to_string().contains("a/1.") && e.to_string().contains("; "), "{e}");
        }
        for n in 0..good.len() {
            let _ = decode(&good[..n]);
            let mut flipped = good.clone();
            flipped[n] ^= 0x15;
            let _ = decode(&flipped);
        }
        for n in 0..JPEG.len() {
            let _ = decode(&JPEG[..n]);
            let mut flipped = JPEG.to_vec();
            flipped[n] ^= 0x15;
            let _ = decode(&flipped);
        }
    }
}
