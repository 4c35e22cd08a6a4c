//! Raw connections to endpoints, for TCP and TLS routes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use super::connect::connect;
use super::error::{Kind, TrafficError};
use super::host::{ActiveOnHost, Host, HostCore};
use super::limits::Counted;
use super::outlier::Outcome;
use super::{PickContext, Upstreams};
use crate::snapshot::policy::ConnectionPool;
use crate::snapshot::{Cluster, Endpoint};
use crate::telemetry::record::WorkloadLabels;

/// A connected TCP session with its place in the cluster's counts.
#[derive(Debug)]
pub struct TcpSession {
    /// The connection.
    pub stream: TcpStream,
    /// Keeps the counts until it is dropped.
    pub hold: SessionHold,
}

/// A session's place in the cluster's counts, given back on drop.
#[derive(Debug)]
pub struct SessionHold {
    core: Rc<HostCore>,
    _connection: Counted,
    _active: ActiveOnHost,
}

impl Drop for SessionHold {
    fn drop(&mut self) {
        let connections = &self.core.connections;
        connections.set(connections.get().saturating_sub(1));
    }
}

/// An endpoint that was chosen for a TCP session, before the connection to it exists.
pub struct TcpTarget {
    host: Rc<Host>,
    shared: Rc<super::host::ClusterShared>,
}

impl std::fmt::Debug for TcpTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpTarget")
            .field("address", &self.host.endpoint.address)
            .finish_non_exhaustive()
    }
}

impl TcpTarget {
    /// The chosen endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.host.endpoint
    }

    /// Telemetry labels of the endpoint's workload.
    #[must_use]
    pub fn workload_labels(&self) -> &Arc<WorkloadLabels> {
        &self.host.labels
    }

    /// The effective connection policy.
    #[must_use]
    pub fn policy(&self) -> Rc<ConnectionPool> {
        self.shared.policy()
    }

    /// Connects, once: TCP sessions are never retried.
    ///
    /// # Errors
    /// [`Kind::Overflow`] at `maxConnections`, or why the connect failed.
    pub async fn connect(&self, context: &PickContext<'_>) -> Result<TcpSession, TrafficError> {
        let (core, policy) = (&self.host.core, self.shared.policy());
        let overflow = || TrafficError::upstream(Kind::Overflow, Some(core.address()));
        let limits = &self.shared.limits;
        let connections = core.connections.get();
        let connection = limits
            .connection(&policy, connections)
            .ok_or_else(overflow)?;
        core.connections.set(connections + 1);
        let hold = SessionHold {
            core: Rc::clone(core),
            _connection: connection,
            _active: ActiveOnHost::new(core),
        };
        let sockets = &*self.shared.sockets;
        let connected = connect(sockets, core.address(), context.bind, &policy).await;
        let outcome = match &connected {
            Ok(_) => Outcome::Connected,
            Err(_) => Outcome::ConnectFailure,
        };
        let outlier = &self.shared.outlier;
        outlier.report(&core.health, outcome, Instant::now());
        Ok(TcpSession {
            stream: connected?,
            hold,
        })
    }
}

impl Upstreams {
    /// Picks an endpoint of `cluster` for one TCP session.
    ///
    /// # Errors
    /// [`Kind::NoHealthyUpstream`], or [`Kind::DnsFailed`] where the name is resolved now.
    pub async fn pick_tcp(
        &self,
        cluster: &Arc<Cluster>,
        context: &PickContext<'_>,
    ) -> Result<TcpTarget, TrafficError> {
        let context = &self.locate(cluster, context).await?;
        let state = self.state_of(cluster);
        Ok(TcpTarget {
            host: state.pick(context)?,
            shared: Rc::clone(&state.shared),
        })
    }
}
