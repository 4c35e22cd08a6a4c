//! What every object has: metadata and kind.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{Labels, SourceMap, Text, Timestamp};
use crate::finding::{Finding, ObjectRef, Severity};

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

    /// Visits the texts that repeat among objects of this kind, so that one copy of each
    /// can be kept; only kinds of which there are very many have any.
    fn for_each_text(
        _spec: &mut Self,
        _status: &mut Self::Status,
        _visit: &mut dyn FnMut(&mut Text),
    ) {
    }
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
    pub name: Text,
    /// Namespace; `default` where a document has none, empty for cluster-wide kinds.
    pub namespace: Text,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// When the object was made; `None` sorts as the oldest.
    pub creation_timestamp: Option<Timestamp>,
    /// Set while the object is being deleted.
    pub deletion_timestamp: Option<Timestamp>,
    /// Unique id, needed to find a pod's cgroup.
    pub uid: Box<str>,
    /// Who manages the object.
    pub owner_references: Box<[OwnerReference]>,
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
    pub kind: Text,
    /// Name of the owner.
    pub name: Text,
    /// Whether this owner is the managing controller.
    pub controller: bool,
}

/// Namespace and name: what identifies an object within its kind, whichever
/// API version it was written in.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace; empty for cluster-wide kinds.
    pub namespace: Text,
    /// Name.
    pub name: Text,
}

impl ObjectKey {
    /// The key of `namespace/name`.
    pub fn new(namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
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
