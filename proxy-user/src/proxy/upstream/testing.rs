//! Hosts and clusters for tests.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use super::host::Host;
use crate::net::SocketFactory;
use crate::snapshot::clusters::{Discovery, UpstreamProtocol};
use crate::snapshot::endpoints::{EndpointCell, Health};
use crate::snapshot::policy::{ClusterPolicy, ConnectionPool};
use crate::snapshot::{Cluster, Endpoint, EndpointSet};

/// A healthy host at 127.0.0.1 with this port.
pub(super) fn host(port: u16, weight: u32, priority: u32) -> Rc<Host> {
    Rc::new(Host::new(endpoint(port, weight, priority)))
}

/// A healthy endpoint at 127.0.0.1 with this port.
pub(crate) fn endpoint(port: u16, weight: u32, priority: u32) -> Endpoint {
    Endpoint {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        weight,
        health: Health::Healthy,
        priority,
        workload: Arc::default(),
    }
}

/// A cluster of these endpoints that speaks what the client speaks. Each call makes
/// one with a name of its own: the ports of its endpoints.
pub(crate) fn cluster(endpoints: Vec<Endpoint>, pool: ConnectionPool) -> Cluster {
    let ports: Vec<String> = endpoints
        .iter()
        .map(|endpoint| endpoint.address.port().to_string())
        .collect();
    Cluster {
        name: Arc::from(format!("outbound|80||{}", ports.join("-"))),
        variant: Arc::from(""),
        host: Arc::from("a.default.svc.cluster.local"),
        service_namespace: Arc::from("default"),
        service_name: Arc::from("a"),
        port: 80,
        subset: Arc::from(""),
        protocol: UpstreamProtocol::SameAsClient,
        discovery: Discovery::Endpoints,
        policy: ClusterPolicy {
            pool,
            ..ClusterPolicy::default()
        },
        endpoints: Arc::new(EndpointCell::new(EndpointSet { endpoints })),
        dns: None,
        provenance: None,
    }
}

/// Plain sockets of this process.
#[derive(Debug)]
pub(crate) struct Loopback;

impl SocketFactory for Loopback {
    fn open_tcp(&self, towards: SocketAddr) -> io::Result<socket2::Socket> {
        let domain = socket2::Domain::for_address(towards);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}
