//! What admin answers, as stable JSON shapes; the CLI reads them back.
//!
//! Fields are only ever added. Texts such as `path` and `reason` are for people.

use serde::{Deserialize, Serialize};

/// One service of the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Fully qualified host name.
    pub host: String,
    /// Namespace of the object that defines it.
    pub namespace: String,
    /// `Service` or `ServiceEntry`.
    pub kind: String,
    /// Virtual IPs and CIDRs.
    pub addresses: Vec<String>,
    /// Virtual IPs that were allocated because none is written.
    #[serde(default)]
    pub allocated: Vec<String>,
    /// Its ports.
    pub ports: Vec<PortView>,
    /// `file:line`.
    pub origin: Option<String>,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    /// Number that clients dial.
    pub number: u16,
    /// Name.
    pub name: String,
    /// Protocol as it was selected.
    pub protocol: String,
}

/// One cluster: a service, port and subset with its policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    /// `outbound|<port>|<subset>|<host>`.
    pub name: String,
    /// `namespace/name` of the DestinationRule, empty for none.
    pub rule: String,
    /// Host of the service.
    pub host: String,
    /// Service port.
    pub port: u16,
    /// Subset, empty for the whole service.
    pub subset: String,
    /// Paths that its traffic takes: `kernel`, `proxy`, `untouched`; empty when nothing routes to it.
    pub paths: Vec<String>,
    /// Why, path by path.
    pub reasons: Vec<String>,
    /// What is spoken to its endpoints.
    pub protocol: String,
    /// Load balancer.
    pub load_balancer: String,
    /// Where its endpoints come from, with the names that DNS is asked for.
    #[serde(default)]
    pub discovery: String,
    /// Limits and timeouts that differ from the defaults, `name=value`.
    pub limits: Vec<String>,
    /// Endpoints that get traffic.
    pub healthy: usize,
    /// All endpoints.
    pub endpoints: usize,
    /// `file:line` of the DestinationRule part.
    pub origin: Option<String>,
}

/// One endpoint of one cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// The cluster.
    pub cluster: String,
    /// `namespace/name` of the DestinationRule, empty for none.
    pub rule: String,
    /// Where connections go.
    pub address: String,
    /// Relative weight.
    pub weight: u32,
    /// `healthy` or `unhealthy`.
    pub health: String,
    /// Priority group, 0 first.
    pub priority: u32,
    /// `namespace/name` of the workload.
    pub workload: String,
    /// Node, empty when unknown.
    pub node: String,
    /// `region/zone/subzone`, empty when unknown.
    pub locality: String,
}

/// One rule of one virtual host, or one tcp or tls rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    /// The group of pods that sees it.
    pub scope: String,
    /// `http`, `tls` or `tcp`.
    pub kind: String,
    /// Where it is reached: route table for http, `address:port` for the others.
    pub place: String,
    /// Virtual host, or service.
    pub host: String,
    /// Domains of the virtual host, or SNI hosts.
    pub domains: Vec<String>,
    /// Position; the first that matches wins.
    pub index: usize,
    /// Effective name.
    pub name: String,
    /// Alternatives, each with all its conditions; empty matches everything.
    pub matches: Vec<String>,
    /// What is done, when it is not forwarding.
    pub action: Option<String>,
    /// Weighted destinations.
    pub destinations: Vec<WeightView>,
    /// Timeout, retries, faults, mirrors, rewrites, header operations: `name=value`.
    pub policies: Vec<String>,
    /// Path of the destinations it belongs to.
    pub path: Option<PlanView>,
    /// `kind/namespace/name` of the object, empty for a default route.
    pub object: String,
    /// `file:line`.
    pub origin: Option<String>,
}

/// One weighted destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightView {
    /// Relative weight.
    pub weight: u32,
    /// Cluster name.
    pub cluster: String,
    /// `known`, `missing` or `not honoured`.
    pub state: String,
}

/// Which data plane, and what happens without the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// `kernel`, `proxy` or `untouched`.
    pub path: String,
    /// Why.
    pub reason: String,
    /// `l4`, `pass` or `deny` while the proxy is gone.
    pub degraded: String,
    /// Why.
    pub degraded_reason: String,
}

/// What stands at one address and port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerView {
    /// The group of pods that sees it.
    pub scope: String,
    /// `address:port`, `cidr:port` or `*:port`.
    pub address: String,
    /// Host of the service, or `*`.
    pub service: String,
    /// Protocol.
    pub protocol: String,
    /// `hidden` when this scope does not see what its base has there.
    pub is_hidden: bool,
    /// Which path, and why.
    pub plan: Option<PlanView>,
    /// `file:line`.
    pub origin: Option<String>,
}

/// One pod of this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodView {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `status.podIPs`.
    pub ips: Vec<String>,
    /// `captured`, `waiting for cgroup`, or why it is left alone.
    pub state: String,
    /// The group of pods with the same view.
    pub scope: String,
    /// Home worker.
    pub worker: Option<usize>,
    /// Open captured connections.
    pub connections: u64,
    /// Ports of its in-pod listeners.
    pub listener_ports: Vec<u16>,
    /// `degrade`, `pass` or `deny`.
    pub on_proxy_down: String,
}

/// One open connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    /// `namespace/name` of the client pod.
    pub pod: String,
    /// `kernel`, `proxy`, or `untouched` for a known service that no rule names.
    pub path: String,
    /// The client's address; without a port where the kernel does not keep it.
    pub client: String,
    /// The address it dialled.
    pub destination: String,
    /// The endpoint, when one was chosen.
    pub upstream: Option<String>,
    /// Cluster name, when one was chosen.
    pub cluster: Option<String>,
    /// `tcp`, `tls`, `http/1.1`, `http/2`, or `detecting`.
    pub protocol: String,
    /// Age in milliseconds.
    pub age_ms: u64,
    /// Bytes from the client, where they are counted by connection.
    pub bytes_received: Option<u64>,
    /// Bytes to the client.
    pub bytes_sent: Option<u64>,
}

/// One kernel map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapView {
    /// Name.
    pub name: String,
    /// Entries in it, when they can be counted.
    pub entries: Option<u64>,
    /// Entries that fit.
    pub capacity: u64,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingView {
    /// File, when known.
    pub file: Option<String>,
    /// Line, when known.
    pub line: Option<u32>,
    /// Kind of the object.
    pub kind: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// `error`, `warning` or `info`.
    pub severity: String,
    /// Path of the field.
    pub field: Option<String>,
    /// The thing, the cause and the next step.
    pub message: String,
    /// Stable identifier of the check.
    pub code: String,
    /// The whole as one line.
    pub text: String,
}

/// The node's state, as the daemon knows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Name of the node.
    pub node: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Since its start.
    pub uptime_secs: u64,
    /// Where the objects come from and how that is going.
    pub source: SourceView,
    /// The proxy's threads.
    pub workers: Vec<WorkerView>,
    /// The kernel's side.
    pub kernel: KernelStateView,
}

/// Where the objects come from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceView {
    /// Directory path, or `kubernetes`.
    pub place: String,
    /// `synced`, or what is wrong.
    pub state: String,
    /// Objects in force.
    pub objects: usize,
    /// Objects left out because their kind does not concern traffic.
    pub skipped: usize,
}

/// One worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerView {
    /// Its number.
    pub id: usize,
    /// Its heartbeat is younger than the kernel's limit.
    pub is_alive: bool,
    /// Age of its last heartbeat.
    pub heartbeat_age_ms: u64,
    /// Pods that it owns.
    pub pods: usize,
    /// Its open connections.
    pub connections: u64,
}

/// The kernel's side of the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelStateView {
    /// `attached`, or what is wrong.
    pub state: String,
    /// Cgroup that the programs are attached to.
    pub cgroup: String,
    /// Directory of the pins.
    pub pins: String,
    /// Decisions of `connect()` so far, by reason.
    pub decisions: Vec<CountView>,
    /// Flow events lost.
    pub flow_events_dropped: u64,
}

/// A named count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountView {
    /// What is counted.
    pub name: String,
    /// How many.
    pub count: u64,
}

/// Health of the node in one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    /// Version of the daemon.
    pub version: String,
    /// Ready to route traffic.
    pub is_ready: bool,
    /// What is missing while it is not.
    pub not_ready_reason: Option<String>,
    /// Version of the snapshot in force.
    pub snapshot_version: u64,
    /// The node's state.
    #[serde(flatten)]
    pub node: NodeView,
    /// Pods by state.
    pub pods: Vec<CountView>,
    /// Findings by severity.
    pub findings: Vec<CountView>,
    /// Texts of the findings, errors first, at most [`StatusView::FINDINGS_MAX`].
    pub finding_texts: Vec<String>,
}

impl StatusView {
    /// Findings that `status` lists; `get findings` has them all.
    pub const FINDINGS_MAX: usize = 20;
}

/// A request to be explained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainQuery {
    /// `namespace/pod`.
    pub from: String,
    /// `http://host[:port]/path`, `https://…` or `tcp://host:port`.
    pub url: String,
    /// HTTP method.
    pub method: String,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
}
