//! One document of MeshConfig: `mesh:` of the settings file, or the key `mesh` of the
//! ConfigMap `istio` in the root namespace. Start at [`MeshConfig::parse`].
//!
//! Source: Istio, mesh/v1alpha1/config.proto.

use std::time::Duration;

use serde_json::Value;

use super::fields::{Fields, SettingsError};
use super::mesh::{
    ALLOW_ANY, ALLOW_ANY_DYNAMIC_DNS, AccessLogEncoding, DO_NOT_UPGRADE, MeshKeepalive,
    MeshSettings, REGISTRY_ONLY, UPGRADE,
};

/// Fields of MeshConfig that exist and that Mizzen does not act on, with the values (as JSON)
/// that ask for what happens anyway. Source: Istio, mesh/v1alpha1/config.proto.
const NOT_HONOURED: [(&str, &[&str]); 39] = [
    ("accessLogFormat", &[]),
    ("caCertificates", &[]),
    ("certificates", &[]),
    ("configSources", &[]),
    ("defaultConfig", &[]),
    ("defaultInboundHttpRetryPolicy", &[]),
    ("defaultProviders", &[]),
    ("disableEnvoyListenerLog", &["true"]),
    ("discoverySelectors", &[]),
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
    pub dns_refresh_rate: Option<Duration>,
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
            dns_refresh_rate: fields.duration("dnsRefreshRate")?,
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
            dns_refresh_rate: self.dns_refresh_rate.or(below.dns_refresh_rate),
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
            dns_refresh_rate: self
                .dns_refresh_rate
                .filter(|rate| !rate.is_zero())
                .unwrap_or(default.dns_refresh_rate),
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
#[path = "mesh_config_tests.rs"]
mod tests;
