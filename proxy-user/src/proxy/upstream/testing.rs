//! Hosts and clusters for tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use super::host::Host;
use crate::snapshot::Endpoint;
use crate::snapshot::endpoints::Health;

/// A healthy host at 127.0.0.1 with this port.
pub(super) fn host(port: u16, weight: u32, priority: u32) -> Rc<Host> {
    Rc::new(Host::new(endpoint(port, weight, priority)))
}

/// A healthy endpoint at 127.0.0.1 with this port.
pub(super) fn endpoint(port: u16, weight: u32, priority: u32) -> Endpoint {
    Endpoint {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        weight,
        health: Health::Healthy,
        priority,
        workload: Arc::default(),
    }
}
