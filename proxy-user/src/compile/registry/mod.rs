//! Services and their endpoints, from every kind that defines them. Start at [`Registry`].
//!
//! Services come from Kubernetes Services and ServiceEntries; endpoints from
//! EndpointSlices, ServiceEntry endpoints, WorkloadEntries and Pods. Who sees
//! which service is asked by [`Registry::find`] and [`Registry::visible`].

mod allocate;
mod build;
mod kubernetes;
pub(crate) mod protocol;
mod service_entry;
#[cfg(test)]
mod tests;
pub(super) mod workload;

pub(super) use build::{
    SERVICE_NAME_LABEL, SliceEndpoints, endpoints_of, in_namespace, pods_named_by,
};

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::api::{ObjectKey, Timestamp};
use crate::snapshot::dns::NamedEndpoint;
use crate::snapshot::listeners::Protocol;
use crate::snapshot::{Endpoint, Provenance, Workload};

use super::ledger::Ledger;
use super::scope::ClientView;
use super::visibility::ExportTo;

pub(crate) use crate::api::Labels;

/// Every service of the mesh.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// In creation order: oldest first, then name, then namespace.
    pub(crate) services: Vec<Arc<Service>>,
    /// Definitions of one host, in creation order, as indices of `services`.
    by_host: HashMap<Arc<str>, Vec<usize>>,
    /// Services of each namespace, as indices of `services`.
    by_namespace: HashMap<Arc<str>, Vec<usize>>,
    /// Services that some ExternalName service stands for.
    aliased: Vec<usize>,
    /// Hosts with several definitions, or with one that is not public.
    namespace_dependent: Vec<Arc<str>>,
    /// Domain of Kubernetes services.
    domain: String,
    /// ExternalName services by their own host.
    pub(crate) aliases: HashMap<Arc<str>, Arc<Alias>>,
    /// Identity of every pod of this node.
    pub(crate) pods: HashMap<ObjectKey, Arc<Workload>>,
    /// What each namespace has cost so far; all stages after this one charge it too.
    pub(crate) ledger: Ledger,
    /// Who is at an address.
    pub(crate) workloads: HashMap<IpAddr, Arc<Workload>>,
}

/// One definition of a service.
#[derive(Debug)]
pub(crate) struct Service {
    /// Place in [`Registry::services`], an identity for memoising.
    pub(crate) index: usize,
    /// Fully qualified host, lower case; may begin with `*.` in a ServiceEntry.
    pub(crate) host: Arc<str>,
    /// Namespace of the object.
    pub(crate) namespace: Arc<str>,
    /// Name of the object; telemetry's `destination_service_name` for Kubernetes.
    pub(crate) name: Arc<str>,
    /// What defines it.
    pub(crate) kind: ServiceKind,
    /// When it was made; `None` is oldest.
    pub(crate) created: Option<Timestamp>,
    /// Virtual IPs (full-length prefixes) and networks. Empty: found by Host alone.
    pub(crate) addresses: Vec<IpNet>,
    /// Virtual IPs that nobody wrote; they lead here beside what [`Self::addresses`] says.
    pub(crate) allocated: Vec<IpAddr>,
    /// TCP ports, in the order written; numbers are unique.
    pub(crate) ports: Vec<ServicePort>,
    /// How an endpoint is found.
    pub(crate) resolution: Resolution,
    /// Who sees it.
    pub(crate) export_to: ExportTo,
    /// `MESH_EXTERNAL` of a ServiceEntry.
    pub(crate) is_external: bool,
    /// `sessionAffinity: ClientIP` of a Kubernetes Service.
    pub(crate) has_client_ip_affinity: bool,
    /// ExternalName services that stand for it, directly or by a chain.
    pub(crate) aliases: Vec<Arc<Alias>>,
    /// Endpoints of each port, by index of `ports`, in address order; terminating ones are not listed.
    pub(crate) endpoints: Vec<Vec<Endpoint>>,
    /// Endpoints of each port that are names, in the order written.
    pub(crate) named: Vec<Vec<NamedEndpoint>>,
    /// Ports of entries for the same host that could not be merged: the host is known there
    /// and leads nowhere.
    pub(crate) dead_ports: Vec<DeadPort>,
    /// Whether a virtual IP is allocated where no controller has done so.
    pub(crate) may_allocate: bool,
    /// The object.
    pub(crate) provenance: Provenance,
}

/// Which kind of object defines a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceKind {
    /// A Kubernetes Service.
    Kubernetes,
    /// An Istio ServiceEntry.
    ServiceEntry,
}

impl ServiceKind {
    /// The `kind:` of the object.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Kubernetes => "Service",
            Self::ServiceEntry => "ServiceEntry",
        }
    }
}

/// How an endpoint of a service is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// Balanced over the listed endpoints (ClusterIP services, STATIC).
    Endpoints,
    /// `clusterIP: None`: TCP to the dialled pod address, HTTP by Host over the endpoints.
    Headless,
    /// ServiceEntry NONE: to the dialled address.
    OriginalDst,
    /// ServiceEntry DNS: every answer is an endpoint.
    Dns,
    /// ServiceEntry DNS_ROUND_ROBIN: the current answer is the endpoint.
    LogicalDns,
    /// ServiceEntry DYNAMIC_DNS: what the request asks for, resolved then.
    DynamicDns,
}

impl Resolution {
    /// Whether names among the endpoints are resolved.
    pub(crate) fn takes_names(self) -> bool {
        matches!(self, Self::Dns | Self::LogicalDns)
    }
}

/// A port of an entry that stands behind another one with the same host.
#[derive(Debug, Clone)]
pub(crate) struct DeadPort {
    /// What clients dial.
    pub(crate) number: u16,
    /// By Istio's protocol selection.
    pub(crate) protocol: Protocol,
    /// Who sees that entry.
    pub(crate) export_to: ExportTo,
}

/// One TCP port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// What clients dial.
    pub(crate) number: u16,
    /// Name; may be empty.
    pub(crate) name: Arc<str>,
    /// By Istio's protocol selection.
    pub(crate) protocol: Protocol,
    /// `targetPort` as a number, where the object has one: what a ServiceEntry
    /// NONE connects to. Endpoints carry their own port already.
    pub(crate) target_port: Option<u16>,
}

/// An ExternalName service: another name for a host.
#[derive(Debug)]
pub(crate) struct Alias {
    /// Its own host, `name.namespace.svc.domain`.
    pub(crate) host: Arc<str>,
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// What it stands for, lower case: a service's host, another alias or a foreign name.
    pub(crate) target: Arc<str>,
    /// Ports it declares. A VirtualService or destination that names the alias
    /// acts on these only.
    pub(crate) ports: Vec<u16>,
    /// Who sees it.
    pub(crate) export_to: ExportTo,
}

impl Service {
    /// The port that clients dial as `number`.
    pub(crate) fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The only port, or `None` where there are several or none.
    pub(crate) fn single_port(&self) -> Option<&ServicePort> {
        match self.ports.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Addresses that are one IP each.
    pub(crate) fn vips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses
            .iter()
            .filter(|net| net.prefix_len() == net.max_prefix_len())
            .map(IpNet::addr)
    }
}

impl Registry {
    /// Definitions of `host`, oldest first, visible or not.
    pub(crate) fn candidates(&self, host: &str) -> impl Iterator<Item = &Arc<Service>> {
        self.at(self
            .by_host
            .get(host)
            .map(Vec::as_slice)
            .unwrap_or_default())
    }

    /// The one definition of `host` that `client` sees, imports of its Sidecar
    /// apart: its own namespace's, else Kubernetes' before a ServiceEntry's, else
    /// the oldest. Source: Istio, pilot/pkg/model/sidecar.go.
    ///
    /// This is also how a destination that a route names is found: a visible
    /// VirtualService imports what it refers to.
    pub(crate) fn find(&self, client: &ClientView, host: &str) -> Option<&Arc<Service>> {
        self.choose(client, self.candidates(host))
    }

    /// Like [`Self::find`], but only of what the client's Sidecar imports.
    pub(crate) fn find_imported(&self, client: &ClientView, host: &str) -> Option<&Arc<Service>> {
        let imported = self
            .candidates(host)
            .filter(|service| client.imports_service(service));
        self.choose(client, imported)
    }

    /// Every service that `client` sees, one per host, in creation order.
    pub(crate) fn visible<'a>(
        &'a self,
        client: &'a ClientView,
    ) -> impl Iterator<Item = &'a Arc<Service>> + 'a {
        self.services.iter().filter(|service| {
            self.find_imported(client, &service.host)
                .is_some_and(|chosen| Arc::ptr_eq(chosen, service))
        })
    }

    /// Hosts whose definition may depend on the client's namespace: those with
    /// more than one definition or with one that is not public. For all others
    /// a client without a Sidecar sees what [`ClientView::shared`] sees.
    pub(crate) fn namespace_dependent_hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespace_dependent.iter()
    }

    /// Services of `namespace`, in creation order.
    pub(crate) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<Service>> {
        self.at(self
            .by_namespace
            .get(namespace)
            .map(Vec::as_slice)
            .unwrap_or_default())
    }

    /// Services that some ExternalName service stands for, in creation order.
    pub(crate) fn aliased(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.at(&self.aliased)
    }

    /// The service that was probably meant by a name such as `reviews.prod`, which is
    /// not expanded: `reviews` of namespace `prod`.
    pub(crate) fn meant_by(&self, name: &str) -> Option<&Arc<Service>> {
        let name = name.strip_suffix(".svc").unwrap_or(name);
        let full = format!("{name}.svc.{}", self.domain);
        self.candidates(&full).next()
    }

    fn at<'a>(&'a self, indices: &'a [usize]) -> impl Iterator<Item = &'a Arc<Service>> {
        indices.iter().filter_map(|&index| self.services.get(index))
    }

    fn choose<'a, I>(&self, client: &ClientView, candidates: I) -> Option<&'a Arc<Service>>
    where
        I: Iterator<Item = &'a Arc<Service>>,
    {
        candidates
            .filter(|service| service.export_to.includes(&client.namespace))
            .min_by_key(|service| {
                let is_foreign = service.namespace != client.namespace;
                let is_entry = service.kind == ServiceKind::ServiceEntry;
                // `min_by_key` keeps the first of equals: the oldest.
                (is_foreign, is_entry)
            })
    }
}
