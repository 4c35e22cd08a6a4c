//! Turns an [`ObjectSet`] into a [`Snapshot`] and findings. Start at [`compile`].
//!
//! Pure: no clock, no sockets, no randomness. Every reference by name is
//! resolved here, so the data planes never look anything up by name.
//!
//! The order of work: `registry` (services and endpoints), `destination_rule` (which
//! DestinationRule is whose), `scope` (pods with one view), `cluster` (what a
//! destination is, on demand), `virtual_service` (rules with full names), `listener`
//! (what stands at which address, for each scope), `gateway` (what gateway pods listen on),
//! `pod` (who is captured).

mod action;
mod address;
mod affected;
mod claims;
mod cluster;
mod degraded;
mod delegate;
mod destination_rule;
mod diagnostics;
pub mod endpoint_change;
mod envoy_filter;
pub mod explain;
mod facet;
mod forward;
mod gateway;
mod header_ops;
mod host;
mod http_policy;
mod kernel_view;
mod l4_route;
mod ledger;
mod listener;
mod matcher;
mod mesh;
mod path_plan;
mod pod;
mod policy;
mod regex;
mod registry;
mod route;
mod route_check;
mod rule;
mod rule_reader;
mod scope;
mod security;
mod sidecar;
mod template;
#[cfg(test)]
mod testing;
mod virtual_host;
mod virtual_service;
mod visibility;
mod within_budget;

use std::sync::Arc;
use std::time::Duration;

use crate::api::{Object, ObjectSet, Resource};
use crate::finding::{Finding, Origin};
use crate::settings::{CompileSettings, MeshSettings};
use crate::snapshot::{MeshDefaults, Provenance, ServiceView, Snapshot};

pub use ledger::Overspent;
pub use within_budget::{WithinBudget, compile_within_budget};

use cluster::ClusterTable;
use destination_rule::RuleIndex;
pub use endpoint_change::{EndpointChange, EndpointIndex, compile_endpoints};
use gateway::GatewayContext;
use mesh::MeshPolicies;
use pod::PodContext;
use registry::{Registry, Service};
use route::Router;
use rule::Problems;
use scope::Scopes;
use virtual_service::VirtualServices;

/// What the objects amount to.
#[derive(Debug, Default)]
pub struct Compiled {
    /// For both data planes; its version is set when it is published.
    pub snapshot: Snapshot,
    /// Everything that does not act as written, in order of place.
    pub findings: Vec<Finding>,
    /// Which endpoint sets follow which EndpointSlices.
    pub endpoints: EndpointIndex,
    /// Namespaces beyond their budget, of which parts are left out: see
    /// [`compile_within_budget`].
    pub overspent: Vec<Overspent>,
}

/// Compiles a complete set of objects. Equal input gives equal output; whatever is
/// wrong with one object costs that object's part alone, and is a finding.
#[must_use]
pub fn compile(objects: &ObjectSet, settings: &CompileSettings) -> Compiled {
    let mut findings = Vec::new();
    let registry = Registry::build(objects, settings, &mut findings);
    let rules = RuleIndex::build(objects, settings, &mut findings);
    let scopes = Scopes::build(objects, settings, &mut findings);
    let unenforced = security::find_unenforced(objects, settings, &mut findings);
    envoy_filter::check(objects, settings, &mut findings);
    diagnostics::check_rules(objects, settings, &registry, &mut findings);
    diagnostics::check_sidecars(objects, &mut findings);
    let policies = MeshPolicies::read(&settings.mesh, &mut findings);
    let mut clusters = ClusterTable::new(&registry, &rules, settings, &policies);
    let mut problems = Problems::default();
    let virtual_services =
        VirtualServices::new(objects, &settings.mesh, &registry.ledger, &mut problems);
    let listeners = listener::build(
        &registry,
        &virtual_services,
        &scopes.clients,
        &settings.mesh,
        &policies,
        &mut clusters,
        &mut problems,
    );
    let context = GatewayContext {
        objects,
        settings,
        registry: &registry,
        virtual_services: &virtual_services,
    };
    let mut router = Router::new(&mut clusters, &registry, &policies, &mut problems);
    let gateways = gateway::build(&context, &mut router, &mut findings);
    route_check::check(
        &virtual_services,
        &gateways,
        &registry,
        &clusters,
        &mut problems,
    );
    findings.extend(problems.into_findings());
    let context = PodContext {
        objects,
        settings,
        registry: &registry,
        scopes: &scopes,
        unenforced: &unenforced,
    };
    let pods = pod::build(&context, &mut findings);
    let mut endpoints = clusters.endpoint_index();
    let overspent = registry.ledger.overspent();
    let snapshot = Snapshot {
        mesh: mesh_defaults(&settings.mesh),
        pods,
        services: registry
            .services
            .iter()
            .map(|service| Arc::new(service_view(service)))
            .collect(),
        clusters: clusters.into_clusters(),
        workloads: registry.workloads,
        scopes: listeners.scopes,
        gateways,
        kernel: listeners.kernel,
        ..Snapshot::default()
    };
    endpoints.set_ledger(registry.ledger);
    findings.sort();
    findings.dedup();
    Compiled {
        snapshot,
        findings,
        endpoints,
        overspent,
    }
}

fn mesh_defaults(mesh: &MeshSettings) -> MeshDefaults {
    MeshDefaults {
        protocol_detection_timeout: mesh.protocol_detection_timeout.unwrap_or(Duration::ZERO),
        domain: Arc::from(mesh.domain.as_str()),
        trust_domain: Arc::from(mesh.trust_domain.as_str()),
    }
}

fn service_view(service: &Service) -> ServiceView {
    let ports = service.ports.iter();
    ServiceView {
        host: Arc::clone(&service.host),
        namespace: Arc::clone(&service.namespace),
        kind: service.kind.as_str(),
        addresses: service.addresses.clone(),
        allocated: service.allocated.clone(),
        ports: ports
            .map(|port| (port.number, Arc::clone(&port.name), port.protocol))
            .collect(),
        provenance: Some(service.provenance.clone()),
    }
}

/// Where a value came from: `field` of `object`, a path such as `spec.http[0]`; empty
/// for the object as a whole.
pub(crate) fn provenance<S: Resource>(object: &Object<S>, field: &str) -> Provenance {
    Provenance {
        object: object.reference(),
        field: Arc::from(field),
        origin: origin_of(object, field),
    }
}

/// The place of `field` of `object`.
pub(crate) fn origin_of<S: Resource>(object: &Object<S>, field: &str) -> Origin {
    object.source.origin(field)
}
