//! Kubernetes' kinds, as far as traffic needs them. Other fields are accepted
//! and not kept. Source: Kubernetes API reference, core/v1 and discovery/v1.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Body, Condition, IntOrString, Kind, Labels, NoStatus, Resource, Text};

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
    /// Name that an ExternalName service stands for.
    pub external_name: String,
    /// Ports.
    pub ports: Vec<ServicePortSpec>,
    /// Labels of the pods behind it.
    pub selector: Labels,
    /// `Cluster` (also if empty) or `Local`.
    pub internal_traffic_policy: String,
    /// Preference among endpoints.
    pub traffic_distribution: String,
    /// `None` or `ClientIP`.
    pub session_affinity: String,
}

impl Resource for Service {
    const KIND: Kind = Kind::Service;
    type Status = NoStatus;
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
}

/// Some endpoints of a service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// The endpoints.
    pub endpoints: Box<[Endpoint]>,
    /// The ports of each of them.
    pub ports: Vec<EndpointPort>,
}

impl Resource for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;
    const BODY: Body = Body::TopLevel;
    type Status = NoStatus;

    fn for_each_text(spec: &mut Self, _: &mut NoStatus, visit: &mut dyn FnMut(&mut Text)) {
        for endpoint in &mut spec.endpoints {
            visit(&mut endpoint.node_name);
            if let Some(target) = &mut endpoint.target_ref {
                visit(&mut target.kind);
                visit(&mut target.namespace);
            }
        }
    }
}

/// One endpoint of a slice.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Addresses, of which the first counts.
    pub addresses: Box<[Box<str>]>,
    /// Whether it is ready.
    pub conditions: EndpointConditions,
    /// Node it is on.
    pub node_name: Text,
    /// The pod behind it.
    pub target_ref: Option<ObjectReference>,
}

/// Whether an endpoint is ready; absent values are unknown.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    /// Takes new traffic.
    pub ready: Option<bool>,
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
}

/// Names another object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    /// Kind.
    pub kind: Text,
    /// Namespace.
    pub namespace: Text,
    /// Name.
    pub name: Text,
}

/// A pod: what was asked for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Node it runs on.
    pub node_name: Text,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
}

impl Resource for Pod {
    const KIND: Kind = Kind::Pod;
    type Status = PodStatus;

    fn for_each_text(spec: &mut Self, status: &mut PodStatus, visit: &mut dyn FnMut(&mut Text)) {
        visit(&mut spec.node_name);
        visit(&mut status.phase);
    }
}

/// A pod: what became of it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: Text,
    /// First address.
    #[serde(rename = "podIP")]
    pub pod_ip: Box<str>,
    /// Addresses of both families.
    #[serde(rename = "podIPs")]
    pub pod_ips: Box<[PodIp]>,
    /// Conditions, of which `Ready` matters.
    pub conditions: Vec<Condition>,
}

/// One address of a pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodIp {
    /// The address.
    pub ip: Box<str>,
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
    type Status = NoStatus;
}

/// Certificates and keys. Values stay base64, so that they are decoded where they are used.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
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
}

impl Resource for ConfigMap {
    const KIND: Kind = Kind::ConfigMap;
    const BODY: Body = Body::TopLevel;
    type Status = NoStatus;
}
