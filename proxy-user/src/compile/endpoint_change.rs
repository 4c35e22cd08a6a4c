//! The common change: EndpointSlices alone. What follows from it is new endpoint sets in the
//! clusters that exist; routes, scopes and addresses stay. Start at [`compile_endpoints`].
//!
//! The result is what compiling everything would give. Whenever more than sets could follow
//! (a finding of another object, a headless service's addresses, who is at an address, weights
//! that the kernel cannot spread) there is no answer here, and everything is compiled.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::cluster::subset_of;
use super::diagnostics::waits;
use super::host;
use super::ledger::Ledger;
use super::registry::workload::{is_selected, pod_ips};
use super::registry::{Labels, SERVICE_NAME_LABEL, SliceEndpoints, endpoints_of};
use crate::api::{EndpointSlice, Object, ObjectKey, ObjectSet, Objects, Resource, Service};
use crate::finding::Finding;
use crate::settings::CompileSettings;
use crate::snapshot::Endpoint;
use crate::snapshot::endpoints::{EndpointCell, EndpointSet};

/// Which endpoint sets follow the EndpointSlices of which Service.
#[derive(Debug, Default)]
pub struct EndpointIndex {
    by_service: HashMap<ObjectKey, Vec<FollowingSet>>,
    /// What the namespaces have cost: changes are charged beside what they replace, so that it
    /// is compiling everything that decides who is beyond the budget.
    ledger: Ledger,
}

/// One endpoint set and what of its Service's endpoints is in it.
#[derive(Debug)]
pub(super) struct FollowingSet {
    pub(super) port: u16,
    pub(super) labels: Labels,
    pub(super) drops_unhealthy: bool,
    pub(super) cell: Arc<EndpointCell>,
    /// The namespace that pays for it.
    pub(super) owner: Arc<str>,
}

impl EndpointIndex {
    pub(super) fn add(&mut self, service: ObjectKey, set: FollowingSet) {
        self.by_service.entry(service).or_default().push(set);
    }

    pub(super) fn set_ledger(&mut self, ledger: Ledger) {
        self.ledger = ledger;
    }
}

/// What follows from a change of EndpointSlices.
#[derive(Debug, Default)]
pub struct EndpointChange {
    /// Sets that are others now, each with its cell.
    pub sets: Vec<(Arc<EndpointCell>, EndpointSet)>,
    /// All findings of the objects, as compiling everything would give them.
    pub findings: Vec<Finding>,
}

/// What changes from `before` to `after` if only EndpointSlices did and only endpoint sets
/// follow; `None` if everything has to be compiled. `index` and `findings` are those of
/// `before`, compiled with the same `settings`.
#[must_use]
pub fn compile_endpoints(
    before: &ObjectSet,
    after: &ObjectSet,
    settings: &CompileSettings,
    index: &EndpointIndex,
    findings: &[Finding],
) -> Option<EndpointChange> {
    if !differ_in_slices_only(before, after) || !index.ledger.check_objects(after) {
        return None;
    }
    let services = services_touched(before, after)?;
    let (old, old_findings) = endpoints_of(before, settings, &services);
    let (new, new_findings) = endpoints_of(after, settings, &services);
    let mut change = EndpointChange::default();
    for key in &services {
        let (old, new) = (old.get(key)?, new.get(key)?);
        if !names_the_same_workloads(old, new, after)
            || !gives_the_same_diagnostics(key, [(before, old), (after, new)], settings)
        {
            return None;
        }
        let count = new.iter().map(|(_, list)| list.len()).sum();
        if !index
            .ledger
            .charge_values::<Endpoint>(&key.namespace, count)
        {
            return None;
        }
        for set in index.by_service.get(key).into_iter().flatten() {
            let of_port = |all: &SliceEndpoints| {
                let found = all.iter().find(|(port, _)| *port == set.port);
                let list = found.map(|(_, list)| list.as_slice()).unwrap_or_default();
                subset_of(list, &set.labels, set.drops_unhealthy)
            };
            let (old, new) = (of_port(old), of_port(new));
            if !is_even(&old) || !is_even(&new) {
                return None;
            }
            let count = new.endpoints.len();
            if !index.ledger.charge_values::<Endpoint>(&set.owner, count) {
                return None;
            }
            if old != new {
                change.sets.push((Arc::clone(&set.cell), new));
            }
        }
    }
    let gone: HashSet<&Finding> = old_findings.iter().collect();
    let kept = findings.iter().filter(|finding| !gone.contains(finding));
    change.findings = kept.cloned().chain(new_findings).collect();
    change.findings.sort();
    change.findings.dedup();
    Some(change)
}

/// The Services whose slices are others now. `None` if one of these slices belongs to no
/// Service, or to one that is found by its endpoints' addresses.
fn services_touched(before: &ObjectSet, after: &ObjectSet) -> Option<BTreeSet<ObjectKey>> {
    let mut touched = BTreeSet::new();
    let (old, new) = (&before.endpoint_slices, &after.endpoint_slices);
    let is_same = |a: &Arc<Object<EndpointSlice>>, b: Option<&Arc<Object<EndpointSlice>>>| {
        b.is_some_and(|b| Arc::ptr_eq(a, b) || a == b)
    };
    let gone = old
        .iter()
        .filter(|(key, slice)| !is_same(slice, new.get(key)));
    let come = new
        .iter()
        .filter(|(key, slice)| !is_same(slice, old.get(key)));
    for (_, slice) in gone.chain(come) {
        let name = slice.meta.labels.get(SERVICE_NAME_LABEL)?;
        let key = ObjectKey::new(&slice.meta.namespace, name);
        let service = after.services.get(&key)?;
        if is_headless(&service.spec) || service.spec.service_type == "ExternalName" {
            return None;
        }
        touched.insert(key);
    }
    Some(touched)
}

fn is_headless(service: &Service) -> bool {
    let mut ips = service.cluster_ips.iter();
    service.cluster_ip == "None" || ips.any(|ip| ip == "None")
}

/// Whether telemetry knows the same workload at every address. Pods that are alive and have
/// the address are known without any slice.
fn names_the_same_workloads(
    old: &SliceEndpoints,
    new: &SliceEndpoints,
    objects: &ObjectSet,
) -> bool {
    let all = |endpoints: &SliceEndpoints| -> HashSet<Endpoint> {
        let lists = endpoints.iter().map(|(_, list)| list);
        lists.flatten().cloned().collect()
    };
    let (old, new) = (all(old), all(new));
    old.symmetric_difference(&new).all(|endpoint| {
        let workload = &endpoint.workload;
        if workload.name.is_empty() {
            return true;
        }
        let key = ObjectKey::new(&*workload.namespace, &*workload.name);
        objects.pods.get(&key).is_some_and(|pod| {
            let is_over = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
            !pod.spec.host_network
                && pod.meta.deletion_timestamp.is_none()
                && !is_over
                && pod_ips(pod).contains(&endpoint.address.ip())
        })
    })
}

/// Whether the checks of DestinationRules find what they found.
fn gives_the_same_diagnostics(
    service: &ObjectKey,
    states: [(&ObjectSet, &SliceEndpoints); 2],
    settings: &CompileSettings,
) -> bool {
    let domain = &settings.mesh.domain;
    let own_host = format!("{}.{}.svc.{domain}", service.name, service.namespace);
    let own_host = own_host.to_ascii_lowercase();
    let [(before, old), (after, new)] = states;
    let rules: Vec<_> = after
        .destination_rules
        .values()
        .filter(|rule| !rule.spec.subsets.is_empty())
        .filter(|rule| host::may_cover(&rule.spec.host, &own_host))
        .filter(|rule| {
            let name = host::expand(&rule.spec.host, &rule.meta.namespace, domain);
            host::is_subset_of(&own_host, &name.to_ascii_lowercase())
        })
        .collect();
    if rules.is_empty() {
        return true;
    }
    let facts =
        |objects: &ObjectSet, endpoints: &SliceEndpoints| -> Vec<bool> {
            let all = || endpoints.iter().flat_map(|(_, list)| list);
            let is_waiting = objects.endpoint_slices.values().any(|slice| {
                slice.meta.namespace == service.namespace
                    && slice.meta.labels.get(SERVICE_NAME_LABEL) == Some(service.name.as_str())
                    && waits(slice, objects)
            });
            let mut facts = vec![is_waiting, all().next().is_some()];
            let subsets = rules.iter().flat_map(|rule| &rule.spec.subsets);
            facts.extend(subsets.map(|subset| {
                all().any(|endpoint| is_selected(&subset.labels, &endpoint.workload))
            }));
            facts
        };
    facts(before, old) == facts(after, new)
}

/// Other weights may need more slots than the kernel has.
fn is_even(set: &EndpointSet) -> bool {
    let mut weights = set.endpoints.iter().map(|endpoint| endpoint.weight);
    let first = weights.next();
    weights.all(|weight| Some(weight) == first)
}

fn differ_in_slices_only(a: &ObjectSet, b: &ObjectSet) -> bool {
    are_same(&a.virtual_services, &b.virtual_services)
        && are_same(&a.destination_rules, &b.destination_rules)
        && are_same(&a.service_entries, &b.service_entries)
        && are_same(&a.workload_entries, &b.workload_entries)
        && are_same(&a.workload_groups, &b.workload_groups)
        && are_same(&a.gateways, &b.gateways)
        && are_same(&a.sidecars, &b.sidecars)
        && are_same(&a.envoy_filters, &b.envoy_filters)
        && are_same(&a.authorization_policies, &b.authorization_policies)
        && are_same(&a.peer_authentications, &b.peer_authentications)
        && are_same(&a.request_authentications, &b.request_authentications)
        && are_same(&a.services, &b.services)
        && are_same(&a.pods, &b.pods)
        && are_same(&a.namespaces, &b.namespaces)
        && are_same(&a.nodes, &b.nodes)
        && are_same(&a.secrets, &b.secrets)
        && are_same(&a.config_maps, &b.config_maps)
}

fn are_same<S: Resource>(a: &Objects<S>, b: &Objects<S>) -> bool {
    let pairs = a.iter().zip(b);
    if a.is_same_copy(b) {
        return true;
    }
    a.len() == b.len()
        && pairs
            .into_iter()
            .all(|((name_a, a), (name_b, b))| name_a == name_b && (Arc::ptr_eq(a, b) || a == b))
}

#[cfg(test)]
#[path = "endpoint_change_tests.rs"]
mod tests;
