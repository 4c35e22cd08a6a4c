//! The mesh's settings under the names of Istio's MeshConfig.
//!
//! They come from `mesh:` of the settings file, or from the key `mesh` of the
//! ConfigMap `istio` in the root namespace. Source: Istio, mesh/v1alpha1/config.proto
//! and pkg/config/mesh/mesh.go (defaults).

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

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
    /// `dnsRefreshRate`, default 60 s: names whose answers have no TTL, or that failed.
    pub dns_refresh_rate: Duration,
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
        }
    }
}

impl MeshSettings {
    /// The same under MeshConfig's names.
    #[must_use]
    pub fn document(&self) -> Value {
        json!({
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
        })
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
const REGISTRY_ONLY: &str = "REGISTRY_ONLY";
const UPGRADE: &str = "UPGRADE";
const DO_NOT_UPGRADE: &str = "DO_NOT_UPGRADE";

/// Fields of MeshConfig that exist and that Mizzen does not act on. Source: Istio,
/// mesh/v1alpha1/config.proto.
const NOT_HONOURED: [&str; 42] = [
    "accessLogFormat",
    "caCertificates",
    "certificates",
    "configSources",
    "defaultConfig",
    "defaultHttpRetryPolicy",
    "defaultInboundHttpRetryPolicy",
    "defaultProviders",
    "defaultTrafficPolicy",
    "disableEnvoyListenerLog",
    "discoverySelectors",
    "enableAutoMtls",
    "enableEnvoyAccessLogService",
    "enablePrometheusMerge",
    "enableTracing",
    "extensionProviders",
    "hboneIdleTimeout",
    "inboundClusterStatName",
    "inboundTrafficPolicy",
    "ingressClass",
    "ingressControllerMode",
    "ingressSelector",
    "ingressService",
    "localityLbSetting",
    "meshMTLS",
    "mixerCheckServer",
    "mixerReportServer",
    "networkPolicies",
    "outboundClusterStatName",
    "pathNormalization",
    "policyCheckFailOpen",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "reportBatchMaxEntries",
    "reportBatchMaxTime",
    "serviceScopeConfigs",
    "serviceSettings",
    "tcpKeepalive",
    "tlsDefaults",
    "trustDomainAliases",
    "verifyCertificateAtClient",
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
    pub dns_refresh_rate: Option<Duration>,
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
        let is_registry_only = match fields.nested("outboundTrafficPolicy")? {
            Some(mut policy) => {
                let mode = policy.parsed_by("mode", one_of(REGISTRY_ONLY, ALLOW_ANY))?;
                policy.finish()?;
                mode
            }
            None => None,
        };
        Ok(Self {
            is_registry_only,
            connect_timeout: fields.duration("connectTimeout")?,
            protocol_detection_timeout: fields.duration("protocolDetectionTimeout")?,
            root_namespace: fields.text("rootNamespace")?,
            trust_domain: fields.text("trustDomain")?,
            domain: fields.text("domain")?,
            access_log_file: fields.text("accessLogFile")?,
            access_log_encoding: fields.parsed("accessLogEncoding")?,
            default_service_export_to: fields.texts("defaultServiceExportTo")?,
            default_virtual_service_export_to: fields.texts("defaultVirtualServiceExportTo")?,
            default_destination_rule_export_to: fields.texts("defaultDestinationRuleExportTo")?,
            h2_upgrade: fields.parsed_by("h2UpgradePolicy", one_of(UPGRADE, DO_NOT_UPGRADE))?,
            dns_refresh_rate: fields.duration("dnsRefreshRate")?,
            ignored: fields.take_present(&NOT_HONOURED),
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
            dns_refresh_rate: self.dns_refresh_rate.or(below.dns_refresh_rate),
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
            dns_refresh_rate: self
                .dns_refresh_rate
                .filter(|rate| !rate.is_zero())
                .unwrap_or(default.dns_refresh_rate),
        }
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
                    somethingNewer: 1\n";
        let config = MeshConfig::parse("ConfigMap/istio-system/istio", text).expect("Istio's own");
        let settings = config.settings();
        assert!(settings.is_registry_only);
        assert_eq!(settings.access_log_file, "/dev/stdout");
        assert_eq!(settings.trust_domain, "example.org");
        assert_eq!(settings.connect_timeout, Duration::from_secs(10));
        assert_eq!(
            config.ignored,
            ["defaultConfig", "enablePrometheusMerge", "somethingNewer"]
        );
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
