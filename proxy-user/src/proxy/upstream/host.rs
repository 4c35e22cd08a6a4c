//! One endpoint of a cluster and what was learned about it while running.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use super::limits::Limits;
use super::outlier::{HostHealth, Outlier};
use super::pool::{Pool, PoolKey, WireProtocol};
use crate::net::SocketFactory;
use crate::snapshot::policy::ConnectionPool;
use crate::snapshot::{Endpoint, Workload};
use crate::telemetry::record::WorkloadLabels;

/// What all hosts and pools of a cluster share.
pub(super) struct ClusterShared {
    pub(super) sockets: Arc<dyn SocketFactory>,
    pub(super) limits: Rc<Limits>,
    /// The newest policy; connections that exist keep what they were made with.
    pub(super) policy: RefCell<Rc<ConnectionPool>>,
    pub(super) outlier: Outlier,
}

impl ClusterShared {
    pub(super) fn policy(&self) -> Rc<ConnectionPool> {
        Rc::clone(&self.policy.borrow())
    }
}

/// Counts of one address; they outlive changes of weight, health or workload.
#[derive(Debug)]
pub(super) struct HostCore {
    /// Where further connections go.
    address: Cell<SocketAddr>,
    /// Active requests and TCP sessions: what least request compares.
    pub(super) active: Cell<u32>,
    pub(super) connections: Cell<u32>,
    /// No longer an endpoint: finish, but pool nothing.
    pub(super) is_removed: Cell<bool>,
    pub(super) health: HostHealth,
}

impl HostCore {
    /// Where further connections go.
    pub(super) fn address(&self) -> SocketAddr {
        self.address.get()
    }
}

/// One endpoint with its pools.
pub(super) struct Host {
    pub(super) endpoint: Endpoint,
    pub(super) labels: Arc<WorkloadLabels>,
    pub(super) core: Rc<HostCore>,
    pools: Rc<RefCell<Vec<Rc<Pool>>>>,
}

/// Pools per endpoint before empty ones are dropped: one per protocol, and one per
/// source address that the application bound itself.
const POOLS_MAX: usize = 16;

impl Host {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            labels: Arc::new(workload_labels(&endpoint.workload)),
            core: Rc::new(HostCore {
                address: Cell::new(endpoint.address),
                active: Cell::new(0),
                connections: Cell::new(0),
                is_removed: Cell::new(false),
                health: HostHealth::default(),
            }),
            endpoint,
            pools: Rc::default(),
        }
    }

    /// The same address with newer facts; counts and connections stay.
    pub(super) fn renewed(&self, endpoint: Endpoint) -> Self {
        Self {
            labels: Arc::new(workload_labels(&endpoint.workload)),
            core: Rc::clone(&self.core),
            endpoint,
            pools: Rc::clone(&self.pools),
        }
    }

    /// The same host elsewhere: connections that exist stay in use, further ones go there.
    pub(super) fn moved(&self, endpoint: Endpoint) -> Self {
        self.core.address.set(endpoint.address);
        self.renewed(endpoint)
    }

    pub(super) fn pool(
        &self,
        shared: &Rc<ClusterShared>,
        protocol: WireProtocol,
        bind: Option<IpAddr>,
    ) -> Rc<Pool> {
        let key = PoolKey { protocol, bind };
        if let Some(pool) = self.pools.borrow().iter().find(|pool| pool.key == key) {
            return Rc::clone(pool);
        }
        let pool = Rc::new(Pool::new(key, Rc::clone(&self.core), Rc::clone(shared)));
        let mut pools = self.pools.borrow_mut();
        if pools.len() >= POOLS_MAX {
            pools.retain(|pool| !pool.is_unused());
        }
        pools.push(Rc::clone(&pool));
        pool
    }

    /// No longer an endpoint: idle connections close, busy ones finish.
    pub(super) fn remove(&self) {
        self.core.is_removed.set(true);
        let pools = self.pools.borrow().clone();
        for pool in pools {
            pool.close_idle();
        }
    }

    /// Nothing uses it.
    pub(super) fn is_unused(&self) -> bool {
        self.core.active.get() == 0 && self.core.connections.get() == 0
    }
}

/// An active request or session of one host; given back on drop.
#[derive(Debug)]
pub(super) struct ActiveOnHost(Rc<HostCore>);

impl ActiveOnHost {
    pub(super) fn new(core: &Rc<HostCore>) -> Self {
        core.active.set(core.active.get().saturating_add(1));
        Self(Rc::clone(core))
    }
}

impl Drop for ActiveOnHost {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
    }
}

/// The telemetry labels of a workload; empty values become `unknown`, as Istio's
/// standard metrics print them.
#[must_use]
pub fn workload_labels(workload: &Workload) -> WorkloadLabels {
    let known = |text: Option<&Arc<str>>| match text {
        Some(text) if !text.is_empty() => Arc::clone(text),
        Some(_) | None => Arc::from("unknown"),
    };
    let revision = workload.canonical_revision();
    WorkloadLabels {
        workload: known(Some(&workload.workload)),
        namespace: known(Some(&workload.namespace)),
        principal: Arc::from("unknown"),
        app: known(workload.app()),
        version: known(workload.version()),
        canonical_service: known(Some(workload.canonical_service())),
        canonical_revision: revision
            .filter(|revision| !revision.is_empty())
            .map_or_else(|| Arc::from("latest"), Arc::clone),
    }
}
