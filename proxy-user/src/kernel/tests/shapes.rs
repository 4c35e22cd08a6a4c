//! What can be found and how: networks, ports, scopes, families, options, earlier daemons.

use super::{
    bounds::maps_dir,
    lab::{Lab, cluster, counted, dial, reply},
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

pub(super) fn to_cluster(index: usize) -> KernelPlan {
    let entry = SplitEntry {
        weight: 1,
        target: SplitTarget::Cluster(index),
    };
    plan(KernelAction::Split([entry].into()))
}

pub(super) fn service(key: KernelKey, plan: Option<KernelPlan>) -> KernelService {
    KernelService {
        key,
        name: "shaped".into(),
        plan,
        is_routed_by_kubernetes: false,
    }
}

pub(super) fn exact(address: &str, port: u16) -> KernelKey {
    KernelKey::Exact(address.parse().expect("an address"), port)
}

pub(super) fn with(lab: &Lab, services: Vec<KernelService>) -> KernelView {
    KernelView {
        services,
        ..lab.view()
    }
}

/// What one connection was counted as.
pub(super) fn reason(lab: &Lab, address: &str) -> Vec<Reason> {
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
