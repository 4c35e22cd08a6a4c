//! A document's parts: metadata, body and status.

use super::node::{Entry, Node, Value};
use super::problem::{TypeProblem, unknown_field};
use crate::api::{Body, ObjectMeta};

/// The parts of a document.
pub(super) struct Parts {
    /// `metadata`, without what only the server writes.
    pub(super) metadata: Node,
    /// `spec`, or the fields beside `metadata` where the kind has no `spec`.
    pub(super) body: Node,
    /// `status`.
    pub(super) status: Node,
}

/// Takes a document apart. `is_strict`: a field beside the known ones refuses it.
///
/// # Errors
/// What is no mapping, or an unknown field.
pub(super) fn split(document: Node, body: Body, is_strict: bool) -> Result<Parts, TypeProblem> {
    let line = document.line;
    let Value::Mapping(entries) = document.value else {
        return Err(TypeProblem {
            path: String::new(),
            line,
            message: "expected an object".to_owned(),
        });
    };
    let mapping = |entries| Node {
        value: Value::Mapping(entries),
        line,
    };
    let mut parts = Parts {
        metadata: mapping(vec![]),
        body: mapping(vec![]),
        status: mapping(vec![]),
    };
    let mut rest: Vec<Entry> = Vec::new();
    for entry in entries {
        match &*entry.key {
            "apiVersion" | "kind" => {}
            "metadata" => parts.metadata = without_server_fields(entry.value),
            "status" => parts.status = entry.value,
            "spec" if body == Body::Spec => parts.body = entry.value,
            key if is_strict && !entry.value.is_null() => {
                let message = unknown_field(key, &["apiVersion", "kind", "metadata", "spec"]);
                return Err(TypeProblem {
                    path: key.to_owned(),
                    line: entry.value.line,
                    message,
                });
            }
            _ => rest.push(entry),
        }
    }
    if body == Body::TopLevel {
        parts.body = mapping(rest);
    }
    Ok(parts)
}

fn without_server_fields(mut metadata: Node) -> Node {
    if let Value::Mapping(entries) = &mut metadata.value {
        entries.retain(|entry| !ObjectMeta::NOT_KEPT.contains(&&*entry.key));
    }
    metadata
}
