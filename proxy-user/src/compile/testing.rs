//! Objects for the tables of this module, written as JSON.

use std::sync::Arc;

use serde_json::Value;

use crate::api::{InSet, Object, ObjectMeta, ObjectSet, SourceMap};
use crate::finding::Finding;
use crate::settings::{CompileSettings, MeshSettings, NamespaceBudget, OnProxyDown};

use super::cluster::ClusterTable;
use super::destination_rule::RuleIndex;
use super::mesh::MeshPolicies;
use super::registry::Registry;
use super::scope::ClientView;

/// Name of the node in all tables.
pub(super) const NODE: &str = "n1";

/// Defaults on node [`NODE`].
pub(super) fn settings() -> CompileSettings {
    CompileSettings {
        node: NODE.to_owned(),
        mesh: MeshSettings::default(),
        on_proxy_down: OnProxyDown::Degrade,
        is_capture_labelled: false,
        capture_host_network: false,
        accept_unenforced_policies: false,
        namespace_budget: NamespaceBudget::default(),
    }
}

/// Adds an object to `set`. `name` is `namespace/name`; `document` holds the body,
/// and optionally `metadata` and `status`.
pub(super) fn add<S: InSet>(set: &mut ObjectSet, name: &str, mut document: Value) {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    let mut take = |part: &str| document.as_object_mut().and_then(|map| map.remove(part));
    let meta = take("metadata");
    let status = take("status");
    let mut meta = meta.map_or_else(ObjectMeta::default, |meta| {
        serde_json::from_value(meta).expect("metadata")
    });
    meta.namespace = namespace.into();
    meta.name = name.into();
    let object: Object<S> = Object {
        meta,
        spec: serde_json::from_value(document).expect("the fields of the kind"),
        status: status.map_or_else(S::Status::default, |status| {
            serde_json::from_value(status).expect("status")
        }),
        source: SourceMap::default(),
    };
    S::objects_mut(set).insert(object.key(), Arc::new(object));
}

/// `2026-01-01` and `second` seconds.
pub(super) fn created(second: u8) -> Value {
    serde_json::json!({ "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z") })
}

/// A client in `namespace` with these labels, by no Sidecar.
pub(super) fn client(namespace: &str, labels: &[(&str, &str)]) -> ClientView {
    let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    ClientView {
        key: Arc::from(namespace),
        namespace: Arc::from(namespace),
        labels: labels.iter().map(own).collect(),
        ..ClientView::default()
    }
}

/// Compiles `set` as far as clusters and hands the table to `check`, with all findings.
pub(super) fn with_clusters<T>(
    set: &ObjectSet,
    settings: &CompileSettings,
    check: impl FnOnce(&mut ClusterTable<'_>, &Registry, &[Finding]) -> T,
) -> T {
    let mut findings = Vec::new();
    let registry = Registry::build(set, settings, &mut findings);
    let rules = RuleIndex::build(set, settings, &mut findings);
    super::diagnostics::check_rules(set, settings, &registry, &mut findings);
    let policies = MeshPolicies::read(&settings.mesh, &mut findings);
    let mut table = ClusterTable::new(&registry, &rules, settings, &policies);
    check(&mut table, &registry, &findings)
}

/// The findings as lines, without places.
pub(super) fn lines(findings: &[Finding]) -> Vec<String> {
    let bare = |finding: &Finding| {
        Finding {
            origin: None,
            ..finding.clone()
        }
        .to_string()
    };
    findings.iter().map(bare).collect()
}
