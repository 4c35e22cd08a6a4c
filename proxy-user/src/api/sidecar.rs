//! Sidecar, as networking.istio.io defines it.

use serde::Deserialize;

use super::{
    ConnectionPoolSettings, Destination, Kind, NoStatus, Port, Resource, ServerTLSSettings,
    WorkloadSelector,
};

/// What workloads may see, and how they are reached.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Sidecar {
    /// Workloads of the namespace; absent means all.
    pub workload_selector: Option<WorkloadSelector>,
    /// Towards the workload.
    pub ingress: Vec<IstioIngressListener>,
    /// From the workload.
    pub egress: Vec<IstioEgressListener>,
    /// Limits towards the workload.
    pub inbound_connection_pool: Option<ConnectionPoolSettings>,
    /// What happens to destinations that nobody knows.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

impl Resource for Sidecar {
    const KIND: Kind = Kind::Sidecar;
    type Status = NoStatus;
}

/// One listener towards the workload.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IstioIngressListener {
    /// Port.
    pub port: Option<Port>,
    /// Address.
    pub bind: String,
    /// How traffic gets here.
    pub capture_mode: CaptureMode,
    /// Where the application listens.
    pub default_endpoint: String,
    /// TLS towards clients.
    pub tls: Option<ServerTLSSettings>,
    /// Limits.
    pub connection_pool: Option<ConnectionPoolSettings>,
}

/// One listener from the workload.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IstioEgressListener {
    /// Port; absent means all others.
    pub port: Option<Port>,
    /// Address.
    pub bind: String,
    /// How traffic gets here.
    pub capture_mode: CaptureMode,
    /// `namespace/dns`: what is imported.
    pub hosts: Vec<String>,
}

/// How traffic gets to a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaptureMode {
    /// As the mesh does it.
    #[default]
    Default,
    /// Transparently.
    Iptables,
    /// The application dials the listener.
    None,
}

/// What happens to destinations that nobody knows.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OutboundTrafficPolicy {
    /// Let pass or refuse.
    pub mode: OutboundTrafficPolicyMode,
    /// A gateway that gets them.
    pub egress_proxy: Option<Destination>,
}

/// Let unknown destinations pass or refuse them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundTrafficPolicyMode {
    /// Refuse.
    #[default]
    RegistryOnly,
    /// Let pass.
    AllowAny,
    /// Let pass by name, resolved at the time of the request.
    AllowAnyDynamicDns,
}
