//! What the operator decides: Mizzen's own settings, and the mesh's under Istio's names.
//!
//! Input: [`Layer`]s (command line with environment, settings file); output: one
//! [`Settings`], merged once at start, plus the [`MeshConfig`] that an `istio`
//! ConfigMap adds while running. Reads no file by itself. Start at [`Settings::merge`].
//! Defaults are constants beside their field.

mod budget;
pub mod duration;
mod fields;
mod layer;
mod mesh;
mod mesh_config;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

pub use budget::NamespaceBudget;
pub use fields::SettingsError;
pub use layer::{Layer, source_of};
pub use mesh::{AccessLogEncoding, MeshKeepalive, MeshSettings};
pub use mesh_config::MeshConfig;

/// Everything `mizzen run` needs to know, merged: flag, then environment, then
/// settings file, then default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `--config` or `--kubernetes`.
    pub source: ConfigSource,
    /// `--node`; default the host name.
    pub node: String,
    /// `--cgroup`: the pods' cgroup root; `None` means: find `kubepods`.
    pub cgroup: Option<PathBuf>,
    /// `--admin`; default [`ADMIN_SOCKET`].
    pub admin: AdminAddress,
    /// `--capture`; default [`CaptureMode::All`] with a directory, labelled on Kubernetes.
    pub capture: CaptureMode,
    /// `--files`: where file names in Istio objects are resolved off Kubernetes.
    pub files: Option<PathBuf>,
    /// `--gateway`: labels under which this node serves as a gateway.
    pub gateway: Vec<(String, String)>,
    /// `--pins`; default [`PINS_DIR`].
    pub pins: PathBuf,
    /// `--resolv-conf`; default [`RESOLV_CONF`].
    pub resolv_conf: PathBuf,
    /// `--metrics`; default [`METRICS_ADDRESS`].
    pub metrics: SocketAddr,
    /// `--health`; default [`HEALTH_ADDRESS`].
    pub health: SocketAddr,
    /// `onProxyDown`; default degrade.
    pub on_proxy_down: OnProxyDown,
    /// `kernelPathStaleAfter`; default [`KERNEL_PATH_STALE_AFTER`].
    pub kernel_path_stale_after: Duration,
    /// `strict`; default false.
    pub is_strict: bool,
    /// `captureHostNetwork`; default false.
    pub capture_host_network: bool,
    /// `acceptUnenforcedPolicies`; default false.
    pub accept_unenforced_policies: bool,
    /// `namespaceBudget`.
    pub namespace_budget: NamespaceBudget,
    /// `workers`; `None` means one per core.
    pub workers: Option<u16>,
    /// `log`: filter of the daemon's own log; default [`LOG_FILTER`].
    pub log: String,
    /// `mesh` as the settings file has it; fields it leaves out may come from a ConfigMap.
    pub mesh_config: MeshConfig,
}

/// Default of [`Settings::admin`].
pub const ADMIN_SOCKET: &str = "/run/mizzen/admin.sock";
/// Default of [`Settings::pins`].
pub const PINS_DIR: &str = "/sys/fs/bpf/mizzen";
/// Default of [`Settings::resolv_conf`]: resolv.conf(5) of the daemon.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Default of [`Settings::metrics`]: Istio's port for merged metrics.
pub const METRICS_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15020);
/// Default of [`Settings::health`]: Istio's health port.
pub const HEALTH_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15021);
/// Default of [`Settings::kernel_path_stale_after`].
pub const KERNEL_PATH_STALE_AFTER: Duration = Duration::from_secs(60);
/// Default of [`Settings::log`].
pub const LOG_FILTER: &str = "info";
/// Most workers that can be asked for; beyond it the setting is refused.
pub const WORKERS_MAX: u16 = 256;

impl Settings {
    /// Merges the command line (with its environment) over the settings file over
    /// the defaults. `host_name`: the default of `node`.
    ///
    /// # Errors
    /// No configuration source, or two of them.
    pub fn merge(flags: Layer, file: Layer, host_name: &str) -> Result<Self, SettingsError> {
        let layer = flags.over(file);
        let source = layer.source.ok_or(SettingsError::NoSource)?;
        let capture = layer.capture.unwrap_or(match source {
            ConfigSource::Directory(_) => CaptureMode::All,
            ConfigSource::Kubernetes => CaptureMode::Labelled,
        });
        Ok(Self {
            source,
            node: layer.node.unwrap_or_else(|| host_name.to_owned()),
            cgroup: layer.cgroup,
            admin: layer
                .admin
                .unwrap_or_else(|| AdminAddress::Unix(PathBuf::from(ADMIN_SOCKET))),
            capture,
            files: layer.files,
            gateway: layer.gateway.unwrap_or_default(),
            pins: layer.pins.unwrap_or_else(|| PathBuf::from(PINS_DIR)),
            resolv_conf: layer
                .resolv_conf
                .unwrap_or_else(|| PathBuf::from(RESOLV_CONF)),
            metrics: layer.metrics.unwrap_or(METRICS_ADDRESS),
            health: layer.health.unwrap_or(HEALTH_ADDRESS),
            on_proxy_down: layer.on_proxy_down.unwrap_or_default(),
            kernel_path_stale_after: layer
                .kernel_path_stale_after
                .unwrap_or(KERNEL_PATH_STALE_AFTER),
            is_strict: layer.is_strict.unwrap_or(false),
            capture_host_network: layer.capture_host_network.unwrap_or(false),
            accept_unenforced_policies: layer.accept_unenforced_policies.unwrap_or(false),
            namespace_budget: layer.namespace_budget.unwrap_or_default(),
            workers: layer.workers,
            log: layer.log.unwrap_or_else(|| LOG_FILTER.to_owned()),
            mesh_config: layer.mesh,
        })
    }

    /// The mesh's settings: the settings file's `mesh`, then the ConfigMap's, then defaults.
    #[must_use]
    pub fn mesh(&self, config_map: Option<&MeshConfig>) -> MeshSettings {
        match config_map {
            Some(config_map) => self.mesh_config.clone().over(config_map.clone()).settings(),
            None => self.mesh_config.settings(),
        }
    }

    /// Settings that are given and do nothing: the key and what happens instead.
    #[must_use]
    pub fn not_honoured(&self) -> Vec<(String, &'static str)> {
        let mut found = Vec::new();
        if self.files.is_some() {
            let effect = "no certificate or key is read from it yet";
            found.push(("files".to_owned(), effect));
        }
        if !self.gateway.is_empty() {
            let effect = "the node serves no Gateway yet";
            found.push(("gateway".to_owned(), effect));
        }
        let mesh = self.mesh_config.ignored.iter();
        let effect = "not honoured yet, the mesh acts without it";
        found.extend(mesh.map(|field| (format!("mesh.{field}"), effect)));
        found
    }

    /// What `compile` needs of them.
    #[must_use]
    pub fn compile_settings(&self, config_map: Option<&MeshConfig>) -> CompileSettings {
        CompileSettings {
            node: self.node.clone(),
            mesh: self.mesh(config_map),
            on_proxy_down: self.on_proxy_down,
            is_capture_labelled: self.capture == CaptureMode::Labelled,
            capture_host_network: self.capture_host_network,
            accept_unenforced_policies: self.accept_unenforced_policies,
            namespace_budget: self.namespace_budget,
        }
    }

    /// The effective settings in the form of a settings file, defaults filled in;
    /// logged at start and dumped by admin.
    #[must_use]
    pub fn document(&self) -> serde_json::Value {
        let gateway: Vec<String> = self
            .gateway
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut document = json!({
            "node": self.node,
            "cgroup": self.cgroup,
            "admin": self.admin.to_string(),
            "capture": self.capture,
            "files": self.files,
            "gateway": gateway.join(","),
            "pins": self.pins,
            "resolvConf": self.resolv_conf,
            "metrics": self.metrics,
            "health": self.health,
            "onProxyDown": self.on_proxy_down,
            "kernelPathStaleAfter": duration::text(self.kernel_path_stale_after),
            "strict": self.is_strict,
            "captureHostNetwork": self.capture_host_network,
            "acceptUnenforcedPolicies": self.accept_unenforced_policies,
            "namespaceBudget": self.namespace_budget.document(),
            "workers": self.workers,
            "log": self.log,
            "mesh": self.mesh(None).document(),
        });
        match &self.source {
            ConfigSource::Directory(directory) => document["config"] = json!(directory),
            ConfigSource::Kubernetes => document["kubernetes"] = json!(true),
        }
        document
    }
}

/// Where the objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSource {
    /// A watched directory of YAML files.
    Directory(PathBuf),
    /// The cluster's API server.
    Kubernetes,
}

/// Where the admin API listens, and where the CLI finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A unix socket, mode 0600.
    Unix(PathBuf),
    /// A TCP address without any check of who calls.
    Tcp(SocketAddr),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected unix:PATH or IP:PORT, such as unix:{ADMIN_SOCKET} or 127.0.0.1:15000, found {text:?}"
            )
        };
        match text.strip_prefix("unix:") {
            Some("") => Err(expected()),
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None if text.starts_with('/') => Ok(Self::Unix(PathBuf::from(text))),
            None => text.parse().map(Self::Tcp).map_err(|_| expected()),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// `--capture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureMode {
    /// Every pod that the configuration lists for this node, unless it opts out.
    All,
    /// Only namespaces and pods that opt in by label.
    Labelled,
}

impl FromStr for CaptureMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "labelled" => Ok(Self::Labelled),
            _ => Err(format!("expected all or labelled, found {text:?}")),
        }
    }
}

/// The setting `onProxyDown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnProxyDown {
    /// Each route's degraded form: its L4 part where that loses nothing, else pass or deny.
    #[default]
    Degrade,
    /// Plain Kubernetes.
    Pass,
    /// Refuse.
    Deny,
}

impl FromStr for OnProxyDown {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "degrade" => Ok(Self::Degrade),
            "pass" => Ok(Self::Pass),
            "deny" => Ok(Self::Deny),
            _ => Err(format!("expected degrade, pass or deny, found {text:?}")),
        }
    }
}

/// What `compile` needs to know beside the objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CompileSettings {
    /// Name of this node: pods without `nodeName` count as its own.
    pub node: String,
    /// Mesh-wide settings.
    pub mesh: MeshSettings,
    /// `onProxyDown` for pods without the annotation.
    pub on_proxy_down: OnProxyDown,
    /// `--capture labelled`: only namespaces and pods that opt in.
    pub is_capture_labelled: bool,
    /// `captureHostNetwork`.
    pub capture_host_network: bool,
    /// `acceptUnenforcedPolicies`.
    pub accept_unenforced_policies: bool,
    /// `namespaceBudget`.
    pub namespace_budget: NamespaceBudget,
}

/// Labels as `--gateway` writes them: `istio=ingressgateway,app=edge`.
///
/// # Errors
/// A part that is not `name=value`.
pub fn parse_labels(text: &str) -> Result<Vec<(String, String)>, String> {
    text.split(',')
        .filter(|part| !part.trim().is_empty())
        .map(|part| match part.trim().split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            Some(_) | None => Err(format!(
                "expected labels such as istio=ingressgateway, found {part:?}"
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests;
