//! The mesh's settings under the names of Istio's MeshConfig, defaults filled in.
//!
//! Source: Istio, mesh/v1alpha1/config.proto and pkg/config/mesh/mesh.go (defaults).

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::duration;

/// The fields of Istio's MeshConfig that Mizzen honours, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// `dnsRefreshRate`, default 60 s: names whose answers have no TTL, or that failed.
    pub dns_refresh_rate: Duration,
    /// `tcpKeepalive`.
    pub tcp_keepalive: MeshKeepalive,
    /// `defaultHttpRetryPolicy` as it is written: a VirtualService's `retries`.
    pub default_http_retry_policy: Option<Value>,
    /// `defaultTrafficPolicy` as it is written: `connectionPool` and `outlierDetection` of a
    /// DestinationRule.
    pub default_traffic_policy: Option<Value>,
}

/// Keep-alive of upstream sockets; `None` leaves a value to the system, all of them switch
/// it off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MeshKeepalive {
    /// Probes without an answer before the connection counts as dead.
    pub probes: Option<u16>,
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

impl MeshKeepalive {
    fn document(&self) -> Value {
        let mut document = Map::new();
        if let Some(probes) = self.probes {
            document.insert("probes".to_owned(), json!(probes));
        }
        for (name, time) in [("time", self.time), ("interval", self.interval)] {
            if let Some(time) = time {
                document.insert(name.to_owned(), json!(duration::text(time)));
            }
        }
        Value::Object(document)
    }
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
            dns_refresh_rate: Duration::from_secs(60),
            tcp_keepalive: MeshKeepalive::default(),
            default_http_retry_policy: None,
            default_traffic_policy: None,
        }
    }
}

impl MeshSettings {
    /// The same under MeshConfig's names.
    #[must_use]
    pub fn document(&self) -> Value {
        let mut document = json!({
            "outboundTrafficPolicy": {
                "mode": if self.is_registry_only { REGISTRY_ONLY } else { ALLOW_ANY },
            },
            "connectTimeout": duration::text(self.connect_timeout),
            "protocolDetectionTimeout":
                duration::text(self.protocol_detection_timeout.unwrap_or_default()),
            "rootNamespace": self.root_namespace,
            "trustDomain": self.trust_domain,
            "domain": self.domain,
            "accessLogFile": self.access_log_file,
            "accessLogEncoding": self.access_log_encoding,
            "defaultServiceExportTo": self.default_service_export_to,
            "defaultVirtualServiceExportTo": self.default_virtual_service_export_to,
            "defaultDestinationRuleExportTo": self.default_destination_rule_export_to,
            "h2UpgradePolicy": if self.h2_upgrade { UPGRADE } else { DO_NOT_UPGRADE },
            "dnsRefreshRate": duration::text(self.dns_refresh_rate),
        });
        if self.tcp_keepalive != MeshKeepalive::default() {
            document["tcpKeepalive"] = self.tcp_keepalive.document();
        }
        for (name, policy) in [
            ("defaultHttpRetryPolicy", &self.default_http_retry_policy),
            ("defaultTrafficPolicy", &self.default_traffic_policy),
        ] {
            if let Some(policy) = policy {
                document[name] = policy.clone();
            }
        }
        document
    }
}

impl Serialize for MeshSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document().serialize(serializer)
    }
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

impl FromStr for AccessLogEncoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "TEXT" => Ok(Self::Text),
            "JSON" => Ok(Self::Json),
            _ => Err(format!("expected TEXT or JSON, found {text:?}")),
        }
    }
}

pub(super) const ALLOW_ANY: &str = "ALLOW_ANY";
pub(super) const ALLOW_ANY_DYNAMIC_DNS: &str = "ALLOW_ANY_DYNAMIC_DNS";
pub(super) const REGISTRY_ONLY: &str = "REGISTRY_ONLY";
pub(super) const UPGRADE: &str = "UPGRADE";
pub(super) const DO_NOT_UPGRADE: &str = "DO_NOT_UPGRADE";
