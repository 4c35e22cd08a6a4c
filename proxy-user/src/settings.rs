//! What the operator decides: Mizzen's own settings, and the mesh's under Istio's names.
//!
//! Defaults are constants beside their field. Flags and environment are merged in `cli::run`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `mesh:` of the settings file: the fields of Istio's MeshConfig that Mizzen honours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MeshSettings {
    /// `outboundTrafficPolicy.mode: REGISTRY_ONLY`.
    pub is_registry_only: bool,
    /// `connectTimeout`, default 10 s.
    pub connect_timeout: Duration,
    /// `protocolDetectionTimeout`; `None` (unset or 0s) means Mizzen's own 1 s on undeclared ports.
    pub protocol_detection_timeout: Option<Duration>,
    /// `rootNamespace`.
    pub root_namespace: String,
    /// `trustDomain`.
    pub trust_domain: String,
    /// Domain suffix of Kubernetes services.
    pub domain: String,
    /// `accessLogFile`; empty is off.
    pub access_log_file: String,
    /// `accessLogEncoding`.
    pub access_log_encoding: AccessLogEncoding,
    /// `defaultServiceExportTo`.
    pub default_service_export_to: Vec<String>,
    /// `defaultVirtualServiceExportTo`.
    pub default_virtual_service_export_to: Vec<String>,
    /// `defaultDestinationRuleExportTo`.
    pub default_destination_rule_export_to: Vec<String>,
    /// `h2UpgradePolicy: UPGRADE`.
    pub h2_upgrade: bool,
}

/// `accessLogEncoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AccessLogEncoding {
    /// Istio's default text format.
    #[default]
    Text,
    /// Istio's JSON keys.
    Json,
}

impl Default for MeshSettings {
    fn default() -> Self {
        let everybody = || vec!["*".to_owned()];
        Self {
            is_registry_only: false,
            connect_timeout: Duration::from_secs(10),
            protocol_detection_timeout: None,
            root_namespace: "istio-system".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            domain: "cluster.local".to_owned(),
            access_log_file: String::new(),
            access_log_encoding: AccessLogEncoding::Text,
            default_service_export_to: everybody(),
            default_virtual_service_export_to: everybody(),
            default_destination_rule_export_to: everybody(),
            h2_upgrade: false,
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
}
