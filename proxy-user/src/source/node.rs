//! A document as a tree of values with their lines, whatever it was written in.
//!
//! What is wrong in one place (a key written twice, an unknown tag) stays in
//! the tree as [`Value::Invalid`], so that it concerns only the object around it.

use std::borrow::Cow;
use std::sync::Arc;

/// One value and the line, counted from 1, on which it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it begins; for the value of a mapping, where its key is.
    pub line: u32,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text, number, truth value or null.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values, in the order written; no key occurs twice.
    Mapping(Vec<Entry>),
    /// Something that makes the object around it invalid; the text says why.
    Invalid(String),
}

/// One key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key as written, whatever it would resolve to.
    pub key: Arc<str>,
    /// The value.
    pub value: Node,
}

/// A scalar: its text as written, and what the text means.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// The text without quotes.
    pub text: Arc<str>,
    /// What it means.
    pub meaning: Meaning,
}

/// What the text of a scalar means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number with a fraction or exponent.
    Float(f64),
    /// Text.
    Text,
}

impl Node {
    /// The value of `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries()
            .iter()
            .find(|entry| &*entry.key == key)
            .map(|entry| &entry.value)
    }

    /// The entries of a mapping; nothing for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            Value::Scalar(_) | Value::Sequence(_) | Value::Invalid(_) => &[],
        }
    }

    /// The entries of a list; nothing for anything else.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::Sequence(items) => items,
            Value::Scalar(_) | Value::Mapping(_) | Value::Invalid(_) => &[],
        }
    }

    /// The text, if this is text.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(Scalar {
                text,
                meaning: Meaning::Text,
            }) => Some(text),
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) | Value::Invalid(_) => None,
        }
    }

    /// Whether this is null.
    pub fn is_null(&self) -> bool {
        matches!(
            &self.value,
            Value::Scalar(Scalar {
                meaning: Meaning::Null,
                ..
            })
        )
    }

    /// How long all keys and scalars are together, bytes.
    pub fn len_bytes(&self) -> usize {
        match &self.value {
            Value::Scalar(scalar) => scalar.text.len(),
            Value::Sequence(items) => items.iter().map(Self::len_bytes).sum(),
            Value::Mapping(entries) => {
                let of_entry = |entry: &Entry| entry.key.len() + entry.value.len_bytes();
                entries.iter().map(of_entry).sum()
            }
            Value::Invalid(_) => 0,
        }
    }

    /// What this is, for messages: `the number 5`, `a list`.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Scalar(scalar) => scalar.describe(),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Invalid(problem) => problem.clone(),
        }
    }

    /// The path, line and reason of the first invalid place, in the order written.
    pub fn find_invalid(&self) -> Option<(String, u32, &str)> {
        match &self.value {
            Value::Invalid(problem) => Some((String::new(), self.line, problem)),
            Value::Scalar(_) => None,
            Value::Sequence(items) => items.iter().enumerate().find_map(|(index, item)| {
                let (path, line, problem) = item.find_invalid()?;
                Some((join_paths(&format!("[{index}]"), path), line, problem))
            }),
            Value::Mapping(entries) => entries.iter().find_map(|entry| {
                let (path, line, problem) = entry.value.find_invalid()?;
                Some((join_paths(&entry.key, path), line, problem))
            }),
        }
    }

    /// Adds path and line of everything below this value to `lines`, down to `depth` levels.
    pub fn collect_lines(&self, path: &str, depth: usize, lines: &mut Vec<(Box<str>, u32)>) {
        let Some(depth) = depth.checked_sub(1) else {
            return;
        };
        for (index, item) in self.items().iter().enumerate() {
            let path = format!("{path}[{index}]");
            item.collect_lines(&path, depth, lines);
            lines.push((path.into(), item.line));
        }
        for entry in self.entries() {
            if entry.value.is_null() {
                continue; // an empty field was not written
            }
            let path = join_path(path, &entry.key);
            entry.value.collect_lines(&path, depth, lines);
            lines.push((path.into(), entry.value.line));
        }
    }
}

/// `http[0]` and `match` to `http[0].match`.
pub(super) fn join_path(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// `http` and `[0].match` to `http[0].match`.
pub(super) fn join_paths(outer: &str, inner: String) -> String {
    if inner.starts_with('[') {
        format!("{outer}{inner}")
    } else if inner.is_empty() {
        outer.to_owned()
    } else {
        join_path(outer, &inner)
    }
}

impl Scalar {
    /// Text that is text whatever it looks like.
    pub fn quoted(text: &str) -> Self {
        Self {
            text: text.into(),
            meaning: Meaning::Text,
        }
    }

    /// What an unquoted scalar means.
    ///
    /// Follows the reader of the Kubernetes API server, sigs.k8s.io/yaml: YAML 1.1's
    /// truth values and YAML 1.2's numbers, so that `exact: on` is refused here as there.
    pub fn plain(text: &str) -> Self {
        let meaning = match text {
            "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
            "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
                Meaning::Bool(true)
            }
            "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off"
            | "OFF" => Meaning::Bool(false),
            _ => parse_number(text).unwrap_or(Meaning::Text),
        };
        Self {
            text: text.into(),
            meaning,
        }
    }

    fn describe(&self) -> String {
        match self.meaning {
            Meaning::Null => "null".to_owned(),
            Meaning::Bool(_) => format!("the truth value {}", self.text),
            Meaning::Int(_) | Meaning::Float(_) => format!("the number {}", self.text),
            Meaning::Text if self.text.chars().count() > 40 => {
                let beginning: String = self.text.chars().take(37).collect();
                format!("the text {:?}", beginning + "...")
            }
            Meaning::Text => format!("the text {:?}", self.text),
        }
    }
}

/// The number that `text` is, if it is one.
fn parse_number(text: &str) -> Option<Meaning> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return None;
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned {
        ".inf" | ".Inf" | ".INF" => {
            let infinity = if text.starts_with('-') {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            };
            return Some(Meaning::Float(infinity));
        }
        ".nan" | ".NaN" | ".NAN" => return Some(Meaning::Float(f64::NAN)),
        _ => {}
    }
    let digits = if unsigned.contains('_') {
        Cow::Owned(unsigned.replace('_', ""))
    } else {
        Cow::Borrowed(unsigned)
    };
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let (radix, body) = match digits.get(..2) {
        Some("0x") => (16, digits.get(2..)?),
        Some("0o") => (8, digits.get(2..)?),
        Some("0b") => (2, digits.get(2..)?),
        _ if digits.len() > 1 && digits.starts_with('0') && !digits.contains(['8', '9']) => {
            (8, digits.get(1..)?) // YAML 1.1
        }
        _ => (10, &*digits),
    };
    let is_whole = !body.is_empty() && body.bytes().all(|b| b.is_ascii_hexdigit());
    if is_whole && let Ok(number) = i128::from_str_radix(body, radix) {
        return Some(Meaning::Int(sign * number));
    }
    let looks_decimal = digits
        .bytes()
        .all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
        && digits.bytes().any(|b| b.is_ascii_digit());
    if !looks_decimal {
        return None;
    }
    digits
        .parse::<f64>()
        .ok()
        .map(|number| Meaning::Float(f64::from(sign as i8) * number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unquoted_text_means_what_the_api_server_reads_in_it() {
        for (text, expected) in [
            ("", Meaning::Null),
            ("~", Meaning::Null),
            ("null", Meaning::Null),
            ("on", Meaning::Bool(true)), // YAML 1.1, as sigs.k8s.io/yaml
            ("No", Meaning::Bool(false)),
            ("5", Meaning::Int(5)),
            ("-5", Meaning::Int(-5)),
            ("+5", Meaning::Int(5)),
            ("1_000", Meaning::Int(1000)),
            ("0x1F", Meaning::Int(31)),
            ("0123", Meaning::Int(83)), // YAML 1.1 octal
            ("0o17", Meaning::Int(15)),
            ("1.5", Meaning::Float(1.5)),
            ("-1.5", Meaning::Float(-1.5)),
            ("1e3", Meaning::Float(1000.0)),
            (".5", Meaning::Float(0.5)),
            ("-.inf", Meaning::Float(f64::NEG_INFINITY)),
            ("1.10.0", Meaning::Text),
            ("10.0.0.1", Meaning::Text),
            ("10s", Meaning::Text),
            ("2026-01-01", Meaning::Text),
            ("v1", Meaning::Text),
            ("-", Meaning::Text),
            (".", Meaning::Text),
            ("1-2", Meaning::Text),
            ("0x", Meaning::Text),
            ("truE", Meaning::Text),
            ("e3", Meaning::Text),
        ] {
            assert_eq!(Scalar::plain(text).meaning, expected, "{text:?}");
        }
        assert_eq!(Scalar::quoted("1e3").meaning, Meaning::Text);
    }
}
