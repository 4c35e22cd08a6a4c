//! Reads one mapping of a settings file, key by key, with errors that name
//! file, key and way out.

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::duration;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The text is no mapping.
    #[error("{file}: expected a YAML mapping of settings: {reason}")]
    Parse {
        /// The file as it was named.
        file: String,
        /// What the reader says.
        reason: String,
    },
    /// One key has a value that cannot be.
    #[error("{file}: {key}: {problem}")]
    Value {
        /// The file as it was named.
        file: String,
        /// Path of the key, such as `mesh.connectTimeout`.
        key: String,
        /// What is wrong and what is expected.
        problem: String,
    },
    /// A key that nobody knows.
    #[error("{file}: {key}: unknown setting{hint}")]
    UnknownKey {
        /// The file as it was named.
        file: String,
        /// Path of the key.
        key: String,
        /// The nearest known key, or the list of all.
        hint: String,
    },
    /// Neither a directory nor a cluster.
    #[error(
        "no configuration source; give --config DIR (MIZZEN_CONFIG, or the key config) for a \
         directory of YAML files, or --kubernetes (MIZZEN_KUBERNETES, or the key kubernetes)"
    )]
    NoSource,
    /// Both a directory and a cluster.
    #[error("{place}: both config and kubernetes are given; keep one of them")]
    TwoSources {
        /// The file, or `command line`.
        place: String,
    },
}

/// One mapping that is being taken apart.
#[derive(Debug)]
pub(super) struct Fields {
    file: String,
    /// Empty at the top, else `mesh.`.
    prefix: String,
    values: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    /// Reads YAML text. An empty text is an empty mapping.
    pub(super) fn parse(file: &str, text: &str) -> Result<Self, SettingsError> {
        let wrong = |reason: String| SettingsError::Parse {
            file: file.to_owned(),
            reason,
        };
        let value: Option<Value> =
            serde_yaml::from_str(text).map_err(|error| wrong(first_line(&error.to_string())))?;
        match value {
            None | Some(Value::Null) => Ok(Self::new(file, String::new(), Map::new())),
            Some(Value::Object(values)) => Ok(Self::new(file, String::new(), values)),
            Some(other) => Err(wrong(format!("found {}", kind_of(&other)))),
        }
    }

    fn new(file: &str, prefix: String, values: Map<String, Value>) -> Self {
        Self {
            file: file.to_owned(),
            prefix,
            values,
            known: Vec::new(),
        }
    }

    /// Takes the value of `key`; an explicit null counts as absent.
    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.values.remove(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, problem: impl Into<String>) -> SettingsError {
        SettingsError::Value {
            file: self.file.clone(),
            key: format!("{}{key}", self.prefix),
            problem: problem.into(),
        }
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>, SettingsError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(
                key,
                format!(
                    "expected a text, found {}; put it in quotes",
                    kind_of(&other)
                ),
            )),
        }
    }

    /// A text that `parse` understands.
    pub(super) fn parsed_by<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingsError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match parse(&text) {
            Ok(value) => Ok(Some(value)),
            Err(problem) => Err(self.wrong(key, problem)),
        }
    }

    /// A text with a parser of its own.
    pub(super) fn parsed<T: FromStr<Err = String>>(
        &mut self,
        key: &'static str,
    ) -> Result<Option<T>, SettingsError> {
        self.parsed_by(key, T::from_str)
    }

    /// A duration such as `60s`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Duration>, SettingsError> {
        self.parsed_by(key, duration::parse)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, SettingsError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.wrong(
                key,
                format!("expected true or false, found {}", kind_of(&other)),
            )),
        }
    }

    /// A whole number in `1..=max`.
    pub(super) fn count(
        &mut self,
        key: &'static str,
        max: u16,
    ) -> Result<Option<u16>, SettingsError> {
        let number = self.whole(key, max.into())?;
        // No larger than `max`, so it fits.
        Ok(number.and_then(|number| u16::try_from(number).ok()))
    }

    /// A whole number in `1..=max`.
    pub(super) fn whole(
        &mut self,
        key: &'static str,
        max: u64,
    ) -> Result<Option<u64>, SettingsError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        match value.as_u64().filter(|number| (1..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, format!("expected a number from 1 to {max}"))),
        }
    }

    /// A list of texts.
    pub(super) fn texts(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Vec<String>>, SettingsError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        match serde_json::from_value(value) {
            Ok(texts) => Ok(Some(texts)),
            Err(_) => Err(self.wrong(key, "expected a list of texts, such as [\"*\"]")),
        }
    }

    /// A mapping inside this one.
    pub(super) fn nested(&mut self, key: &'static str) -> Result<Option<Self>, SettingsError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(values)) => {
                let prefix = format!("{}{key}.", self.prefix);
                Ok(Some(Self::new(&self.file, prefix, values)))
            }
            Some(other) => Err(self.wrong(
                key,
                format!("expected a mapping, found {}", kind_of(&other)),
            )),
        }
    }

    /// Any value, for somebody who knows its shape.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value> {
        self.take(key)
    }

    /// Takes those of `keys` that are present and hands back the paths of those that have
    /// another value than the harmless ones beside them (JSON texts).
    pub(super) fn take_present(&mut self, keys: &[(&'static str, &[&str])]) -> Vec<String> {
        let mut present = Vec::new();
        for (key, harmless) in keys {
            let Some(value) = self.take(key) else {
                continue;
            };
            if !harmless.contains(&value.to_string().as_str()) {
                present.push(format!("{}{key}", self.prefix));
            }
        }
        present
    }

    /// Takes whatever is left and hands back its paths.
    pub(super) fn take_rest(&mut self) -> Vec<String> {
        let rest = std::mem::take(&mut self.values);
        rest.keys()
            .map(|key| format!("{}{key}", self.prefix))
            .collect()
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) -> Result<(), SettingsError> {
        let Some(key) = self.values.keys().next() else {
            return Ok(());
        };
        let hint = match nearest(key, &self.known) {
            Some(near) => format!(", did you mean {near}?"),
            None => format!("; known are {}", self.known.join(", ")),
        };
        Err(SettingsError::UnknownKey {
            file: self.file,
            key: format!("{}{key}", self.prefix),
            hint,
        })
    }
}

/// What a value is, for messages.
fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The known key that differs by at most two edits.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    known
        .iter()
        .map(|candidate| {
            (
                edit_distance(&key.to_lowercase(), &candidate.to_lowercase()),
                *candidate,
            )
        })
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, right) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}
