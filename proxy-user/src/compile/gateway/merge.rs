//! Servers of all Gateways of one workload to its listeners, in conflict order.
//!
//! Source: Istio, pilot/pkg/model/gateway.go (`mergeGateways`).

use std::collections::{BTreeMap, HashMap};

use crate::api::{Server, ServerTLSMode};
use crate::compile::host;
use crate::compile::registry::protocol::of_declared_port;
use crate::finding::{Finding, Severity};
use crate::snapshot::listeners::Protocol;

use super::{Gateway, port_number};

/// What a server does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerKind {
    /// HTTP, plain.
    Http,
    /// Bytes, plain.
    Tcp,
    /// HTTP inside TLS, which ends here.
    HttpInTls,
    /// Bytes inside TLS, which ends here.
    TcpInTls,
    /// TLS that is routed by server name.
    Passthrough,
    /// TLS whose server name is that of a cluster.
    AutoPassthrough,
}

impl ServerKind {
    fn of(server: &Server, protocol: Protocol) -> Self {
        if protocol.is_http() {
            return Self::Http;
        }
        let Some(tls) = server.tls.as_ref().filter(|_| protocol.is_tls()) else {
            return Self::Tcp;
        };
        match tls.mode {
            ServerTLSMode::Passthrough => Self::Passthrough,
            ServerTLSMode::AutoPassthrough => Self::AutoPassthrough,
            ServerTLSMode::Simple
            | ServerTLSMode::Mutual
            | ServerTLSMode::OptionalMutual
            | ServerTLSMode::IstioMutual => {
                if protocol == Protocol::Https {
                    Self::HttpInTls
                } else {
                    Self::TcpInTls
                }
            }
        }
    }

    /// Clients speak TLS.
    pub(super) fn is_tls(self) -> bool {
        match self {
            Self::Http | Self::Tcp => false,
            Self::HttpInTls | Self::TcpInTls | Self::Passthrough | Self::AutoPassthrough => true,
        }
    }
}

/// One server that is not left out.
#[derive(Clone, Copy)]
pub(super) struct ServerRef<'a> {
    /// Its Gateway.
    pub(super) gateway: &'a Gateway,
    /// Place in the Gateway's list.
    pub(super) at: usize,
    /// As written.
    pub(super) server: &'a Server,
    /// Port that VirtualServices mean.
    pub(super) port: u16,
    /// As declared.
    pub(super) protocol: Protocol,
    /// What it does with bytes.
    pub(super) kind: ServerKind,
}

impl<'a> ServerRef<'a> {
    /// Names of hosts that VirtualServices of `namespace` may use, lower case.
    pub(super) fn hosts_for(&self, namespace: &str) -> Vec<String> {
        admitted_hosts(self.gateway, self.server, namespace)
    }

    /// Names of all hosts, lower case, whoever may use them.
    pub(super) fn hosts(&self) -> impl Iterator<Item = String> + use<'a> {
        let hosts = self.server.hosts.iter();
        hosts.map(|text| {
            let name = text.split_once('/').map_or(text.as_str(), |(_, name)| name);
            name.to_ascii_lowercase()
        })
    }

    /// The field of the server in its Gateway.
    pub(super) fn field(&self) -> String {
        format!("servers[{}]", self.at)
    }

    fn name(&self) -> String {
        format!("{} of {}", self.field(), self.gateway.reference())
    }
}

/// One socket with its servers.
pub(super) struct Listener<'a> {
    /// Port to listen on.
    pub(super) target_port: u16,
    /// Address or unix path; empty is every address.
    pub(super) bind: &'a str,
    /// All plain HTTP, one plain TCP, or all TLS; never empty.
    pub(super) servers: Vec<ServerRef<'a>>,
    /// Place of the server that has a host inside TLS.
    by_host: HashMap<String, usize>,
}

impl Listener<'_> {
    /// Clients speak TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.servers.iter().any(|server| server.kind.is_tls())
    }
}

impl<'a> Listener<'a> {
    fn add(&mut self, server: ServerRef<'a>) {
        if server.kind.is_tls() {
            let at = self.servers.len();
            self.by_host.extend(server.hosts().map(|name| (name, at)));
        }
        self.servers.push(server);
    }

    /// Why `own` cannot stand beside the servers before it.
    fn find_conflict(&self, own: &ServerRef<'_>) -> Option<String> {
        let first = self.servers.first()?;
        let port = own.port;
        if first.kind.is_tls() != own.kind.is_tls() {
            let speaks = if first.kind.is_tls() {
                "TLS"
            } else {
                "plain text"
            };
            return Some(format!(
                "{}, which comes first, has {speaks} on port {port}",
                first.name()
            ));
        }
        if !own.kind.is_tls() {
            let are_http = first.kind == ServerKind::Http && own.kind == ServerKind::Http;
            return (!are_http).then(|| {
                format!(
                    "{}, which comes first, has port {port}, and only HTTP servers share one",
                    first.name()
                )
            });
        }
        own.hosts().find_map(|name| {
            let other = self.servers.get(*self.by_host.get(&name)?)?;
            Some(format!(
                "{}, which comes first, has the host {name} on port {port}",
                other.name()
            ))
        })
    }
}

/// Merges the servers of `gateways`, which stand in conflict order. A server that is in
/// conflict with an earlier one is left out whole, which is a finding.
pub(super) fn merge<'a>(
    gateways: &[&'a Gateway],
    target_of: impl Fn(u16) -> u16,
    findings: &mut Vec<Finding>,
) -> Vec<Listener<'a>> {
    let mut listeners: BTreeMap<(u16, &str), Listener<'a>> = BTreeMap::new();
    for &gateway in gateways {
        for (at, server) in gateway.spec.servers.iter().enumerate() {
            let (Some(written), Some(port)) = (&server.port, port_number(server)) else {
                continue; // Validation refuses both.
            };
            let protocol = of_declared_port(&written.protocol);
            let own = ServerRef {
                gateway,
                at,
                server,
                port,
                protocol,
                kind: ServerKind::of(server, protocol),
            };
            if protocol == Protocol::Udp {
                findings.push(gateway.finding(
                    Severity::Error,
                    "gateway-protocol",
                    &format!("{}.port.protocol", own.field()),
                    "is left out: gateways serve TCP and what stands on it",
                ));
                continue;
            }
            let target_port = target_of(port);
            let bind = server.bind.as_str();
            let listener = listeners
                .entry((target_port, bind))
                .or_insert_with(|| Listener {
                    target_port,
                    bind,
                    servers: Vec::new(),
                    by_host: HashMap::new(),
                });
            match listener.find_conflict(&own) {
                None => listener.add(own),
                Some(conflict) => findings.push(gateway.finding(
                    Severity::Error,
                    "gateway-conflict",
                    &own.field(),
                    format!("is left out: {conflict}; use another port, bind or host"),
                )),
            }
        }
    }
    listeners.into_values().collect()
}

/// Names of the server's hosts that VirtualServices of `namespace` may use, lower case.
pub(super) fn admitted_hosts(gateway: &Gateway, server: &Server, namespace: &str) -> Vec<String> {
    let own = gateway.meta.namespace.as_str();
    let admits = |part: &str| match part {
        "*" => true,
        "." => namespace == own,
        name => namespace == name,
    };
    let hosts = server.hosts.iter();
    hosts
        .filter_map(|text| match text.split_once('/') {
            Some((part, name)) => admits(part).then_some(name),
            None => Some(text.as_str()),
        })
        .map(str::to_ascii_lowercase)
        .collect()
}

/// The narrower of each overlapping pair, in the order of `server`.
pub(super) fn intersection<'n>(
    server: &[String],
    own: impl IntoIterator<Item = &'n str> + Clone,
) -> Vec<String> {
    let mut common: Vec<String> = Vec::new();
    for ours in server {
        for theirs in own.clone() {
            let narrower = if host::is_subset_of(ours, theirs) {
                ours.as_str()
            } else if host::is_subset_of(theirs, ours) {
                theirs
            } else {
                continue;
            };
            if !common.iter().any(|known| known == narrower) {
                common.push(narrower.to_owned());
            }
        }
    }
    common
}
