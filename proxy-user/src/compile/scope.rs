//! Scopes: this node's pods, grouped by what they may see. Start at [`Scopes`].
//!
//! Pods of one namespace whose relevant labels and Sidecar are equal share one
//! [`ClientView`]; relevant are labels that some selector asks for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::api::ObjectKey;

use super::registry::{Labels, Service};
use super::sidecar::SidecarView;

/// A group of client pods with one view of the mesh.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientView {
    /// Stable name: the same view has the same key in every snapshot.
    pub(crate) key: Arc<str>,
    /// Namespace of the pods; empty for [`Self::shared`].
    pub(crate) namespace: Arc<str>,
    /// Their labels, as far as any selector asks for them.
    pub(crate) labels: Labels,
    /// The Sidecar that applies, if any.
    pub(crate) sidecar: Option<Arc<SidecarView>>,
    /// REGISTRY_ONLY, by the Sidecar or the mesh.
    pub(crate) is_registry_only: bool,
}

impl ClientView {
    /// A client without namespace, labels and Sidecar, that sees what is public:
    /// the base that the views of real clients stand on.
    pub(crate) fn shared(is_registry_only: bool) -> Self {
        Self {
            is_registry_only,
            ..Self::default()
        }
    }

    /// Whether the Sidecar, if any, imports `service`; `exportTo` is not asked.
    pub(crate) fn imports_service(&self, service: &Service) -> bool {
        match &self.sidecar {
            Some(sidecar) => sidecar.imports_service(&self.namespace, service),
            None => true,
        }
    }

    /// Whether the Sidecar, if any, imports a VirtualService of `namespace` with
    /// these hosts (expanded, lower case).
    pub(crate) fn imports_virtual_service<'a, I>(&self, namespace: &str, hosts: I) -> bool
    where
        I: IntoIterator<Item = &'a str>,
    {
        match &self.sidecar {
            Some(sidecar) => sidecar.imports_virtual_service(&self.namespace, namespace, hosts),
            None => true,
        }
    }

    /// Whether all of `selector` are among the labels. Only for selectors whose
    /// keys were among those handed to [`Scopes`].
    pub(crate) fn has_labels(&self, selector: &BTreeMap<String, String>) -> bool {
        is_subset(selector, &self.labels)
    }
}

/// Whether all of `selector` are among `labels`.
pub(crate) fn is_subset(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

/// The groups of this node's pods.
#[derive(Debug, Default)]
pub(crate) struct Scopes {
    /// In key order; the index is the [`crate::net::ScopeId`].
    pub(crate) clients: Vec<Arc<ClientView>>,
    /// Index of each pod's group.
    pub(crate) by_pod: HashMap<ObjectKey, usize>,
}
