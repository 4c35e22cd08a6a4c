//! One source of settings: what a command line or a settings file says, and no more.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::budget::NamespaceBudget;
use super::fields::{Fields, SettingsError};
use super::mesh_config::MeshConfig;
use super::{AdminAddress, CaptureMode, ConfigSource, OnProxyDown, WORKERS_MAX, parse_labels};

/// Settings of one source; `None` leaves the decision to the next one. Fields are
/// those of [`super::Settings`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is documented in Settings")]
pub struct Layer {
    pub source: Option<ConfigSource>,
    pub node: Option<String>,
    pub cgroup: Option<PathBuf>,
    pub admin: Option<AdminAddress>,
    pub capture: Option<CaptureMode>,
    pub files: Option<PathBuf>,
    pub gateway: Option<Vec<(String, String)>>,
    pub pins: Option<PathBuf>,
    pub resolv_conf: Option<PathBuf>,
    pub metrics: Option<SocketAddr>,
    pub health: Option<SocketAddr>,
    pub on_proxy_down: Option<OnProxyDown>,
    pub kernel_path_stale_after: Option<Duration>,
    pub is_strict: Option<bool>,
    pub capture_host_network: Option<bool>,
    pub accept_unenforced_policies: Option<bool>,
    pub namespace_budget: Option<NamespaceBudget>,
    pub workers: Option<u16>,
    pub log: Option<String>,
    pub mesh: MeshConfig,
}

impl Layer {
    /// Reads a settings file. `file`: its name, for errors.
    ///
    /// # Errors
    /// Text that is no mapping, an unknown key, a value that cannot be.
    pub fn parse_file(file: &str, text: &str) -> Result<Self, SettingsError> {
        let mut fields = Fields::parse(file, text)?;
        let path = |path: Option<String>| path.map(PathBuf::from);
        let config = path(fields.text("config")?);
        let is_kubernetes = fields.boolean("kubernetes")?;
        let mesh = match fields.nested("mesh")? {
            Some(mesh) => MeshConfig::from_settings(mesh)?,
            None => MeshConfig::default(),
        };
        let layer = Self {
            source: source_of(file, config, is_kubernetes)?,
            node: fields.text("node")?,
            cgroup: path(fields.text("cgroup")?),
            admin: fields.parsed("admin")?,
            capture: fields.parsed("capture")?,
            files: path(fields.text("files")?),
            gateway: fields.parsed_by("gateway", parse_labels)?,
            pins: path(fields.text("pins")?),
            resolv_conf: path(fields.text("resolvConf")?),
            metrics: fields.parsed_by("metrics", parse_address)?,
            health: fields.parsed_by("health", parse_address)?,
            on_proxy_down: fields.parsed("onProxyDown")?,
            kernel_path_stale_after: fields.duration("kernelPathStaleAfter")?,
            is_strict: fields.boolean("strict")?,
            capture_host_network: fields.boolean("captureHostNetwork")?,
            accept_unenforced_policies: fields.boolean("acceptUnenforcedPolicies")?,
            namespace_budget: fields
                .nested("namespaceBudget")?
                .map(NamespaceBudget::from_settings)
                .transpose()?,
            workers: fields.count("workers", WORKERS_MAX)?,
            log: fields.text("log")?,
            mesh,
        };
        fields.finish()?;
        Ok(layer)
    }

    /// What this layer says, and `below` where it says nothing.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            source: self.source.or(below.source),
            node: self.node.or(below.node),
            cgroup: self.cgroup.or(below.cgroup),
            admin: self.admin.or(below.admin),
            capture: self.capture.or(below.capture),
            files: self.files.or(below.files),
            gateway: self.gateway.or(below.gateway),
            pins: self.pins.or(below.pins),
            resolv_conf: self.resolv_conf.or(below.resolv_conf),
            metrics: self.metrics.or(below.metrics),
            health: self.health.or(below.health),
            on_proxy_down: self.on_proxy_down.or(below.on_proxy_down),
            kernel_path_stale_after: self
                .kernel_path_stale_after
                .or(below.kernel_path_stale_after),
            is_strict: self.is_strict.or(below.is_strict),
            capture_host_network: self.capture_host_network.or(below.capture_host_network),
            accept_unenforced_policies: self
                .accept_unenforced_policies
                .or(below.accept_unenforced_policies),
            namespace_budget: self.namespace_budget.or(below.namespace_budget),
            workers: self.workers.or(below.workers),
            log: self.log.or(below.log),
            mesh: self.mesh.over(below.mesh),
        }
    }
}

/// The one source that a layer names. `place`: the file, or `command line`.
///
/// # Errors
/// Both a directory and Kubernetes.
pub fn source_of(
    place: &str,
    config: Option<PathBuf>,
    is_kubernetes: Option<bool>,
) -> Result<Option<ConfigSource>, SettingsError> {
    match (config, is_kubernetes.unwrap_or(false)) {
        (Some(_), true) => Err(SettingsError::TwoSources {
            place: place.to_owned(),
        }),
        (Some(directory), false) => Ok(Some(ConfigSource::Directory(directory))),
        (None, true) => Ok(Some(ConfigSource::Kubernetes)),
        (None, false) => Ok(None),
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("expected IP:PORT, such as 127.0.0.1:15020, found {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_file_key_and_way_out() {
        for (text, expected) in [
            (
                "onProxyDown: drop\n",
                "s.yaml: onProxyDown: expected degrade, pass or deny, found \"drop\"",
            ),
            (
                "kernelPathStaleAfter: 60\n",
                "s.yaml: kernelPathStaleAfter: expected a text, found 60; put it in quotes",
            ),
            (
                "kernelPathStaleAfter: '60'\n",
                "s.yaml: kernelPathStaleAfter: expected a duration such as \"60s\" or \"250ms\", \
                 found \"60\"",
            ),
            (
                "worker: 2\n",
                "s.yaml: worker: unknown setting, did you mean workers?",
            ),
            (
                "workers: 0\n",
                "s.yaml: workers: expected a number from 1 to 256",
            ),
            (
                "strict: maybe\n",
                "s.yaml: strict: expected true or false, found \"maybe\"",
            ),
            (
                "metrics: 15020\n",
                "s.yaml: metrics: expected a text, found 15020; put it in quotes",
            ),
            (
                "config: /d\nkubernetes: true\n",
                "s.yaml: both config and kubernetes are given; keep one of them",
            ),
            (
                "- a\n",
                "s.yaml: expected a YAML mapping of settings: found a list",
            ),
            (
                "mesh:\n  connectTimeOut: 5s\n",
                "s.yaml: mesh.connectTimeOut: unknown setting, did you mean connectTimeout?",
            ),
            (
                "mesh:\n  accessLogEncoding: XML\n",
                "s.yaml: mesh.accessLogEncoding: expected TEXT or JSON, found \"XML\"",
            ),
        ] {
            let error = Layer::parse_file("s.yaml", text).expect_err(text);
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        assert!(Layer::parse_file("s.yaml", "node: a\nnode: b\n").is_err());
    }

    #[test]
    fn an_empty_file_says_nothing() {
        for text in ["", "# only a comment\n", "---\n", "node: ~\n"] {
            let layer = Layer::parse_file("s.yaml", text).expect(text);
            assert_eq!(layer, Layer::default(), "{text:?}");
        }
    }
}
