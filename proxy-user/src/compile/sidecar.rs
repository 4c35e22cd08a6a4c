//! What a Sidecar lets its workloads see (egress hosts).
//!
//! Source: Istio, pilot/pkg/model/sidecar.go.

use std::sync::Arc;

use crate::snapshot::Provenance;

use super::registry::Service;

/// The egress side of one Sidecar.
#[derive(Debug)]
pub(crate) struct SidecarView {
    /// `namespace/name`.
    pub(crate) name: Arc<str>,
    /// The object.
    pub(crate) provenance: Provenance,
}

impl SidecarView {
    /// Whether a client in `client_namespace` imports `service`.
    pub(crate) fn imports_service(&self, _client_namespace: &str, _service: &Service) -> bool {
        true
    }

    /// Whether a client in `client_namespace` imports a VirtualService.
    pub(crate) fn imports_virtual_service<'a, I>(
        &self,
        _client_namespace: &str,
        _namespace: &str,
        _hosts: I,
    ) -> bool
    where
        I: IntoIterator<Item = &'a str>,
    {
        true
    }
}
