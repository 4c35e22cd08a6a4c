//! Running state of one cluster: its hosts, balancer and shared counts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::balance::{Balancer, PICKS_MAX};
use super::error::{Kind, TrafficError};
use super::host::{ClusterShared, Host};
use super::limits::Limits;
use super::outlier::{HostHealth, Outlier};
use super::{ClusterCounts, PickContext};
use crate::net::SocketFactory;
use crate::snapshot::clusters::Discovery;
use crate::snapshot::endpoints::Health;
use crate::snapshot::policy::LoadBalancer;
use crate::snapshot::{Cluster, Endpoint, EndpointSet};
use crate::telemetry::record::DestinationLabels;

/// Original destinations kept per cluster before those without connections go.
const DYNAMIC_HOSTS_SOFT_MAX: usize = 1024;
/// Beyond this a cluster accepts no further original destination until some close.
const DYNAMIC_HOSTS_MAX: usize = 65_536;

pub(super) struct ClusterState {
    pub(super) shared: Rc<ClusterShared>,
    pub(super) service: Arc<DestinationLabels>,
    current: RefCell<(Arc<Cluster>, Arc<EndpointSet>)>,
    hosts: RefCell<Vec<Rc<Host>>>,
    /// Hosts of clusters that connect to the original destination.
    dynamic: RefCell<HashMap<SocketAddr, Rc<Host>>>,
    balancer: RefCell<Balancer>,
    is_sweeping: Cell<bool>,
    this: Weak<ClusterState>,
}

impl ClusterState {
    pub(super) fn new(cluster: &Arc<Cluster>, sockets: Arc<dyn SocketFactory>) -> Rc<Self> {
        let set = cluster.endpoint_set();
        let hosts: Vec<Rc<Host>> = usable(&set, cluster.discovery, &*sockets)
            .cloned()
            .map(Host::new)
            .map(Rc::new)
            .collect();
        let shared = Rc::new(ClusterShared {
            sockets,
            limits: Rc::new(Limits::default()),
            policy: RefCell::new(Rc::new(cluster.policy.pool.clone())),
            outlier: Outlier::default(),
        });
        let state = Rc::new_cyclic(|this| Self {
            service: Arc::new(DestinationLabels {
                service: Arc::clone(&cluster.host),
                service_name: Arc::clone(&cluster.service_name),
                service_namespace: Arc::clone(&cluster.service_namespace),
            }),
            current: RefCell::new((Arc::clone(cluster), set)),
            balancer: RefCell::new(Balancer::new(&[], &LoadBalancer::Random, 0)),
            hosts: RefCell::new(hosts),
            dynamic: RefCell::default(),
            is_sweeping: Cell::new(false),
            shared,
            this: Weak::clone(this),
        });
        state.rebuild(cluster);
        state
    }

    /// Takes over what changed: policy with a new compiled cluster, endpoints with a new set.
    pub(super) fn refresh(&self, cluster: &Arc<Cluster>) {
        let set = cluster.endpoint_set();
        let (is_new_cluster, is_new_set) = {
            let current = self.current.borrow();
            (
                !Arc::ptr_eq(&current.0, cluster),
                !Arc::ptr_eq(&current.1, &set),
            )
        };
        if !is_new_cluster && !is_new_set {
            if self.shared.outlier.take_dirty() {
                self.rebalance(cluster);
            }
            return;
        }
        let is_same = {
            let current = self.current.borrow();
            current.0.policy == cluster.policy && *current.1 == *set
        };
        self.current
            .replace((Arc::clone(cluster), Arc::clone(&set)));
        if is_same {
            // Round robin goes on where it was: nothing that matters has changed.
            return;
        }
        *self.shared.policy.borrow_mut() = Rc::new(cluster.policy.pool.clone());
        self.take_endpoints(&set, cluster.discovery);
        self.rebuild(cluster);
    }

    fn take_endpoints(&self, set: &EndpointSet, discovery: Discovery) {
        let mut usable = usable(set, discovery, &*self.shared.sockets).peekable();
        if discovery == Discovery::LogicalDns {
            let (held, next) = (self.hosts.borrow().first().cloned(), usable.peek());
            if let (Some(host), Some(next)) = (held, next) {
                self.hosts
                    .replace(vec![Rc::new(host.moved((*next).clone()))]);
                return;
            }
        }
        let mut old: HashMap<SocketAddr, Rc<Host>> = self
            .hosts
            .take()
            .into_iter()
            .map(|host| (host.endpoint.address, host))
            .collect();
        let hosts = usable
            .map(|endpoint| match old.remove(&endpoint.address) {
                Some(host) if host.endpoint == *endpoint => host,
                Some(host) => Rc::new(host.renewed(endpoint.clone())),
                None => Rc::new(Host::new(endpoint.clone())),
            })
            .collect();
        self.hosts.replace(hosts);
        for host in old.into_values() {
            host.remove();
        }
    }

    fn rebuild(&self, cluster: &Arc<Cluster>) {
        {
            let hosts = self.hosts.borrow();
            let healths: Vec<&HostHealth> = hosts.iter().map(|host| &host.core.health).collect();
            let outlier = &self.shared.outlier;
            outlier.configure(cluster.policy.outlier.as_ref(), &healths);
        }
        self.rebalance(cluster);
        self.start_sweeps();
    }

    fn rebalance(&self, cluster: &Arc<Cluster>) {
        let hosts = self.hosts.borrow();
        let panic_percent = self.shared.outlier.panic_percent();
        let balancer = Balancer::new(&hosts, &cluster.policy.load_balancer, panic_percent);
        self.balancer.replace(balancer);
    }

    /// One task per cluster with outlier detection; it ends with the cluster or the policy.
    fn start_sweeps(&self) {
        if self.shared.outlier.interval().is_none() || self.is_sweeping.replace(true) {
            return;
        }
        let this = Weak::clone(&self.this);
        tokio::task::spawn_local(async move {
            loop {
                let Some(state) = this.upgrade() else {
                    return;
                };
                let Some(interval) = state.shared.outlier.interval() else {
                    state.is_sweeping.set(false);
                    return;
                };
                drop(state);
                tokio::time::sleep(interval.max(SWEEP_MIN)).await;
                if let Some(state) = this.upgrade() {
                    state.sweep();
                }
            }
        });
    }

    fn sweep(&self) {
        let hosts = self.hosts.borrow();
        let healths = hosts.iter().map(|host| &host.core.health);
        self.shared
            .outlier
            .sweep(healths, std::time::Instant::now());
    }

    /// The endpoint for one attempt.
    pub(super) fn pick(&self, context: &PickContext<'_>) -> Result<Rc<Host>, TrafficError> {
        if let Some(target) = self.original_dst(context) {
            return self.dynamic_host(target);
        }
        let mut balancer = self.balancer.borrow_mut();
        let mut picked = None;
        for pick in 0..PICKS_MAX {
            let Some(host) = balancer.pick(context.hash, pick) else {
                break;
            };
            let is_tried = context.tried.contains(&host.endpoint.address);
            picked = Some(host);
            if !is_tried {
                break;
            }
        }
        picked.ok_or_else(|| TrafficError::upstream(Kind::NoHealthyUpstream, None))
    }

    fn original_dst(&self, context: &PickContext<'_>) -> Option<SocketAddr> {
        let current = self.current.borrow();
        let mut target = context.original_dst.0;
        match current.0.discovery {
            Discovery::OriginalDst { port } => {
                if let Some(port) = port {
                    target.set_port(port);
                }
                Some(target)
            }
            // Whoever asks has resolved the name.
            Discovery::DynamicDns { .. } => Some(target),
            Discovery::Endpoints | Discovery::Dns | Discovery::LogicalDns => {
                (current.0.policy.load_balancer == LoadBalancer::Passthrough).then_some(target)
            }
        }
    }

    fn dynamic_host(&self, target: SocketAddr) -> Result<Rc<Host>, TrafficError> {
        let mut hosts = self.dynamic.borrow_mut();
        if let Some(host) = hosts.get(&target) {
            return Ok(Rc::clone(host));
        }
        if hosts.len() >= DYNAMIC_HOSTS_SOFT_MAX {
            hosts.retain(|_, host| !host.is_unused());
        }
        if hosts.len() >= DYNAMIC_HOSTS_MAX {
            return Err(TrafficError::upstream(Kind::Overflow, Some(target)));
        }
        let host = Rc::new(Host::new(Endpoint {
            address: target,
            weight: 1,
            health: Health::Healthy,
            priority: 0,
            workload: Arc::default(),
        }));
        hosts.insert(target, Rc::clone(&host));
        Ok(host)
    }

    /// The configuration no longer names this cluster.
    pub(super) fn remove(&self) {
        let hosts = self.hosts.take();
        let dynamic = self.dynamic.take();
        for host in hosts.iter().chain(dynamic.values()) {
            host.remove();
        }
    }

    pub(super) fn counts(&self) -> ClusterCounts {
        let [connections, pending, requests, retries] = self.shared.limits.counts();
        let hosts = self.hosts.borrow();
        let ejected = hosts
            .iter()
            .filter(|host| host.core.health.is_ejected())
            .map(|host| host.endpoint.address)
            .collect();
        ClusterCounts {
            name: Arc::clone(&self.current.borrow().0.name),
            connections,
            pending,
            requests,
            retries,
            ejected,
        }
    }
}

/// The endpoints that the client's families reach; of a host that DNS moves about only one.
fn usable<'s>(
    set: &'s EndpointSet,
    discovery: Discovery,
    sockets: &'s dyn SocketFactory,
) -> impl Iterator<Item = &'s Endpoint> {
    let count = match discovery {
        Discovery::LogicalDns => 1,
        Discovery::Endpoints
        | Discovery::Dns
        | Discovery::DynamicDns { .. }
        | Discovery::OriginalDst { .. } => usize::MAX,
    };
    let reachable = set.endpoints.iter();
    reachable
        .filter(|endpoint| sockets.has_family_of(endpoint.address))
        .take(count)
}

/// Shortest time between sweeps, whatever the policy says: a busy loop helps nobody.
const SWEEP_MIN: std::time::Duration = std::time::Duration::from_millis(10);
