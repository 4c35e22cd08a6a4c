//! The endpoint sets of clusters: variants of one share a set, and its namespace pays for it.

use std::sync::Arc;

use super::{ClusterTable, EndpointsId, Found};
use crate::compile::policy::Blocks;
use crate::compile::registry::workload::is_selected;
use crate::compile::registry::{Labels, Resolution};
use crate::snapshot::Endpoint;
use crate::snapshot::dns::{DnsEndpoints, NamedEndpoint, ResolvedNames};
use crate::snapshot::endpoints::{EndpointCell, EndpointSet, Health};

impl<'a> ClusterTable<'a> {
    /// The cell of a DNS cluster: what is written as an address is there from the start.
    pub(super) fn dns_cell(&mut self, found: &Found<'a>, dns: &DnsEndpoints) -> Arc<EndpointCell> {
        let subset = found.subset.and_then(|at| found.rule?.subset_at(at));
        let id = EndpointsId {
            service: found.service.index,
            port: found.port.number,
            labels: subset
                .map(|(_, _, subset)| subset.labels.clone())
                .unwrap_or_default(),
            drops_unhealthy: false,
        };
        let (cell, _) = self.endpoints.entry(id).or_insert_with(|| {
            let set = dns.resolved(&ResolvedNames::default());
            (Arc::new(EndpointCell::new(set)), owner_of(found))
        });
        Arc::clone(cell)
    }

    pub(super) fn endpoint_cell(
        &mut self,
        found: &Found<'a>,
        labels: Option<&Labels>,
        blocks: &Blocks<'_>,
    ) -> Arc<EndpointCell> {
        let id = EndpointsId {
            service: found.service.index,
            port: found.port.number,
            labels: labels.cloned().unwrap_or_default(),
            drops_unhealthy: blocks.drops_unhealthy(),
        };
        if let Some((known, _)) = self.endpoints.get(&id) {
            return Arc::clone(known);
        }
        let all = found.service.endpoints.get(found.port_index);
        let all = all.map(Vec::as_slice).unwrap_or_default();
        let owner = owner_of(found);
        let is_affordable = self
            .registry
            .ledger
            .charge_values::<Endpoint>(&owner, all.len());
        let all = if is_affordable { all } else { &[] };
        let set = subset_of(all, &id.labels, id.drops_unhealthy);
        let cell = Arc::new(EndpointCell::new(set));
        self.endpoints.insert(id, (Arc::clone(&cell), owner));
        cell
    }
}

/// Who pays for an endpoint set: a subset is there because of its rule, whoever's the
/// service is.
fn owner_of(found: &Found<'_>) -> Arc<str> {
    match (found.subset, found.rule) {
        (Some(_), Some(rule)) => Arc::from(rule.lead.meta.namespace.as_str()),
        (_, _) => Arc::clone(&found.service.namespace),
    }
}

/// The endpoints with these labels.
pub(in crate::compile) fn subset_of(
    all: &[Endpoint],
    labels: &Labels,
    drops_unhealthy: bool,
) -> EndpointSet {
    let endpoints = all
        .iter()
        .filter(|endpoint| is_selected(labels, &endpoint.workload))
        .filter(|endpoint| !drops_unhealthy || endpoint.health == Health::Healthy)
        .cloned()
        .collect();
    EndpointSet { endpoints }
}

/// What a DNS cluster is made from: everything listed that has the subset's labels.
pub(super) fn dns_endpoints(found: &Found<'_>) -> DnsEndpoints {
    let subset = found.subset.and_then(|at| found.rule?.subset_at(at));
    let labels = subset.map(|(_, _, subset)| &subset.labels);
    let is_meant = |workload| labels.is_none_or(|labels| is_selected(labels, workload));
    let service = found.service;
    let fixed = service
        .endpoints
        .get(found.port_index)
        .into_iter()
        .flatten();
    let named = service.named.get(found.port_index).into_iter().flatten();
    DnsEndpoints {
        fixed: fixed
            .filter(|endpoint| is_meant(&endpoint.workload))
            .cloned()
            .collect(),
        named: named
            .filter(|endpoint: &&NamedEndpoint| is_meant(&endpoint.workload))
            .cloned()
            .collect(),
        is_first_only: service.resolution == Resolution::LogicalDns,
    }
}
