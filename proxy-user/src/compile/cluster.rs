//! Clusters: (service, port, subset) with the policy that applies for one client.
//! Start at [`ClusterTable::resolve`].
//!
//! Everything is memoised: equal answers are one `Arc`, endpoint sets are shared
//! by all variants of a (service, port, subset).

use std::collections::HashMap;
use std::sync::Arc;

use crate::snapshot::endpoints::EndpointCell;
use crate::snapshot::{Cluster, ClusterRef};

use super::registry::{Registry, Service};
use super::scope::ClientView;

/// All clusters that were asked for.
#[derive(Debug)]
pub(crate) struct ClusterTable<'a> {
    /// The services.
    pub(crate) registry: &'a Registry,
    clusters: HashMap<ClusterId, ClusterRef>,
    endpoints: HashMap<(usize, u16, Arc<str>), Arc<EndpointCell>>,
}

/// Identity of a cluster while compiling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClusterId {
    service: usize,
    port: u16,
    subset: Arc<str>,
    rule: Option<usize>,
}

/// Why [`ClusterTable::resolve`] gave [`ClusterRef::Missing`]. `Display` is the
/// message of a finding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClusterProblem {
    /// No object that the client sees defines the host.
    #[error("no service {host} is visible here{hint}; requests to it get 503")]
    UnknownHost {
        /// As resolved.
        host: String,
        /// What was perhaps meant, or empty.
        hint: String,
    },
    /// The service has no such port.
    #[error("{host} has no port {port}, only {known}; requests to it get 503")]
    UnknownPort {
        /// As resolved.
        host: String,
        /// Asked for.
        port: u16,
        /// Numbers, comma separated.
        known: String,
    },
    /// No DestinationRule that applies here defines the subset.
    #[error("{host} has no subset {subset}{known}; requests to it get 503")]
    UnknownSubset {
        /// As resolved.
        host: String,
        /// Asked for.
        subset: String,
        /// What applies instead, with a leading `: `.
        known: String,
    },
}

impl<'a> ClusterTable<'a> {
    /// The cluster of `host` (fully qualified, lower case) and `port` for `client`;
    /// an empty `subset` is the whole service.
    pub(crate) fn resolve(
        &mut self,
        client: &ClientView,
        host: &str,
        port: u16,
        subset: &str,
    ) -> ClusterRef {
        let _ = (client, host, port, subset, &self.clusters, &self.endpoints);
        ClusterRef::Missing(cluster_name(port, subset, host))
    }

    /// Why [`Self::resolve`] finds nothing, or `None` if it does.
    pub(crate) fn problem(
        &self,
        _client: &ClientView,
        _host: &str,
        _port: u16,
        _subset: &str,
    ) -> Option<ClusterProblem> {
        None
    }

    /// Whether `client` gets the same clusters for `service` as the shared client
    /// ([`ClientView::shared`]), provided that both see this definition of it.
    pub(crate) fn is_shared(&self, _client: &ClientView, _service: &Service) -> bool {
        true
    }

    /// All clusters, in order of name and variant.
    pub(crate) fn into_clusters(self) -> Vec<Arc<Cluster>> {
        Vec::new()
    }
}

/// `outbound|port|subset|host`, as Istio names clusters.
pub(crate) fn cluster_name(port: u16, subset: &str, host: &str) -> Arc<str> {
    Arc::from(format!("outbound|{port}|{subset}|{host}"))
}
