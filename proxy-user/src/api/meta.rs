//! What every object has: metadata, kind, and the places of its fields.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::Timestamp;
use crate::finding::{Finding, ObjectRef, Origin, Severity};

/// The kinds that Mizzen reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each variant is the kind of that name")]
pub enum Kind {
    VirtualService,
    DestinationRule,
    ServiceEntry,
    WorkloadEntry,
    WorkloadGroup,
    Gateway,
    Sidecar,
    EnvoyFilter,
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
    Service,
    EndpointSlice,
    Pod,
    Namespace,
    Node,
    Secret,
    ConfigMap,
}

impl Kind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Self; 18] = [
        Self::VirtualService,
        Self::DestinationRule,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::WorkloadGroup,
        Self::Gateway,
        Self::Sidecar,
        Self::EnvoyFilter,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Namespace,
        Self::Node,
        Self::Secret,
        Self::ConfigMap,
    ];

    /// The text of `kind:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::WorkloadGroup => "WorkloadGroup",
            Self::Gateway => "Gateway",
            Self::Sidecar => "Sidecar",
            Self::EnvoyFilter => "EnvoyFilter",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }

    /// API group and the versions of it that are one schema; `""` is the core group.
    pub fn group_versions(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::VirtualService
            | Self::DestinationRule
            | Self::ServiceEntry
            | Self::WorkloadEntry
            | Self::WorkloadGroup
            | Self::Gateway
            | Self::Sidecar => ("networking.istio.io", &["v1", "v1beta1", "v1alpha3"]),
            Self::EnvoyFilter => ("networking.istio.io", &["v1alpha3"]),
            Self::AuthorizationPolicy | Self::PeerAuthentication | Self::RequestAuthentication => {
                ("security.istio.io", &["v1", "v1beta1"])
            }
            Self::EndpointSlice => ("discovery.k8s.io", &["v1", "v1beta1"]),
            Self::Service
            | Self::Pod
            | Self::Namespace
            | Self::Node
            | Self::Secret
            | Self::ConfigMap => ("", &["v1"]),
        }
    }

    /// Whether objects of this kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the fields of an object are written in its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Below `spec`.
    Spec,
    /// Beside `metadata`, as in EndpointSlice, Secret and ConfigMap.
    TopLevel,
}

/// A kind of object: its name and the shape of its status.
pub trait Resource: DeserializeOwned + fmt::Debug + Clone + Default + PartialEq {
    /// The kind.
    const KIND: Kind;
    /// Where the fields are.
    const BODY: Body = Body::Spec;
    /// The part of `status` that traffic needs; [`NoStatus`] when none.
    type Status: DeserializeOwned + fmt::Debug + Clone + Default + PartialEq;
}

/// The status of kinds whose status does not concern traffic. Reads anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoStatus;

impl<'de> Deserialize<'de> for NoStatus {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// The parts of `metadata` that traffic needs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ObjectMeta {
    /// Name, unique per kind and namespace.
    pub name: String,
    /// Namespace; `default` where a document has none, empty for cluster-wide kinds.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// When the object was made; `None` sorts as the oldest.
    pub creation_timestamp: Option<Timestamp>,
    /// Set while the object is being deleted.
    pub deletion_timestamp: Option<Timestamp>,
    /// Unique id, needed to find a pod's cgroup.
    pub uid: String,
    /// Who manages the object.
    pub owner_references: Vec<OwnerReference>,
}

impl ObjectMeta {
    /// Keys of `metadata` that are accepted and not kept; `source` drops them.
    pub const NOT_KEPT: [&str; 8] = [
        "generateName",
        "generation",
        "resourceVersion",
        "managedFields",
        "finalizers",
        "selfLink",
        "deletionGracePeriodSeconds",
        "clusterName",
    ];
}

/// One entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Kind of the owner, such as `ReplicaSet`.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Whether this owner is the managing controller.
    pub controller: bool,
}

/// Namespace and name: what identifies an object within its kind, whichever
/// API version it was written in.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// The key of `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One object: metadata, spec, the useful part of status, and where each field was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Object<S: Resource> {
    /// Name, namespace, labels and so on.
    pub meta: ObjectMeta,
    /// The fields that the user wrote.
    pub spec: S,
    /// What a controller wrote.
    pub status: S::Status,
    /// Line of each field.
    pub source: SourceMap,
}

impl<S: Resource> Object<S> {
    /// Namespace and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.meta.namespace, &self.meta.name)
    }

    /// The object's name for findings.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(S::KIND.as_str(), &self.meta.namespace, &self.meta.name)
    }

    /// A finding about `field` of this object, with its place. An empty `field`
    /// means the object as a whole.
    pub fn finding(
        &self,
        severity: Severity,
        code: &'static str,
        field: &str,
        message: impl Into<String>,
    ) -> Finding {
        let finding = Finding::new(severity, code, message)
            .with_object(self.reference())
            .with_origin(self.source.origin(field));
        if field.is_empty() {
            return finding;
        }
        finding.with_field(field)
    }
}

/// The line of every field of one object. Cheap to clone.
///
/// Paths are those of findings: relative to `spec` (or to the document where a
/// kind has no spec), list entries by index, as `http[0].match[1].uri`; other
/// parts of the document by their full path, as `metadata.name`. A leading
/// `spec.` is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceMap {
    file: Arc<str>,
    line: u32,
    len_bytes: u32,
    /// Sorted by path.
    lines_by_path: Arc<[(Box<str>, u32)]>,
}

impl Default for SourceMap {
    fn default() -> Self {
        Self {
            file: Arc::from(""),
            line: 0,
            len_bytes: 0,
            lines_by_path: Arc::from([]),
        }
    }
}

impl SourceMap {
    /// `line`: where the object begins; `lines_by_path`: each field's line, in any order.
    pub fn new(file: Arc<str>, line: u32, mut lines_by_path: Vec<(Box<str>, u32)>) -> Self {
        lines_by_path.sort_unstable();
        lines_by_path.dedup_by(|later, earlier| later.0 == earlier.0);
        Self {
            file,
            line,
            len_bytes: 0,
            lines_by_path: lines_by_path.into(),
        }
    }

    /// Notes how long the object's texts are together, bytes.
    #[must_use]
    pub fn with_len(self, len_bytes: usize) -> Self {
        Self {
            len_bytes: u32::try_from(len_bytes).unwrap_or(u32::MAX),
            ..self
        }
    }

    /// How long the object's keys and values are together, aliases written out, bytes.
    pub fn len_bytes(&self) -> u32 {
        self.len_bytes
    }

    /// The place of `field`, or of its nearest ancestor that was written, or of the object.
    pub fn origin(&self, field: &str) -> Origin {
        let mut path = field.strip_prefix("spec.").unwrap_or(field);
        let line = loop {
            if path.is_empty() {
                break self.line;
            }
            if let Some(line) = self.find_line(path) {
                break line;
            }
            path = parent_path(path);
        };
        Origin {
            file: self.file.clone(),
            line,
        }
    }

    /// Paths that were written, in byte order, with their lines.
    pub fn paths(&self) -> impl Iterator<Item = (&str, u32)> {
        self.lines_by_path
            .iter()
            .map(|(path, line)| (&**path, *line))
    }

    fn find_line(&self, path: &str) -> Option<u32> {
        let at = self
            .lines_by_path
            .binary_search_by(|(known, _)| (**known).cmp(path))
            .ok()?;
        self.lines_by_path.get(at).map(|(_, line)| *line)
    }
}

/// `http[0].match[1]` to `http[0].match`, then `http[0]`, `http` and `""`.
fn parent_path(path: &str) -> &str {
    let cut = path.rfind(['.', '[']).unwrap_or(0);
    &path[..cut]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_was_not_written_has_the_line_of_its_nearest_ancestor() {
        let map = SourceMap::new(
            "a.yaml".into(),
            3,
            vec![
                ("http".into(), 10),
                ("http[0]".into(), 11),
                ("http[0].match[1].uri".into(), 15),
            ],
        );
        for (field, line) in [
            ("http[0].match[1].uri", 15),
            ("spec.http[0].match[1].uri", 15), // both spellings of a path
            ("http[0].match[1].uri.prefix", 15),
            ("http[0].timeout", 11),
            ("http[7]", 10),
            ("tcp[0]", 3), // nothing of it written: the object
            ("", 3),
        ] {
            assert_eq!(map.origin(field).line, line, "{field}");
        }
    }
}
