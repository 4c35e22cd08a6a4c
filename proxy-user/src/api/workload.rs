//! WorkloadEntry and WorkloadGroup, as networking.istio.io defines them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{IntOrString, Kind, Labels, NoStatus, Resource};

/// One endpoint: an object of its own, or an entry of a ServiceEntry.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WorkloadEntry {
    /// IP, host name or `unix:///path`.
    pub address: String,
    /// Port by name of the service port.
    pub ports: BTreeMap<String, u32>,
    /// Labels.
    pub labels: Labels,
    /// Network it is in.
    pub network: String,
    /// `region/zone/subzone`.
    pub locality: String,
    /// Relative weight; 0 means 1.
    pub weight: u32,
    /// Account that it runs as.
    pub service_account: String,
}

impl Resource for WorkloadEntry {
    const KIND: Kind = Kind::WorkloadEntry;
    type Status = WorkloadEntryStatus;
}

/// What a controller wrote to a WorkloadEntry.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntryStatus {
    /// Conditions, of which `Healthy` matters.
    pub conditions: Vec<Condition>,
}

/// One condition of a status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

/// A template of WorkloadEntries that register by themselves.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WorkloadGroup {
    /// Labels and annotations of the entries.
    pub metadata: Option<WorkloadGroupMeta>,
    /// The entry's fields.
    pub template: Option<WorkloadEntry>,
    /// How the workload's health is found.
    pub probe: Option<ReadinessProbe>,
}

impl Resource for WorkloadGroup {
    const KIND: Kind = Kind::WorkloadGroup;
    type Status = NoStatus;
}

/// Labels and annotations of entries made from a WorkloadGroup.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WorkloadGroupMeta {
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
}

/// How a workload's health is found: one of four methods.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ReadinessProbe {
    /// Wait before the first.
    pub initial_delay_seconds: i32,
    /// Limit for one.
    pub timeout_seconds: i32,
    /// Time between them.
    pub period_seconds: i32,
    /// Successes in a row to count as healthy.
    pub success_threshold: i32,
    /// Failures in a row to count as unhealthy.
    pub failure_threshold: i32,
    /// By an HTTP request.
    pub http_get: Option<HTTPHealthCheck>,
    /// By a connection.
    pub tcp_socket: Option<TCPHealthCheck>,
    /// By a command.
    pub exec: Option<ExecHealthCheck>,
    /// By gRPC's health service.
    pub grpc: Option<GrpcHealthCheck>,
}

/// Health by an HTTP request.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPHealthCheck {
    /// Path.
    pub path: String,
    /// Port.
    pub port: u32,
    /// Host.
    pub host: String,
    /// `HTTP` or `HTTPS`.
    pub scheme: String,
    /// Headers to send.
    pub http_headers: Vec<HTTPHeader>,
}

/// One header of a health request.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HTTPHeader {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// Health by a connection.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TCPHealthCheck {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u32,
}

/// Health by a command.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ExecHealthCheck {
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Health by gRPC's health service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct GrpcHealthCheck {
    /// Service name to ask for.
    pub service: String,
    /// Port.
    pub port: Option<IntOrString>,
}
