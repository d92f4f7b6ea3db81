//! One array of NumPy's format (versions 1 to 3): magic, version, length of the header, a header in Python's syntax such
//! as `{'descr': '<f4', 'fortran_order': False, 'shape': (60000, 28, 28), }`, then the elements.

use crate::error::{Error, ErrorKind, Result};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header: names of fields apart, which are not read here, a hundred bytes are enough.
const MAX_HEADER: usize = 1 << 16;

/// An array as it lies in the file.
#[derive(Debug)]
pub(super) struct Array<'a> {
    pub(super) shape: Vec<usize>,
    /// One letter for what an element is: `f`, `i`, `u`, `b` (bool), `U` or `S` (text).
    pub(super) kind: char,
    /// Bytes of an element.
    size: usize,
    big_endian: bool,
    data: &'a [u8],
}

impl<'a> Array<'a> {
    /// Reads an array.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| bad(0, "this is no NumPy array").remedy(FETCH))?;
        let cut = || bad(bytes.len(), "the array ends within its header").remedy(FETCH);
        let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
        let (len, rest) = match version[0] {
            1 => rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
            2 | 3 => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
            v => return Err(bad(6, format!("version {v} of the format is unknown")).remedy("save it again")),
        }
        .ok_or_else(cut)?;
        if len > MAX_HEADER {
            return Err(
                bad(8, format!("a header of {len} bytes is announced")).remedy("save it as a plain array")
            );
        }
        let (header, data) = rest.split_at_checked(len).ok_or_else(cut)?;
        let header =
            std::str::from_utf8(header).map_err(|_| bad(10, "the header is no text").remedy(FETCH))?;
        let array = Self::header(header, data)?;
        let elements = array.shape.iter().try_fold(1u128, |n, &d| n.checked_mul(d as u128));
        let wanted = elements.and_then(|n| n.checked_mul(array.size as u128));
        if wanted != Some(data.len() as u128) {
            let wanted = wanted.map_or_else(|| "more than all memory".into(), |n| format!("{n} bytes"));
            return Err(bad(
                bytes.len() - data.len(),
                format!("the header claims {:?}, {wanted}, but {} bytes follow it", array.shape, data.len()),
            )
            .remedy(FETCH));
        }
        Ok(array)
    }

    fn header(header: &str, data: &'a [u8]) -> Result<Self> {
        let wrong = |what: &str| bad(10, format!("the header has no usable `{what}`"));
        let plain = "save a plain array: numpy.savez(path, x=x.astype('float32'), y=y)";
        let value = |key: &str| {
            let (_, rest) = header.split_once(&format!("'{key}':"))?;
            Some(rest.trim_start())
        };
        let descr = value("descr").and_then(|v| v.strip_prefix('\'')).and_then(|v| v.split_once('\''));
        let descr = descr.ok_or_else(|| wrong("descr").remedy(plain))?.0;
        let order = value("fortran_order").ok_or_else(|| wrong("fortran_order").remedy(FETCH))?;
        if !order.starts_with("False") {
            return Err(
                bad(10, "the array lies in Fortran's order").remedy("save numpy.ascontiguousarray(x)")
            );
        }
        let shape = value("shape").and_then(|v| v.strip_prefix('(')).and_then(|v| v.split_once(')'));
        let shape = shape.ok_or_else(|| wrong("shape").remedy(FETCH))?.0;
        let shape = shape
            .split(',')
            .map(str::trim)
            .filter(|d| !d.is_empty())
            .map(|d| d.parse().map_err(|_| wrong("shape").remedy(FETCH)))
            .collect::<Result<Vec<usize>>>()?;
        let unusable = || bad(10, format!("elements of the type `{descr}` cannot be read")).remedy(plain);
        let mut letters = descr.chars();
        let big_endian = letters.next().ok_or_else(unusable)? == '>';
        let kind = letters.next().ok_or_else(unusable)?;
        let number: usize = letters.as_str().parse().map_err(|_| unusable())?;
        let size = match (kind, number) {
            ('f', 4 | 8) | ('i' | 'u', 1 | 2 | 4 | 8) | ('b', 1) => number,
            ('S', 1..=256) => number,
            ('U', 1..=256) => 4 * number,
            _ => return Err(unusable()),
        };
        Ok(Self { shape, kind, size, big_endian, data })
    }

    /// The elements as numbers; what is no number has none.
    pub(super) fn numbers(&self) -> impl Iterator<Item = f64> + '_ {
        self.data.chunks_exact(self.size).map(|element| {
            let mut le = [0u8; 8];
            let slot = &mut le[..element.len().min(8)];
            slot.copy_from_slice(&element[..slot.len()]);
            if self.big_endian {
                slot.reverse();
            }
            let bits = u64::from_le_bytes(le);
            let unused = 64 - 8 * self.size.min(8) as u32;
            match (self.kind, self.size) {
                ('f', 4) => f64::from(f32::from_bits(bits as u32)),
                ('f', 8) => f64::from_bits(bits),
                ('i', _) => ((bits << unused).cast_signed() >> unused) as f64,
                ('u' | 'b', _) => bits as f64,
                _ => f64::NAN,
            }
        })
    }

    /// The elements as texts: texts as they are, whole numbers in decimal.
    pub(super) fn texts(&self) -> Result<Vec<String>> {
        let broken = |i: usize| move || bad(i, "this is no text").remedy("save it again");
        match self.kind {
            'S' => {
                let text = |(i, e): (usize, &[u8])| {
                    let end = e.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
                    String::from_utf8(e[..end].to_vec()).map_err(|_| broken(i * self.size)())
                };
                self.data.chunks_exact(self.size).enumerate().map(text).collect()
            }
            'U' => {
                let letter = |b: &[u8; 4]| {
                    let code = if self.big_endian { u32::from_be_bytes(*b) } else { u32::from_le_bytes(*b) };
                    char::from_u32(code)
                };
                let text = |(i, e): (usize, &[u8])| {
                    let letters: Option<String> = e.as_chunks::<4>().0.iter().map(letter).collect();
                    let letters = letters.ok_or_else(broken(i * self.size))?;
                    Ok(letters.trim_end_matches('\0').to_owned())
                };
                self.data.chunks_exact(self.size).enumerate().map(text).collect()
            }
            _ => self
                .numbers()
                .enumerate()
                .map(|(i, x)| match x {
                    x if x.fract() == 0.0 && x.abs() < 1e15 => Ok(format!("{x}")),
                    x => Err(Error::new(ErrorKind::Data, format!("element {i}, {x}, is no whole number"))
                        .remedy("save whole numbers or texts")),
                })
                .collect(),
        }
    }
}

const FETCH: &str = "the file is damaged: fetch it again or save it again";

/// The caller knows which array it is, and says so as the place.
fn bad(at: usize, problem: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Data, format!("at its byte {at}, {problem}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An array of version 1.
    pub(in crate::data) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}\n");
        let len = (header.len() as u16).to_le_bytes();
        [MAGIC, &[1, 0], &len, header.as_bytes(), data].concat()
    }

    #[test]
    fn every_type_of_element() {
        let read = |descr: &str, data: &[u8]| -> Vec<f64> {
            let size: usize = descr[2..].parse().unwrap();
            let file = npy(descr, &format!("{},", data.len() / size), data);
            Array::parse(&file).unwrap().numbers().collect()
        };
        assert_eq!(read("<f4", &(-1.5f32).to_le_bytes()), [-1.5]);
        assert_eq!(read(">f8", &2.25f64.to_be_bytes()), [2.25]);
        assert_eq!(read("|i1", &[0xff, 5]), [-1.0, 5.0]);
        assert_eq!(read("<i2", &(-300i16).to_le_bytes()), [-300.0]);
        assert_eq!(read(">i4", &(-70_000i32).to_be_bytes()), [-70_000.0]);
        assert_eq!(read("<i8", &(-1i64).to_le_bytes()), [-1.0]);
        assert_eq!(read("|u1", &[200]), [200.0]);
        assert_eq!(read("|b1", &[1, 0]), [1.0, 0.0]);
        let text = |descr: &str, data: &[u8]| Array::parse(&npy(descr, "2,", data)).unwrap().texts();
        assert_eq!(text("|S3", b"ab\0cde").unwrap(), ["ab", "cde"]);
        let wide: Vec<u8> = "hi\0yo!".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
        assert_eq!(text("<U3", &wide).unwrap(), ["hi", "yo!"]);
        assert_eq!(text("|i1", &[3, 0xff]).unwrap(), ["3", "-1"]);
        assert!(
            text("<f4", &[0.5f32.to_le_bytes(), [0; 4]].concat())
                .unwrap_err()
                .to_string()
                .contains("element 0")
        );
        assert!(text("<U1", &[0xff; 8]).is_err());
    }

    #[test]
    fn hostile_headers_are_refused() {
        let good = npy("<f4", "2, 3", &[0; 24]);
        assert_eq!(Array::parse(&good).unwrap().shape, [2, 3]);
        for n in 0..good.len() {
            assert!(Array::parse(&good[..n]).is_err(), "{n}");
        }
        let error = |bytes: &[u8]| Array::parse(bytes).unwrap_err().to_string();
        for (file, want) in [
            (npy("<f4", "99999999999, 99999999999, 99999999999, 99999999999", &[]), "more than all memory"),
            (npy("<f4", "2, 2", &[0; 24]), "16 bytes, but 24 bytes follow"),
            (npy("|O", "2,", &[0; 16]), "type `|O` cannot be read"),
            (npy("<f2", "2,", &[0; 4]), "type `<f2` cannot be read"),
            (npy("<U99999999999", "2,", &[0; 4]), "cannot be read"),
            (npy("<f4", "-1,", &[]), "`shape`"),
            (npy("<f4", "x", &[]), "`shape`"),
            (npy("", "1,", &[]), "cannot be read"),
            ([MAGIC, &[9, 0]].concat(), "version 9"),
            ([MAGIC, &[2, 0], &[0xff; 4]].concat(), "4294967295 bytes is announced"),
            (b"PK\x03\x04".to_vec(), "no NumPy array"),
        ] {
            assert!(error(&file).contains(want), "{}", error(&file));
        }
        let fortran = String::from_utf8_lossy(&npy("<f4", "", &[0; 4])[10..]).replace("False", "True ");
        let file = [MAGIC, &[1, 0], &((fortran.len() - 4) as u16).to_le_bytes(), fortran.as_bytes()].concat();
        assert!(error(&file).contains("Fortran"));
    }
}
