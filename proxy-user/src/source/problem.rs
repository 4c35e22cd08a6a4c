//! What is wrong with a value that does not fit its type, and the name that was meant.

use std::fmt;

use serde::de::{self, Unexpected};

use super::node::{Node, join_paths};

/// Where and why a tree does not fit a type. `Display` is the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TypeProblem {
    /// Path of the value.
    pub path: String,
    /// Its line; 0 until it is known.
    pub line: u32,
    /// Why.
    pub message: String,
}

impl TypeProblem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            line: 0,
            message: message.into(),
        }
    }

    pub(super) fn expected(what: &str, node: &Node) -> Self {
        let mut problem = Self::new(format!("expected {what}, found {}", node.describe()));
        problem.line = node.line;
        problem
    }

    /// Adds the outer part of the path, and the line if it is not known yet.
    pub(super) fn inside(mut self, outer: &str, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self.below(outer)
    }

    pub(super) fn below(mut self, outer: &str) -> Self {
        self.path = join_paths(outer, self.path);
        self
    }
}

impl fmt::Display for TypeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TypeProblem {}

impl de::Error for TypeProblem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("expected {expected}, found {unexpected}"))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::new(unknown_field(field, known))
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!(
            "unknown value {variant:?}; expected one of {}",
            known.join(", ")
        ))
    }
}

/// The message about a field that the type does not have.
pub(super) fn unknown_field(field: &str, known: &[&str]) -> String {
    let hint = match nearest(field, known) {
        Some(name) => format!("did you mean {name:?}?"),
        None => format!("known here: {}", known.join(", ")),
    };
    format!("unknown field {field:?}; {hint}")
}

/// The known name with the fewest changes to `name`, if they are few.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let changes_max = (name.chars().count() / 3).clamp(1, 4);
    known
        .iter()
        .map(|candidate| (edit_distance(name, candidate), *candidate))
        .filter(|(changes, _)| *changes <= changes_max)
        .min_by_key(|(changes, _)| *changes)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours from one text
/// to the other, without regard to case.
fn edit_distance(from: &str, to: &str) -> usize {
    const LEN_MAX: usize = 64; // longer than any field name, bounds the table
    let from: Vec<char> = from.to_lowercase().chars().take(LEN_MAX).collect();
    let to: Vec<char> = to.to_lowercase().chars().take(LEN_MAX).collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            let mut best = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}
