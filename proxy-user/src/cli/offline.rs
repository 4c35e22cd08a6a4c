//! Reads and compiles a configuration without a daemon, for `validate` and `explain`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;

use super::run::{host_name, read_settings};
use crate::api::ObjectSet;
use crate::compile;
use crate::finding::Finding;
use crate::settings::{ConfigSource, Layer, Settings};
use crate::snapshot::Snapshot;
use crate::source::directory::read_paths;
use crate::source::mesh::mesh_config;
use crate::source::state::DirectoryState;

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
    let mut files = BTreeMap::new();
    for path in paths {
        let read = read_paths(std::slice::from_ref(path));
        files.extend(read.with_context(|| format!("cannot read {}", path.display()))?);
    }
    let loaded = DirectoryState::new().apply(&files);
    let flags = Layer {
        // Which source it was matters to nothing that is asked of the settings below.
        source: Some(ConfigSource::Directory(
            paths.first().cloned().unwrap_or_default(),
        )),
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
    let compiled = compile::compile(&loaded.objects, &settings);
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
