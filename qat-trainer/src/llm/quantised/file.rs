//! `codes.safetensors`: quantised matrices beside the folder of a model.
//!
//! | tensor | type, shape | is |
//! |---|---|---|
//! | `NAME.codes` | U8, `[rows, ⌈columns·bits/8⌉]` | each row as [`pack`](qat_kernels::pack) writes it |
//! | `NAME.scales` | U16, `[rows, columns/block]` | α, or s of uniform steps, of each block: the bits of a binary16 |
//! | `NAME.divisors` | U8, `[rows, ⌈columns/group/4⌉]` | k − 2 of each group in 2 bits; only where k varies |
//!
//! NAME is the matrix' (`model.layers.0.self_attn.q_proj`). The metadata of the header hold, under NAME, how it is quantised, as
//! JSON: `bits`, `grid` (`mid-tread`, `mid-rise`), `step` (`"uniform"`, `{"pi":{"k":4}}`, `{"pi-adaptive":{"group":16}}`), `columns`,
//! `block`.

use super::{BlockQuant, QuantisedMatrix};
use crate::checkpoint::write_atomically;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::WeightQuant;
use qat_kernels::config::StepRule;
use qat_kernels::pack::{pack, packed_len, unpack};
use qat_kernels::quantizer::{F16, pack_divisors, packed_divisors_len, unpack_divisors};
use qat_kernels::{Grid, Levels};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// How one matrix is quantised, as the header has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bits: u8,
    grid: Grid,
    step: StepRule,
    columns: usize,
    block: usize,
}

/// Writes matrices into a file, in one step.
///
/// # Errors
/// [`ErrorKind::Io`]; [`ErrorKind::Spec`] for no matrices.
///
/// ```
/// # use qat_kernels::{Grid, Levels, config::StepRule};
/// # use qat_trainer::{llm::{BlockQuant, QuantisedMatrix}, spec::WeightQuant};
/// use qat_trainer::llm::write_codes;
/// use std::collections::BTreeMap;
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("codes.safetensors");
/// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// # let how = BlockQuant { quant, block: None };
/// let matrix = QuantisedMatrix::fit(how, &[-3.0, -1.0, 1.0, 3.0], 4, None)?;
/// write_codes(&path, &BTreeMap::from([("lm_head".into(), matrix)]))?;
/// // As any reader of safetensors sees it: codes −2 to 1 in one byte.
/// let bytes = std::fs::read(&path)?;
/// let codes = safetensors::SafeTensors::deserialize(&bytes)?.tensor("lm_head.codes")?;
/// assert_eq!((codes.shape(), codes.data()), (&[1, 1][..], &[0b01_00_11_10][..]));
/// assert!(write_codes(&path, &BTreeMap::new()).is_err()); // no matrices
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_codes(path: &Path, matrices: &BTreeMap<String, QuantisedMatrix>) -> Result<()> {
    let unwritable = |problem: String| {
        Error::new(ErrorKind::Io, format!("the codes cannot be written: {problem}")).file(path)
    };
    if matrices.is_empty() {
        return Err(Error::new(ErrorKind::Spec, "there are no matrices to write").file(path));
    }
    let (mut tensors, mut header) = (Vec::new(), HashMap::new());
    for (name, matrix) in matrices {
        let (how, columns, rows) = (matrix.how(), matrix.columns(), matrix.rows());
        let WeightQuant { levels, step } = how.quant;
        let (bits, block) = (levels.bits(), how.block(columns)?);
        let entry = Entry { bits, grid: levels.grid(), step, columns, block };
        header.insert(name.clone(), serde_json::to_string(&entry).map_err(|e| unwritable(e.to_string()))?);
        let mut codes = vec![0; rows * packed_len(columns, bits)];
        for (row, packed) in matrix.codes().chunks(columns).zip(codes.chunks_mut(packed_len(columns, bits))) {
            pack(bits, row, packed)?;
        }
        tensors.push((format!("{name}.codes"), Dtype::U8, rows, codes));
        let scales = matrix.scales().iter().flat_map(|scale| scale.to_bits().to_le_bytes()).collect();
        tensors.push((format!("{name}.scales"), Dtype::U16, rows, scales));
        if let Some(group) = how.group() {
            let mut divisors = vec![0; packed_divisors_len(rows, columns / group)];
            pack_divisors(matrix.divisors(), columns / group, &mut divisors)?;
            tensors.push((format!("{name}.divisors"), Dtype::U8, rows, divisors));
        }
    }
    let views = tensors
        .iter()
        .map(|(name, dtype, rows, data)| {
            let size = if *dtype == Dtype::U16 { 2 } else { 1 };
            Ok((name, TensorView::new(*dtype, vec![*rows, data.len() / size / rows], data)?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let bytes = views.and_then(|views| safetensors::serialize(views, Some(header)));
    let mut bytes = bytes.map_err(|e| unwritable(e.to_string()))?;
    sort_header(&mut bytes).map_err(|e| unwritable(e.to_string()))?;
    write_atomically(path, &bytes)
}

/// Puts the keys of the header, which come in any order, into one, so that equal matrices make equal files.
fn sort_header(bytes: &mut [u8]) -> serde_json::Result<()> {
    let Some((len, rest)) = bytes.split_first_chunk_mut::<8>() else { return Ok(()) };
    let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
    let Some(header) = rest.get_mut(..len) else { return Ok(()) };
    let keys: BTreeMap<String, BTreeMap<String, serde_json::Value>> = serde_json::from_slice(header)?;
    let sorted = serde_json::to_string(&keys)?;
    // The same keys in another order are as long; the rest is padding.
    for (i, byte) in header.iter_mut().enumerate() {
        *byte = sorted.as_bytes().get(i).copied().unwrap_or(b' ');
    }
    Ok(())
}

/// Reads the matrices of a file, by name. Blocks of whole rows come back with their length in place of `None`.
///
/// # Errors
/// [`ErrorKind::Io`] if it cannot be read; [`ErrorKind::Model`] naming the matrix for what [`write_codes`] does not write.
///
/// ```
/// # use qat_kernels::{Grid, Levels, config::StepRule};
/// # use qat_trainer::{llm::{BlockQuant, QuantisedMatrix}, spec::WeightQuant};
/// # use std::collections::BTreeMap;
/// use qat_trainer::{ErrorKind, llm::{read_codes, write_codes}};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("codes.safetensors");
/// # let quant = WeightQuant { levels: Levels::new(2, Grid::MidRise)?, step: StepRule::Uniform };
/// # let how = BlockQuant { quant, block: Some(3) };
/// # let weights = [0.3, -0.1, 0.7, -1.2, 0.0, 0.4];
/// let matrix = QuantisedMatrix::fit(how, &weights, 3, None)?;
/// let matrices = BTreeMap::from([("model.layers.0.mlp.up_proj".to_owned(), matrix)]);
/// write_codes(&path, &matrices)?;
/// assert_eq!(read_codes(&path)?, matrices);
/// std::fs::write(&path, "{}")?;
/// assert_eq!(read_codes(&path).unwrap_err().kind(), ErrorKind::Model); // not a file of codes
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_codes(path: &Path) -> Result<BTreeMap<String, QuantisedMatrix>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    parse(&bytes).map_err(|e| e.file(path))
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, QuantisedMatrix>> {
    let damaged = |e: safetensors::SafeTensorError| {
        Error::new(ErrorKind::Model, format!("not a file of codes: {e}")).remedy("quantise the model again")
    };
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mut matrices = BTreeMap::new();
    for (name, entry) in metadata.metadata().iter().flatten() {
        let matrix = matrix(&tensors, name, entry).map_err(|e| e.place(format!("matrix `{name}`")))?;
        matrices.insert(name.clone(), matrix);
    }
    let expected: usize = matrices.values().map(|m| if m.divisors().is_empty() { 2 } else { 3 }).sum();
    if tensors.len() != expected {
        let problem = format!("{} tensors, of {} matrices", tensors.len(), matrices.len());
        return Err(Error::new(ErrorKind::Model, problem).remedy("quantise the model again"));
    }
    Ok(matrices)
}

fn matrix(tensors: &SafeTensors<'_>, name: &str, entry: &str) -> Result<QuantisedMatrix> {
    let wrong = |problem: String| Error::new(ErrorKind::Model, problem).remedy("quantise the model again");
    let Entry { bits, grid, step, columns, block } =
        serde_json::from_str(entry).map_err(|e| wrong(format!("not a quantisation: {e}")))?;
    let how =
        BlockQuant { quant: WeightQuant { levels: Levels::new(bits, grid)?, step }, block: Some(block) };
    how.block(columns)?;
    let tensor = |part: &str, dtype: Dtype, width: usize| -> Result<(usize, &[u8])> {
        let view = tensors.tensor(&format!("{name}.{part}")).map_err(|e| wrong(e.to_string()))?;
        match *view.shape() {
            [rows, got] if got == width && view.dtype() == dtype => Ok((rows, view.data())),
            _ => Err(wrong(format!("the {part} are {:?} of {:?}", view.dtype(), view.shape()))),
        }
    };
    // Widths of rows that no file is long enough for do not overflow: they match no tensor.
    let width =
        columns.checked_mul(bits.into()).ok_or_else(|| wrong(format!("rows of {columns}")))?.div_ceil(8);
    let (rows, packed) = tensor("codes", Dtype::U8, width)?;
    if rows.checked_mul(columns).is_none_or(|codes| codes / 8 * usize::from(bits) > packed.len()) {
        return Err(wrong(format!("{rows} rows of {columns} codes")));
    }
    let mut codes = vec![0; rows * columns];
    for (row, packed) in codes.chunks_mut(columns).zip(packed.chunks(width)) {
        unpack(bits, packed, row)?;
    }
    let (_, scales) = tensor("scales", Dtype::U16, columns / block)?;
    let scales =
        scales.as_chunks::<2>().0.iter().map(|&bits| F16::from_bits(u16::from_le_bytes(bits))).collect();
    let mut divisors = Vec::new();
    if let Some(group) = how.group() {
        let groups = columns / group;
        let (got, packed) = tensor("divisors", Dtype::U8, groups.div_ceil(4))?;
        if got != rows {
            return Err(wrong(format!("{rows} rows of codes, {got} of divisors")));
        }
        divisors = vec![0; rows * groups];
        unpack_divisors(packed, groups, &mut divisors)?;
    }
    QuantisedMatrix::new(how, columns, codes, scales, divisors)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{RULES, how, weights};
    use super::*;

    fn matrices() -> BTreeMap<String, QuantisedMatrix> {
        let weights = weights(3 * 96);
        let one = |(i, step)| {
            let how = how(2 + i as u8, Grid::MidRise, step, 48);
            (format!("m{i}"), QuantisedMatrix::fit(how, &weights, 96, None).unwrap())
        };
        RULES.into_iter().enumerate().map(one).collect()
    }

    fn bytes(matrices: &BTreeMap<String, QuantisedMatrix>) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("codes.safetensors");
        write_codes(&path, matrices).unwrap();
        assert_eq!(&read_codes(&path).unwrap(), matrices);
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn files_give_back_what_was_written() {
        let file = bytes(&matrices());
        assert!((0..8).all(|_| bytes(&matrices()) == file));
        let header = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
        // Codes of 2, 3 and 4 bits in rows of 96; two scales a row; six divisors a row of the last one.
        assert_eq!(file.len() - 8 - header, 3 * (24 + 36 + 48) + 3 * 3 * 2 * 2 + 3 * 2);
        let e = write_codes(Path::new("none"), &BTreeMap::new()).unwrap_err();
        assert!(e.to_string().contains("no matrices"), "{e}");
        let e = read_codes(Path::new("nowhere")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io);
    }

    #[test]
    fn damaged_files_are_refused_and_nothing_panics() {
        let good = bytes(&matrices());
        for end in 0..good.len() {
            assert!(parse(&good[..end]).is_err(), "cut at {end}");
        }
        // Flipped bits are refused or read as other codes.
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                if let Ok(matrices) = parse(&bad) {
                    matrices.values().for_each(|m| assert_eq!(m.dequantise().unwrap().len(), 3 * 96));
                }
            }
        }
    }

    #[test]
    fn headers_that_do_not_fit_the_tensors_are_named() {
        let good = bytes(&matrices());
        // Replacements of the same length, so that everything stays where it is.
        for (from, to, why) in [
            (r#"\"columns\":96"#, r#"\"columns\":48"#, "the codes are"),
            (r#"\"block\":48"#, r#"\"block\":47"#, "blocks of 47"),
            (r#"\"block\":48"#, r#"\"block\":96"#, "the scales are"),
            (r#"\"group\":16"#, r#"\"group\":12"#, "groups of 12"),
            (r#"\"bits\":2"#, r#"\"bits\":9"#, "9"),
            (r#"\"bits\""#, r#"\"bats\""#, "not a quantisation"),
            ("m0.codes", "m9.codes", "m0.codes"),
        ] {
            let text: Vec<u8> = good.clone();
            let at = text.windows(from.len()).position(|part| part == from.as_bytes());
            let at = at.unwrap_or_else(|| panic!("{from}"));
            let bad = [&text[..at], to.as_bytes(), &text[at + from.len()..]].concat();
            let e = parse(&bad).unwrap_err().to_string();
            assert!(e.contains(why), "{from} to {to}: {e}");
        }
    }
}
