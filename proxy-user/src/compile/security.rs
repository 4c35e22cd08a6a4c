//! What Mizzen reads and does not enforce: security policies and everything inbound.
//!
//! Each such object is an error finding that names the pods of this node which it
//! concerns, so that nobody trusts a policy that nobody enforces.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{
    LabelSelector, Object, ObjectKey, ObjectSet, PeerAuthentication, PeerMutualTLSMode, Resource,
};
use crate::finding::{Finding, Severity};
use crate::settings::CompileSettings;

use super::registry::Labels;
use super::registry::workload::node_of;
use super::scope::is_subset;

/// At most this many pods are named in a message; the others are counted.
const NAMED_PODS_MAX: usize = 5;

/// Pods of this node that some policy concerns which is not enforced, with the
/// first such policy (`kind/namespace/name`).
pub(crate) type Unenforced = BTreeMap<ObjectKey, Arc<str>>;

/// Finds all policies that are not enforced and the pods that they concern.
pub(crate) fn find_unenforced(
    objects: &ObjectSet,
    settings: &CompileSettings,
    findings: &mut Vec<Finding>,
) -> Unenforced {
    let mut search = Search {
        objects,
        settings,
        findings,
        unenforced: Unenforced::new(),
    };
    for object in objects.authorization_policies.values() {
        search.policy(
            object,
            object.spec.selector.as_ref(),
            "authorization is not enforced",
        );
    }
    for object in objects.request_authentications.values() {
        let message = "request authentication is not enforced: tokens are not checked";
        search.policy(object, object.spec.selector.as_ref(), message);
    }
    for object in objects
        .peer_authentications
        .values()
        .filter(|object| is_strict(object))
    {
        let message = "STRICT mutual TLS is not enforced: plain connections are accepted";
        search.policy(object, object.spec.selector.as_ref(), message);
    }
    for object in objects.sidecars.values() {
        let selector = object.spec.workload_selector.as_ref();
        let labels = selector.map(|selector| &selector.labels);
        for (field, is_set) in [
            ("ingress", !object.spec.ingress.is_empty()),
            (
                "inboundConnectionPool",
                object.spec.inbound_connection_pool.is_some(),
            ),
        ] {
            if is_set {
                let message = "inbound traffic is not handled yet: this field has no effect";
                search.concern(object, field, labels, message);
            }
        }
    }
    search.unenforced
}

/// Whether STRICT is demanded anywhere in it.
fn is_strict(object: &Object<PeerAuthentication>) -> bool {
    let ports = object.spec.port_level_mtls.values();
    let mut modes = object.spec.mtls.iter().chain(ports).map(|mtls| mtls.mode);
    modes.any(|mode| mode == PeerMutualTLSMode::Strict)
}

struct Search<'a> {
    objects: &'a ObjectSet,
    settings: &'a CompileSettings,
    findings: &'a mut Vec<Finding>,
    unenforced: Unenforced,
}

impl Search<'_> {
    fn policy<S: Resource>(
        &mut self,
        object: &Object<S>,
        selector: Option<&LabelSelector>,
        message: &str,
    ) {
        let labels = selector.map(|selector| &selector.match_labels);
        self.concern(object, "", labels, message);
    }

    /// `selector`: `None` means all pods of the namespace. An object of the root
    /// namespace concerns all namespaces.
    fn concern<S: Resource>(
        &mut self,
        object: &Object<S>,
        field: &str,
        selector: Option<&Labels>,
        message: &str,
    ) {
        let policy: Arc<str> = Arc::from(object.reference().to_string());
        let concerned = concerned(
            self.objects,
            self.settings,
            &object.meta.namespace,
            selector,
        );
        for key in &concerned {
            let policy = Arc::clone(&policy);
            self.unenforced.entry((*key).clone()).or_insert(policy);
        }
        let message = format!("{message}; {}", named(&concerned));
        let finding = object.finding(Severity::Error, "not-enforced", field, message);
        self.findings.push(finding);
    }
}

/// Pods of this node that an object of `namespace` with this selector concerns; `None` selects
/// all. An object of the root namespace concerns all namespaces.
pub(super) fn concerned<'a>(
    objects: &'a ObjectSet,
    settings: &CompileSettings,
    namespace: &str,
    selector: Option<&Labels>,
) -> Vec<&'a ObjectKey> {
    let is_root = namespace == settings.mesh.root_namespace;
    let pods = objects.pods.iter().filter(|(key, pod)| {
        let is_own = node_of(pod, &settings.node) == settings.node;
        let in_scope = is_root || key.namespace == namespace;
        is_own && in_scope && selector.is_none_or(|labels| is_subset(labels, &pod.meta.labels))
    });
    pods.map(|(key, _)| key).collect()
}

/// `concerned: a, b and 3 more`.
pub(super) fn named(pods: &[&ObjectKey]) -> String {
    if pods.is_empty() {
        return "no pod of this node is concerned".to_owned();
    }
    let names = pods.iter().take(NAMED_PODS_MAX);
    let names: Vec<String> = names.map(ToString::to_string).collect();
    let mut text = format!("concerned: {}", names.join(", "));
    if pods.len() > NAMED_PODS_MAX {
        text.push_str(&format!(" and {} more", pods.len() - NAMED_PODS_MAX));
    }
    text
}
