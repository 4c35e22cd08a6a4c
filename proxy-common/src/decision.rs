//! What `connect()` does with a destination. Start at [`decide`], which is the order of all checks.
//!
//! Pure: lookups are facts behind a trait, so every row is tested on the host, and the eBPF
//! programs only turn the answer into a verdict.

use crate::{
    addr::{Addr, AddrClass, Family, PortBe},
    balance::{Outcome, Pick, Tables, pick},
    cluster::{EndpointValue, LIVE_NONE},
    map,
    pod::{EXCLUDED, ExclusionKey, INCLUDED, ListenerKey, NodeState, PodId, PodValue},
    reason::Reason,
    service::{Action, CidrKey, OverrideKey, OverrideValue, ScopeValue, ServiceKey, ServiceValue},
};

/// What `connect()` knows and can look up. Methods run at most once or twice, and only when the
/// checks before them did not decide.
pub trait Facts: Tables {
    /// The calling task is in the cgroup of a running daemon.
    fn is_daemon(&self) -> bool;
    /// The socket speaks TCP.
    fn is_tcp(&self) -> bool;
    /// The socket is a subflow of MPTCP.
    fn is_mptcp(&self) -> bool;
    /// The socket is bound to a device (`SO_BINDTODEVICE`).
    fn is_bound_to_device(&self) -> bool;
    /// Where the application dials.
    fn destination(&self) -> (Addr, PortBe);
    /// The one value of `NODE_STATE`.
    fn node(&self) -> NodeState;
    /// The calling pod, by namespace, else by cgroup.
    fn pod(&self) -> (PodId, Option<&PodValue>);
    /// `EXCLUSIONS`: zero for a miss.
    fn exclusion(&self, key: ExclusionKey) -> u32;
    /// `SERVICES`.
    fn service(&self, key: ServiceKey) -> Option<&ServiceValue>;
    /// `SERVICE_CIDRS`, longest prefix.
    fn cidr_service(&self, key: CidrKey) -> Option<&ServiceValue>;
    /// `SCOPES`.
    fn scope(&self, id: u32) -> Option<&ScopeValue>;
    /// `OVERRIDES`.
    fn override_of(&self, key: OverrideKey) -> Option<&OverrideValue>;
    /// State of the pod's listener, which must be on this port.
    fn listener(&self, key: ListenerKey, port: PortBe) -> Listener;
    /// Whether `port` is one of [`NodeState::guarded_ports`].
    fn is_guarded_port(&self, port: PortBe) -> bool;
    /// `CONNECTING`: captured connections of the pod in handshake.
    fn connecting(&self, pod: PodId) -> u64;
    /// Last heartbeat of a worker, monotonic ns.
    fn worker_beat_ns(&self, worker: u32) -> u64;
    /// Monotonic ns.
    fn now_ns(&self) -> u64;
    /// The socket chose its source, and a connection from there to the listener exists.
    fn is_source_taken(&self, family: Family, listener: PortBe) -> bool;
    /// Makes room for the socket's state; false when there is no memory.
    fn reserve_state(&self) -> bool;
    /// Counts something beside the verdict.
    fn count(&self, reason: Reason);
}

/// State of a pod's listening socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listener {
    /// Not in the table, or not where the pod's entry says.
    Gone,
    /// Its backlog is at least three quarters full.
    Full,
    /// It takes connections.
    Ready,
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Untouched.
    Pass,
    /// ECONNREFUSED.
    Refuse,
    /// Rewritten to [`Decision::endpoint`].
    Endpoint,
    /// Rewritten to the pod's listener: the family's loopback address and the endpoint's port.
    Listener,
}

/// A verdict with everything that is recorded about it. Flat, as [`Pick`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What to do.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Where to, for the two rewriting verdicts.
    pub endpoint: EndpointValue,
    /// Whether the cluster sets TCP keepalive.
    pub keepalive: bool,
    /// Service that was found; zero for none, and then a pass leaves no record.
    pub service_id: u32,
    /// Cluster that was picked; zero for none.
    pub cluster_id: u32,
}

impl Decision {
    #[inline(always)]
    const fn new(verdict: Verdict, reason: Reason) -> Self {
        let endpoint = EndpointValue {
            addr: Addr::UNSPECIFIED,
            port: PortBe(0),
            reserved: 0,
            live_id: LIVE_NONE,
        };
        Self {
            verdict,
            reason,
            endpoint,
            keepalive: false,
            service_id: 0,
            cluster_id: 0,
        }
    }

    #[inline(always)]
    const fn pass(reason: Reason) -> Self {
        Self::new(Verdict::Pass, reason)
    }

    #[inline(always)]
    const fn refuse(reason: Reason) -> Self {
        Self::new(Verdict::Refuse, reason)
    }

    #[inline(always)]
    const fn picked(pick: &Pick, reason: Reason) -> Self {
        let decision = Self::new(Verdict::Endpoint, reason);
        Self {
            endpoint: pick.endpoint,
            keepalive: pick.keepalive,
            cluster_id: pick.cluster_id,
            ..decision
        }
    }

    #[inline(always)]
    const fn listener(family: Family, port: PortBe) -> Self {
        let addr = match family {
            Family::V4 => Addr::LOOPBACK_V4,
            Family::V6 => Addr::LOOPBACK_V6,
        };
        let endpoint = EndpointValue {
            addr,
            port,
            reserved: 0,
            live_id: LIVE_NONE,
        };
        Self {
            endpoint,
            ..Self::new(Verdict::Listener, Reason::ProxyPath)
        }
    }

    #[inline(always)]
    const fn of(self, service_id: u32) -> Self {
        Self { service_id, ..self }
    }
}

/// A service as one scope sees it; `service_id` zero: none.
#[derive(Clone, Copy, Default)]
struct Found {
    service_id: u32,
    flags: u32,
    action: Action,
    degraded: Action,
    /// The address belongs to the mesh, so that it is reachable without a route of the pod's.
    is_mesh_address: bool,
}

/// Decides about one `connect()`, in the order that the numbers give.
#[inline(always)]
pub fn decide<F: Facts>(facts: &F) -> Decision {
    // 1. The daemon's upstream sockets run this hook too, even with a pod's namespace.
    if facts.is_daemon() {
        return Decision::pass(Reason::Daemon);
    }
    // 2. UDP and ICMP run it as well; a captured MPTCP subflow would show its pod 127.0.0.1.
    if !facts.is_tcp() {
        return Decision::pass(Reason::NotTcp);
    }
    if facts.is_mptcp() {
        return Decision::pass(Reason::Mptcp);
    }
    // 3. Bound to a device, it could never reach a listener on loopback.
    if facts.is_bound_to_device() {
        return Decision::pass(Reason::BoundDevice);
    }
    // 4. Addresses that never leave the pod or its link. The own listener is for captured
    //    connections only.
    let (addr, port) = facts.destination();
    let (pod_id, pod) = facts.pod();
    if let Some(reason) = local_address(pod, addr, port) {
        if matches!(reason, Reason::OwnListener) {
            return Decision::refuse(reason);
        }
        return Decision::pass(reason);
    }
    // 5. Who is calling.
    let Some(pod) = pod else {
        return Decision::pass(Reason::PodUnknown);
    };
    if pod.flags & PodValue::NOT_READY != 0 {
        if facts.node().flags & NodeState::STRICT != 0 {
            return Decision::refuse(Reason::PodNotReady);
        }
        return Decision::pass(Reason::PodUnknown);
    }
    // 6. What the pod excludes.
    if is_excluded(facts, pod_id, pod, addr, port) {
        return Decision::pass(Reason::Excluded);
    }
    // 7 and 8. The service, as the pod's scope sees it.
    let Some(scope) = facts.scope(pod.scope) else {
        return Decision::pass(Reason::ScopeUnknown);
    };
    let found = find_service(facts, pod.scope, scope, addr, port);
    if found.service_id == 0 {
        if scope.flags & ScopeValue::REGISTRY_ONLY != 0 {
            return Decision::refuse(Reason::RegistryOnly);
        }
        return Decision::pass(Reason::NoService);
    }
    // 9. Without a route the client must see its own error, or it never tries the other family.
    if !found.is_mesh_address && !pod.has_way_out(addr.family()) {
        return Decision::pass(Reason::NoWayOut);
    }
    // 10 and 11.
    act(facts, pod_id, pod, &found, addr)
}

/// Why a destination never leaves the pod or its link, if so.
#[inline(always)]
fn local_address(pod: Option<&PodValue>, addr: Addr, port: PortBe) -> Option<Reason> {
    if let Some(pod) = pod {
        let listener = pod.listener(addr.family());
        // `::` reaches an IPv6 listener, `0.0.0.0` an IPv4 one.
        if addr.reaches_loopback() && !listener.is_none() && listener == port {
            return Some(Reason::OwnListener);
        }
    }
    match addr.class() {
        AddrClass::Unspecified => Some(Reason::Unspecified),
        AddrClass::Loopback => Some(Reason::Loopback),
        AddrClass::LinkLocal => Some(Reason::LinkLocal),
        AddrClass::Multicast => Some(Reason::Multicast),
        AddrClass::Unicast => match pod {
            Some(pod) if pod.owns(addr) => Some(Reason::OwnAddress),
            _ => None,
        },
    }
}

/// Istio's order (istio-iptables): excluded ports, excluded ranges, included ports, included ranges.
#[inline(always)]
fn is_excluded<F: Facts>(facts: &F, id: PodId, pod: &PodValue, addr: Addr, port: PortBe) -> bool {
    if pod.flags & PodValue::HAS_EXCLUSIONS == 0 {
        return false;
    }
    let by_port = facts.exclusion(ExclusionKey::port(id, port));
    if by_port == EXCLUDED {
        return true;
    }
    let by_address = facts.exclusion(ExclusionKey::address(id, addr));
    if by_address == EXCLUDED {
        return true;
    }
    pod.flags & PodValue::EXCLUDED_BY_DEFAULT != 0 && by_port != INCLUDED && by_address != INCLUDED
}

/// Exact entry, else range, else port-wide; one that the scope does not see counts as absent.
#[inline(always)]
fn find_service<F: Facts>(
    facts: &F,
    scope_id: u32,
    scope: &ScopeValue,
    addr: Addr,
    port: PortBe,
) -> Found {
    let exact = as_seen(
        facts,
        scope_id,
        scope,
        facts.service(ServiceKey::new(addr, port)),
    );
    if exact.service_id != 0 {
        return Found {
            is_mesh_address: true,
            ..exact
        };
    }
    let range = facts.cidr_service(CidrKey {
        port,
        reserved: 0,
        addr,
    });
    let range = as_seen(facts, scope_id, scope, range);
    if range.service_id != 0 {
        return range;
    }
    as_seen(
        facts,
        scope_id,
        scope,
        facts.service(ServiceKey::port_wide(port)),
    )
}

#[inline(always)]
fn as_seen<F: Facts>(
    facts: &F,
    scope_id: u32,
    scope: &ScopeValue,
    value: Option<&ServiceValue>,
) -> Found {
    let Some(value) = value else {
        return Found::default();
    };
    let found = Found {
        service_id: value.service_id,
        flags: value.flags,
        action: value.action,
        degraded: value.degraded,
        is_mesh_address: false,
    };
    let miss_is_hidden = scope.flags & ScopeValue::MISS_IS_HIDDEN != 0;
    let is_hidden = miss_is_hidden || value.action.kind == Action::HIDDEN;
    if !miss_is_hidden && value.flags & ServiceValue::HAS_OVERRIDES == 0 {
        return if is_hidden { Found::default() } else { found };
    }
    match facts.override_of(OverrideKey {
        scope: scope_id,
        service_id: value.service_id,
    }) {
        None if is_hidden => Found::default(),
        None => found,
        Some(other) => match other.action.kind {
            Action::HIDDEN => Found::default(),
            Action::VISIBLE => found,
            _ => Found {
                action: other.action,
                degraded: other.degraded,
                ..found
            },
        },
    }
}

#[inline(always)]
fn act<F: Facts>(facts: &F, id: PodId, pod: &PodValue, found: &Found, addr: Addr) -> Decision {
    let service_id = found.service_id;
    match found.action.kind {
        Action::REFUSE => {
            let reason = match Reason::from_number(found.action.reason) {
                Some(Reason::NoEndpoint) => Reason::NoEndpoint,
                _ => Reason::RefusedByRule,
            };
            return Decision::refuse(reason).of(service_id);
        }
        Action::CLUSTER | Action::SPLIT => {
            if let Some(decision) = stale(facts, found, &found.action) {
                return decision;
            }
            let pick = pick(facts, &found.action, addr);
            match pick.outcome {
                Outcome::Endpoint => match reach(facts, id, &pick.endpoint) {
                    Reach::Open => {
                        return Decision::picked(&pick, Reason::KernelPath).of(service_id);
                    }
                    Reach::Closed => return Decision::refuse(Reason::HostGuard).of(service_id),
                    Reach::AskProxy => facts.count(Reason::GuardedPort),
                },
                Outcome::Original => {
                    let decision = Decision::pass(Reason::Passthrough).of(service_id);
                    return Decision {
                        cluster_id: pick.cluster_id,
                        ..decision
                    };
                }
                Outcome::Empty => return Decision::refuse(Reason::NoEndpoint).of(service_id),
                // The proxy can reach the other family, and it always has the current tables.
                Outcome::OtherFamily => facts.count(Reason::OtherFamily),
                Outcome::Mismatch => facts.count(Reason::Generation),
            }
        }
        Action::PROXY => {}
        _ => return Decision::pass(Reason::NoRule).of(service_id),
    }
    let family = addr.family();
    let port = pod.listener(family);
    if !is_proxy_alive(facts, id, pod, family) {
        return degraded(facts, id, pod, found, addr);
    }
    if facts.is_source_taken(family, port) {
        return Decision::pass(Reason::SourceTaken).of(service_id);
    }
    // Without the socket's state the proxy could not learn the destination.
    if !facts.reserve_state() {
        facts.count(Reason::StorageFailed);
        return degraded(facts, id, pod, found, addr);
    }
    Decision::listener(family, port).of(service_id)
}

/// Whether a pod may be sent to an endpoint that it did not dial itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Open,
    Closed,
    /// Only userspace knows whether the address is one of the host's.
    AskProxy,
}

/// In the host's namespace a rule must not lead to what is the host's alone: whoever may write
/// rules need not be root there.
#[inline(always)]
fn reach<F: Facts>(facts: &F, id: PodId, endpoint: &EndpointValue) -> Reach {
    if id.space != PodId::CGROUP {
        return Reach::Open;
    }
    if !matches!(endpoint.addr.class(), AddrClass::Unicast) {
        return Reach::Closed;
    }
    if facts.is_guarded_port(endpoint.port) {
        return Reach::AskProxy;
    }
    Reach::Open
}

/// What stale maps do instead of `action`; `None` while they are fresh, or when nothing but the
/// last endpoints is left to try.
#[inline(always)]
fn stale<F: Facts>(facts: &F, found: &Found, action: &Action) -> Option<Decision> {
    let denies = action.flags & Action::DENY_WHEN_STALE != 0;
    if !denies && found.flags & ServiceValue::ROUTED_BY_KUBERNETES == 0 {
        return None;
    }
    if !facts.node().is_stale(facts.now_ns()) {
        return None;
    }
    let decision = if denies {
        Decision::refuse(Reason::DegradedDeny)
    } else {
        Decision::pass(Reason::Stale)
    };
    Some(decision.of(found.service_id))
}

/// Alive means a listener with room in its backlog and a worker that runs.
#[inline(always)]
fn is_proxy_alive<F: Facts>(facts: &F, id: PodId, pod: &PodValue, family: Family) -> bool {
    if pod.listener(family).is_none() {
        facts.count(Reason::ListenerGone);
        return false;
    }
    match facts.listener(ListenerKey::new(id, family), pod.listener(family)) {
        Listener::Gone => {
            facts.count(Reason::ListenerGone);
            return false;
        }
        Listener::Full => {
            facts.count(Reason::BacklogFull);
            return false;
        }
        Listener::Ready => {}
    }
    if facts.connecting(id) >= map::CONNECTING_PER_POD_MAX {
        facts.count(Reason::ConnectingFull);
        return false;
    }
    let age_ns = facts
        .now_ns()
        .saturating_sub(facts.worker_beat_ns(pod.worker));
    if age_ns > facts.node().heartbeat_max_ns {
        facts.count(Reason::WorkerSilent);
        return false;
    }
    true
}

/// The proxy is down: what the pod asks for, else the L4 part that the rule was compiled to.
#[inline(always)]
fn degraded<F: Facts>(facts: &F, id: PodId, pod: &PodValue, found: &Found, addr: Addr) -> Decision {
    let service_id = found.service_id;
    if pod.flags & PodValue::DOWN_DENY != 0 {
        return Decision::refuse(Reason::DegradedDeny).of(service_id);
    }
    if pod.flags & PodValue::DOWN_PASS != 0 {
        return Decision::pass(Reason::DegradedPass).of(service_id);
    }
    match found.degraded.kind {
        // Deny stays deny, also when the maps are stale: passing would leak.
        Action::REFUSE => Decision::refuse(Reason::DegradedDeny).of(service_id),
        Action::CLUSTER | Action::SPLIT => {
            if let Some(decision) = stale(facts, found, &found.degraded) {
                return decision;
            }
            let pick = pick(facts, &found.degraded, addr);
            match pick.outcome {
                Outcome::Endpoint if reach(facts, id, &pick.endpoint) != Reach::Open => {
                    Decision::refuse(Reason::HostGuard).of(service_id)
                }
                Outcome::Endpoint => Decision::picked(&pick, Reason::DegradedKernel).of(service_id),
                Outcome::Empty => Decision::refuse(Reason::NoEndpoint).of(service_id),
                Outcome::Original | Outcome::OtherFamily | Outcome::Mismatch => {
                    Decision::pass(Reason::DegradedPass).of(service_id)
                }
            }
        }
        _ => Decision::pass(Reason::DegradedPass).of(service_id),
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
