//! One case of the table: an object with a value in it, and what comes of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{Kind, ObjectKey, ObjectSet};
use crate::compile::compile;
use crate::finding::{Finding, Severity};
use crate::settings::{CompileSettings, MeshSettings, NamespaceBudget, OnProxyDown};
use crate::snapshot::dump::dump;
use crate::source::mesh::mesh_config;
use crate::source::state::{DirectoryState, FileText, Files};

use super::table::{Table, mapping};

/// Name of the object under test.
const NAME: &str = "under-test";
/// The table of the mesh's settings, which stand in a ConfigMap.
pub(super) const MESH_CONFIG: &str = "MeshConfig";
/// Where they stand there.
const MESH_FIELDS: [&str; 2] = ["data.mesh.", "mesh."];
/// File of the object under test.
const FILE: &str = "case.yaml";

/// What an object amounts to.
pub(super) struct Seen {
    pub(super) dump: String,
    /// About the object.
    pub(super) findings: Vec<Finding>,
    /// Whether the object was not refused.
    pub(super) is_in_force: bool,
}

impl Seen {
    /// An error about the object, but that it as a whole is not honoured.
    pub(super) fn error(&self) -> Option<&Finding> {
        let is_whole =
            |finding: &Finding| finding.code == "not-honoured" && finding.field.is_none();
        self.findings
            .iter()
            .find(|finding| finding.severity == Severity::Error && !is_whole(finding))
    }

    /// Whether a finding of this code is about the field, or a part or a block of it.
    pub(super) fn has_finding(&self, code: &str, field: &str) -> bool {
        self.findings.iter().any(|finding| {
            let at = finding.field.as_deref().unwrap_or_default();
            finding.code == code
                && (at == field || super::is_below(field, at) || super::is_below(at, field))
        })
    }
}

/// Sets the value at `path`; what leads there must be there, or is made.
pub(super) fn set(
    object: &mut Value,
    path: &str,
    value: &Value,
    makes_way: bool,
) -> Result<(), String> {
    let mut at = object;
    for step in steps(path) {
        if at.is_null() {
            if !makes_way {
                return Err(format!("the context has nothing above {path}"));
            }
            *at = match step {
                Step::Key(_) => mapping(),
                Step::Index(_) => json!([]),
            };
        }
        at = match step {
            Step::Key(key) => at
                .as_object_mut()
                .map(|map| map.entry(key).or_insert(Value::Null)),
            Step::Index(index) => at.as_array_mut().and_then(|list| {
                if index == list.len() {
                    list.push(Value::Null);
                }
                list.get_mut(index)
            }),
        }
        .ok_or_else(|| format!("{path} leads through a value"))?;
    }
    *at = value.clone();
    Ok(())
}

enum Step {
    Key(String),
    Index(usize),
}

/// `a[0].b` to `a`, `0`, `b`.
fn steps(path: &str) -> Vec<Step> {
    let parts = path.split(['.', '[']).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.strip_suffix(']') {
            Some(index) => Step::Index(index.parse().expect("an index is a number")),
            None => Step::Key(part.to_owned()),
        })
        .collect()
}

/// `a[0].b` to `a[].b`.
pub(super) fn without_indices(path: &str) -> String {
    let mut parts = path.split('[');
    let mut general = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.split_once(']').map_or("", |(_, rest)| rest);
        general += "[]";
        general += rest;
    }
    general
}

/// The whole document of an object whose fields the table gives.
fn document(table: &Table, fields: &Value) -> Value {
    if table.name == MESH_CONFIG {
        return json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": fields.to_string()},
        });
    }
    let mut fields = fields.as_object().cloned().unwrap_or_default();
    let named = fields.remove("kind");
    let name = named
        .as_ref()
        .and_then(Value::as_str)
        .unwrap_or(&table.name);
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
    let kind = kind.unwrap_or_else(|| panic!("{name} is no kind"));
    let (group, versions) = kind.group_versions();
    let version = match group {
        "" => versions[0].to_owned(),
        group => format!("{group}/{}", versions[0]),
    };
    let mut metadata = json!({"name": NAME});
    if kind.is_namespaced() {
        metadata["namespace"] = json!("shop");
    }
    // A WorkloadGroup has a field of this name.
    let own = (kind != Kind::WorkloadGroup).then(|| fields.remove("metadata"));
    if let Some(Value::Object(own)) = own.flatten() {
        for (key, value) in own {
            metadata[key] = value;
        }
    }
    let mut document = json!({"apiVersion": version, "kind": name, "metadata": metadata});
    if let Some(status) = fields.remove("status") {
        document["status"] = status;
    }
    match kind {
        Kind::EndpointSlice | Kind::Secret | Kind::ConfigMap => {
            for (key, value) in fields {
                document[key] = value;
            }
        }
        _ => document["spec"] = Value::Object(fields),
    }
    document
}

/// Compiles the object beside the base mesh and what the table adds.
pub(super) fn see(table: &Table, fields: &Value) -> Seen {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/base/shop.yaml");
    let base = std::fs::read_to_string(base).expect("the base mesh is there");
    let mut fields = fields.clone();
    let beside = fields.as_object_mut().and_then(|map| map.remove("beside"));
    let beside = beside.as_ref().and_then(Value::as_array);
    let beside = table.beside.iter().chain(beside.into_iter().flatten());
    let beside: Vec<String> = beside.map(Value::to_string).collect();
    let object = document(table, &fields);
    let file = |text: &str| FileText::from(text);
    let files = Files::from([
        (Arc::from("base.yaml"), file(&base)),
        (Arc::from("beside.yaml"), file(&beside.join("\n---\n"))),
        (Arc::from(FILE), file(&object.to_string())),
    ]);
    let loaded = DirectoryState::new().apply(&files);
    let mut settings = settings();
    let mut found = loaded.findings;
    let mesh = mesh_config(&loaded.objects, &settings.mesh.root_namespace, &mut found);
    if let Some(mesh) = mesh {
        settings.mesh = mesh.settings();
    }
    let compiled = compile(&loaded.objects, &settings);
    found.extend(compiled.findings);
    // The mesh's policies are nobody's object.
    let is_about = |finding: &Finding| match &finding.origin {
        Some(origin) => &*origin.file == FILE,
        None => finding.object.is_none(),
    };
    found.retain(is_about);
    for field in found
        .iter_mut()
        .filter_map(|finding| finding.field.as_mut())
    {
        for prefix in MESH_FIELDS {
            if let Some(rest) = field.strip_prefix(prefix) {
                *field = rest.to_owned();
            }
        }
    }
    let detection = compiled.snapshot.mesh.protocol_detection_timeout;
    Seen {
        dump: format!("{detection:?}\n{}", dump(&compiled.snapshot)),
        findings: found,
        is_in_force: is_in_force(&loaded.objects, &object),
    }
}

/// Whether a set has an object of the document's kind and name.
fn is_in_force(set: &ObjectSet, document: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &document["metadata"];
    let key = ObjectKey::new(text(&metadata["namespace"]), text(&metadata["name"]));
    match document["kind"].as_str().unwrap_or_default() {
        "VirtualService" => set.virtual_services.contains_key(&key),
        "DestinationRule" => set.destination_rules.contains_key(&key),
        "ServiceEntry" => set.service_entries.contains_key(&key),
        "WorkloadEntry" => set.workload_entries.contains_key(&key),
        "WorkloadGroup" => set.workload_groups.contains_key(&key),
        "Gateway" => set.gateways.contains_key(&key),
        "Sidecar" => set.sidecars.contains_key(&key),
        "EnvoyFilter" => set.envoy_filters.contains_key(&key),
        _ => true,
    }
}

/// Those of every case.
pub(super) fn settings() -> CompileSettings {
    CompileSettings {
        node: "node-1".to_owned(),
        mesh: MeshSettings::default(),
        on_proxy_down: OnProxyDown::Degrade,
        is_capture_labelled: false,
        capture_host_network: false,
        accept_unenforced_policies: false,
        namespace_budget: NamespaceBudget::default(),
    }
}

/// Names of all functions of the sources that are tests, those of the end-to-end tests too.
pub(super) fn test_names() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories = vec![
        root.join("src"),
        root.join("tests"),
        root.join("../tests/tests"),
        root.join("../proxy-common/src"),
    ];
    let mut names = BTreeSet::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the sources are there") {
            let path = entry.expect("the sources are readable").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let mut is_test = path.starts_with(root.join("../tests/tests"));
            for line in text.lines().map(str::trim_start) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                } else if let Some(rest) = line.split("fn ").nth(1)
                    && is_test
                {
                    let name = rest.split(['(', '<']).next().unwrap_or_default();
                    names.insert(name.to_owned());
                    is_test = path.starts_with(root.join("../tests/tests"));
                }
            }
        }
    }
    names
}
