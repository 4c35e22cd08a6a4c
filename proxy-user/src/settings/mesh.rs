//! The mesh's settings under the names of Istio's MeshConfig.
//!
//! They come from `mesh:` of the settings file, or from the key `mesh` of the
//! ConfigMap `istio` in the root namespace. Source: Istio, mesh/v1alpha1/config.proto
//! and pkg/config/mesh/mesh.go (defaults).

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::duration;
use super::fields::{Fields, SettingsError};

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

const ALLOW_ANY: &str = "ALLOW_ANY";
const ALLOW_ANY_DYNAMIC_DNS: &str = "ALLOW_ANY_DYNAMIC_DNS";
const REGISTRY_ONLY: &str = "REGISTRY_ONLY";
const UPGRADE: &str = "UPGRADE";
const DO_NOT_UPGRADE: &str = "DO_NOT_UPGRADE";

/// Fields of MeshConfig that exist and that Mizzen does not act on, with the values (as JSON)
/// that ask for what happens anyway. Source: Istio, mesh/v1alpha1/config.proto.
const NOT_HONOURED: [(&str, &[&str]); 40] = [
    ("accessLogFormat", &[]),
    ("caCertificates", &[]),
    ("certificates", &[]),
    ("configSources", &[]),
    ("defaultConfig", &[]),
    ("defaultInboundHttpRetryPolicy", &[]),
    ("defaultProviders", &[]),
    ("disableEnvoyListenerLog", &["true"]),
    ("discoverySelectors", &[]),
    ("dnsRefreshRate", &[]),
    ("enableAutoMtls", &["false"]),
    ("enableEnvoyAccessLogService", &["false"]),
    ("enablePrometheusMerge", &["false"]),
    ("enableTracing", &["false"]),
    ("extensionProviders", &[]),
    ("hboneIdleTimeout", &[]),
    ("inboundClusterStatName", &[]),
    ("inboundTrafficPolicy", &["{}", r#"{"mode":"PASSTHROUGH"}"#]),
    ("ingressClass", &[]),
    ("ingressControllerMode", &[r#""OFF""#]),
    ("ingressSelector", &[]),
    ("ingressService", &[]),
    ("localityLbSetting", &[r#"{"enabled":false}"#]),
    ("meshMTLS", &[]),
    ("mixerCheckServer", &[]),
    ("mixerReportServer", &[]),
    ("networkPolicies", &[]),
    ("outboundClusterStatName", &[]),
    (
        "pathNormalization",
        &[
            "{}",
            r#"{"normalization":"DEFAULT"}"#,
            r#"{"normalization":"BASE"}"#,
        ],
    ),
    ("policyCheckFailOpen", &["false"]),
    ("proxyHttpPort", &[]),
    ("proxyInboundListenPort", &[]),
    ("proxyListenPort", &[]),
    ("reportBatchMaxEntries", &[]),
    ("reportBatchMaxTime", &[]),
    ("serviceScopeConfigs", &[]),
    ("serviceSettings", &[]),
    ("tlsDefaults", &[]),
    ("trustDomainAliases", &[]),
    ("verifyCertificateAtClient", &["false"]),
];

/// What one document says of MeshConfig; `None` leaves the field to the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is documented in MeshSettings")]
pub struct MeshConfig {
    pub is_registry_only: Option<bool>,
    pub connect_timeout: Option<Duration>,
    pub protocol_detection_timeout: Option<Duration>,
    pub root_namespace: Option<String>,
    pub trust_domain: Option<String>,
    pub domain: Option<String>,
    pub access_log_file: Option<String>,
    pub access_log_encoding: Option<AccessLogEncoding>,
    pub default_service_export_to: Option<Vec<String>>,
    pub default_virtual_service_export_to: Option<Vec<String>>,
    pub default_destination_rule_export_to: Option<Vec<String>>,
    pub h2_upgrade: Option<bool>,
    pub tcp_keepalive: Option<MeshKeepalive>,
    pub default_http_retry_policy: Option<Value>,
    pub default_traffic_policy: Option<Value>,
    /// Paths of fields that were written but are not acted on, for a warning each.
    pub ignored: Vec<String>,
}

impl MeshConfig {
    /// Reads a MeshConfig document, such as the key `mesh` of the ConfigMap `istio`.
    /// `name`: what errors call it. Fields that Mizzen does not know, or does not
    /// honour, end up in [`Self::ignored`]: the document is also Istio's, so a newer
    /// field there is no reason to refuse the rest.
    ///
    /// # Errors
    /// Text that is no mapping, or a value that cannot be.
    pub fn parse(name: &str, text: &str) -> Result<Self, SettingsError> {
        let mut fields = Fields::parse(name, text)?;
        let mut config = Self::from_fields(&mut fields)?;
        config.ignored.extend(fields.take_rest());
        Ok(config)
    }

    /// Reads `mesh:` of the settings file, where an unknown key is an error.
    pub(super) fn from_settings(mut fields: Fields) -> Result<Self, SettingsError> {
        let config = Self::from_fields(&mut fields)?;
        fields.finish()?;
        Ok(config)
    }

    fn from_fields(fields: &mut Fields) -> Result<Self, SettingsError> {
        let mut ignored = Vec::new();
        let is_registry_only = match fields.nested("outboundTrafficPolicy")? {
            Some(mut policy) => {
                let mode = policy.parsed_by("mode", outbound_mode)?;
                policy.finish()?;
                if mode == Some(OutboundMode::AllowAnyDynamicDns) {
                    // Names that nobody knows are dialled where the client dialled them.
                    ignored.push("outboundTrafficPolicy.mode".to_owned());
                }
                mode.map(|mode| mode == OutboundMode::RegistryOnly)
            }
            None => None,
        };
        let tcp_keepalive = match fields.nested("tcpKeepalive")? {
            Some(mut keepalive) => {
                let read = MeshKeepalive {
                    probes: keepalive.count("probes", u16::MAX)?,
                    time: keepalive.duration("time")?,
                    interval: keepalive.duration("interval")?,
                };
                keepalive.finish()?;
                Some(read)
            }
            None => None,
        };
        let trust_domain = fields.text("trustDomain")?;
        let own = MeshSettings::default().trust_domain;
        if trust_domain.as_ref().is_some_and(|domain| *domain != own) {
            // It is part of identities, and no connection has one.
            ignored.push("trustDomain".to_owned());
        }
        ignored.extend(fields.take_present(&NOT_HONOURED));
        Ok(Self {
            is_registry_only,
            connect_timeout: fields.duration("connectTimeout")?,
            protocol_detection_timeout: fields.duration("protocolDetectionTimeout")?,
            root_namespace: fields.text("rootNamespace")?,
            trust_domain,
            domain: fields.text("domain")?,
            access_log_file: fields.text("accessLogFile")?,
            access_log_encoding: fields.parsed("accessLogEncoding")?,
            default_service_export_to: fields.texts("defaultServiceExportTo")?,
            default_virtual_service_export_to: fields.texts("defaultVirtualServiceExportTo")?,
            default_destination_rule_export_to: fields.texts("defaultDestinationRuleExportTo")?,
            h2_upgrade: fields.parsed_by("h2UpgradePolicy", one_of(UPGRADE, DO_NOT_UPGRADE))?,
            tcp_keepalive,
            default_http_retry_policy: fields.value("defaultHttpRetryPolicy"),
            default_traffic_policy: fields.value("defaultTrafficPolicy"),
            ignored,
        })
    }

    /// What this document says, and `below` where it says nothing.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        let mut ignored = self.ignored;
        ignored.extend(below.ignored);
        Self {
            is_registry_only: self.is_registry_only.or(below.is_registry_only),
            connect_timeout: self.connect_timeout.or(below.connect_timeout),
            protocol_detection_timeout: self
                .protocol_detection_timeout
                .or(below.protocol_detection_timeout),
            root_namespace: self.root_namespace.or(below.root_namespace),
            trust_domain: self.trust_domain.or(below.trust_domain),
            domain: self.domain.or(below.domain),
            access_log_file: self.access_log_file.or(below.access_log_file),
            access_log_encoding: self.access_log_encoding.or(below.access_log_encoding),
            default_service_export_to: self
                .default_service_export_to
                .or(below.default_service_export_to),
            default_virtual_service_export_to: self
                .default_virtual_service_export_to
                .or(below.default_virtual_service_export_to),
            default_destination_rule_export_to: self
                .default_destination_rule_export_to
                .or(below.default_destination_rule_export_to),
            h2_upgrade: self.h2_upgrade.or(below.h2_upgrade),
            tcp_keepalive: self.tcp_keepalive.or(below.tcp_keepalive),
            default_http_retry_policy: self
                .default_http_retry_policy
                .or(below.default_http_retry_policy),
            default_traffic_policy: self.default_traffic_policy.or(below.default_traffic_policy),
            ignored,
        }
    }

    /// The same with Istio's defaults filled in.
    #[must_use]
    pub fn settings(&self) -> MeshSettings {
        let default = MeshSettings::default();
        let list = |list: &Option<Vec<String>>| match list {
            Some(list) if !list.is_empty() => list.clone(),
            Some(_) | None => vec!["*".to_owned()],
        };
        let text = |text: &Option<String>, default: String| match text {
            Some(text) if !text.is_empty() => text.clone(),
            Some(_) | None => default,
        };
        MeshSettings {
            is_registry_only: self.is_registry_only.unwrap_or(default.is_registry_only),
            connect_timeout: self.connect_timeout.unwrap_or(default.connect_timeout),
            protocol_detection_timeout: self
                .protocol_detection_timeout
                .filter(|timeout| !timeout.is_zero()),
            root_namespace: text(&self.root_namespace, default.root_namespace),
            trust_domain: text(&self.trust_domain, default.trust_domain),
            domain: text(&self.domain, default.domain),
            access_log_file: self.access_log_file.clone().unwrap_or_default(),
            access_log_encoding: self.access_log_encoding.unwrap_or_default(),
            default_service_export_to: list(&self.default_service_export_to),
            default_virtual_service_export_to: list(&self.default_virtual_service_export_to),
            default_destination_rule_export_to: list(&self.default_destination_rule_export_to),
            h2_upgrade: self.h2_upgrade.unwrap_or(default.h2_upgrade),
            tcp_keepalive: self.tcp_keepalive.unwrap_or_default(),
            default_http_retry_policy: self.default_http_retry_policy.clone(),
            default_traffic_policy: self.default_traffic_policy.clone(),
        }
    }
}

/// `outboundTrafficPolicy.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OutboundMode {
    RegistryOnly,
    AllowAny,
    AllowAnyDynamicDns,
}

fn outbound_mode(text: &str) -> Result<OutboundMode, String> {
    match text {
        REGISTRY_ONLY => Ok(OutboundMode::RegistryOnly),
        ALLOW_ANY => Ok(OutboundMode::AllowAny),
        ALLOW_ANY_DYNAMIC_DNS => Ok(OutboundMode::AllowAnyDynamicDns),
        _ => Err(format!(
            "expected {ALLOW_ANY}, {ALLOW_ANY_DYNAMIC_DNS} or {REGISTRY_ONLY}, found {text:?}"
        )),
    }
}

/// Reads an enum of two values; true is the first.
fn one_of(yes: &'static str, no: &'static str) -> impl Fn(&str) -> Result<bool, String> {
    move |text| match text {
        text if text == yes => Ok(true),
        text if text == no => Ok(false),
        _ => Err(format!("expected {no} or {yes}, found {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_istio_config_map_is_read_and_says_what_it_ignores() {
        let text = "accessLogFile: /dev/stdout\n\
                    defaultConfig:\n  discoveryAddress: istiod.istio-system.svc:15012\n\
                    enablePrometheusMerge: true\n\
                    outboundTrafficPolicy:\n  mode: REGISTRY_ONLY\n\
                    rootNamespace: istio-system\ntrustDomain: example.org\n\
                    enableAutoMtls: false\nlocalityLbSetting: {enabled: false}\n\
                    somethingNewer: 1\n";
        let config = MeshConfig::parse("ConfigMap/istio-system/istio", text).expect("Istio's own");
        let settings = config.settings();
        assert!(settings.is_registry_only);
        assert_eq!(settings.access_log_file, "/dev/stdout");
        assert_eq!(settings.trust_domain, "example.org");
        assert_eq!(settings.connect_timeout, Duration::from_secs(10));
        assert_eq!(
            config.ignored,
            [
                "trustDomain",
                "defaultConfig",
                "enablePrometheusMerge",
                "somethingNewer"
            ]
        );
    }

    #[test]
    fn values_that_ask_for_what_happens_anyway_are_honoured() {
        for (text, ignored) in [
            ("enableAutoMtls: false", None),
            ("enableAutoMtls: true", Some("enableAutoMtls")),
            ("enableTracing: true", Some("enableTracing")),
            ("pathNormalization: {normalization: BASE}", None),
            (
                "pathNormalization: {normalization: MERGE_SLASHES}",
                Some("pathNormalization"),
            ),
            ("localityLbSetting: {enabled: false}", None),
            (
                "localityLbSetting: {enabled: true}",
                Some("localityLbSetting"),
            ),
            ("inboundTrafficPolicy: {mode: PASSTHROUGH}", None),
            (
                "inboundTrafficPolicy: {mode: LOCALHOST}",
                Some("inboundTrafficPolicy"),
            ),
            ("trustDomain: cluster.local", None),
            ("trustDomain: example.org", Some("trustDomain")),
            ("outboundTrafficPolicy: {mode: ALLOW_ANY}", None),
            (
                "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}",
                Some("outboundTrafficPolicy.mode"),
            ),
            ("defaultHttpRetryPolicy: {attempts: 1}", None),
            ("defaultTrafficPolicy: {}", None),
            ("tcpKeepalive: {time: 1s}", None),
        ] {
            let config = MeshConfig::parse("mesh", text).expect(text);
            let ignored: Vec<&str> = ignored.into_iter().collect();
            assert_eq!(config.ignored, ignored, "{text}");
        }
    }

    #[test]
    fn keep_alive_is_read_value_by_value() {
        let text = "tcpKeepalive: {probes: 3, time: 10s}";
        let config = MeshConfig::parse("mesh", text).expect("two values");
        let expected = MeshKeepalive {
            probes: Some(3),
            time: Some(Duration::from_secs(10)),
            interval: None,
        };
        assert_eq!(config.settings().tcp_keepalive, expected);
    }

    #[test]
    fn zero_and_unset_detection_timeouts_both_mean_our_own() {
        for (text, expected) in [
            ("{}", None),
            ("protocolDetectionTimeout: 0s", None),
            (
                "protocolDetectionTimeout: 100ms",
                Some(Duration::from_millis(100)),
            ),
        ] {
            let config = MeshConfig::parse("mesh", text).expect(text);
            assert_eq!(
                config.settings().protocol_detection_timeout,
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn the_settings_file_beats_the_config_map() {
        let file = MeshConfig::parse("file", "connectTimeout: 1s").expect("one field");
        let map = MeshConfig::parse("map", "connectTimeout: 2s\nh2UpgradePolicy: UPGRADE");
        let merged = file.over(map.expect("two fields")).settings();
        assert_eq!(merged.connect_timeout, Duration::from_secs(1));
        assert!(merged.h2_upgrade);
    }
}
