//! The security kinds, as far as needed to say that they are not enforced:
//! whom they select. Source: security.istio.io.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Kind, LabelSelector, NoStatus, Resource};

/// Who may call a workload.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPolicy {
    /// Workloads; absent means all of the namespace.
    pub selector: Option<LabelSelector>,
}

impl Resource for AuthorizationPolicy {
    const KIND: Kind = Kind::AuthorizationPolicy;
    type Status = NoStatus;
}

/// Whether a workload demands mutual TLS.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAuthentication {
    /// Workloads; absent means all of the namespace.
    pub selector: Option<LabelSelector>,
    /// For all ports.
    pub mtls: Option<PeerMutualTLS>,
    /// For single ports.
    pub port_level_mtls: BTreeMap<String, PeerMutualTLS>,
}

impl Resource for PeerAuthentication {
    const KIND: Kind = Kind::PeerAuthentication;
    type Status = NoStatus;
}

/// Whether mutual TLS is demanded.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerMutualTLS {
    /// The mode.
    pub mode: PeerMutualTLSMode,
}

/// Whether mutual TLS is demanded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PeerMutualTLSMode {
    /// As the parent says.
    #[default]
    Unset,
    /// Not used.
    Disable,
    /// Both are accepted.
    Permissive,
    /// Demanded.
    Strict,
}

/// Which tokens a workload accepts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestAuthentication {
    /// Workloads; absent means all of the namespace.
    pub selector: Option<LabelSelector>,
}

impl Resource for RequestAuthentication {
    const KIND: Kind = Kind::RequestAuthentication;
    type Status = NoStatus;
}
