//! Reads and compiles a configuration without a daemon, for `validate` and `explain`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use super::run::{host_name, read_settings};
use crate::api::{ObjectKey, ObjectSet};
use crate::compile;
use crate::finding::Finding;
use crate::settings::{ConfigSource, Layer, Settings};
use crate::snapshot::Snapshot;
use crate::source::directory::read_paths;
use crate::source::mesh::mesh_config;
use crate::source::state::{DirectoryState, Loaded};

/// What a configuration means beside its files.
#[derive(Debug, clap::Args)]
pub(super) struct ContextArgs {
    /// Node whose pods are compiled; pods without nodeName count as its own. Default: the host
    /// name.
    #[arg(long, env = "MIZZEN_NODE", value_name = "NAME")]
    node: Option<String>,
    /// Settings file of the daemon, for its mesh settings. Default: none.
    #[arg(long, env = "MIZZEN_SETTINGS", value_name = "FILE")]
    settings: Option<PathBuf>,
}

/// Pods that an error lists.
const NAMES_MAX: usize = 10;

/// A configuration, read and compiled.
pub(super) struct Offline {
    pub(super) objects: ObjectSet,
    pub(super) snapshot: Snapshot,
    /// Of reading and compiling, in order of place.
    pub(super) findings: Vec<Finding>,
    /// Objects whose kind does not concern traffic, by kind.
    pub(super) skipped: BTreeMap<String, usize>,
}

/// Reads `paths` as one configuration and compiles it.
pub(super) fn load(paths: &[PathBuf], context: &ContextArgs) -> anyhow::Result<Offline> {
    compile_with(read(paths)?, context)
}

/// The same as one client pod sees it (`namespace/name`): on its own node unless
/// `--node` names another, and without a uid, which only capture needs.
pub(super) fn load_for(
    paths: &[PathBuf],
    context: &ContextArgs,
    from: &str,
) -> anyhow::Result<Offline> {
    let mut loaded = read(paths)?;
    let (namespace, name) = from.split_once('/').unwrap_or(("default", from));
    let key = ObjectKey::new(namespace, name);
    let Some(pod) = loaded.objects.pods.get_mut(&key) else {
        let names: Vec<String> = loaded
            .objects
            .pods
            .keys()
            .map(ToString::to_string)
            .collect();
        let known = match names.len() {
            0 => "there is no Pod at all".to_owned(),
            1..=NAMES_MAX => format!("there are {}", names.join(", ")),
            many => format!(
                "there are {} and {} more",
                names[..NAMES_MAX].join(", "),
                many - NAMES_MAX
            ),
        };
        anyhow::bail!(
            "no Pod {key} among the given files, which would tell the client's labels and node; {known}"
        );
    };
    let own_node = Some(pod.spec.node_name.to_string()).filter(|node| !node.is_empty());
    if pod.meta.uid.is_empty() {
        Arc::make_mut(pod).meta.uid = format!("{namespace}/{name}").into();
    }
    let context = ContextArgs {
        node: context.node.clone().or(own_node),
        settings: context.settings.clone(),
    };
    compile_with(loaded, &context)
}

fn read(paths: &[PathBuf]) -> anyhow::Result<Loaded> {
    let mut files = BTreeMap::new();
    for path in paths {
        let read = read_paths(std::slice::from_ref(path));
        files.extend(read.with_context(|| format!("cannot read {}", path.display()))?);
    }
    Ok(DirectoryState::new().apply(&files))
}

fn compile_with(loaded: Loaded, context: &ContextArgs) -> anyhow::Result<Offline> {
    let flags = Layer {
        // Which source it was matters to nothing that is asked of the settings below.
        source: Some(ConfigSource::Directory(PathBuf::new())),
        node: context.node.clone(),
        ..Layer::default()
    };
    let file = match &context.settings {
        Some(path) => read_settings(path)?,
        None => Layer::default(),
    };
    let settings = Settings::merge(flags, file, &host_name()?)?;
    let mut findings = loaded.findings;
    let root = settings.mesh(None).root_namespace;
    let mesh = mesh_config(&loaded.objects, &root, &mut findings);
    let settings = settings.compile_settings(mesh.as_ref());
    let nothing = ObjectSet::default();
    let within = compile::compile_within_budget(&loaded.objects, &nothing, &settings);
    let compiled = within.compiled;
    findings.extend(compiled.findings);
    findings.sort();
    findings.dedup();
    Ok(Offline {
        objects: loaded.objects,
        snapshot: compiled.snapshot,
        findings,
        skipped: loaded.skipped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::explain_query;
    use crate::admin::view::ExplainQuery;

    /// Manifests written by hand have no uid, those of a cluster name a node.
    #[test]
    fn a_client_needs_no_uid_and_brings_its_node() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.yaml");
        let text = "apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: somewhere}
status: {podIPs: [{ip: 10.9.0.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
";
        std::fs::write(&path, text).expect("a file");
        let context = ContextArgs {
            node: None,
            settings: None,
        };
        let paths = [path];
        let offline = load_for(&paths, &context, "shop/client").expect("good files");
        let query = ExplainQuery {
            from: "shop/client".to_owned(),
            url: "http://web/".to_owned(),
            method: "GET".to_owned(),
            headers: Vec::new(),
        };
        let answer = explain_query(&offline.snapshot, &query).expect("the pod is known");
        let text = answer.to_string();
        for line in [
            "from         shop/client (scope shop)\n",
            "to           10.0.0.1:80 of web.shop.svc.cluster.local\n",
            "rule         the service's own route\n",
        ] {
            assert!(text.contains(line), "{line:?} not in\n{text}");
        }
        let error = load_for(&paths, &context, "shop/other").map(|_| ());
        let error = error.expect_err("no such pod").to_string();
        assert!(error.contains("there are shop/client"), "{error}");
    }
}
