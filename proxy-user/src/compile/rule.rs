//! What the stages of routing share: where a rule was written, and what is wrong with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::{Object, VirtualService};
use crate::finding::{Finding, Severity};
use crate::snapshot::Provenance;

/// One field of one VirtualService.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The object.
    pub(crate) object: Arc<Object<VirtualService>>,
    /// Path below `spec`, such as `http[1].match[0]`.
    pub(crate) path: Arc<str>,
}

impl Place {
    /// The field `path` of `object`.
    pub(crate) fn new(object: &Arc<Object<VirtualService>>, path: impl Into<Arc<str>>) -> Self {
        Self {
            object: Arc::clone(object),
            path: path.into(),
        }
    }

    /// The field `name` below this one.
    pub(crate) fn field(&self, name: &str) -> Self {
        Self {
            object: Arc::clone(&self.object),
            path: Arc::from(format!("{}.{name}", self.path)),
        }
    }

    /// The entry `index` of the list `name` below this field.
    pub(crate) fn entry(&self, name: &str, index: usize) -> Self {
        self.field(&format!("{name}[{index}]"))
    }

    /// For the compiled value that came from here.
    pub(crate) fn provenance(&self) -> Provenance {
        Provenance {
            object: self.object.reference(),
            field: Arc::from(format!("spec.{}", self.path)),
            origin: self.object.source.origin(&self.path),
        }
    }

    /// The field `path` of an object without content.
    #[cfg(test)]
    pub(crate) fn for_test(path: &str) -> Self {
        let object = Object {
            meta: crate::api::ObjectMeta::default(),
            spec: VirtualService::default(),
            status: crate::api::NoStatus,
            source: crate::api::SourceMap::default(),
        };
        Self::new(&Arc::new(object), path)
    }
}

/// Findings, each once however many scopes come upon it.
#[derive(Debug, Default)]
pub(crate) struct Problems(BTreeSet<Finding>);

impl Problems {
    /// What is written at `place` does not act as written.
    pub(crate) fn error(&mut self, code: &'static str, place: &Place, message: impl Into<String>) {
        self.add(Severity::Error, code, place, message);
    }

    /// What is written at `place` is probably not meant.
    pub(crate) fn warning(
        &mut self,
        code: &'static str,
        place: &Place,
        message: impl Into<String>,
    ) {
        self.add(Severity::Warning, code, place, message);
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        place: &Place,
        message: impl Into<String>,
    ) {
        let finding = place.object.finding(severity, code, &place.path, message);
        self.0.insert(finding);
    }

    /// Nothing was found.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in their order.
    pub(crate) fn into_findings(self) -> Vec<Finding> {
        self.0.into_iter().collect()
    }
}
