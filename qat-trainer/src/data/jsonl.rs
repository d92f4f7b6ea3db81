//! JSON lines: an object a line, with a label and numbers.

use super::csv::shorten;
use super::raw::{Kind, Places, Raw, RawLabels};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::Shape;
use serde_json::{Map, Value};
use std::path::Path;

/// Which fields of an object mean what.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) label: &'a str,
    /// Fields of numbers or of lists of numbers, nested or not.
    pub(super) features: &'a [String],
    pub(super) group: Option<&'a str>,
}

/// Reads a file. Empty lines are left out.
pub(super) fn read(bytes: &[u8], file: &Path, fields: &Fields<'_>) -> Result<Raw> {
    let (mut features, mut labels, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    let (mut lines, mut width) = (Vec::new(), None);
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let at = |e: Error| e.file(file).place(format!("line {}", i + 1));
        let object: Map<String, Value> = serde_json::from_slice(line).map_err(|e| {
            // Its own line number counts within this one.
            let problem = e.to_string().replace(" at line 1 column", "; column");
            at(bad(format!("this is no JSON object ({problem})")).remedy("correct or remove the line"))
        })?;
        let field = |name: &str| {
            object.get(name).ok_or_else(|| {
                let there: Vec<&str> = object.keys().take(12).map(String::as_str).collect();
                at(bad(format!("there is no field `{name}`"))
                    .remedy(format!("correct the run description; the fields are {}", there.join(", "))))
            })
        };
        let before = features.len();
        for name in fields.features {
            numbers(field(name)?, name, &mut features).map_err(at)?;
        }
        let count = features.len() - before;
        match *width.get_or_insert(count) {
            0 => {
                return Err(at(
                    bad("there is no feature".into()).remedy("name fields of numbers in `features`")
                ));
            }
            width if width != count => {
                return Err(at(bad(format!("{count} features, where the lines before have {width}"))
                    .remedy("correct or remove the line")));
            }
            _ => {}
        }
        labels.push(text(field(fields.label)?, fields.label).map_err(at)?);
        if let Some(group) = fields.group {
            groups.push(text(field(group)?, group).map_err(at)?);
        }
        lines.push(u32::try_from(i + 1).unwrap_or(u32::MAX));
    }
    if lines.is_empty() {
        return Err(bad("the data set is empty".into())
            .file(file)
            .place("line 1")
            .remedy("take a file with examples in it"));
    }
    Ok(Raw {
        file: file.into(),
        label_file: file.into(),
        features,
        labels: RawLabels::Texts(labels),
        places: Places::Lines(lines),
        shape: Shape::flat(width.unwrap_or(0)),
        kind: Kind::Table,
        columns: None,
        groups: fields.group.map(|_| groups),
    })
}

fn numbers(value: &Value, name: &str, into: &mut Vec<f32>) -> Result<()> {
    match value {
        Value::Array(values) => values.iter().try_for_each(|value| numbers(value, name, into)),
        value => {
            let number = value.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
            into.push(number.ok_or_else(|| {
                bad(format!("`{}` in `{name}` is not a finite f32", shorten(&value.to_string())))
                    .remedy("write a decimal number, or choose other `features`")
            })?);
            Ok(())
        }
    }
}

/// A label or group: a text or a whole number.
fn text(value: &Value, name: &str) -> Result<String> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        Value::Number(n) if n.is_i64() || n.is_u64() => Ok(n.to_string()),
        Value::Bool(b) => Ok(b.to_string()),
        value => Err(bad(format!(
            "`{}` in `{name}` is neither a text nor a whole number",
            shorten(&value.to_string())
        ))
        .remedy("correct or remove the line")),
    }
}

fn bad(problem: String) -> Error {
    Error::new(ErrorKind::Data, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, features: &[&str], group: Option<&str>) -> Result<Raw> {
        let features: Vec<String> = features.iter().map(|f| (*f).into()).collect();
        read(text.as_bytes(), Path::new("t.jsonl"), &Fields { label: "label", features: &features, group })
    }

    #[test]
    fn numbers_lists_and_labels() {
        let text = "{\"label\": \"up\", \"x\": [[1, 2], [3e0, -4]], \"t\": 5, \"who\": 3}\n\n\
                    {\"t\": 1, \"label\": 7, \"x\": [0, 0, 0, 0], \"who\": \"me\"}\r\n";
        let raw = load(text, &["t", "x"], Some("who")).unwrap();
        assert_eq!(raw.features, [5.0, 1.0, 2.0, 3.0, -4.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(matches!(&raw.labels, RawLabels::Texts(t) if *t == ["up", "7"]));
        assert_eq!(
            (raw.groups.as_deref().unwrap(), raw.place(1)),
            (&["3".to_owned(), "me".into()][..], "line 3".into())
        );
    }

    #[test]
    fn every_bad_line_is_located() {
        let good = "{\"label\": 1, \"x\": [1, 2]}\n";
        for (line, want) in [
            ("{\"label\": 1, \"x\": [1, 2}", "line 2: this is no JSON object"),
            ("[1, 2]", "line 2: this is no JSON object"),
            (
                "{\"x\": [1, 2]}",
                "line 2: there is no field `label`; correct the run description; the fields are x",
            ),
            ("{\"label\": 1}", "line 2: there is no field `x`"),
            ("{\"label\": 1, \"x\": [1]}", "line 2: 1 features, where the lines before have 2"),
            ("{\"label\": 1, \"x\": [1, \"2\"]}", "line 2: `\"2\"` in `x` is not a finite f32"),
            ("{\"label\": 1, \"x\": [1, 1e60]}", "line 2: `1e+60` in `x`"),
            ("{\"label\": 1, \"x\": [1, NaN]}", "line 2: this is no JSON object"),
            ("{\"label\": 1.5, \"x\": [1, 2]}", "line 2: `1.5` in `label` is neither"),
            ("{\"label\": null, \"x\": [1, 2]}", "line 2: `null` in `label`"),
            ("{\"label\": \"\", \"x\": [1, 2]}", "line 2: `\"\"` in `label`"),
            ("\u{fffd}\u{1}", "line 2: this is no JSON object"),
        ] {
            let e = load(&format!("{good}{line}\n"), &["x"], None).unwrap_err().to_string();
            assert!(e.starts_with("t.jsonl: ") && e.contains(want), "{e}");
        }
        assert!(load(" \n\n", &["x"], None).unwrap_err().to_string().contains("empty"));
        assert!(
            load("{\"label\": 1, \"x\": []}", &["x"], None).unwrap_err().to_string().contains("no feature")
        );
        // Nested beyond reason: an error, not a stack overflow.
        let deep = format!("{{\"label\": 1, \"x\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(load(&deep, &["x"], None).unwrap_err().to_string().contains("no JSON object"));
    }
}
