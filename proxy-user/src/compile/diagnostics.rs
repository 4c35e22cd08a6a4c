//! Findings that need more than one object: DestinationRules and Sidecars that concern nothing.
//!
//! Source: Istio's analysers, pkg/config/analysis/msg/messages.yaml.

use std::collections::{HashMap, HashSet};

use crate::api::{DestinationRule, EndpointSlice, Object, ObjectSet, Resource};
use crate::finding::{Finding, Severity};
use crate::settings::CompileSettings;

use super::host;
use super::registry::workload::is_selected;
use super::registry::{Labels, Registry, SERVICE_NAME_LABEL, Service, in_namespace, pods_named_by};
use super::scope::is_subset;

/// Reports hosts of DestinationRules that no service has, subsets that select no
/// endpoint and selectors that select no pod.
pub(crate) fn check_rules(
    objects: &ObjectSet,
    settings: &CompileSettings,
    registry: &Registry,
    findings: &mut Vec<Finding>,
) {
    let mut by_host: HashMap<&str, Vec<&Service>> = HashMap::new();
    for service in &registry.services {
        by_host.entry(&service.host).or_default().push(service);
    }
    let waiting = services_that_wait(objects);
    for object in objects.destination_rules.values() {
        let namespace = object.meta.namespace.as_str();
        let name = host::expand(&object.spec.host, namespace, &settings.mesh.domain);
        let name = name.to_ascii_lowercase();
        let services: Vec<&Service> = if host::is_wildcarded(&name) {
            let all = registry.services.iter().map(AsRef::as_ref);
            all.filter(|service| host::is_subset_of(&service.host, &name))
                .collect()
        } else {
            by_host.get(name.as_str()).cloned().unwrap_or_default()
        };
        if services.is_empty() {
            findings.push(unknown_host(object, &name, registry));
        } else {
            let is_complete = services
                .iter()
                .all(|service| !waiting.contains(&(&*service.namespace, &*service.name)));
            check_subsets(object, &services, is_complete, findings);
        }
        if let Some(selector) = &object.spec.workload_selector {
            check_selector(objects, object, &selector.match_labels, findings);
        }
    }
}

/// Reports selectors of Sidecars that select no pod.
pub(crate) fn check_sidecars(objects: &ObjectSet, findings: &mut Vec<Finding>) {
    for object in objects.sidecars.values() {
        if let Some(selector) = &object.spec.workload_selector {
            check_selector(objects, object, &selector.labels, findings);
        }
    }
}

fn unknown_host(object: &Object<DestinationRule>, name: &str, registry: &Registry) -> Finding {
    let hint = if let Some(meant) = registry.meant_by(name) {
        format!("; a name with a dot is not expanded, write {}", meant.host)
    } else if registry.aliases.contains_key(name) {
        "; an ExternalName Service takes the rules of what it stands for".to_owned()
    } else {
        String::new()
    };
    let message = format!("no service matches {name}: the rule has no effect{hint}");
    object.finding(Severity::Warning, "unknown-host", "host", message)
}

/// Namespace and name of each Service with an endpoint whose Pod was not given: labels
/// that nobody has may be that Pod's.
fn services_that_wait(objects: &ObjectSet) -> HashSet<(&str, &str)> {
    let slices = objects.endpoint_slices.values();
    slices
        .filter(|slice| waits(slice, objects))
        .filter_map(|slice| {
            let name = slice.meta.labels.get(SERVICE_NAME_LABEL)?;
            Some((slice.meta.namespace.as_str(), name))
        })
        .collect()
}

/// Whether the slice names a Pod that was not given.
pub(super) fn waits(slice: &Object<EndpointSlice>, objects: &ObjectSet) -> bool {
    pods_named_by(slice).any(|pod| !objects.pods.contains_key(&pod))
}

/// `is_complete`: every Pod behind the services was given.
fn check_subsets(
    object: &Object<DestinationRule>,
    services: &[&Service],
    is_complete: bool,
    findings: &mut Vec<Finding>,
) {
    let endpoints = || {
        services
            .iter()
            .flat_map(|service| service.endpoints.iter().flatten())
    };
    // Without any endpoint nothing can be said about labels.
    if endpoints().next().is_none() {
        return;
    }
    for (at, subset) in object.spec.subsets.iter().enumerate() {
        if endpoints().any(|endpoint| is_selected(&subset.labels, &endpoint.workload)) {
            continue;
        }
        // A reference to what was not given is a warning at most.
        let (severity, hint) = if is_complete {
            (Severity::Error, "")
        } else {
            (Severity::Warning, "; not all Pods of the service are there")
        };
        findings.push(object.finding(
            severity,
            "empty-subset",
            &format!("subsets[{at}].labels"),
            format!(
                "no endpoint has the labels of subset {}: what goes there gets 503{hint}",
                subset.name
            ),
        ));
    }
}

fn check_selector<S: Resource>(
    objects: &ObjectSet,
    object: &Object<S>,
    labels: &Labels,
    findings: &mut Vec<Finding>,
) {
    let mut own = in_namespace(&objects.pods, &object.meta.namespace).peekable();
    if own.peek().is_none() || own.any(|(_, pod)| is_subset(labels, &pod.meta.labels)) {
        return;
    }
    findings.push(object.finding(
        Severity::Warning,
        "empty-selector",
        "workloadSelector",
        "no pod of the namespace has these labels: it has no effect",
    ));
}
