//! NPZ: a ZIP archive of NumPy arrays, as `numpy.savez` and `numpy.savez_compressed` write it.

use super::check_size;
use super::npy::Array;
use super::raw::{Kind, Places, Raw, RawLabels};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{Layout, Shape};
use std::io::{Cursor, Read};
use std::path::Path;
use zip::ZipArchive;

/// Largest array after decompression.
const MAX_BYTES: u64 = 8 << 30;

/// Which arrays mean what.
#[derive(Clone, Copy)]
pub(super) struct Arrays<'a> {
    pub(super) features: &'a str,
    pub(super) label: &'a str,
    pub(super) group: Option<&'a str>,
    pub(super) layout: Option<Layout>,
}

/// Reads an archive.
pub(super) fn read(bytes: &[u8], file: &Path, arrays: &Arrays<'_>) -> Result<Raw> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| {
        bad(format!("this is no NPZ file ({e})"))
            .file(file)
            .remedy("fetch the file again, or save it with numpy.savez")
    })?;
    let mut open = |name: &str| entry(&mut archive, name).map_err(|e| e.file(file));
    let within = |name: &str, e: Error| e.file(file).place(format!("array `{name}`"));

    let data = open(arrays.features)?;
    let at = |e| within(arrays.features, e);
    let array = Array::parse(&data).map_err(at)?;
    let (count, layout, shape) = dimensions(&array.shape, arrays.layout).map_err(at)?;
    check_size(count, shape, file)?;
    let mut features = Vec::with_capacity(array.shape.iter().product());
    for (i, x) in array.numbers().enumerate() {
        let x = x as f32;
        if !x.is_finite() {
            return Err(at(bad(format!("element {i} is {x}")).remedy("save finite numbers that fit an f32")));
        }
        features.push(x);
    }
    if layout == Layout::Chw {
        features = channels_last(&features, shape);
    }
    let pixels = array.kind == 'u' && matches!(layout, Layout::Hw | Layout::Hwc | Layout::Chw);
    let kind = match layout {
        _ if pixels && features.iter().all(|&x| x <= 255.0) => Kind::Pixels,
        Layout::C => Kind::Table,
        _ => Kind::Channels,
    };

    let mut column = |name: &str| -> Result<Vec<String>> {
        let data = open(name)?;
        let at = |e| within(name, e);
        let array = Array::parse(&data).map_err(at)?;
        if array.shape.first() != Some(&count) || array.shape.iter().skip(1).any(|&d| d != 1) {
            return Err(at(bad(format!(
                "its shape is {:?}; one value for each of {count} examples is needed",
                array.shape
            ))
            .remedy("save an array of one dimension")));
        }
        array.texts().map_err(at)
    };
    Ok(Raw {
        labels: RawLabels::Texts(column(arrays.label)?),
        groups: arrays.group.map(&mut column).transpose()?,
        file: file.into(),
        label_file: file.into(),
        features,
        places: Places::Index,
        shape,
        kind,
        columns: None,
    })
}

/// The bytes of an array.
fn entry(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<Vec<u8>> {
    let names: Vec<String> =
        archive.file_names().flatten().take(12).map(|n| n.trim_end_matches(".npy").into()).collect();
    let damaged = |e: &dyn std::fmt::Display| {
        bad(format!("it cannot be read ({e})"))
            .place(format!("array `{name}`"))
            .remedy("fetch the file again")
    };
    let file = match archive.by_name(&format!("{name}.npy")) {
        Ok(file) => file,
        Err(zip::result::ZipError::FileNotFound) => {
            return Err(bad(format!("there is no array `{name}`"))
                .remedy(format!("correct the run description; the arrays are {}", names.join(", "))));
        }
        Err(e) => return Err(damaged(&e)),
    };
    // What the directory claims about sizes is not believed: memory grows with what really comes.
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| damaged(&e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(damaged(&"it is larger than 8 GiB"));
    }
    Ok(bytes)
}

/// Number of examples and the shape of one.
fn dimensions(shape: &[usize], layout: Option<Layout>) -> Result<(usize, Layout, Shape)> {
    let (&count, dims) = shape.split_first().unwrap_or((&0, &[]));
    let layout = match (layout, dims.len()) {
        (Some(layout), _) => layout,
        (None, 1) => Layout::C,
        (None, 2) => Layout::Hw,
        (None, _) => Layout::Hwc,
    };
    let shape = match (layout, dims) {
        (Layout::C, &[c]) => Shape::flat(c),
        (Layout::Hw, &[h, w]) => Shape { h, w, c: 1 },
        (Layout::Tc, &[t, c]) => Shape { h: t, w: 1, c },
        (Layout::Hwc, &[h, w, c]) | (Layout::Chw, &[c, h, w]) => Shape { h, w, c },
        _ => {
            return Err(bad(format!("its shape {shape:?} does not fit the layout"))
                .remedy("the first dimension counts the examples; name the others with `layout`"));
        }
    };
    if count == 0 || [shape.h, shape.w, shape.c].contains(&0) {
        return Err(bad("the data set is empty".into()).remedy("take a file with examples in it"));
    }
    Ok((count, layout, shape))
}

fn channels_last(features: &[f32], shape: Shape) -> Vec<f32> {
    let places = shape.h * shape.w;
    let example = |x: &[f32]| -> Vec<f32> {
        (0..places).flat_map(|i| (0..shape.c).map(move |c| c * places + i)).map(|i| x[i]).collect()
    };
    features.chunks_exact(shape.len()).flat_map(example).collect()
}

fn bad(problem: String) -> Error {
    Error::new(ErrorKind::Data, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::npy::tests::npy;
    use std::io::Write;
    use zip::write::SimpleFileOptions;

    fn npz(arrays: &[(&str, Vec<u8>)], compressed: bool) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let method =
            if compressed { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
        for (name, bytes) in arrays {
            // NumPy's files have 64-bit sizes in their headers.
            let options = SimpleFileOptions::default().compression_method(method).large_file(true);
            writer.start_file(format!("{name}.npy"), options).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn load(file: &[u8], layout: Option<Layout>, group: Option<&str>) -> Result<Raw> {
        read(file, Path::new("t.npz"), &Arrays { features: "x", label: "y", group, layout })
    }

    fn floats(n: usize) -> Vec<u8> {
        (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect()
    }

    #[test]
    fn layouts_and_labels() {
        let labels = npy("<i8", "2,", &[[1i64.to_le_bytes(), 0i64.to_le_bytes()].concat()].concat());
        let file = |shape: &str, n, compressed| {
            npz(
                &[
                    ("x", npy("<f4", shape, &floats(n))),
                    ("y", labels.clone()),
                    ("who", npy("|S1", "2,", b"ab")),
                ],
                compressed,
            )
        };
        let raw = load(&file("2, 3", 6, false), None, Some("who")).unwrap();
        assert_eq!((raw.shape, raw.kind), (Shape::flat(3), Kind::Table));
        assert_eq!(raw.groups.as_deref().unwrap(), ["a", "b"]);
        assert!(matches!(&raw.labels, RawLabels::Texts(t) if *t == ["1", "0"]));
        let raw = load(&file("2, 3, 2", 12, true), Some(Layout::Tc), None).unwrap();
        assert_eq!((raw.shape, raw.kind), (Shape { h: 3, w: 1, c: 2 }, Kind::Channels));
        let raw = load(&file("2, 2, 1, 3", 12, true), Some(Layout::Chw), None).unwrap();
        assert_eq!(raw.shape, Shape { h: 1, w: 3, c: 2 });
        assert_eq!(raw.features[..6], [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let grey = npz(&[("x", npy("|u1", "2, 1, 2", &[0, 255, 7, 9])), ("y", labels)], true);
        assert_eq!(load(&grey, None, None).unwrap().kind, Kind::Pixels);
    }

    #[test]
    fn hostile_archives_are_refused() {
        let y = || ("y", npy("|u1", "2,", &[0, 1]));
        let good = npz(&[("x", npy("<f4", "2, 3", &floats(6))), y()], true);
        for n in 0..good.len() {
            assert!(load(&good[..n], None, None).is_err(), "{n}");
        }
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 0x41;
            // Some bytes, such as times, mean nothing; what is read is either an error or the same numbers.
            if let Ok(raw) = load(&bad, None, None) {
                assert_eq!(raw.features, (0..6).map(|i| i as f32).collect::<Vec<_>>(), "{i}");
            }
        }
        let nan = npy("<f4", "2, 1", &[f32::NAN.to_le_bytes(), [0; 4]].concat());
        for (arrays, layout, want) in [
            (vec![y()], None, "there is no array `x`; correct the run description; the arrays are y"),
            (vec![("x", npy("<f4", "2, 3", &floats(6)))], None, "there is no array `y`"),
            (vec![("x", npy("<f4", "3, 2", &floats(6))), y()], None, "array `y`: its shape is [2]"),
            (vec![("x", npy("<f4", "2, 3", &floats(6))), y()], Some(Layout::Hw), "does not fit the layout"),
            (vec![("x", npy("<f4", "", &floats(1))), y()], None, "does not fit the layout"),
            (vec![("x", npy("<f4", "0, 3", &[])), y()], None, "empty"),
            (vec![("x", nan), y()], None, "array `x`: element 0 is NaN"),
            (vec![("x", npy("<f4", "2, 9", &floats(6))), y()], None, "array `x`: at its byte"),
        ] {
            let e = load(&npz(&arrays, false), layout, None).unwrap_err().to_string();
            assert!(e.starts_with("t.npz: ") && e.contains(want), "{e}");
        }
        let text = npz(
            &[("x", npy("<f4", "2, 1", &floats(2))), ("y", npy("<f4", "2,", &0.5f64.to_le_bytes()))],
            false,
        );
        assert!(load(&text, None, None).unwrap_err().to_string().contains("array `y`: element 1, "));
    }
}
