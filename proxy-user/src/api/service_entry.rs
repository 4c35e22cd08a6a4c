//! ServiceEntry, as networking.istio.io defines it.

use serde::Deserialize;

use super::{Kind, Resource, WorkloadEntry, WorkloadSelector};

/// A service that Kubernetes does not know, or not as such.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServiceEntry {
    /// Names; wildcards allowed.
    pub hosts: Vec<String>,
    /// Virtual IPs or networks.
    pub addresses: Vec<String>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Inside or outside the mesh.
    pub location: Location,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Endpoints, one by one.
    pub endpoints: Vec<WorkloadEntry>,
    /// Endpoints by label, from Pods and WorkloadEntries of the namespace.
    pub workload_selector: Option<WorkloadSelector>,
    /// Namespaces that may use it.
    pub export_to: Vec<String>,
    /// Names, one of which the server's certificate must carry.
    pub subject_alt_names: Vec<String>,
}

impl Resource for ServiceEntry {
    const KIND: Kind = Kind::ServiceEntry;
    type Status = ServiceEntryStatus;
}

/// The port of a ServiceEntry.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServicePort {
    /// Number that clients dial.
    pub number: u32,
    /// Protocol; empty means to find out.
    pub protocol: String,
    /// Name, unique within the entry.
    pub name: String,
    /// Number that endpoints listen on; 0 means the same.
    pub target_port: u32,
}

/// Inside or outside the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// Outside.
    #[default]
    MeshExternal,
    /// Inside.
    MeshInternal,
}

/// How endpoints are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// The address that the client dialled.
    #[default]
    None,
    /// As listed.
    Static,
    /// By DNS, all answers.
    Dns,
    /// By DNS, the first answer.
    DnsRoundRobin,
    /// By DNS at the time of the request, for wildcard hosts.
    DynamicDns,
}

/// What a controller wrote to a ServiceEntry.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryStatus {
    /// Virtual IPs that were allocated.
    pub addresses: Vec<ServiceEntryAddress>,
}

/// One allocated virtual IP.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryAddress {
    /// The address.
    pub value: String,
    /// The host it was allocated for; empty for all.
    pub host: String,
}
