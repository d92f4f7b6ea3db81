//! Where each key of a run description was written.

use crate::error::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet};
use toml_edit::{Document, DocumentMut, Item, TableLike, Value};

/// The place of every key, by its path; the elements of a list have their index for a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(BTreeMap<Vec<String>, String>);

impl Origins {
    /// The place of a key, or of what it is part of, or of its first part.
    pub(super) fn place(&self, path: &[&str]) -> String {
        let path: Vec<String> = path.iter().map(|&key| key.into()).collect();
        let whole = (0..=path.len()).rev().find_map(|n| self.0.get(&path[..n]));
        let part = || self.0.iter().find(|(key, _)| key.starts_with(&path)).map(|(_, place)| place);
        whole.or_else(part).map_or_else(|| "top".into(), String::clone)
    }

    /// Whether a key at the top was written anywhere.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.0.contains_key(std::slice::from_ref(&String::from(key)))
    }

    /// Takes over a key and its parts from another layer.
    pub(super) fn replace(&mut self, path: &[String], from: &Self) {
        self.0.retain(|key, _| !key.starts_with(path));
        let parts = from.0.iter().filter(|(key, _)| key.starts_with(path));
        self.0.extend(parts.map(|(key, place)| (key.clone(), place.clone())));
    }

    /// Places one key.
    pub(super) fn put(&mut self, path: &[String], place: String) {
        self.0.insert(path.into(), place);
    }

    /// The same keys, all at one place.
    pub(super) fn all_at(self, place: &str) -> Self {
        Self(self.0.into_keys().map(|key| (key, place.into())).collect())
    }

    /// The place of what stands at a byte of the merged text.
    pub(super) fn place_at(&self, text: &str, offset: usize) -> String {
        let mut path = Vec::new();
        if let Ok(document) = Document::parse(text) {
            at(document.as_table(), offset, &mut path);
        }
        let place = self.place(&path.iter().map(String::as_str).collect::<Vec<_>>());
        let changes: BTreeSet<&String> = self
            .0
            .iter()
            .filter(|(key, at)| key.starts_with(&path) && **at != place)
            .map(|(_, at)| at)
            .collect();
        match path.as_slice() {
            // A layer of the network, which later layers of the description may have changed.
            [.., index] if index.parse::<usize>().is_ok() && !changes.is_empty() => {
                let changes: Vec<&str> = changes.into_iter().map(String::as_str).collect();
                format!("{place}, changed in {}", changes.join(" and "))
            }
            _ => place,
        }
    }
}

/// Parses a layer and notes the line of every key; `source` stands behind its number.
pub(super) fn parse(text: &str, source: &str) -> Result<(DocumentMut, Origins)> {
    let document = Document::parse(text.to_owned()).map_err(|e| {
        let line = e.span().map_or(1, |span| line(text, span.start));
        Error::new(ErrorKind::Spec, e.message())
            .place(format!("line {line}"))
            .remedy("correct this line of the run description")
    })?;
    let mut origins = Origins::default();
    let note = |path: &[String], offset: usize| {
        origins.0.insert(path.into(), format!("line {}{source}", line(text, offset)));
    };
    walk(document.as_table(), &mut Vec::new(), &mut { note });
    Ok((document.into_mut(), origins))
}

/// The line of a byte, from 1.
pub(super) fn line(text: &str, offset: usize) -> usize {
    text.get(..offset).unwrap_or(text).bytes().filter(|&b| b == b'\n').count() + 1
}

fn walk(table: &dyn TableLike, path: &mut Vec<String>, note: &mut dyn FnMut(&[String], usize)) {
    for (key, item) in table.iter() {
        path.push(key.into());
        let own = table.key(key).and_then(|k| k.span()).or_else(|| item.span());
        match item {
            Item::Table(inner) => walk(inner, path, note),
            Item::ArrayOfTables(list) => {
                elements(list.iter().map(|t| t.span()), own, path, note);
            }
            Item::Value(Value::Array(list)) => {
                elements(list.iter().map(Value::span), own, path, note);
            }
            _ => {
                if let Some(span) = own {
                    note(path, span.start);
                }
            }
        }
        path.pop();
    }
}

type Span = Option<std::ops::Range<usize>>;

fn elements(
    spans: impl Iterator<Item = Span>,
    own: Span,
    path: &mut Vec<String>,
    note: &mut dyn FnMut(&[String], usize),
) {
    if let Some(span) = own {
        note(path, span.start);
    }
    for (i, span) in spans.enumerate() {
        if let Some(span) = span {
            path.push(i.to_string());
            note(path, span.start);
            path.pop();
        }
    }
}

/// The keys that lead to what stands at `offset`.
fn at(table: &dyn TableLike, offset: usize, path: &mut Vec<String>) {
    let holds = |span: Span| span.is_some_and(|s| s.contains(&offset));
    for (key, item) in table.iter() {
        let own = holds(table.key(key).and_then(|k| k.span()));
        match item {
            Item::Value(Value::Array(list)) if holds(item.span()) => {
                path.push(key.into());
                if let Some(i) = list.iter().position(|value| holds(value.span())) {
                    path.push(i.to_string());
                    if let Some(inner) = list.get(i).and_then(Value::as_inline_table) {
                        at(inner, offset, path);
                    }
                }
                return;
            }
            Item::Table(inner) => {
                path.push(key.into());
                let before = path.len();
                at(inner, offset, path);
                if own || path.len() > before || holds(inner.span()) {
                    return;
                }
                path.pop();
            }
            _ if own || holds(item.span()) => {
                path.push(key.into());
                if let Some(inner) = item.as_inline_table() {
                    at(inner, offset, path);
                }
                return;
            }
            _ => {}
        }
    }
}
