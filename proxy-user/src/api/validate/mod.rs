//! What can be said about one object by itself: errors, for which the object is
//! refused, and warnings. Pure; nothing here looks at a second object.
//!
//! Start at [`check`]. The rules are Istio's admission rules
//! (pkg/config/validation in istio/istio, and the markers of its CRDs).

mod blocks;
mod destination_rule;
mod envoy_filter;
mod envoy_types;
mod gateway;
mod http_match;
mod http_policy;
mod http_route;
mod load_balancer;
mod names;
mod service_entry;
mod sidecar;
mod unreachable;
mod virtual_service;
mod workload;

use super::{
    AuthorizationPolicy, ConfigMap, EndpointSlice, Namespace, Node, Object, PeerAuthentication,
    Pod, RequestAuthentication, Resource, Secret, Service,
};
use crate::finding::{Finding, Severity};

/// Findings about one object, and whether it is refused for them.
#[derive(Debug, Default)]
pub struct Checked {
    /// What was found, in the order of the fields.
    pub findings: Vec<Finding>,
    /// Whether one of them is an error for which the object must not act.
    pub is_refused: bool,
}

/// Checks one object.
pub fn check<S: Validate>(object: &Object<S>) -> Checked {
    let mut report = Report {
        object,
        checked: Checked::default(),
    };
    report.annotations();
    S::validate(&object.spec, &mut report);
    report.checked
}

/// Annotations that are none of a user's business on Istio's networking kinds.
const FORBIDDEN_ANNOTATIONS: [(&str, &str); 4] = [
    ("istio.io/dry-run", "works for AuthorizationPolicies only"),
    (
        "internal.istio.io/webhook-always-reject",
        "asks for the object to be refused",
    ),
    ("internal.istio.io/parents", "is set by controllers only"),
    (
        "internal.istio.io/parent-namespace",
        "is set by controllers only",
    ),
];

/// A kind that can be checked by itself.
pub trait Validate: Resource {
    /// Reports what is wrong with `spec`, whose object `report` knows.
    fn validate(spec: &Self, report: &mut Report<'_, Self>);
}

/// Collects what is found about one object.
#[derive(Debug)]
pub struct Report<'a, S: Resource> {
    object: &'a Object<S>,
    checked: Checked,
}

impl<S: Resource> Report<'_, S> {
    fn annotations(&mut self) {
        if S::KIND.group_versions().0 != "networking.istio.io" {
            return;
        }
        for (annotation, reason) in FORBIDDEN_ANNOTATIONS {
            if self.object.meta.annotations.contains_key(annotation) {
                let field = format!("metadata.annotations.{annotation}");
                self.error(
                    &field,
                    "annotation",
                    format!("not allowed here: it {reason}"),
                );
            }
        }
    }

    /// Something for which the object is refused.
    pub fn error(&mut self, field: &str, code: &'static str, message: impl Into<String>) {
        self.checked.is_refused = true;
        self.add(Severity::Error, field, code, message.into());
    }

    /// Something that its author probably did not mean.
    pub fn warn(&mut self, field: &str, code: &'static str, message: impl Into<String>) {
        self.add(Severity::Warning, field, code, message.into());
    }

    /// Something that acts as written and perhaps not as its author thinks.
    pub fn note(&mut self, field: &str, code: &'static str, message: impl Into<String>) {
        self.add(Severity::Info, field, code, message.into());
    }

    fn add(&mut self, severity: Severity, field: &str, code: &'static str, message: String) {
        self.checked
            .findings
            .push(self.object.finding(severity, code, field, message));
    }
}

/// Kinds whose objects a cluster has checked before, and about which no rule of ours exists.
macro_rules! nothing_to_check {
    ($($kind:ty),*) => {$(
        impl Validate for $kind {
            fn validate(_spec: &Self, _report: &mut Report<'_, Self>) {}
        }
    )*};
}

nothing_to_check!(
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
    Service,
    EndpointSlice,
    Pod,
    Namespace,
    Node,
    Secret,
    ConfigMap
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        DestinationRule, EnvoyFilter, ServiceEntry, SourceMap, VirtualService, WorkloadEntry,
    };

    /// `field: severity` of everything that is found about a spec in JSON.
    fn found<S: Validate>(spec: serde_json::Value) -> Vec<String> {
        let spec: S = serde_json::from_value(spec).expect("the kind has these fields");
        let object = Object {
            meta: Default::default(),
            spec,
            status: Default::default(),
            source: SourceMap::default(),
        };
        let findings = check(&object).findings;
        findings
            .iter()
            .map(|f| format!("{}: {}", f.field.clone().unwrap_or_default(), f.severity))
            .collect()
    }

    fn many(count: usize, value: impl Fn(usize) -> serde_json::Value) -> serde_json::Value {
        (0..count).map(value).collect()
    }

    #[test]
    fn what_is_too_large_is_found() {
        use serde_json::json;
        let http = |route: serde_json::Value| json!({"hosts": ["a"], "http": [route]});
        let body = |len: usize| {
            found::<VirtualService>(http(
                json!({"directResponse": {"status": 200, "body": {"string": "x".repeat(len)}}}),
            ))
        };
        let regex = |len: usize| {
            found::<VirtualService>(http(json!({
                "match": [{"uri": {"regex": "a".repeat(len)}}],
                "route": [{"destination": {"host": "a"}}],
            })))
        };
        let entry = |key: &str, value: serde_json::Value| {
            let mut spec = json!({"hosts": ["a.com"], "resolution": "STATIC"});
            spec[key] = value;
            found::<ServiceEntry>(spec)
        };
        let port_policy = |port: usize| json!({"port": {"number": port + 1}, "loadBalancer": {"simple": "RANDOM"}});
        let port_policies = |count: usize| {
            let settings = many(count, port_policy);
            found::<DestinationRule>(
                json!({"host": "a", "trafficPolicy": {"portLevelSettings": settings}}),
            )
        };
        let version = json!({"proxyVersion": "a".repeat(1025)});
        let remove = json!({"operation": "REMOVE"});
        let patch = json!({"applyTo": "CLUSTER", "match": {"proxy": version}, "patch": remove});
        let targets = many(17, |_| json!({"kind": "Gateway"}));
        let nothing: Vec<String> = Vec::new();
        for (why, found, expected) in [
            ("a body of 100 KiB", body(100 << 10), nothing.clone()),
            (
                "a body above 100 KiB",
                body((100 << 10) + 1),
                vec!["http[0].directResponse.body: warning".to_owned()],
            ),
            (
                "a body above 1 MiB",
                body((1 << 20) + 1),
                vec!["http[0].directResponse.body: error".to_owned()],
            ),
            ("a regex of 1024 bytes", regex(1024), nothing.clone()),
            (
                "a longer regex",
                regex(1025),
                vec!["http[0].match[0].uri.regex: error".to_owned()],
            ),
            (
                "257 hosts",
                entry("hosts", many(257, |n| json!(format!("h{n}.com")))),
                vec!["hosts: error".to_owned()],
            ),
            (
                "257 addresses",
                entry(
                    "addresses",
                    many(257, |n| json!(format!("10.0.{}.{}", n / 256, n % 256))),
                ),
                vec!["addresses: error".to_owned()],
            ),
            (
                "257 ports",
                entry(
                    "ports",
                    many(
                        257,
                        |n| json!({"number": n + 1, "name": format!("p{n}"), "protocol": "HTTP"}),
                    ),
                ),
                vec!["ports: error".to_owned()],
            ),
            (
                "4097 endpoints",
                entry("endpoints", many(4097, |_| json!({"address": "10.0.0.1"}))),
                vec!["endpoints: error".to_owned()],
            ),
            ("4096 port policies", port_policies(4096), nothing),
            (
                "4097 port policies",
                port_policies(4097),
                vec!["trafficPolicy.portLevelSettings: error".to_owned()],
            ),
            (
                "a long version and many targets",
                found::<EnvoyFilter>(json!({"configPatches": [patch], "targetRefs": targets})),
                vec![
                    ": warning".to_owned(), // the notice that every EnvoyFilter gets
                    "targetRefs: error".to_owned(),
                    "configPatches[0].match.proxy.proxyVersion: warning".to_owned(),
                ],
            ),
            (
                "a long locality and account",
                found::<WorkloadEntry>(json!({
                    "address": "10.0.0.1",
                    "locality": "x".repeat(2049),
                    "serviceAccount": "x".repeat(254),
                })),
                vec![
                    "locality: error".to_owned(),
                    "serviceAccount: error".to_owned(),
                ],
            ),
        ] {
            assert_eq!(found, expected, "{why}");
        }
    }
}
