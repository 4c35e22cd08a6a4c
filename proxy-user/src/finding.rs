//! Findings: what is wrong with one object, and where it was written.
//!
//! Every stage reports by these values; nothing here knows who asks. The
//! order of findings is by place, then object, so that two runs over the same
//! input print the same text.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object, or a part of it, does not act as written.
    Error,
    /// The object acts, but probably not as its author thinks.
    Warning,
    /// Worth knowing, nothing to mend.
    Info,
}

impl Severity {
    /// The word that findings print: `error`, `warning` or `info`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where something was written. Prints as `file:line`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Origin {
    /// Path of the file as the source names it, or `kubernetes` for an API server.
    pub file: Arc<str>,
    /// Line, counted from 1; 0 when only the file is known.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return f.write_str(&self.file);
        }
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Names one object. Prints as `kind/namespace/name`, without the namespace
/// for what has none (Node, Namespace).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectRef {
    /// The `kind:` of the object, such as `VirtualService`.
    pub kind: Cow<'static, str>,
    /// Namespace; empty for cluster-wide kinds.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// Names the object `namespace/name` of `kind`.
    pub fn new(
        kind: impl Into<Cow<'static, str>>,
        namespace: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return write!(f, "{}/{}", self.kind, self.name);
        }
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// One thing that is wrong with, or worth knowing about, one object.
///
/// Prints as `file:line: kind/namespace/name: severity: field: message`; parts
/// that are not known are left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Finding {
    /// Where the cause was written.
    pub origin: Option<Origin>,
    /// The object concerned; `None` when a file does not even parse.
    pub object: Option<ObjectRef>,
    /// How much it matters.
    pub severity: Severity,
    /// Path of the field below `spec`, such as `http[0].timeout`.
    pub field: Option<String>,
    /// The thing, the cause and the next step: lower case, no full stop.
    pub message: String,
    /// Stable identifier of the check, such as `unknown-field`.
    pub code: &'static str,
}

impl Finding {
    /// A finding without place, object or field; add them by the `with_` methods.
    pub fn new(severity: Severity, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            origin: None,
            object: None,
            severity,
            field: None,
            message: message.into(),
            code,
        }
    }

    /// Says where the cause was written.
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Says which object is concerned.
    #[must_use]
    pub fn with_object(mut self, object: ObjectRef) -> Self {
        self.object = Some(object);
        self
    }

    /// Says which field is concerned.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Whether the severity is [`Severity::Error`].
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        write!(f, "{}: ", self.severity)?;
        if let Some(field) = self.field.as_deref().filter(|field| !field.is_empty()) {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_prints_what_it_knows_and_no_more() {
        let origin = Origin {
            file: "reviews.yaml".into(),
            line: 14,
        };
        let object = ObjectRef::new("VirtualService", "shop", "reviews");
        let bare = Finding::new(Severity::Error, "test", "found 250");
        let placed = bare.clone().with_origin(origin);
        let whole = placed
            .clone()
            .with_object(object)
            .with_field("http[0].timeout");
        let node = bare.clone().with_object(ObjectRef::new("Node", "", "n1"));
        for (finding, expected) in [
            (bare, "error: found 250"),
            (placed, "reviews.yaml:14: error: found 250"),
            (
                whole,
                "reviews.yaml:14: VirtualService/shop/reviews: error: http[0].timeout: found 250",
            ),
            (node, "Node/n1: error: found 250"), // no namespace, no empty part
        ] {
            assert_eq!(finding.to_string(), expected);
        }
    }
}
