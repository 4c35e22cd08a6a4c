//! Every line of the order inside `connect()`, as a change of one fact against a captured
//! connection.

use std::{cell::RefCell, collections::BTreeMap};

use super::*;
use crate::{
    balance::tests::{FakeTables, endpoint},
    cluster::{ClusterValue, SplitValue},
};

#[derive(Default)]
struct World {
    tables: FakeTables,
    is_daemon: bool,
    is_udp: bool,
    is_mptcp: bool,
    is_bound_to_device: bool,
    dialled: Option<(Addr, PortBe)>,
    node: NodeState,
    pod: Option<(PodId, PodValue)>,
    exclusions: BTreeMap<ExclusionKey, u32>,
    services: BTreeMap<ServiceKey, ServiceValue>,
    cidrs: BTreeMap<CidrKey, ServiceValue>,
    scopes: BTreeMap<u32, ScopeValue>,
    overrides: BTreeMap<OverrideKey, OverrideValue>,
    listener: Option<Listener>,
    now_ns: u64,
    beat_ns: u64,
    connecting: u64,
    is_source_taken: bool,
    has_no_memory: bool,
    counted: RefCell<Vec<Reason>>,
}

impl Tables for World {
    fn cluster(&self, id: u32) -> Option<&ClusterValue> {
        self.tables.cluster(id)
    }
    fn split(&self, id: u32) -> Option<&SplitValue> {
        self.tables.split(id)
    }
    fn endpoint(&self, slot: u32) -> Option<&EndpointValue> {
        self.tables.endpoint(slot)
    }
    fn random(&self) -> u32 {
        self.tables.random()
    }
    fn next_turn(&self, cluster_id: u32) -> u64 {
        self.tables.next_turn(cluster_id)
    }
    fn source_hash(&self) -> u32 {
        self.tables.source_hash()
    }
    fn live_count(&self, live_id: u32) -> u64 {
        self.tables.live_count(live_id)
    }
}

impl Facts for World {
    fn is_daemon(&self) -> bool {
        self.is_daemon
    }
    fn is_tcp(&self) -> bool {
        !self.is_udp
    }
    fn is_mptcp(&self) -> bool {
        self.is_mptcp
    }
    fn is_bound_to_device(&self) -> bool {
        self.is_bound_to_device
    }
    fn destination(&self) -> (Addr, PortBe) {
        self.dialled.expect("every world dials")
    }
    fn node(&self) -> NodeState {
        self.node
    }
    fn pod(&self) -> (PodId, Option<&PodValue>) {
        match &self.pod {
            Some((id, pod)) => (*id, Some(pod)),
            None => (PodId::default(), None),
        }
    }
    fn exclusion(&self, key: ExclusionKey) -> u32 {
        self.exclusions.get(&key).copied().unwrap_or(0)
    }
    fn service(&self, key: ServiceKey) -> Option<&ServiceValue> {
        self.services.get(&key)
    }
    fn cidr_service(&self, key: CidrKey) -> Option<&ServiceValue> {
        self.cidrs.get(&key)
    }
    fn scope(&self, id: u32) -> Option<&ScopeValue> {
        self.scopes.get(&id)
    }
    fn override_of(&self, key: OverrideKey) -> Option<&OverrideValue> {
        self.overrides.get(&key)
    }
    fn listener(&self, _: ListenerKey, _: PortBe) -> Listener {
        self.listener.unwrap_or(Listener::Ready)
    }
    fn is_guarded_port(&self, port: PortBe) -> bool {
        self.node.guarded_ports.contains(&port)
    }
    fn connecting(&self, _: PodId) -> u64 {
        self.connecting
    }
    fn worker_beat_ns(&self, _: u32) -> u64 {
        self.beat_ns
    }
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
    fn is_source_taken(&self, _: Family, _: PortBe) -> bool {
        self.is_source_taken
    }
    fn reserve_state(&self) -> bool {
        !self.has_no_memory
    }
    fn count(&self, reason: Reason) {
        self.counted.borrow_mut().push(reason);
    }
}

const SCOPE: u32 = 5;
const SERVICE: u32 = 42;
const POD: PodId = PodId::namespace(77);
const LISTENER: PortBe = PortBe::from_host(15001);
const PORT: PortBe = PortBe::from_host(80);
const SECOND: u64 = 1_000_000_000;

fn addr(text: &str) -> Addr {
    Addr::from_ip(text.parse().expect("an address"))
}

fn v4(text: &str) -> u32 {
    addr(text).words[3]
}

/// A pod dials 10.96.0.1:80, which a rule hands to the proxy; everything is alive.
fn world() -> World {
    let pod = PodValue {
        scope: SCOPE,
        flags: PodValue::WAY_OUT_V4 | PodValue::WAY_OUT_V6,
        listener_v4: LISTENER,
        listener_v6: LISTENER,
        own_v4: [v4("10.0.0.9"), 0],
        own_v6: [addr("fd00::9"), Addr::UNSPECIFIED],
        ..PodValue::default()
    };
    let service = ServiceValue {
        service_id: SERVICE,
        flags: ServiceValue::ROUTED_BY_KUBERNETES,
        action: Action::plain(Action::PROXY),
        degraded: Action::plain(Action::PASS),
    };
    let cluster = ClusterValue {
        generation: 1,
        count_v4: 1,
        ..ClusterValue::default()
    };
    World {
        tables: FakeTables {
            clusters: [(1, cluster)].into(),
            endpoints: vec![endpoint(1)],
            ..FakeTables::default()
        },
        dialled: Some((addr("10.96.0.1"), PORT)),
        node: NodeState {
            renewed_ns: 100 * SECOND,
            stale_after_ns: 60 * SECOND,
            heartbeat_max_ns: 3 * SECOND,
            ..NodeState::default()
        },
        pod: Some((POD, pod)),
        services: [(ServiceKey::new(addr("10.96.0.1"), PORT), service)].into(),
        scopes: [(SCOPE, ScopeValue::default())].into(),
        now_ns: 101 * SECOND,
        beat_ns: 100 * SECOND,
        ..World::default()
    }
}

fn pod(world: &mut World) -> &mut PodValue {
    &mut world.pod.as_mut().expect("this world has a pod").1
}

fn service(world: &mut World) -> &mut ServiceValue {
    world
        .services
        .values_mut()
        .next()
        .expect("this world has a service")
}

fn dial(world: &mut World, to: &str) {
    let (_, port) = world.dialled.expect("every world dials");
    world.dialled = Some((addr(to), port));
}

type Row<'a> = (&'a str, fn(&mut World), Verdict, Reason);

fn check(rows: &[Row<'_>]) {
    for (name, change, verdict, reason) in rows {
        let mut world = world();
        change(&mut world);
        let decision = decide(&world);
        assert_eq!(
            (decision.verdict, decision.reason),
            (*verdict, *reason),
            "{name}"
        );
        if *verdict == Verdict::Listener {
            assert_eq!(decision.endpoint.port, LISTENER, "{name}");
        }
    }
}

#[test]
fn steps_1_to_3_pass_sockets_that_are_never_captured() {
    check(&[
        (
            "nothing special",
            |_| {},
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "the daemon, also over UDP",
            |w| (w.is_daemon, w.is_udp) = (true, true),
            Verdict::Pass,
            Reason::Daemon,
        ),
        ("UDP", |w| w.is_udp = true, Verdict::Pass, Reason::NotTcp),
        ("MPTCP", |w| w.is_mptcp = true, Verdict::Pass, Reason::Mptcp),
        (
            "bound to a device",
            |w| w.is_bound_to_device = true,
            Verdict::Pass,
            Reason::BoundDevice,
        ),
    ]);
}

#[test]
fn step_4_passes_local_addresses_and_refuses_the_own_listener() {
    check(&[
        (
            "0.0.0.0",
            |w| dial(w, "0.0.0.0"),
            Verdict::Pass,
            Reason::Unspecified,
        ),
        ("::", |w| dial(w, "::"), Verdict::Pass, Reason::Unspecified),
        (
            "127.0.0.1",
            |w| dial(w, "127.0.0.1"),
            Verdict::Pass,
            Reason::Loopback,
        ),
        (
            "mapped loopback",
            |w| dial(w, "::ffff:127.0.0.1"),
            Verdict::Pass,
            Reason::Loopback,
        ),
        ("::1", |w| dial(w, "::1"), Verdict::Pass, Reason::Loopback),
        (
            "metadata server",
            |w| dial(w, "169.254.169.254"),
            Verdict::Pass,
            Reason::LinkLocal,
        ),
        (
            "fe80::1",
            |w| dial(w, "fe80::1"),
            Verdict::Pass,
            Reason::LinkLocal,
        ),
        (
            "multicast",
            |w| dial(w, "224.0.0.1"),
            Verdict::Pass,
            Reason::Multicast,
        ),
        (
            "own v4",
            |w| dial(w, "10.0.0.9"),
            Verdict::Pass,
            Reason::OwnAddress,
        ),
        (
            "own v6",
            |w| dial(w, "fd00::9"),
            Verdict::Pass,
            Reason::OwnAddress,
        ),
        (
            "listener",
            |w| w.dialled = Some((addr("127.0.0.1"), LISTENER)),
            Verdict::Refuse,
            Reason::OwnListener,
        ),
        (
            "listener by 0.0.0.0",
            |w| w.dialled = Some((addr("0.0.0.0"), LISTENER)),
            Verdict::Refuse,
            Reason::OwnListener,
        ),
        (
            "listener v6",
            |w| w.dialled = Some((addr("::1"), LISTENER)),
            Verdict::Refuse,
            Reason::OwnListener,
        ),
        (
            "the application's own port 15001 on another loopback address",
            |w| w.dialled = Some((addr("127.0.0.2"), LISTENER)),
            Verdict::Pass,
            Reason::Loopback,
        ),
        (
            "an unknown pod's loopback",
            |w| (w.pod, w.dialled) = (None, Some((addr("127.0.0.1"), LISTENER))),
            Verdict::Pass,
            Reason::Loopback,
        ),
    ]);
}

#[test]
fn step_5_passes_unknown_pods_and_strict_refuses_those_not_ready() {
    check(&[
        (
            "unknown",
            |w| w.pod = None,
            Verdict::Pass,
            Reason::PodUnknown,
        ),
        (
            "strict and unknown",
            |w| (w.pod, w.node.flags) = (None, NodeState::STRICT),
            Verdict::Pass,
            Reason::PodUnknown,
        ),
        (
            "not ready",
            |w| pod(w).flags |= PodValue::NOT_READY,
            Verdict::Pass,
            Reason::PodUnknown,
        ),
        (
            "strict and not ready",
            |w| {
                pod(w).flags |= PodValue::NOT_READY;
                w.node.flags = NodeState::STRICT;
            },
            Verdict::Refuse,
            Reason::PodNotReady,
        ),
        (
            "strict, not ready, to loopback",
            |w| {
                pod(w).flags |= PodValue::NOT_READY;
                w.node.flags = NodeState::STRICT;
                dial(w, "127.0.0.1");
            },
            Verdict::Pass,
            Reason::Loopback,
        ),
    ]);
}

#[test]
fn step_6_follows_the_order_of_istios_annotations() {
    fn exclude(world: &mut World, flags: u32, entries: &[(ExclusionKey, u32)]) {
        pod(world).flags |= flags;
        world.exclusions = entries.iter().copied().collect();
    }
    const BY_DEFAULT: u32 = PodValue::HAS_EXCLUSIONS | PodValue::EXCLUDED_BY_DEFAULT;
    check(&[
        (
            "port",
            |w| {
                exclude(
                    w,
                    PodValue::HAS_EXCLUSIONS,
                    &[(ExclusionKey::port(POD, PORT), EXCLUDED)],
                )
            },
            Verdict::Pass,
            Reason::Excluded,
        ),
        (
            "range",
            |w| {
                exclude(
                    w,
                    PodValue::HAS_EXCLUSIONS,
                    &[(ExclusionKey::address(POD, addr("10.96.0.1")), EXCLUDED)],
                )
            },
            Verdict::Pass,
            Reason::Excluded,
        ),
        (
            "another pod's entry",
            |w| {
                let other = PodId::cgroup(POD.id);
                exclude(
                    w,
                    PodValue::HAS_EXCLUSIONS,
                    &[(ExclusionKey::port(other, PORT), EXCLUDED)],
                );
            },
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "excluded by default",
            |w| exclude(w, BY_DEFAULT, &[]),
            Verdict::Pass,
            Reason::Excluded,
        ),
        (
            "included range",
            |w| {
                exclude(
                    w,
                    BY_DEFAULT,
                    &[(ExclusionKey::address(POD, addr("10.96.0.1")), INCLUDED)],
                )
            },
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "included port",
            |w| exclude(w, BY_DEFAULT, &[(ExclusionKey::port(POD, PORT), INCLUDED)]),
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "an excluded range beats an included port",
            |w| {
                let range = ExclusionKey::address(POD, addr("10.96.0.1"));
                exclude(
                    w,
                    BY_DEFAULT,
                    &[(ExclusionKey::port(POD, PORT), INCLUDED), (range, EXCLUDED)],
                );
            },
            Verdict::Pass,
            Reason::Excluded,
        ),
    ]);
}

#[test]
fn steps_7_and_8_find_the_service_as_the_scope_sees_it() {
    fn entry(kind: u8) -> ServiceValue {
        ServiceValue {
            service_id: 8,
            action: Action::plain(kind),
            ..ServiceValue::default()
        }
    }
    fn override_with(world: &mut World, kind: u8) {
        service(world).flags |= ServiceValue::HAS_OVERRIDES;
        let value = OverrideValue {
            action: Action::plain(kind),
            degraded: Action::plain(Action::PASS),
        };
        world.overrides = [(
            OverrideKey {
                scope: SCOPE,
                service_id: SERVICE,
            },
            value,
        )]
        .into();
    }
    fn scope(world: &mut World, flags: u32) {
        world.scopes.insert(
            SCOPE,
            ScopeValue {
                flags,
                ..ScopeValue::default()
            },
        );
    }
    check(&[
        (
            "no scope",
            |w| w.scopes.clear(),
            Verdict::Pass,
            Reason::ScopeUnknown,
        ),
        (
            "miss",
            |w| w.services.clear(),
            Verdict::Pass,
            Reason::NoService,
        ),
        (
            "miss under REGISTRY_ONLY",
            |w| {
                w.services.clear();
                scope(w, ScopeValue::REGISTRY_ONLY);
            },
            Verdict::Refuse,
            Reason::RegistryOnly,
        ),
        (
            "exact before range",
            |w| {
                let key = CidrKey {
                    port: PORT,
                    reserved: 0,
                    addr: addr("10.96.0.1"),
                };
                w.cidrs.insert(key, entry(Action::REFUSE));
            },
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "range before port-wide",
            |w| {
                w.services.clear();
                w.services
                    .insert(ServiceKey::port_wide(PORT), entry(Action::PASS));
                let key = CidrKey {
                    port: PORT,
                    reserved: 0,
                    addr: addr("10.96.0.1"),
                };
                w.cidrs.insert(key, entry(Action::REFUSE));
            },
            Verdict::Refuse,
            Reason::RefusedByRule,
        ),
        (
            "port-wide",
            |w| {
                w.services.clear();
                w.services
                    .insert(ServiceKey::port_wide(PORT), entry(Action::PROXY));
            },
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "override",
            |w| override_with(w, Action::REFUSE),
            Verdict::Refuse,
            Reason::RefusedByRule,
        ),
        (
            "hidden",
            |w| override_with(w, Action::HIDDEN),
            Verdict::Pass,
            Reason::NoService,
        ),
        (
            "the base hides it",
            |w| service(w).action = Action::plain(Action::HIDDEN),
            Verdict::Pass,
            Reason::NoService,
        ),
        (
            "the base hides it, an override shows it",
            |w| {
                override_with(w, Action::PROXY);
                service(w).action = Action::plain(Action::HIDDEN);
            },
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "hidden falls to the port-wide entry",
            |w| {
                override_with(w, Action::HIDDEN);
                w.services
                    .insert(ServiceKey::port_wide(PORT), entry(Action::REFUSE));
            },
            Verdict::Refuse,
            Reason::RefusedByRule,
        ),
        (
            "hidden under REGISTRY_ONLY",
            |w| {
                override_with(w, Action::HIDDEN);
                scope(w, ScopeValue::REGISTRY_ONLY);
            },
            Verdict::Refuse,
            Reason::RegistryOnly,
        ),
        (
            "a miss means hidden",
            |w| scope(w, ScopeValue::MISS_IS_HIDDEN),
            Verdict::Pass,
            Reason::NoService,
        ),
        (
            "a miss means hidden, but this one is visible",
            |w| {
                scope(w, ScopeValue::MISS_IS_HIDDEN);
                override_with(w, Action::VISIBLE);
            },
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "an override that the flag does not announce is not looked up",
            |w| {
                override_with(w, Action::REFUSE);
                service(w).flags = 0;
            },
            Verdict::Listener,
            Reason::ProxyPath,
        ),
    ]);
}

#[test]
fn step_9_lets_a_family_without_a_route_fail_by_itself() {
    fn port_wide_v6(world: &mut World) {
        dial(world, "2001:db8::1");
        let value = *service(world);
        world.services = [(ServiceKey::port_wide(PORT), value)].into();
    }
    check(&[
        (
            "v6 with a route",
            port_wide_v6,
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "v6 without a route",
            |w| {
                port_wide_v6(w);
                pod(w).flags = PodValue::WAY_OUT_V4;
            },
            Verdict::Pass,
            Reason::NoWayOut,
        ),
        (
            "a mesh address needs none",
            |w| pod(w).flags = 0,
            Verdict::Listener,
            Reason::ProxyPath,
        ),
    ]);
}

#[test]
fn step_10_chooses_in_the_kernel_or_asks_whether_the_proxy_lives() {
    fn cluster(world: &mut World, target: u32, generation: u32) {
        service(world).action = Action::with_target(Action::CLUSTER, target, generation);
    }
    check(&[
        (
            "cluster",
            |w| cluster(w, 1, 1),
            Verdict::Endpoint,
            Reason::KernelPath,
        ),
        (
            "cluster while the proxy is dead",
            |w| {
                cluster(w, 1, 1);
                w.listener = Some(Listener::Gone);
            },
            Verdict::Endpoint,
            Reason::KernelPath,
        ),
        (
            "missing subset",
            |w| cluster(w, 0, 0),
            Verdict::Refuse,
            Reason::NoEndpoint,
        ),
        (
            "another generation",
            |w| cluster(w, 1, 2),
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "no endpoint of the family",
            |w| {
                cluster(w, 1, 1);
                let value = *service(w);
                dial(w, "fd00::1");
                w.services = [(ServiceKey::new(addr("fd00::1"), PORT), value)].into();
            },
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "no rule",
            |w| service(w).action = Action::plain(Action::PASS),
            Verdict::Pass,
            Reason::NoRule,
        ),
        (
            "refused",
            |w| service(w).action = Action::plain(Action::REFUSE),
            Verdict::Refuse,
            Reason::RefusedByRule,
        ),
        (
            "stale, routed by Kubernetes",
            |w| {
                cluster(w, 1, 1);
                w.now_ns = 161 * SECOND;
            },
            Verdict::Pass,
            Reason::Stale,
        ),
        (
            "stale, not routed by Kubernetes",
            |w| {
                cluster(w, 1, 1);
                service(w).flags = 0;
                w.now_ns = 161 * SECOND;
            },
            Verdict::Endpoint,
            Reason::KernelPath,
        ),
        (
            "stale, and passing would leak",
            |w| {
                cluster(w, 1, 1);
                service(w).action.flags = Action::DENY_WHEN_STALE;
                w.now_ns = 161 * SECOND;
            },
            Verdict::Refuse,
            Reason::DegradedDeny,
        ),
        (
            "listener gone",
            |w| w.listener = Some(Listener::Gone),
            Verdict::Pass,
            Reason::DegradedPass,
        ),
        (
            "backlog full",
            |w| w.listener = Some(Listener::Full),
            Verdict::Pass,
            Reason::DegradedPass,
        ),
        (
            "handshakes, one less than too many",
            |w| w.connecting = map::CONNECTING_PER_POD_MAX - 1,
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "too many handshakes",
            |w| w.connecting = map::CONNECTING_PER_POD_MAX,
            Verdict::Pass,
            Reason::DegradedPass,
        ),
        (
            "no port of this family",
            |w| pod(w).listener_v4 = PortBe(0),
            Verdict::Pass,
            Reason::DegradedPass,
        ),
        (
            "heartbeat just young enough",
            |w| w.now_ns = 103 * SECOND,
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "heartbeat too old",
            |w| w.now_ns = 103 * SECOND + 1,
            Verdict::Pass,
            Reason::DegradedPass,
        ),
        (
            "source taken",
            |w| w.is_source_taken = true,
            Verdict::Pass,
            Reason::SourceTaken,
        ),
        (
            "no memory",
            |w| w.has_no_memory = true,
            Verdict::Pass,
            Reason::DegradedPass,
        ),
    ]);
}

/// Rules may not lead a pod of the host's namespace to what is the host's alone.
#[test]
fn step_10_leads_host_pods_to_nothing_that_is_the_hosts_alone() {
    const GUARDED: PortBe = PortBe::from_host(15020);
    fn host_pod_to(world: &mut World, to: &str, port: PortBe) {
        host_pod(world);
        world.tables.endpoints[0].addr = addr(to);
        world.tables.endpoints[0].port = port;
        service(world).action = Action::with_target(Action::CLUSTER, 1, 1);
    }
    fn host_pod(world: &mut World) {
        let pod = world.pod.as_mut().expect("this world has a pod");
        pod.0 = PodId::cgroup(77);
        world.node.guarded_ports[3] = GUARDED;
    }
    fn down(world: &mut World, to: &str, port: PortBe) {
        host_pod_to(world, to, port);
        let service = service(world);
        service.degraded = service.action;
        service.action = Action::plain(Action::PROXY);
        world.listener = Some(Listener::Gone);
    }
    check(&[
        (
            "an endpoint elsewhere",
            |w| host_pod_to(w, "10.0.0.5", PORT),
            Verdict::Endpoint,
            Reason::KernelPath,
        ),
        (
            "loopback",
            |w| host_pod_to(w, "127.0.0.1", PORT),
            Verdict::Refuse,
            Reason::HostGuard,
        ),
        (
            "the metadata address",
            |w| host_pod_to(w, "169.254.169.254", PORT),
            Verdict::Refuse,
            Reason::HostGuard,
        ),
        (
            "0.0.0.0",
            |w| host_pod_to(w, "0.0.0.0", PORT),
            Verdict::Refuse,
            Reason::HostGuard,
        ),
        (
            "a port of the node's own services",
            |w| host_pod_to(w, "10.0.0.5", GUARDED),
            Verdict::Listener,
            Reason::ProxyPath,
        ),
        (
            "such a port without a proxy",
            |w| down(w, "10.0.0.5", GUARDED),
            Verdict::Refuse,
            Reason::HostGuard,
        ),
        (
            "loopback as degraded form",
            |w| down(w, "127.0.0.1", PORT),
            Verdict::Refuse,
            Reason::HostGuard,
        ),
        (
            "the L4 part of a rule",
            |w| down(w, "10.0.0.5", PORT),
            Verdict::Endpoint,
            Reason::DegradedKernel,
        ),
        (
            "a pod with a loopback of its own",
            |w| {
                host_pod_to(w, "127.0.0.1", GUARDED);
                w.pod.as_mut().expect("this world has a pod").0 = POD;
            },
            Verdict::Endpoint,
            Reason::KernelPath,
        ),
        (
            "what it dials itself is not captured",
            |w| {
                host_pod(w);
                dial(w, "127.0.0.1");
            },
            Verdict::Pass,
            Reason::Loopback,
        ),
    ]);
}

#[test]
fn step_11_degrades_as_pod_and_rule_say() {
    fn down(world: &mut World, pod_flags: u32, kind: u8) {
        world.listener = Some(Listener::Gone);
        pod(world).flags |= pod_flags;
        service(world).degraded = Action::with_target(kind, 1, 1);
    }
    check(&[
        (
            "the L4 part",
            |w| down(w, 0, Action::CLUSTER),
            Verdict::Endpoint,
            Reason::DegradedKernel,
        ),
        (
            "deny of the rule",
            |w| down(w, 0, Action::REFUSE),
            Verdict::Refuse,
            Reason::DegradedDeny,
        ),
        (
            "pass of the rule",
            |w| down(w, 0, Action::PASS),
            Verdict::Pass,
            Reason::DegradedPass,
        ),
        (
            "pod passes",
            |w| down(w, PodValue::DOWN_PASS, Action::CLUSTER),
            Verdict::Pass,
            Reason::DegradedPass,
        ),
        (
            "pod denies",
            |w| down(w, PodValue::DOWN_DENY, Action::CLUSTER),
            Verdict::Refuse,
            Reason::DegradedDeny,
        ),
        (
            "stale passes",
            |w| {
                down(w, 0, Action::CLUSTER);
                w.now_ns = 161 * SECOND;
            },
            Verdict::Pass,
            Reason::Stale,
        ),
        (
            "deny stays deny when stale",
            |w| {
                down(w, 0, Action::REFUSE);
                w.now_ns = 161 * SECOND;
            },
            Verdict::Refuse,
            Reason::DegradedDeny,
        ),
    ]);
}

#[test]
fn what_goes_wrong_beside_the_verdict_is_counted() {
    type Counted<'a> = (&'a str, fn(&mut World), Reason);
    let rows: &[Counted<'_>] = &[
        (
            "gone",
            |w| w.listener = Some(Listener::Gone),
            Reason::ListenerGone,
        ),
        (
            "full",
            |w| w.listener = Some(Listener::Full),
            Reason::BacklogFull,
        ),
        ("silent", |w| w.beat_ns = 0, Reason::WorkerSilent),
        ("memory", |w| w.has_no_memory = true, Reason::StorageFailed),
        (
            "generation",
            |w| service(w).action = Action::with_target(Action::CLUSTER, 1, 9),
            Reason::Generation,
        ),
    ];
    for (name, change, reason) in rows {
        let mut world = world();
        change(&mut world);
        decide(&world);
        assert_eq!(world.counted.into_inner(), [*reason], "{name}");
    }
}
