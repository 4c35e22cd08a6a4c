//! Everything learned while running about the clusters that one pod talks to:
//! pools, limits, balancer positions, ejections.
//!
//! In: a compiled cluster and the facts of one request. Out: a [`Lease`] on a
//! connection to a chosen endpoint, or a [`TrafficError`]. Owned by the pod's home
//! worker, so counts are exact and nothing is locked. Start at [`Upstreams::acquire`].

mod balance;
mod body;
mod checkout;
mod cluster;
mod connect;
mod dynamic;
mod error;
pub mod hash;
mod host;
mod keeper;
mod lease;
mod limits;
mod outlier;
mod peer_settings;
mod pool;
mod request;
mod session;
mod tables;
mod wire;

#[cfg(test)]
mod pool_tests;
#[cfg(test)]
pub(crate) mod testing;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::net::{NameResolver, OriginalDst, SocketFactory};
use crate::snapshot::clusters::{ClusterKey, Discovery, UpstreamProtocol, special};
use crate::snapshot::policy::{ClusterPolicy, LoadBalancer};
use crate::snapshot::{Cluster, endpoints::EndpointCell};
use crate::telemetry::record::DestinationLabels;

pub use body::{BodyError, RequestBody, Upgraded, UpgradedHold, UpstreamBody, UpstreamBodyError};
pub(crate) use connect::reset_on_close;
pub use error::{Kind, Side, TrafficError};
pub use host::workload_labels;
pub use lease::{HostReporter, Lease};
pub use pool::WireProtocol;
pub use request::UpstreamRequest;
pub use session::{TcpSession, TcpTarget};
pub(crate) use wire::LocalExecutor;

use cluster::ClusterState;
use lease::LeaseGuard;
use limits::Counted;

/// What the choice of an endpoint depends on.
#[derive(Debug, Clone, Copy)]
pub struct PickContext<'a> {
    /// Key of consistent hashing (see [`hash`]); `None` picks at random.
    pub hash: Option<u64>,
    /// Endpoints of earlier attempts that shall be avoided.
    pub tried: &'a [SocketAddr],
    /// What the client speaks.
    pub client_protocol: WireProtocol,
    /// The request is an upgrade: HTTP/1.1 whatever the cluster speaks.
    pub is_upgrade: bool,
    /// Where clusters without endpoints of their own connect to.
    pub original_dst: OriginalDst,
    /// Source address that the application bound.
    pub bind: Option<IpAddr>,
    /// What the request (Host, perhaps with a port) or the connection (SNI) asks for.
    pub name: Option<&'a str>,
}

/// The clusters of one pod.
#[derive(Clone)]
pub struct Upstreams(Rc<Inner>);

struct Inner {
    sockets: Arc<dyn SocketFactory>,
    names: Arc<dyn NameResolver>,
    by_key: RefCell<HashMap<ClusterKey, Rc<ClusterState>>>,
    /// The same states by the address of the compiled cluster, which the entry keeps alive.
    by_pointer: RefCell<HashMap<*const Cluster, Remembered>>,
    passthrough: Arc<Cluster>,
}

/// A state, and what keeps the address of its compiled cluster from being used anew.
type Remembered = (Arc<Cluster>, Rc<ClusterState>);

/// Compiled clusters whose address is remembered; beyond, the memory starts anew
/// (each configuration change brings new ones).
const POINTERS_MAX: usize = 4096;

/// A retry that its cluster's circuit breaker allows; given back on drop.
#[derive(Debug)]
pub struct RetryPermit(#[expect(dead_code, reason = "held for its drop")] Counted);

/// Live counts of one cluster, for the views.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ClusterCounts {
    /// Cluster name.
    pub name: Arc<str>,
    /// Open connections.
    pub connections: u32,
    /// Requests that wait for one.
    pub pending: u32,
    /// Active requests.
    pub requests: u32,
    /// Retries under way.
    pub retries: u32,
    /// Endpoints that outlier detection lets rest.
    pub ejected: Vec<SocketAddr>,
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

impl Upstreams {
    /// No cluster known yet; sockets come from `sockets`, addresses of names that requests
    /// bring from `names`.
    #[must_use]
    pub fn new(sockets: Arc<dyn SocketFactory>, names: Arc<dyn NameResolver>) -> Self {
        Self(Rc::new(Inner {
            sockets,
            names,
            by_key: RefCell::default(),
            by_pointer: RefCell::default(),
            passthrough: Arc::new(passthrough_cluster()),
        }))
    }

    /// Istio's `PassthroughCluster`: to the original destination, in the client's protocol.
    #[must_use]
    pub fn passthrough(&self) -> &Arc<Cluster> {
        &self.0.passthrough
    }

    /// Picks an endpoint of `cluster` and a connection to it, waiting for one if need be.
    ///
    /// # Errors
    /// Nothing to pick, a limit, or why the connect failed. Dropping the future
    /// gives up the place in the queue.
    pub async fn acquire(
        &self,
        cluster: &Arc<Cluster>,
        context: &PickContext<'_>,
    ) -> Result<Lease, TrafficError> {
        let context = &self.locate(cluster, context).await?;
        let state = self.state_of(cluster);
        let host = state.pick(context)?;
        let pool = host.pool(&state.shared, wire_protocol(cluster, context), context.bind);
        let checkout = pool.checkout().await?;
        let policy = state.shared.policy();
        let Some(request) = state.shared.limits.request(&policy) else {
            pool.give_back(checkout);
            return Err(TrafficError::upstream(
                Kind::Overflow,
                Some(host.endpoint.address),
            ));
        };
        let guard = LeaseGuard::new(checkout, pool, request);
        Ok(Lease::new(host, Arc::clone(&state.service), guard))
    }

    /// Asks the cluster's circuit breaker for one retry (`maxRetries`, `retryBudget`).
    #[must_use]
    pub fn try_retry(&self, cluster: &Arc<Cluster>) -> Option<RetryPermit> {
        let state = self.state_of(cluster);
        let policy = state.shared.policy();
        let counted = state.shared.limits.retry(&policy, Instant::now())?;
        Some(RetryPermit(counted))
    }

    /// Telemetry labels of a cluster's service, made once.
    #[must_use]
    pub fn service_labels(&self, cluster: &Arc<Cluster>) -> Arc<DestinationLabels> {
        Arc::clone(&self.state_of(cluster).service)
    }

    /// Live counts of every cluster that was used.
    #[must_use]
    pub fn counts(&self) -> Vec<ClusterCounts> {
        let states = self.0.by_key.borrow();
        states.values().map(|state| state.counts()).collect()
    }

    /// Lets go of clusters that `is_named` denies: idle connections close, what is
    /// under way finishes.
    pub fn forget_unnamed(&self, is_named: impl Fn(&ClusterKey) -> bool) {
        self.0.by_pointer.borrow_mut().clear();
        let mut unnamed = Vec::new();
        self.0.by_key.borrow_mut().retain(|key, state| {
            let is_kept = is_named(key);
            if !is_kept {
                unnamed.push(Rc::clone(state));
            }
            is_kept
        });
        for state in unnamed {
            state.remove();
        }
    }

    /// The same context with the address of the name that is asked for, where the cluster is
    /// resolved only now.
    async fn locate<'c>(
        &self,
        cluster: &Cluster,
        context: &PickContext<'c>,
    ) -> Result<PickContext<'c>, TrafficError> {
        let Discovery::DynamicDns { port } = cluster.discovery else {
            return Ok(*context);
        };
        let original_dst = dynamic::find(
            &*self.0.names,
            &*self.0.sockets,
            context.name,
            port,
            context.tried,
        )
        .await?;
        Ok(PickContext {
            original_dst,
            ..*context
        })
    }

    fn state_of(&self, cluster: &Arc<Cluster>) -> Rc<ClusterState> {
        let pointer = Arc::as_ptr(cluster);
        if let Some((_, state)) = self.0.by_pointer.borrow().get(&pointer) {
            state.refresh(cluster);
            return Rc::clone(state);
        }
        let state = Rc::clone(
            self.0
                .by_key
                .borrow_mut()
                .entry(cluster.key())
                .or_insert_with(|| ClusterState::new(cluster, Arc::clone(&self.0.sockets))),
        );
        state.refresh(cluster);
        let mut by_pointer = self.0.by_pointer.borrow_mut();
        if by_pointer.len() >= POINTERS_MAX {
            by_pointer.clear();
        }
        by_pointer.insert(pointer, (Arc::clone(cluster), Rc::clone(&state)));
        state
    }
}

/// What is spoken to the endpoints of `cluster` for one request.
fn wire_protocol(cluster: &Cluster, context: &PickContext<'_>) -> WireProtocol {
    let pool = &cluster.policy.pool;
    if context.is_upgrade {
        return WireProtocol::Http1;
    }
    if pool.use_client_protocol {
        return context.client_protocol;
    }
    match cluster.protocol {
        _ if pool.h2_upgrade => WireProtocol::Http2,
        UpstreamProtocol::Http1 => WireProtocol::Http1,
        UpstreamProtocol::Http2 => WireProtocol::Http2,
        UpstreamProtocol::SameAsClient | UpstreamProtocol::Tcp => context.client_protocol,
    }
}

fn passthrough_cluster() -> Cluster {
    let name: Arc<str> = Arc::from(special::PASSTHROUGH);
    Cluster {
        variant: Arc::from(""),
        host: Arc::from("unknown"),
        service_namespace: Arc::from("unknown"),
        service_name: Arc::clone(&name),
        name,
        port: 0,
        subset: Arc::from(""),
        protocol: UpstreamProtocol::SameAsClient,
        discovery: Discovery::OriginalDst { port: None },
        policy: ClusterPolicy {
            load_balancer: LoadBalancer::Passthrough,
            ..ClusterPolicy::default()
        },
        endpoints: Arc::new(EndpointCell::default()),
        dns: None,
        provenance: None,
    }
}
