//! What can be found and how: networks, ports, scopes, pods by cgroup, families, options.

use super::{
    lab::{self, Lab, cluster, counted, dial, dial_from, reply},
    *,
};
use crate::snapshot::{
    KernelView,
    kernel_view::{
        KernelAction, KernelBalancer, KernelKey, KernelOverride, KernelPlan, KernelScope,
        KernelService, SplitEntry, SplitTarget,
    },
    policy::TcpKeepalive,
};

fn refuse() -> KernelPlan {
    plan(KernelAction::Refuse)
}

fn plan(action: KernelAction) -> KernelPlan {
    KernelPlan {
        action,
        degraded: KernelAction::Pass,
        deny_when_stale: false,
    }
}

fn to_cluster(index: usize) -> KernelPlan {
    let entry = SplitEntry {
        weight: 1,
        target: SplitTarget::Cluster(index),
    };
    plan(KernelAction::Split([entry].into()))
}

fn service(key: KernelKey, plan: Option<KernelPlan>) -> KernelService {
    KernelService {
        key,
        name: "shaped".into(),
        plan,
        is_routed_by_kubernetes: false,
    }
}

fn exact(address: &str, port: u16) -> KernelKey {
    KernelKey::Exact(address.parse().expect("an address"), port)
}

fn with(lab: &Lab, services: Vec<KernelService>) -> KernelView {
    KernelView {
        services,
        ..lab.view()
    }
}

/// What one connection was counted as.
fn reason(lab: &Lab, address: &str) -> Vec<Reason> {
    let before = lab.reasons();
    let _ = dial(address);
    counted(lab, &before)
}

pub(super) fn networks_and_ports_are_found(lab: &mut Lab) {
    lab.sync(&with(
        lab,
        vec![
            service(
                KernelKey::Cidr("10.0.0.16/28".parse().expect("a network"), 80),
                Some(refuse()),
            ),
            service(
                KernelKey::Cidr("10.0.0.21/32".parse().expect("a network"), 80),
                Some(plan(KernelAction::Pass)),
            ),
            service(KernelKey::PortWide(81), Some(refuse())),
        ],
    ));
    assert_eq!(
        reason(lab, "10.0.0.20:80"),
        [Reason::RefusedByRule],
        "in the network"
    );
    assert_eq!(
        reason(lab, "10.0.0.21:80"),
        [Reason::NoRule],
        "the longer prefix"
    );
    assert_eq!(reason(lab, "10.0.0.12:80"), [Reason::NoService], "outside");
    assert_eq!(
        reason(lab, "10.0.0.20:81"),
        [Reason::RefusedByRule],
        "any address on the port"
    );
    lab.sync(&lab.view());
}

pub(super) fn a_scope_sees_its_own(lab: &mut Lab) {
    let mut view = with(
        lab,
        vec![
            service(exact("10.0.0.20", 80), Some(plan(KernelAction::Pass))),
            service(exact("10.0.0.21", 80), None),
            service(exact("10.0.0.12", 80), Some(refuse())),
        ],
    );
    view.scopes.push(KernelScope {
        key: "bank".into(),
        is_registry_only: false,
    });
    view.overrides = vec![
        KernelOverride {
            scope: 1,
            service: 0,
            plan: Some(refuse()),
        },
        KernelOverride {
            scope: 1,
            service: 1,
            plan: Some(refuse()),
        },
        KernelOverride {
            scope: 1,
            service: 2,
            plan: None,
        },
    ];
    lab.sync(&view);
    for (address, shop, bank) in [
        ("10.0.0.20:80", Reason::NoRule, Reason::RefusedByRule),
        ("10.0.0.21:80", Reason::NoService, Reason::RefusedByRule),
        ("10.0.0.12:80", Reason::RefusedByRule, Reason::NoService),
    ] {
        lab.upsert(&lab.pod);
        assert_eq!(reason(lab, address), [shop], "{address} from shop");
        lab.upsert(&PodEntry {
            scope: "bank".into(),
            ..lab.pod.clone()
        });
        assert_eq!(reason(lab, address), [bank], "{address} from bank");
    }
    lab.upsert(&PodEntry {
        scope: "nobody knows it".into(),
        ..lab.pod.clone()
    });
    assert_eq!(reason(lab, "10.0.0.20:80"), [Reason::ScopeUnknown]);
    lab.upsert(&lab.pod);
    lab.sync(&lab.view());
}

pub(super) fn a_family_without_a_route_fails_by_itself(lab: &mut Lab) {
    lab.sync(&with(
        lab,
        vec![
            service(KernelKey::PortWide(9000), Some(refuse())),
            service(exact("10.0.0.11", 9000), Some(refuse())),
        ],
    ));
    lab.upsert(&PodEntry {
        has_way_out_v4: false,
        has_way_out_v6: false,
        ..lab.pod.clone()
    });
    assert_eq!(reason(lab, "[fd00::11]:9000"), [Reason::NoWayOut]);
    assert_eq!(
        reason(lab, "10.0.0.11:9000"),
        [Reason::RefusedByRule],
        "a mesh address needs no route"
    );
    lab.upsert(&PodEntry {
        has_way_out_v4: false,
        ..lab.pod.clone()
    });
    assert_eq!(reason(lab, "[fd00::11]:9000"), [Reason::RefusedByRule]);
    lab.upsert(&lab.pod);
    lab.sync(&lab.view());
}

pub(super) fn host_pods_are_found_by_their_cgroup(lab: &mut Lab) {
    let by_cgroup = as_host_pod(lab);
    let dialled: SocketAddr = "10.96.0.1:80".parse().expect("an address");
    let _client = TcpStream::connect(dialled).expect("captured");
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    let taken = lab.take_as(by_cgroup.id, peer);
    assert_eq!(
        taken.map(|captured| captured.dst),
        Some(OriginalDst(dialled))
    );
    // For another pod's listener it would be nobody's.
    let _client = TcpStream::connect(dialled).expect("captured");
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert_eq!(lab.take_as(PodId::cgroup(1), peer), None);
    // Where its entry names another port than its listener has, it has none.
    lab.upsert(&PodEntry {
        listener_v4: Some(15002),
        ..by_cgroup.clone()
    });
    let reasons = reason(lab, "10.96.0.1:80");
    assert!(reasons.contains(&Reason::ListenerGone), "{reasons:?}");
    lab.upsert(&by_cgroup);
    // In a namespace of its own making it has no listener.
    let before = lab.reasons();
    lab::in_another_namespace(|| {
        let _ = TcpStream::connect("10.96.0.1:80");
    });
    assert_eq!(counted(lab, &before), [Reason::PodUnknown]);
    // A daemon that comes after a crash knows the pod before it has found it.
    lab.crash();
    lab.open();
    lab.kernel.attach().expect("the swap");
    lab.sync(&lab.view());
    assert_eq!(reason(lab, "10.96.0.2:80"), [Reason::KernelPath]);
    lab.kernel.remove_pod(by_cgroup.id).expect("the pod goes");
    lab.kernel.renew().expect("renewed");
    assert_eq!(reason(lab, "10.0.0.20:80"), [Reason::PodUnknown]);
    lab.register();
}

/// The lab's pod, as if its namespace were the host's.
fn as_host_pod(lab: &mut Lab) -> PodEntry {
    lab.kernel.remove_pod(lab.pod.id).expect("the pod goes");
    let by_cgroup = PodEntry {
        id: PodId::cgroup(lab.cgroup_id),
        ..lab.pod.clone()
    };
    lab.upsert(&by_cgroup);
    lab.kernel
        .set_listener(by_cgroup.id, Family::V4, lab.listener_v4.as_fd())
        .expect("room");
    by_cgroup
}

pub(super) fn rules_lead_host_pods_to_nothing_of_the_host(lab: &mut Lab) {
    let by_cgroup = as_host_pod(lab);
    let mut view = with(
        lab,
        vec![
            service(exact("10.96.0.5", 80), Some(to_cluster(0))),
            service(exact("10.96.0.6", 80), Some(to_cluster(1))),
            service(exact("10.96.0.7", 80), Some(to_cluster(2))),
        ],
    );
    view.clusters = vec![
        cluster("loopback", "127.0.0.1:22", KernelBalancer::RoundRobin),
        cluster("guarded", "10.0.0.13:7", KernelBalancer::RoundRobin),
        cluster("open", "10.0.0.11:9000", KernelBalancer::RoundRobin),
    ];
    lab.sync(&view);
    let refused = dial("10.96.0.5:80").expect_err("refused");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(reason(lab, "10.96.0.5:80"), [Reason::HostGuard]);
    // Only the proxy knows whether the address is the host's.
    let before = lab.reasons();
    let _client = dial("10.96.0.6:80").expect("captured");
    assert_eq!(
        counted(lab, &before),
        [Reason::ProxyPath, Reason::GuardedPort]
    );
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert!(lab.take_as(by_cgroup.id, peer).is_some());
    assert_eq!(reply(dial("10.96.0.7:80")), "v1");
    // A pod with a namespace of its own has a loopback of its own.
    lab.kernel.remove_pod(by_cgroup.id).expect("the pod goes");
    lab.register();
    assert_eq!(reason(lab, "10.96.0.5:80"), [Reason::KernelPath]);
    assert_eq!(reason(lab, "10.96.0.6:80"), [Reason::KernelPath]);
    lab.sync(&lab.view());
}

/// One that dials another host pod's listener: its hooks know it, but it was not captured.
pub(super) fn strangers_on_the_host_find_nobodys_destination(lab: &mut Lab) {
    let by_cgroup = as_host_pod(lab);
    // What a client left behind that was reset before its connection was accepted: its port is
    // free again while its entry waits in the queue.
    let client = dial_from("127.0.0.1:46001", "10.96.0.1:80").expect("captured");
    let abort = SockRef::from(&client).set_linger(Some(Duration::ZERO));
    abort.expect("an option");
    drop(client);
    lab.kernel.remove_pod(by_cgroup.id).expect("the pod goes");
    let stranger = dial_from("127.0.0.1:46001", "127.0.0.1:15001").expect("it queues");
    lab.upsert(&by_cgroup);
    for _ in 0..2 {
        let (_, peer) = lab.listener_v4.accept().expect("both queued");
        assert_eq!(peer.port(), 46001);
        assert_eq!(lab.take_as(by_cgroup.id, peer), None);
    }
    drop(stranger);
    lab.kernel.remove_pod(by_cgroup.id).expect("the pod goes");
    lab.register();
}

pub(super) fn strict_refuses_pods_that_are_not_ready(lab: &mut Lab) {
    let not_ready = PodEntry {
        id: PodId::cgroup(lab.cgroup_id),
        is_ready: false,
        ..lab.pod.clone()
    };
    lab.kernel.remove_pod(lab.pod.id).expect("the pod goes");
    lab.upsert(&not_ready);
    assert_eq!(reason(lab, "10.0.0.20:80"), [Reason::PodUnknown]);
    for (is_strict, expected) in [(true, Reason::PodNotReady), (false, Reason::PodUnknown)] {
        lab.options.is_strict = is_strict;
        lab.crash();
        lab.open();
        lab.kernel.attach().expect("the swap");
        lab.upsert(&not_ready);
        assert_eq!(reason(lab, "10.0.0.20:80"), [expected]);
    }
    lab.kernel.remove_pod(not_ready.id).expect("the pod goes");
    lab.sync(&lab.view());
    lab.register();
}

pub(super) fn ipv6_keepalive_and_ports(lab: &mut Lab) {
    let mut view = with(
        lab,
        vec![
            service(exact("fd00:96::5", 80), Some(to_cluster(0))),
            service(exact("10.0.0.20", 9999), Some(to_cluster(1))),
            service(exact("10.96.0.8", 80), Some(to_cluster(2))),
        ],
    );
    view.clusters = vec![
        cluster("six", "[fd00::11]:9000", KernelBalancer::SourceIp),
        cluster(
            "port",
            "10.0.0.20:1",
            KernelBalancer::OriginalDst { port: 80 },
        ),
        cluster("v1", "10.0.0.11:9000", KernelBalancer::LeastRequest),
    ];
    view.clusters[2].keepalive = Some(TcpKeepalive {
        probes: Some(4),
        time: Some(Duration::from_secs(33)),
        interval: None,
    });
    lab.sync(&view);
    let client = dial("[fd00:96::5]:80").expect("connected");
    assert_eq!(
        client.peer_addr().expect("a peer").to_string(),
        "[fd00:96::5]:80"
    );
    assert_eq!(reply(Ok(client)), "v1");
    assert_eq!(
        reply(dial("10.0.0.20:9999")),
        "direct",
        "the dialled address with another port"
    );
    let socket: Socket = dial("10.96.0.8:80").expect("connected").into();
    assert!(socket.keepalive().expect("an option"));
    assert_eq!(
        socket.tcp_keepalive_time().expect("an option"),
        Duration::from_secs(33)
    );
    assert_eq!(socket.tcp_keepalive_retries().expect("an option"), 4);
    lab.sync(&lab.view());
}

pub(super) fn other_layouts_are_dropped(lab: &mut Lab) {
    let other = lab.options.pins.join("v999999");
    std::fs::create_dir(&other).expect("bpffs");
    lab.kernel.attach().expect("the swap");
    assert!(!other.exists());
    assert!(maps_dir(lab).exists());
}

fn maps_dir(lab: &Lab) -> std::path::PathBuf {
    let version = proxy_common::LAYOUT_VERSION;
    lab.options.pins.join(format!("v{version}"))
}

pub(super) fn a_pod_with_too_many_handshakes_degrades(lab: &mut Lab) {
    let pinned = aya::maps::MapData::from_pin(maps_dir(lab).join("CONNECTING"));
    let pinned = aya::maps::Map::HashMap(pinned.expect("it is pinned"));
    let mut connecting: aya::maps::HashMap<_, PodId, u64> =
        pinned.try_into().expect("the shape of CONNECTING");
    let id = lab.pod.id;
    // A handshake that ends is counted no more, whoever accepts it.
    let client = dial("10.96.0.1:80").expect("captured");
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), 0);
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert!(lab.take(peer).is_some());
    drop(client);
    // A pod that drops its own handshakes.
    lab::run("nft add table inet drops");
    lab::run("nft add chain inet drops input { type filter hook input priority 0 ; }");
    lab::run("nft add rule inet drops input tcp dport 15001 drop");
    let start = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("a flag");
        let _ = socket.connect(&lab::sock_addr("10.96.0.1:80"));
        socket
    };
    let most = proxy_common::map::CONNECTING_PER_POD_MAX;
    let mut sockets: Vec<Socket> = (0..most).map(|_| start()).collect();
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), most);
    assert_eq!(
        reason(lab, "10.96.0.7:80"),
        [Reason::DegradedDeny, Reason::ConnectingFull]
    );
    sockets.pop();
    sockets.push(start());
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), most);
    drop(sockets);
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), 0);
    assert_eq!(
        original_dsts(lab).keys().count(),
        0,
        "their entries are gone"
    );
    lab::run("nft delete table inet drops");
    // What no program saw is put right by the sweep.
    connecting.insert(id, most, 0).expect("room");
    lab.kernel.sweep_original_dsts().expect("the sweep");
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), 0);
    // Naming the pod again keeps what is counted.
    connecting.insert(id, 7, 0).expect("room");
    lab.register();
    assert_eq!(connecting.get(&id, 0).expect("the pod's"), 7);
    connecting.insert(id, 0, 0).expect("room");
}

/// Whatever is written, as text.
#[derive(Clone, Default)]
struct Written(Arc<std::sync::Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn a_full_map_is_told_in_the_log(lab: &mut Lab) {
    let mut log = lab.kernel.take_log().expect("the first reader");
    assert!(lab.kernel.take_log().is_none());
    let mut entries = original_dsts(lab);
    let key = |number: u32| OriginalDstKey {
        netns_cookie: u64::MAX,
        addr: Addr::from_v4_word(number),
        ..OriginalDstKey::default()
    };
    let mut number = 0;
    while entries
        .insert(key(number), OriginalDstValue::default(), 0)
        .is_ok()
    {
        number += 1;
    }
    assert!(number > proxy_common::map::ORIGINAL_DSTS_MAX / 2);
    let before = lab.reasons();
    let client = dial("10.96.0.1:80").expect("it queues");
    assert_eq!(
        counted(lab, &before),
        [Reason::ProxyPath, Reason::OriginalDstFull]
    );
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert_eq!(lab.take(peer), None, "nobody knows its destination");
    let written = Written::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(written.clone()))
        .finish();
    tracing::subscriber::with_default(subscriber, || log.flush());
    let text = String::from_utf8(written.0.lock().expect("not poisoned").clone());
    let text = text.expect("UTF-8");
    let port = client.local_addr().expect("a name").port();
    let (pod, full) = (lab.pod.id.id, "ERROR ebpf: no room in ORIGINAL_DSTS");
    let whose = format!("of pod {pod} from port {port} will be refused");
    assert!(text.contains(full) && text.contains(&whose), "{text}");
    for number in 0..number {
        entries.remove(&key(number)).expect("it was there");
    }
}

/// The pinned `ORIGINAL_DSTS`.
pub(super) fn original_dsts(
    lab: &Lab,
) -> aya::maps::HashMap<aya::maps::MapData, OriginalDstKey, OriginalDstValue> {
    let pinned = aya::maps::MapData::from_pin(maps_dir(lab).join("ORIGINAL_DSTS"));
    let pinned = aya::maps::Map::HashMap(pinned.expect("it is pinned"));
    pinned.try_into().expect("the shape of ORIGINAL_DSTS")
}

pub(super) fn the_oldest_daemon_makes_room(lab: &mut Lab) {
    for id in 1..=6 {
        lab.kernel.register_daemon(id).expect("room is made");
    }
    lab.kernel
        .register_daemon(lab.cgroup_id)
        .expect("room is made");
    assert_eq!(reason(lab, "10.0.0.20:80"), [Reason::Daemon]);
    for id in (1..=6).chain([lab.cgroup_id]) {
        lab.kernel.unregister_daemon(id).expect("it goes");
    }
}

pub(super) fn pods_of_an_earlier_daemon_are_forgotten(lab: &mut Lab) {
    let stranger = u64::MAX;
    let entry = PodEntry {
        id: PodId::namespace(stranger),
        exclusions: Exclusions {
            exclude_ports: vec![22],
            ..Exclusions::default()
        },
        ..lab.pod.clone()
    };
    lab.upsert(&entry);
    lab.crash();
    lab.open();
    lab.kernel.attach().expect("the swap");
    lab.sync(&lab.view());
    lab.register();
    let pods = aya::maps::MapData::from_pin(maps_dir(lab).join("PODS"));
    let pods = aya::maps::Map::HashMap(pods.expect("it is pinned"));
    let pods = aya::maps::HashMap::<_, u64, proxy_common::pod::PodValue>::try_from(pods);
    let pods = pods.expect("the shape of PODS");
    let has = |cookie: u64| pods.get(&cookie, 0).is_ok();
    assert!(
        has(stranger),
        "not at once: pods need a moment to be named again"
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    while has(stranger) && Instant::now() < deadline {
        lab.kernel.sweep_original_dsts().expect("the sweep");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(!has(stranger));
    assert!(has(lab.netns.0));
}
