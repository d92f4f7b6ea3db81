//! CSV tables: one example a row, one label column, numbers everywhere else.
//!
//! Commas separate cells; blanks around a cell are dropped; a cell may stand in double quotes, doubled inside
//! (RFC 4180), but may not contain a line break. Empty lines at the end are ignored. Errors count lines and columns
//! from 1, as editors do.

use super::raw::{Kind, Places, Raw, RawLabels};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{Column, Shape};
use std::borrow::Cow;
use std::path::Path;

/// Which columns of a table mean what.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) label: &'a Column,
    /// Whether the first row names the columns.
    pub(super) header: bool,
    /// Every column but the label and the group if not given.
    pub(super) features: Option<&'a [Column]>,
    pub(super) group: Option<&'a str>,
}

pub(super) fn read(bytes: &[u8], file: &Path, columns: &Columns<'_>) -> Result<Raw> {
    let Columns { label, header, features: chosen, group } = *columns;
    read_table(bytes, file, label, header, chosen, group).map_err(|e| e.file(file))
}

fn read_table(
    bytes: &[u8],
    file: &Path,
    label: &Column,
    header: bool,
    chosen: Option<&[Column]>,
    group: Option<&str>,
) -> Result<Raw> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        bad(format!("byte {}", e.valid_up_to()), "this is not UTF-8 text")
            .remedy("save the table as UTF-8 CSV")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_end();
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    let empty = || bad("line 1", "the data set is empty").remedy("take a file with examples in it");

    let names: Option<Vec<String>> = match header {
        true => {
            let (line, text) = lines.next().filter(|(_, text)| !text.trim().is_empty()).ok_or_else(empty)?;
            Some(cells(text, line)?.into_iter().map(Cow::into_owned).collect())
        }
        false => None,
    };
    let mut lines = lines.peekable();
    let (first_line, first) = *lines.peek().ok_or_else(empty)?;
    let count = match &names {
        Some(names) => names.len(),
        None => cells(first, first_line)?.len(),
    };

    let find = |column: &Column| -> Result<usize> {
        let index = match (column, &names) {
            (Column::Index(i), _) => (*i < count).then_some(*i),
            (Column::Name(name), Some(names)) => names.iter().position(|n| n == name),
            (Column::Name(_), None) => None,
        };
        index.ok_or_else(|| {
            let there = names.as_ref().map_or_else(|| format!("0 to {}", count - 1), |n| n.join(", "));
            bad("line 1", format!("there is no column {column}"))
                .remedy(format!("correct `label` or `features`; the columns are {there}"))
        })
    };
    let label = find(label)?;
    let group = group
        .map(|name| match header {
            true => find(&Column::Name(name.into())),
            false => find(&Column::Index(name.parse().unwrap_or(usize::MAX))),
        })
        .transpose()?;
    let features: Vec<usize> = match chosen {
        Some(columns) => columns.iter().map(find).collect::<Result<_>>()?,
        None => (0..count).filter(|&i| i != label && Some(i) != group).collect(),
    };
    if features.contains(&label) {
        return Err(bad("line 1", "the column of the label is among the features")
            .remedy("remove it from `features`"));
    }
    if features.is_empty() {
        return Err(
            bad("line 1", "there is no column of features").remedy("check that commas separate the cells")
        );
    }

    let place = |line: usize, column: usize| match names.as_ref().and_then(|n| n.get(column)) {
        Some(name) => format!("line {line}, column {} (`{name}`)", column + 1),
        None => format!("line {line}, column {}", column + 1),
    };
    let mut raw = Raw {
        file: file.into(),
        label_file: file.into(),
        features: Vec::new(),
        labels: RawLabels::Texts(Vec::new()),
        places: Places::Index,
        shape: Shape::flat(features.len()),
        kind: Kind::Table,
        columns: names.as_ref().map(|n| features.iter().map(|&i| n[i].clone()).collect()),
        groups: None,
    };
    let (mut labels, mut places, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    for (line, text) in lines {
        let row = cells(text, line)?;
        if row.len() != count {
            return Err(bad(
                format!("line {line}"),
                format!("{} cells where {count} are expected", row.len()),
            )
            .remedy("correct or remove the line"));
        }
        for &column in &features {
            let cell = row[column].as_ref();
            let x: f32 = cell.parse().map_err(|_| {
                let found = if cell.is_empty() { "the cell is empty".into() } else { not_a_number(cell) };
                bad(place(line, column), found).remedy("write a decimal number, or choose other `features`")
            })?;
            if !x.is_finite() {
                return Err(bad(place(line, column), format!("`{}` is not a finite f32", shorten(cell)))
                    .remedy("correct or remove the line"));
            }
            raw.features.push(x);
        }
        if row[label].is_empty() {
            return Err(bad(place(line, label), "the label is empty").remedy("correct or remove the line"));
        }
        labels.push(row[label].to_string());
        places.push(u32::try_from(line).unwrap_or(u32::MAX));
        groups.extend(group.map(|group| row[group].to_string()));
    }
    raw.labels = RawLabels::Texts(labels);
    raw.places = Places::Lines(places);
    raw.groups = group.map(|_| groups);
    Ok(raw)
}

/// The cells of a line.
fn cells(text: &str, line: usize) -> Result<Vec<Cow<'_, str>>> {
    if !text.contains('"') {
        return Ok(text.split(',').map(|cell| Cow::Borrowed(cell.trim())).collect());
    }
    let open = || {
        bad(format!("line {line}"), "a cell begins with a double quote and does not end with one")
            .remedy("close the quote; cells cannot contain line breaks")
    };
    let mut cells = Vec::new();
    let mut rest = text;
    loop {
        let start = rest.trim_start();
        let Some(quoted) = start.strip_prefix('"') else {
            let end = rest.find(',').unwrap_or(rest.len());
            cells.push(Cow::Borrowed(rest[..end].trim()));
            match rest.get(end + 1..) {
                Some(next) => rest = next,
                None => return Ok(cells),
            }
            continue;
        };
        let mut cell = String::new();
        let mut tail = quoted;
        loop {
            let end = tail.find('"').ok_or_else(open)?;
            cell.push_str(&tail[..end]);
            tail = &tail[end + 1..];
            match tail.strip_prefix('"') {
                Some(next) => {
                    cell.push('"');
                    tail = next;
                }
                None => break,
            }
        }
        cells.push(Cow::Owned(cell));
        let tail = tail.trim_start();
        match tail.strip_prefix(',') {
            Some(next) => rest = next,
            None if tail.is_empty() => return Ok(cells),
            None => return Err(open()),
        }
    }
}

fn not_a_number(cell: &str) -> String {
    format!("`{}` is not a number", shorten(cell))
}

/// A cell for an error message: a whole paragraph in it helps nobody.
pub(super) fn shorten(cell: &str) -> String {
    match cell.char_indices().nth(24) {
        Some((end, _)) => format!("{}…", &cell[..end]),
        None => cell.into(),
    }
}

fn bad(place: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::Data, problem).place(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], label: &Column, header: bool, features: Option<&[Column]>) -> Result<Raw> {
        super::read(bytes, Path::new("t.csv"), &Columns { label, header, features, group: None })
    }

    fn table(text: &str) -> Result<Raw> {
        read(text.as_bytes(), &Column::Index(0), true, None)
    }

    fn labels(raw: &Raw) -> (&[String], &[u32]) {
        match (&raw.labels, &raw.places) {
            (RawLabels::Texts(texts), Places::Lines(lines)) => (texts, lines),
            _ => panic!("{raw:?}"),
        }
    }

    #[test]
    fn quotes_blanks_and_line_ends() {
        let t = table("\u{feff}name, x ,\"y, \"\"why\"\"\"\r\n a b ,1.5,-2e3\r\n\"c,d\" , \"3\",4\r\n\r\n")
            .unwrap();
        assert_eq!(t.columns.as_deref().unwrap(), ["x", "y, \"why\""]);
        assert_eq!(labels(&t), (&["a b".to_owned(), "c,d".into()][..], &[2, 3][..]));
        assert_eq!(t.features, [1.5, -2e3, 3.0, 4.0]);
    }

    #[test]
    fn columns_by_name_and_index() {
        let text = b"a,b,c\n1,x,3\n";
        let t = read(text, &Column::Name("b".into()), true, Some(&[Column::Index(2)])).unwrap();
        assert_eq!((t.features, t.shape.c), (vec![3.0], 1));
        let t = read(b"1,2\n3,4\n", &Column::Index(1), false, None).unwrap();
        assert_eq!((labels(&t).0.len(), &t.columns), (2, &None));
        assert_eq!(t.features, [1.0, 3.0]);
        for label in [Column::Index(3), Column::Name("d".into())] {
            let e = read(text, &label, true, None).err().unwrap().to_string();
            assert!(e.contains("no column") && e.contains("a, b, c"), "{e}");
        }
        assert!(read(text, &Column::Index(1), true, Some(&[Column::Index(1)])).is_err());
    }

    #[test]
    fn groups_are_no_features() {
        let grouped = |group, header| {
            let columns = Columns { label: &Column::Index(0), header, features: None, group: Some(group) };
            super::read(b"l,s,x\na,7,1\nb,8,2\n", Path::new("t.csv"), &columns)
        };
        let t = grouped("s", true).unwrap();
        assert_eq!((t.features, t.groups.unwrap()), (vec![1.0, 2.0], vec!["7".to_owned(), "8".into()]));
        assert!(grouped("subject", true).unwrap_err().to_string().contains("no column `subject`"));
        assert!(grouped("s", false).is_err());
    }

    #[test]
    fn every_bad_cell_is_located() {
        let cases = [
            ("l,x\na,1\nb,two\n", "line 3, column 2 (`x`): `two` is not a number"),
            ("l,x\na,NaN\n", "line 2, column 2 (`x`): `NaN` is not a finite"),
            ("l,x\na,1e39\n", "line 2, column 2 (`x`): `1e39` is not a finite"),
            ("l,x\na,\n", "line 2, column 2 (`x`): the cell is empty"),
            ("l,x\n,1\n", "line 2, column 1 (`l`): the label is empty"),
            ("l,x\na,1,2\n", "line 2: 3 cells where 2"),
            ("l,x\na,1\n\nb,2\n", "line 3: 1 cells where 2"),
            ("l,x\n\"a,1\n", "line 2: a cell begins with a double quote"),
            ("l,x\n", "empty"),
            ("\n\n", "empty"),
            ("l\na\n", "no column of features"),
        ];
        for (text, want) in cases {
            let e = table(text).err().unwrap().to_string();
            assert!(e.contains(want), "{e}");
        }
        assert!(
            read(b"l,x\n\xff,1", &Column::Index(0), true, None).err().unwrap().to_string().contains("byte 4")
        );
    }
}
