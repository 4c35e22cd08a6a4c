//! The labels of Istio's standard metrics.

use std::sync::Arc;

use super::exposition::LabelText;
use super::record::{DestinationLabels, RequestProtocol, ResponseFlags, WorkloadLabels};
use super::traffic::RequestExtra;

/// Who talks to whom, as a record shares it with the snapshot.
#[derive(Clone, Copy)]
pub(super) struct Peers<'a> {
    pub(super) source: &'a Arc<WorkloadLabels>,
    pub(super) destination: &'a Arc<WorkloadLabels>,
    pub(super) service: &'a Arc<DestinationLabels>,
}

/// Istio's name for the one cluster there is; `unknown` for a peer that nobody knows.
fn cluster_of(labels: &WorkloadLabels) -> &'static str {
    if &*labels.workload == "unknown" {
        "unknown"
    } else {
        "Kubernetes"
    }
}

/// The labels of both peers, between `reporter` and `request_protocol`.
fn peer_labels<'a>(peers: Peers<'a>) -> [(&'static str, &'a str); 20] {
    let (source, destination) = (peers.source, peers.destination);
    let service = peers.service;
    [
        // The client's hop reports; the server's side is not captured yet.
        ("reporter", "source"),
        ("source_workload", &source.workload),
        ("source_canonical_service", &source.canonical_service),
        ("source_canonical_revision", &source.canonical_revision),
        ("source_workload_namespace", &source.namespace),
        ("source_principal", &source.principal),
        ("source_app", &source.app),
        ("source_version", &source.version),
        ("source_cluster", cluster_of(source)),
        ("destination_workload", &destination.workload),
        ("destination_workload_namespace", &destination.namespace),
        ("destination_principal", &destination.principal),
        ("destination_app", &destination.app),
        ("destination_version", &destination.version),
        ("destination_service", &service.service),
        (
            "destination_canonical_service",
            &destination.canonical_service,
        ),
        (
            "destination_canonical_revision",
            &destination.canonical_revision,
        ),
        ("destination_service_name", &service.service_name),
        ("destination_service_namespace", &service.service_namespace),
        ("destination_cluster", cluster_of(destination)),
    ]
}

/// All labels of an HTTP series.
pub(super) fn of_request(peers: Peers<'_>, extra: RequestExtra) -> LabelText {
    let code = extra.response_code.to_string();
    let grpc = extra.grpc_status.map(|status| status.to_string());
    let flags = extra.flags.text();
    let protocol = match extra.protocol {
        RequestProtocol::Http => "http",
        RequestProtocol::Grpc => "grpc",
    };
    let mut labels = peer_labels(peers).to_vec();
    labels.extend([
        ("request_protocol", protocol),
        ("response_code", &*code),
        ("grpc_response_status", grpc.as_deref().unwrap_or_default()),
        ("response_flags", &*flags),
        ("connection_security_policy", "unknown"),
    ]);
    LabelText::new(&known(labels))
}

/// All labels of a TCP series.
pub(super) fn of_connection(peers: Peers<'_>, flags: ResponseFlags) -> LabelText {
    let flags = flags.connection_text();
    let mut labels = peer_labels(peers).to_vec();
    labels.extend([
        ("request_protocol", "tcp"),
        ("response_flags", &*flags),
        ("connection_security_policy", "unknown"),
    ]);
    LabelText::new(&known(labels))
}

/// Istio prints `unknown` for an attribute that nobody set; `grpc_response_status`
/// is empty for what is not gRPC.
fn known<'a>(mut labels: Vec<(&'static str, &'a str)>) -> Vec<(&'static str, &'a str)> {
    for (name, value) in &mut labels {
        if value.is_empty() && *name != "grpc_response_status" {
            *value = match *name {
                "source_canonical_revision" | "destination_canonical_revision" => "latest",
                _ => "unknown",
            };
        }
    }
    labels
}

/// The series that takes what no longer fits: every label says so.
pub(super) fn of_overflow() -> LabelText {
    LabelText::new(&[
        ("reporter", "source"),
        ("source_workload", "overflow"),
        ("destination_workload", "overflow"),
        ("destination_service", "overflow"),
    ])
}
