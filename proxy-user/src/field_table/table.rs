//! Reads `docs/fields`: one file per kind, one row per field.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::case;

/// The rows of one kind.
pub(super) struct Table {
    /// The kind, or `metadata`.
    pub(super) name: String,
    /// Objects beside those of every case.
    pub(super) beside: Vec<Value>,
    /// Objects that rows start from, by their name in the table.
    contexts: BTreeMap<String, Value>,
    /// With rows about [`Place`]s written out.
    pub(super) rows: Vec<Row>,
}

impl Table {
    /// A table without rows, for objects of this kind.
    pub(super) fn of_kind(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            beside: Vec::new(),
            contexts: BTreeMap::new(),
            rows: Vec::new(),
        }
    }
}

/// A field and what is claimed of it.
pub(super) struct Row {
    /// With `[]` for an index; empty for the object as a whole.
    pub(super) path: String,
    pub(super) claim: Claim,
    context: Option<String>,
    /// Where the context's object stands in another.
    inside: Option<Place>,
    at: Option<String>,
    /// The value before; absent means: as the context has it.
    pub(super) was: Option<Value>,
    /// The value after.
    pub(super) is: Option<Value>,
}

/// What a table says of a field.
pub(super) enum Claim {
    /// The snapshot changes with it.
    Honoured,
    /// A test of this name shows what it does.
    HonouredBy(String),
    /// It gives a finding.
    Finding {
        /// Of the finding.
        code: String,
    },
}

/// One of several places that take the same block, such as a traffic policy.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// Path of the block.
    at: String,
    /// The object around it.
    inside: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    beside: Vec<Value>,
    #[serde(default)]
    places: BTreeMap<String, Vec<Place>>,
    #[serde(default)]
    contexts: BTreeMap<String, Value>,
    rows: Vec<RowText>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RowText {
    field: String,
    /// The context in which the snapshot changes.
    honoured: Option<String>,
    honoured_by: Option<String>,
    /// Code of the finding.
    finding: Option<String>,
    /// The context of a finding.
    with: Option<String>,
    /// Where the value is written, if not at the first of each list.
    at: Option<String>,
    was: Option<Value>,
    is: Option<Value>,
}

/// Every table of the repository.
pub(super) fn tables() -> Vec<Table> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fields");
    let mut tables = Vec::new();
    for entry in std::fs::read_dir(directory).expect("docs/fields is there") {
        let path = entry.expect("docs/fields is readable").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_stem().expect("a file has a name");
        let text = std::fs::read_to_string(&path).expect("a table is text");
        let file: File =
            serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        tables.push(read(name.to_string_lossy().into_owned(), file));
    }
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    tables
}

fn read(name: String, file: File) -> Table {
    let known = super::schema(&name);
    let mut rows = Vec::new();
    for text in file.rows {
        let word = text.field.split('.').next().unwrap_or_default();
        let Some(places) = file.places.get(word) else {
            rows.push(row(text, None, None));
            continue;
        };
        let rest = &text.field[word.len()..];
        for place in places {
            let path = format!("{}{rest}", case::without_indices(&place.at));
            // A port's policy has fewer blocks than a subset's.
            if known.contains(&path) {
                rows.push(row(text.clone(), Some(path), Some(place.clone())));
            }
        }
    }
    Table {
        name,
        beside: file.beside,
        contexts: file.contexts,
        rows,
    }
}

fn row(text: RowText, path: Option<String>, inside: Option<Place>) -> Row {
    let field = &text.field;
    let claim = match (&text.honoured, text.honoured_by, text.finding) {
        (Some(_), None, None) => Claim::Honoured,
        (None, Some(test), None) => Claim::HonouredBy(test),
        (None, None, Some(code)) => Claim::Finding { code },
        _ => panic!("{field}: one of honoured, honouredBy and finding"),
    };
    Row {
        path: path.unwrap_or(text.field),
        claim,
        context: text.honoured.or(text.with),
        inside,
        at: text.at,
        was: text.was,
        is: text.is,
    }
}

impl Row {
    /// The path of the value, with indices.
    pub(super) fn place(&self) -> String {
        match (&self.at, &self.inside) {
            (Some(at), Some(place)) => format!("{}{at}", place.at),
            (Some(at), None) => at.clone(),
            (None, Some(place)) => {
                let general = case::without_indices(&place.at);
                let rest = &self.path[general.len()..];
                format!("{}{}", place.at, rest.replace("[]", "[0]"))
            }
            (None, None) => self.path.replace("[]", "[0]"),
        }
    }

    /// The object that the row starts from.
    pub(super) fn context(&self, table: &Table) -> Result<Value, String> {
        let name = self.context.as_deref().ok_or("the row names no context")?;
        let context = table.contexts.get(name).cloned();
        let context = context.ok_or_else(|| format!("no context {name}"))?;
        let Some(place) = &self.inside else {
            return Ok(context);
        };
        let mut object = place.inside.clone();
        let Value::Object(block) = context else {
            return Err(format!("context {name} is no mapping"));
        };
        for (key, value) in block {
            case::set(&mut object, &format!("{}.{key}", place.at), &value, true)?;
        }
        if object == place.inside && name != "empty" {
            return Err(format!("context {name} says nothing"));
        }
        Ok(object)
    }
}

/// An empty mapping, for what a path leads through.
pub(super) fn mapping() -> Value {
    Value::Object(Map::new())
}
