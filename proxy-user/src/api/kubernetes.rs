//! Kubernetes' kinds, as far as traffic needs them. Other fields are accepted
//! and not kept. Source: Kubernetes API reference, core/v1 and discovery/v1.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Body, Condition, IntOrString, Kind, NoStatus, Resource};

/// A service of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// `ClusterIP` (also if empty), `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub service_type: String,
    /// Virtual IP; `None` for a headless service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// Virtual IPs of both families.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Further addresses that reach the service.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// Name that an ExternalName service stands for.
    pub external_name: String,
    /// Ports.
    pub ports: Vec<ServicePortSpec>,
    /// Labels of the pods behind it.
    pub selector: BTreeMap<String, String>,
    /// `Cluster` (also if empty) or `Local`.
    pub internal_traffic_policy: String,
    /// Preference among endpoints.
    pub traffic_distribution: String,
    /// Whether pods count before they are ready.
    pub publish_not_ready_addresses: bool,
    /// `None` or `ClientIP`.
    pub session_affinity: String,
}

impl Resource for Service {
    const KIND: Kind = Kind::Service;
    type Status = ServiceStatus;
}

/// One port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePortSpec {
    /// Name; may be empty if there is one port.
    pub name: String,
    /// Number that clients dial.
    pub port: u16,
    /// `TCP` (also if empty), `UDP` or `SCTP`.
    pub protocol: String,
    /// What is spoken on it.
    pub app_protocol: Option<String>,
    /// Port of the pods; absent means the same.
    pub target_port: Option<IntOrString>,
    /// Port of the nodes.
    pub node_port: Option<u16>,
}

/// The status of a Service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// The load balancer's addresses.
    pub load_balancer: LoadBalancerStatus,
}

/// The load balancer's addresses.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerStatus {
    /// One by one.
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One address of a load balancer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// As an IP.
    pub ip: String,
    /// As a name.
    pub hostname: String,
}

/// Some endpoints of a service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The ports of each of them.
    pub ports: Vec<EndpointPort>,
}

impl Resource for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;
    const BODY: Body = Body::TopLevel;
    type Status = NoStatus;
}

/// One endpoint of a slice.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Addresses, of which the first counts.
    pub addresses: Vec<String>,
    /// Whether it is ready.
    pub conditions: EndpointConditions,
    /// Host name, for headless services.
    pub hostname: String,
    /// Node it is on.
    pub node_name: String,
    /// Zone it is in.
    pub zone: String,
    /// The pod behind it.
    pub target_ref: Option<ObjectReference>,
}

/// Whether an endpoint is ready; absent values are unknown.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    /// Takes new traffic.
    pub ready: Option<bool>,
    /// Answers, even if it is terminating.
    pub serving: Option<bool>,
    /// Is going away.
    pub terminating: Option<bool>,
}

/// One port of a slice.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// Name of the service port.
    pub name: String,
    /// Number that the endpoint listens on.
    pub port: Option<u16>,
    /// `TCP` (also if empty), `UDP` or `SCTP`.
    pub protocol: String,
    /// What is spoken on it.
    pub app_protocol: Option<String>,
}

/// Names another object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique id.
    pub uid: String,
}

/// A pod: what was asked for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Node it runs on.
    pub node_name: String,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
    /// Account that it runs as.
    pub service_account_name: String,
    /// Containers.
    pub containers: Vec<Container>,
}

impl Resource for Pod {
    const KIND: Kind = Kind::Pod;
    type Status = PodStatus;
}

/// One container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Name.
    pub name: String,
    /// Ports it names.
    pub ports: Vec<ContainerPort>,
}

/// One port of a container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Name.
    pub name: String,
    /// Number.
    pub container_port: u16,
    /// `TCP` (also if empty), `UDP` or `SCTP`.
    pub protocol: String,
}

/// A pod: what became of it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// First address.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// Addresses of both families.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    /// Address of its node.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// Conditions, of which `Ready` matters.
    pub conditions: Vec<Condition>,
}

/// One address of a pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// A namespace; its labels and annotations are what counts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace {}

impl Resource for Namespace {
    const KIND: Kind = Kind::Namespace;
    type Status = NoStatus;
}

/// A node; its labels are what counts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {}

impl Resource for Node {
    const KIND: Kind = Kind::Node;
    type Status = NodeStatus;
}

/// The status of a node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Its addresses.
    pub addresses: Vec<NodeAddress>,
}

/// One address of a node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname` and so on.
    #[serde(rename = "type")]
    pub address_type: String,
    /// The address.
    pub address: String,
}

/// Certificates and keys. Values stay base64, so that they are decoded where they are used.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    /// Such as `kubernetes.io/tls`.
    #[serde(rename = "type")]
    pub secret_type: String,
    /// Values in base64 by key.
    pub data: BTreeMap<String, String>,
    /// Values as text by key; they win over `data`.
    pub string_data: BTreeMap<String, String>,
}

impl Resource for Secret {
    const KIND: Kind = Kind::Secret;
    const BODY: Body = Body::TopLevel;
    type Status = NoStatus;
}

/// Settings and certificates that are no secret.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    /// Texts by key.
    pub data: BTreeMap<String, String>,
    /// Values in base64 by key.
    pub binary_data: BTreeMap<String, String>,
}

impl Resource for ConfigMap {
    const KIND: Kind = Kind::ConfigMap;
    const BODY: Body = Body::TopLevel;
    type Status = NoStatus;
}
