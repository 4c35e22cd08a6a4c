//! This node's pods: captured or not and why, exclusions, identity.
//! Start at [`build`].
//!
//! Annotations are Istio's, as documented under "Resource Annotations"
//! (`traffic.sidecar.istio.io/*`), and Mizzen's own (`mizzen.io/*`).

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::api::{self, Object, ObjectKey, ObjectSet};
use crate::finding::{Finding, Severity};
use crate::net::{PodUid, ScopeId};
use crate::settings::CompileSettings;
use crate::snapshot::{Capture, Exclusions, OnProxyDown, PodView};

use super::registry::Registry;
use super::registry::workload::{node_of, pod_ips};
use super::scope::Scopes;
use super::security::Unenforced;

const MESH_LABEL: &str = "mizzen.io/mesh";
const ON_PROXY_DOWN: &str = "mizzen.io/on-proxy-down";
const EXCLUDE_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
const EXCLUDE_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
const INCLUDE_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
const INCLUDE_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";

/// What decides about all pods alike.
pub(crate) struct PodContext<'a> {
    pub(crate) objects: &'a ObjectSet,
    pub(crate) settings: &'a CompileSettings,
    pub(crate) registry: &'a Registry,
    pub(crate) scopes: &'a Scopes,
    pub(crate) unenforced: &'a Unenforced,
}

/// The pods of this node by uid. One without uid cannot be found on the node: a finding.
pub(crate) fn build(
    context: &PodContext<'_>,
    findings: &mut Vec<Finding>,
) -> HashMap<PodUid, Arc<PodView>> {
    let mut views: HashMap<PodUid, Arc<PodView>> = HashMap::new();
    let mut keys: HashMap<PodUid, &ObjectKey> = HashMap::new();
    for (key, pod) in &context.objects.pods {
        if node_of(pod, &context.settings.node) != context.settings.node {
            continue;
        }
        if pod.meta.uid.is_empty() {
            findings.push(pod.finding(
                Severity::Error,
                "pod-without-uid",
                "metadata.uid",
                "is not captured: metadata.uid is needed to find its cgroup",
            ));
            continue;
        }
        let Some(view) = view_of(context, key, pod, findings) else {
            continue;
        };
        if let Some(other) = keys.get(&view.uid) {
            findings.push(pod.finding(
                Severity::Error,
                "pod-uid-twice",
                "metadata.uid",
                format!("is not captured: Pod {other} has the same metadata.uid"),
            ));
            continue;
        }
        keys.insert(view.uid.clone(), key);
        views.insert(view.uid.clone(), Arc::new(view));
    }
    views
}

fn view_of(
    context: &PodContext<'_>,
    key: &ObjectKey,
    pod: &Object<api::Pod>,
    findings: &mut Vec<Finding>,
) -> Option<PodView> {
    let scope = u32::try_from(*context.scopes.by_pod.get(key)?).ok()?;
    let config_hash = pod.meta.annotations.get("kubernetes.io/config.hash");
    let capture = match reason_untouched(context, key, pod) {
        Some(reason) => Capture::Untouched(Arc::from(reason)),
        None if pod_ips(pod).is_empty() => {
            findings.push(pod.finding(
                Severity::Error,
                "pod-without-ip",
                "status.podIPs",
                "is not captured: status.podIPs is needed to know its network namespace",
            ));
            Capture::Untouched(Arc::from("status.podIPs is missing"))
        }
        None => Capture::Captured,
    };
    Some(PodView {
        uid: PodUid(Arc::from(&*pod.meta.uid)),
        workload: Arc::clone(context.registry.pods.get(key)?),
        scope: ScopeId(scope),
        ips: pod_ips(pod),
        is_host_network: pod.spec.host_network,
        capture,
        on_proxy_down: on_proxy_down(pod, context.settings, findings),
        exclusions: exclusions(pod, findings),
        config_hash: config_hash.map(Arc::from),
    })
}

/// Why a pod's connections are left alone, or `None` if they are captured.
fn reason_untouched(
    context: &PodContext<'_>,
    key: &ObjectKey,
    pod: &Object<api::Pod>,
) -> Option<String> {
    let settings = context.settings;
    let namespace = context
        .objects
        .namespaces
        .get(&ObjectKey::new("", &key.namespace));
    let namespace_label =
        |name: &str| namespace.and_then(|namespace| namespace.meta.labels.get(name));
    let pod_label = |name: &str| pod.meta.labels.get(name);
    if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        return Some(format!("its phase is {}", pod.status.phase));
    }
    if pod.meta.annotations.contains_key("sidecar.istio.io/status") {
        return Some("it has a sidecar".to_owned());
    }
    let mode = "istio.io/dataplane-mode";
    let ambient = pod_label(mode).or_else(|| namespace_label(mode));
    let redirection = pod.meta.annotations.get("ambient.istio.io/redirection");
    if ambient.is_some_and(|mode| mode == "ambient")
        || redirection.is_some_and(|state| state == "enabled")
    {
        return Some("it is in ambient mode".to_owned());
    }
    if pod.spec.host_network && !settings.capture_host_network {
        return Some("it uses the host's network; captureHostNetwork is off".to_owned());
    }
    // What the pod says about itself wins over what its namespace says.
    let wish = pod_label(MESH_LABEL)
        .or_else(|| pod_label("istio-injection"))
        .or_else(|| namespace_label(MESH_LABEL))
        .or_else(|| namespace_label("istio-injection"));
    match wish {
        Some("disabled") => return Some("its labels opt out of the mesh".to_owned()),
        Some("enabled") => {}
        Some(_) | None => {
            let revision = "istio.io/rev";
            let has_revision = pod_label(revision).is_some() || namespace_label(revision).is_some();
            if settings.is_capture_labelled && !has_revision {
                return Some("neither it nor its namespace is labelled into the mesh".to_owned());
            }
        }
    }
    // Off Kubernetes, where capture is not opt-in, whoever runs Mizzen accepts this.
    if settings.is_capture_labelled && !settings.accept_unenforced_policies {
        let policy = context.unenforced.get(key)?;
        return Some(format!(
            "{policy} would not be enforced; acceptUnenforcedPolicies is off"
        ));
    }
    None
}

fn on_proxy_down(
    pod: &Object<api::Pod>,
    settings: &CompileSettings,
    findings: &mut Vec<Finding>,
) -> OnProxyDown {
    let Some(text) = pod.meta.annotations.get(ON_PROXY_DOWN) else {
        return settings.on_proxy_down;
    };
    match text {
        "degrade" => OnProxyDown::Degrade,
        "pass" => OnProxyDown::Pass,
        "deny" => OnProxyDown::Deny,
        _ => {
            let message = format!("expected degrade, pass or deny, found {text:?}");
            findings.push(bad_annotation(pod, ON_PROXY_DOWN, message));
            settings.on_proxy_down
        }
    }
}

fn bad_annotation(pod: &Object<api::Pod>, name: &str, message: String) -> Finding {
    let field = format!("metadata.annotations.{name}");
    pod.finding(Severity::Error, "bad-annotation", &field, message)
}

fn exclusions(pod: &Object<api::Pod>, findings: &mut Vec<Finding>) -> Exclusions {
    let annotation = |name: &str| pod.meta.annotations.get(name);
    let list = |name: &str| -> Vec<String> {
        let items = annotation(name)
            .unwrap_or_default()
            .split(',')
            .map(str::trim);
        items
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let texts = [EXCLUDE_PORTS, INCLUDE_PORTS, EXCLUDE_RANGES, INCLUDE_RANGES].map(list);
    let [exclude_ports, include_ports, exclude_ranges, include_ranges] = &texts;
    let includes_all = include_ranges.iter().any(|text| text == "*");
    Exclusions {
        exclude_ports: ports(pod, EXCLUDE_PORTS, exclude_ports, findings),
        include_ports: ports(pod, INCLUDE_PORTS, include_ports, findings),
        exclude_ranges: ranges(pod, EXCLUDE_RANGES, exclude_ranges, findings),
        include_ranges: match annotation(INCLUDE_RANGES) {
            // Present and empty captures no range at all, as in Istio.
            Some(_) if !includes_all => Some(ranges(pod, INCLUDE_RANGES, include_ranges, findings)),
            Some(_) | None => None,
        },
    }
}

fn ports(
    pod: &Object<api::Pod>,
    name: &str,
    texts: &[String],
    findings: &mut Vec<Finding>,
) -> Vec<u16> {
    let mut found = Vec::new();
    for text in texts.iter().filter(|text| *text != "*") {
        match text.parse() {
            Ok(port) => found.push(port),
            Err(_) => {
                let message = format!("{text:?} is no port number; it is left out");
                findings.push(bad_annotation(pod, name, message));
            }
        }
    }
    found
}

fn ranges(
    pod: &Object<api::Pod>,
    name: &str,
    texts: &[String],
    findings: &mut Vec<Finding>,
) -> Vec<IpNet> {
    let mut found = Vec::new();
    for text in texts {
        let net = text.parse::<IpNet>().map(|net| net.trunc());
        let net = net.or_else(|_| text.parse().map(|ip: std::net::IpAddr| IpNet::from(ip)));
        match net {
            Ok(net) => found.push(net),
            Err(_) => {
                let message = format!("{text:?} is no range such as 10.0.0.0/8; it is left out");
                findings.push(bad_annotation(pod, name, message));
            }
        }
    }
    found
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
