//! The real object on a throw-away cgroup and namespace, with real sockets: the hit and the miss
//! of each rule. Needs root and the object of `cargo xtask build`; skips loudly without.

mod bounds;
mod host_pods;
mod lab;
mod shapes;

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use lab::{Lab, VIP4, VIP6, counted, dial, dial_from, reply};
use proxy_common::{
    addr::{Addr, Family, PortBe},
    pod::PodId,
    reason::Reason,
    socket::{OriginalDstKey, OriginalDstValue, SocketState},
};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::*;
use crate::net::{Accepted, CapturedDst, OriginalDst, OriginalDstSource};

/// One rule, tried on the lab.
type Check = fn(&mut Lab);

/// Everything in one test, in a process of its own: a process is in one cgroup at a time, and
/// what other tests dial meanwhile would be counted.
#[test]
fn each_rule_in_a_real_kernel_with_its_hit_and_its_miss() {
    if !lab::can_run()
        || !lab::is_alone("kernel::tests::each_rule_in_a_real_kernel_with_its_hit_and_its_miss")
    {
        return;
    }
    lab::in_new_namespace(|| {
        let mut lab = Lab::new("rules");
        let checks: &[(&str, Check)] = &[
            ("misses pass", misses_pass),
            (
                "destinations are found",
                captured_connections_find_their_destination,
            ),
            ("mapped sockets are v4", mapped_sockets_are_v4),
            ("the own listener is refused", own_listener_is_refused),
            ("never captured", sockets_that_are_never_captured_pass),
            ("chosen sources", chosen_sources_are_kept),
            ("exclusions", exclusions_pass),
            (
                "the kernel path",
                the_kernel_path_follows_weights_and_hides_itself,
            ),
            ("refusals", nothing_to_connect_to_is_refused),
            ("networks", shapes::networks_and_ports_are_found),
            ("scopes", shapes::a_scope_sees_its_own),
            ("way out", shapes::a_family_without_a_route_fails_by_itself),
            ("host pods", host_pods::host_pods_are_found_by_their_cgroup),
            (
                "the host guard",
                host_pods::rules_lead_host_pods_to_nothing_of_the_host,
            ),
            (
                "strangers on the host",
                host_pods::strangers_on_the_host_find_nobodys_destination,
            ),
            ("not ready", shapes::strict_refuses_pods_that_are_not_ready),
            ("v6 and options", shapes::ipv6_keepalive_and_ports),
            ("daemons", shapes::the_oldest_daemon_makes_room),
            ("strangers", shapes::pods_of_an_earlier_daemon_are_forgotten),
            ("layouts", shapes::other_layouts_are_dropped),
            ("flows", flows_count_payload_exactly),
            ("live flows", live_flows_and_counts_agree),
            ("degraded forms", dead_full_and_silent_proxies_degrade),
            ("sweep", abandoned_destinations_are_swept),
            ("the programs' log", bounds::a_full_map_is_told_in_the_log),
            (
                "handshakes",
                bounds::a_pod_with_too_many_handshakes_degrades,
            ),
            ("adoption", pins_outlive_the_daemon_and_are_adopted),
            ("staleness", stale_maps_pass),
            ("cleanup", cleanup_leaves_nothing),
            ("a new cgroup", a_cgroup_that_is_made_anew_is_attached_again),
        ];
        // All of them, so that one run shows everything that is wrong.
        let mut failed = Vec::new();
        for (name, check) in checks {
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&mut lab)));
            if outcome.is_err() {
                failed.push(*name);
                lab.drain();
            }
        }
        drop(lab);
        assert!(failed.is_empty(), "failed: {failed:?}");
    });
}

fn misses_pass(lab: &mut Lab) {
    lab.sync(&lab.view());
    let before = lab.reasons();
    assert_eq!(reply(dial("10.0.0.20:81")), "direct");
    assert_eq!(counted(lab, &before), [Reason::NoService]);
    // A pod that is not known passes, also to what is a service for others.
    lab.kernel.remove_pod(lab.pod.id).expect("the pod goes");
    let before = lab.reasons();
    assert_eq!(reply(dial("10.0.0.20:80")), "direct");
    assert_eq!(counted(lab, &before), [Reason::PodUnknown]);
    lab.register();
}

fn captured_connections_find_their_destination(lab: &mut Lab) {
    for (vip, own, listener) in [
        (VIP4, "10.0.0.9", &lab.listener_v4),
        (VIP6, "fd00::9", &lab.listener_v6),
    ] {
        let dialled: SocketAddr = SocketAddr::new(vip.parse().expect("an address"), 80);
        let client = TcpStream::connect(dialled).expect("captured");
        assert_eq!(client.peer_addr().expect("a peer"), dialled);
        let local = client.local_addr().expect("a name");
        assert_eq!(local.ip(), own.parse::<IpAddr>().expect("an address"));
        let (_, peer) = listener.accept().expect("it queued");
        assert!(
            peer.ip().is_loopback() && peer.port() == local.port(),
            "{peer}"
        );
        let taken = lab.take(peer);
        assert_eq!(
            taken.map(|captured| captured.dst),
            Some(OriginalDst(dialled))
        );
        // Taken once.
        assert_eq!(lab.take(peer), None);
    }
    // One that sends and closes before it is accepted keeps its destination; TCP fast open and
    // non-blocking clients run the same hook.
    let mut client = TcpStream::connect((VIP4, 80)).expect("captured");
    client.write_all(b"hello").expect("it queues");
    drop(client);
    thread::sleep(Duration::from_millis(50));
    let (mut stream, peer) = lab.listener_v4.accept().expect("it queued");
    assert!(lab.take(peer).is_some());
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("its bytes wait");
    assert_eq!(text, "hello");

    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("a flag");
    let started = socket.connect(&lab::sock_addr("10.96.0.1:80"));
    assert_eq!(
        started.expect_err("it goes on").raw_os_error(),
        Some(libc::EINPROGRESS)
    );
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert!(lab.take(peer).is_some());

    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    lab::send_fast_open(&socket, "10.96.0.1:80");
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert!(lab.take(peer).is_some());
}

fn mapped_sockets_are_v4(lab: &mut Lab) {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
    socket
        .connect(&lab::sock_addr("[::ffff:10.96.0.1]:80"))
        .expect("captured");
    let peer = socket
        .peer_addr()
        .expect("a peer")
        .as_socket()
        .expect("an address");
    assert_eq!(peer.to_string(), "[::ffff:10.96.0.1]:80");
    let local = socket
        .local_addr()
        .expect("a name")
        .as_socket()
        .expect("an address");
    assert_eq!(local.ip().to_string(), "::ffff:10.0.0.9");
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert!(lab.take(peer).is_some());
}

fn own_listener_is_refused(lab: &mut Lab) {
    let port = lab.pod.listener_v4.expect("a port");
    let before = lab.reasons();
    for address in [
        format!("127.0.0.1:{port}"),
        format!("0.0.0.0:{port}"),
        format!("[::1]:{port}"),
    ] {
        let error = TcpStream::connect(&*address).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{address}");
    }
    assert_eq!(counted(lab, &before), [Reason::OwnListener; 3]);
    // Other loopback ports are the application's.
    let own = TcpListener::bind("127.0.0.1:0").expect("a port");
    TcpStream::connect(own.local_addr().expect("a name")).expect("passes");
}

fn sockets_that_are_never_captured_pass(lab: &mut Lab) {
    let before = lab.reasons();
    let udp = UdpSocket::bind("0.0.0.0:0").expect("a port");
    udp.connect((VIP4, 80)).expect("UDP passes");
    assert_eq!(counted(lab, &before), [Reason::NotTcp]);

    let before = lab.reasons();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind_device(Some(b"lo")).expect("root may");
    socket
        .connect_timeout(&lab::sock_addr("10.0.0.20:80"), Duration::from_secs(2))
        .expect("passes");
    assert_eq!(counted(lab, &before), [Reason::BoundDevice]);

    for (address, reason) in [
        ("10.0.0.9:80", Reason::OwnAddress),
        ("127.0.0.2:9", Reason::Loopback),
        ("169.254.169.254:80", Reason::LinkLocal),
        ("0.0.0.0:9", Reason::Unspecified),
    ] {
        let before = lab.reasons();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let _ = socket.connect_timeout(&lab::sock_addr(address), Duration::from_millis(50));
        assert_eq!(counted(lab, &before), [reason], "{address}");
    }

    let before = lab.reasons();
    lab.kernel.register_daemon(lab.cgroup_id).expect("room");
    assert_eq!(reply(dial("10.0.0.20:80")), "direct");
    lab.kernel
        .unregister_daemon(lab.cgroup_id)
        .expect("it goes");
    assert_eq!(counted(lab, &before), [Reason::Daemon]);

    // IPPROTO_MPTCP; its first subflow says protocol 6 to the hook.
    match Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) {
        Ok(socket) => {
            let before = lab.reasons();
            socket
                .connect(&lab::sock_addr("10.0.0.20:80"))
                .expect("passes");
            let peer = socket
                .peer_addr()
                .expect("a peer")
                .as_socket()
                .expect("an address");
            assert_eq!(peer.to_string(), "10.0.0.20:80");
            assert_eq!(counted(lab, &before), [Reason::Mptcp]);
        }
        Err(error) => eprintln!("skipped: this kernel has no MPTCP: {error}"),
    }
}

fn chosen_sources_are_kept(lab: &mut Lab) {
    let client = dial_from("10.0.0.9:0", "10.96.0.1:80").expect("captured");
    let local = client.local_addr().expect("a name");
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    // The proxy sees the address that the application chose.
    assert_eq!(peer, local);
    assert!(lab.take(peer).is_some());
    // A second connection from the same source to another destination would have the same tuple
    // towards the listener.
    let before = lab.reasons();
    let second = dial_from(&local.to_string(), "10.0.0.20:80").expect("passes");
    assert_eq!(counted(lab, &before), [Reason::SourceTaken]);
    assert_eq!(reply(Ok(second)), "direct");
}

fn exclusions_pass(lab: &mut Lab) {
    for (exclusions, reason) in [
        (
            Exclusions {
                exclude_ports: vec![80],
                ..Exclusions::default()
            },
            Reason::Excluded,
        ),
        (
            Exclusions {
                exclude_ports: vec![81],
                ..Exclusions::default()
            },
            Reason::ProxyPath,
        ),
        (
            Exclusions {
                exclude_ranges: vec!["10.0.0.16/28".parse().expect("a network")],
                ..Exclusions::default()
            },
            Reason::Excluded,
        ),
        (
            Exclusions {
                include_ranges: Some(vec!["10.96.0.0/16".parse().expect("a network")]),
                ..Exclusions::default()
            },
            Reason::Excluded,
        ),
        (
            Exclusions {
                include_ranges: Some(vec!["10.0.0.0/8".parse().expect("a network")]),
                ..Exclusions::default()
            },
            Reason::ProxyPath,
        ),
    ] {
        lab.upsert(&PodEntry {
            exclusions: exclusions.clone(),
            ..lab.pod.clone()
        });
        let before = lab.reasons();
        let client = dial("10.0.0.20:80");
        assert_eq!(counted(lab, &before), [reason], "{exclusions:?}");
        if reason == Reason::ProxyPath {
            let (_, peer) = lab.listener_v4.accept().expect("it queued");
            assert!(lab.take(peer).is_some());
        } else {
            assert_eq!(reply(client), "direct");
        }
    }
    lab.upsert(&lab.pod);
}

fn the_kernel_path_follows_weights_and_hides_itself(lab: &mut Lab) {
    let mut counts = [0, 0];
    for _ in 0..1000 {
        let client = dial("10.96.0.2:80");
        let peer = client
            .as_ref()
            .expect("connected")
            .peer_addr()
            .expect("a peer");
        assert_eq!(peer.to_string(), "10.96.0.2:80");
        match reply(client).as_str() {
            "v1" => counts[0] += 1,
            "v2" => counts[1] += 1,
            other => panic!("neither version: {other}"),
        }
    }
    // 80/20 over 1,000: 4.5 standard deviations are 57.
    assert!((743..=857).contains(&counts[0]), "{counts:?}");
    // A v4-mapped socket takes the same path.
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
    socket
        .connect(&lab::sock_addr("[::ffff:10.96.0.2]:80"))
        .expect("connected");
    assert!(["v1", "v2"].contains(&reply(Ok(socket.into())).as_str()));
    // IPv6 has no endpoint there, so the proxy takes it.
    let before = lab.reasons();
    let _client = dial("[fd00:96::2]:80").expect("captured");
    let (_, peer) = lab.listener_v6.accept().expect("it queued");
    assert!(lab.take(peer).is_some());
    assert_eq!(
        counted(lab, &before),
        [Reason::ProxyPath, Reason::OtherFamily]
    );
}

fn nothing_to_connect_to_is_refused(lab: &mut Lab) {
    for (address, reason) in [
        ("10.96.0.3:80", Reason::NoEndpoint),
        ("10.96.0.4:80", Reason::RefusedByRule),
    ] {
        let before = lab.reasons();
        let error = dial(address).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{address}");
        assert_eq!(counted(lab, &before), [reason], "{address}");
    }
    let mut view = lab.view();
    view.scopes[0].is_registry_only = true;
    lab.sync(&view);
    let before = lab.reasons();
    assert_eq!(
        dial("10.0.0.20:81").expect_err("refused").kind(),
        io::ErrorKind::ConnectionRefused
    );
    assert_eq!(counted(lab, &before), [Reason::RegistryOnly]);
    lab.sync(&lab.view());
}

fn flows_count_payload_exactly(lab: &mut Lab) {
    let mut events = lab.kernel.take_flow_events().expect("the first reader");
    assert!(lab.kernel.take_flow_events().is_none());
    while events.next_flow().is_some() {}
    let mut client = dial("10.96.0.5:7").expect("connected");
    client.write_all(&[7; 1000]).expect("sent");
    client
        .shutdown(std::net::Shutdown::Write)
        .expect("half closed");
    let mut back = Vec::new();
    client.read_to_end(&mut back).expect("echoed");
    assert_eq!(back.len(), 1000);
    let local = client.local_addr().expect("a name");
    drop(client);
    let mut flows = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(5);
    while flows.len() < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
        flows.extend(std::iter::from_fn(|| events.next_flow()));
    }
    let [opened, closed] = &flows[..] else {
        panic!("two flows: {flows:?}")
    };
    assert_eq!(
        (opened.kind, closed.kind),
        (FlowKind::Opened, FlowKind::Closed)
    );
    assert_eq!((closed.sent_bytes, closed.received_bytes), (1000, 1000));
    assert_eq!(closed.path, FlowPath::Kernel);
    assert_eq!(closed.client, local);
    assert_eq!(closed.original.to_string(), "10.96.0.5:7");
    assert_eq!(
        closed
            .endpoint
            .map(|endpoint| endpoint.to_string())
            .as_deref(),
        Some("10.0.0.13:7")
    );
    assert_eq!(closed.service.as_deref(), Some("echo"));
    assert_eq!(
        closed.cluster.as_ref().map(|cluster| &*cluster.name),
        Some("echo")
    );
    assert_eq!(closed.socket_cookie, opened.socket_cookie);

    let _ = dial("10.96.0.3:80").expect_err("refused");
    let refused = events.next_flow().expect("a record");
    assert_eq!(
        (refused.kind, refused.reason),
        (FlowKind::Refused, Reason::NoEndpoint)
    );
}

fn live_flows_and_counts_agree(lab: &mut Lab) {
    let mut clients: Vec<TcpStream> = (0..3)
        .map(|_| dial("10.96.0.5:7").expect("connected"))
        .collect();
    clients[0].write_all(&[1; 500]).expect("sent");
    clients[0].read_exact(&mut [0; 500]).expect("echoed");
    let flows = lab.kernel.live_flows().expect("the iterator runs");
    let own: Vec<_> = flows
        .iter()
        .filter(|flow| flow.state.path == SocketState::PATH_KERNEL)
        .collect();
    assert_eq!(own.len(), 3, "{flows:?}");
    assert_eq!(own.iter().map(|flow| flow.sent_bytes).max(), Some(500));
    assert_eq!(own.iter().map(|flow| flow.received_bytes).max(), Some(500));
    assert_eq!(lab.live_count(own[0].state.live_id), 3);
    let live_id = own[0].state.live_id;
    drop(clients);
    let deadline = Instant::now() + Duration::from_secs(5);
    while lab.live_count(live_id) != 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(lab.live_count(live_id), 0);
}

fn dead_full_and_silent_proxies_degrade(lab: &mut Lab) {
    // The service 10.0.0.20:80 degrades to pass, 10.96.0.6:80 to v1, 10.96.0.7:80 to deny.
    let check = |name: &str, beside: Reason| {
        for (address, reason) in [
            ("10.0.0.20:80", Reason::DegradedPass),
            ("10.96.0.6:80", Reason::DegradedKernel),
            ("10.96.0.7:80", Reason::DegradedDeny),
        ] {
            let before = lab.reasons();
            let client = dial(address);
            assert_eq!(counted(lab, &before), [reason, beside], "{name} {address}");
            match reason {
                Reason::DegradedPass => assert_eq!(reply(client), "direct"),
                Reason::DegradedKernel => assert_eq!(reply(client), "v1"),
                _ => assert_eq!(
                    client.expect_err("refused").kind(),
                    io::ErrorKind::ConnectionRefused
                ),
            }
        }
    };
    lab.kernel
        .remove_listener(lab.pod.id, Family::V4)
        .expect("it goes");
    check("gone", Reason::ListenerGone);
    for (on_proxy_down, reason) in [
        (OnProxyDown::Pass, Reason::DegradedPass),
        (OnProxyDown::Deny, Reason::DegradedDeny),
    ] {
        lab.upsert(&PodEntry {
            on_proxy_down,
            ..lab.pod.clone()
        });
        let before = lab.reasons();
        let _ = dial("10.0.0.20:80");
        assert_eq!(counted(lab, &before), [reason, Reason::ListenerGone]);
    }
    lab.upsert(&lab.pod);
    // A closed listener leaves the table by itself.
    let short_lived = TcpListener::bind("127.0.0.1:0").expect("a port");
    lab.kernel
        .set_listener(lab.pod.id, Family::V4, short_lived.as_fd())
        .expect("room");
    drop(short_lived);
    check("closed", Reason::ListenerGone);
    lab.kernel
        .set_listener(lab.pod.id, Family::V4, lab.listener_v4.as_fd())
        .expect("room");

    // The listener's backlog is 8: six wait, then it counts as full.
    let queued: Vec<TcpStream> = (0..6)
        .map(|_| dial("10.96.0.1:80").expect("it queues"))
        .collect();
    check("full", Reason::BacklogFull);
    for _ in &queued {
        let (_, peer) = lab.listener_v4.accept().expect("it queued");
        assert!(lab.take(peer).is_some());
    }
    drop(queued);

    let beating = lab.stop_heartbeat();
    thread::sleep(lab::HEARTBEAT_MAX + Duration::from_millis(50));
    check("silent", Reason::WorkerSilent);
    lab.start_heartbeat(beating);
    let _client = dial("10.96.0.1:80").expect("captured again");
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert!(lab.take(peer).is_some());
}

fn abandoned_destinations_are_swept(lab: &mut Lab) {
    let _client = dial("10.96.0.1:80").expect("captured");
    assert_eq!(
        lab.kernel.sweep_original_dsts().expect("the sweep"),
        0,
        "too young"
    );
    // Its listener is not known any more.
    lab.kernel.remove_pod(lab.pod.id).expect("the pod goes");
    assert_eq!(lab.kernel.sweep_original_dsts().expect("the sweep"), 1);
    lab.register();
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert_eq!(lab.take(peer), None);

    // An old one goes when two sweeps meet it while its worker runs.
    let mut entries = bounds::original_dsts(lab);
    let key = OriginalDstKey {
        netns_cookie: lab.netns.0,
        addr: Addr::LOOPBACK_V4,
        port: PortBe::from_host(46002),
        listener: PortBe::from_host(15001),
        reserved: 0,
    };
    let value = OriginalDstValue {
        pod: lab.pod.id,
        ..OriginalDstValue::default()
    };
    entries.insert(key, value, 0).expect("room");
    let beating = lab.stop_heartbeat();
    thread::sleep(lab::HEARTBEAT_MAX + Duration::from_millis(50));
    let swept = |lab: &Lab| lab.kernel.sweep_original_dsts().expect("the sweep");
    assert_eq!([swept(lab), swept(lab), swept(lab)], [0; 3], "it hangs");
    lab.start_heartbeat(beating);
    assert_eq!(swept(lab), 0, "it may still be accepted");
    assert_eq!(swept(lab), 1);
}

fn pins_outlive_the_daemon_and_are_adopted(lab: &mut Lab) {
    let view = lab.view();
    lab.sync(&view);
    lab.crash();
    // Nobody runs, and the kernel path goes on.
    assert!(["v1", "v2"].contains(&reply(dial("10.96.0.2:80")).as_str()));
    let ids = lab::pinned_link_ids(lab);
    lab.open();
    let report = lab.kernel.sync(&view);
    assert_eq!((report.written, report.removed), (0, 0), "{report:?}");
    lab.kernel.attach().expect("the swap");
    assert_eq!(
        lab::pinned_link_ids(lab),
        ids,
        "links are adopted, programs swapped"
    );
    lab.register();
    let _client = dial("10.96.0.1:80").expect("captured");
    let (_, peer) = lab.listener_v4.accept().expect("it queued");
    assert!(lab.take(peer).is_some());
    assert_eq!(
        lab.kernel.check_links().expect("the check"),
        LinkCheck::Attached
    );
}

fn stale_maps_pass(lab: &mut Lab) {
    lab.options.stale_after = Duration::from_millis(100);
    lab.crash();
    lab.open();
    lab.kernel.attach().expect("the swap");
    lab.register();
    lab.sync(&lab.view());
    lab.kernel.renew().expect("renewed");
    assert!(
        ["v1", "v2"].contains(&reply(dial("10.0.0.21:80")).as_str()),
        "fresh: the rule"
    );
    thread::sleep(Duration::from_millis(150));
    let before = lab.reasons();
    assert_eq!(
        reply(dial("10.0.0.21:80")),
        "direct",
        "stale: as Kubernetes routes it"
    );
    assert_eq!(counted(lab, &before), [Reason::Stale]);
    // Not routed by Kubernetes: the last endpoints are better than nothing.
    assert!(["v1", "v2"].contains(&reply(dial("10.96.0.2:80")).as_str()));
    lab.kernel.renew().expect("renewed");
    assert!(["v1", "v2"].contains(&reply(dial("10.0.0.21:80")).as_str()));
}

fn cleanup_leaves_nothing(lab: &mut Lab) {
    let pins = lab.options.pins.clone();
    lab.crash();
    assert!(cleanup(&pins).expect("cleanup") > 20);
    assert!(!pins.exists());
    assert_eq!(cleanup(&pins).expect("again"), 0);
    assert_eq!(reply(dial("10.0.0.20:80")), "direct");
}

fn a_cgroup_that_is_made_anew_is_attached_again(_: &mut Lab) {
    let options = lab::options("anew");
    std::fs::create_dir(&options.cgroup).expect("a cgroup");
    let kernel = Kernel::open(&options).expect("opened");
    kernel.attach().expect("attached");
    assert_eq!(
        kernel.check_links().expect("the check"),
        LinkCheck::Attached
    );
    std::fs::remove_dir(&options.cgroup).expect("gone");
    assert_eq!(
        kernel.check_links().expect("the check"),
        LinkCheck::NoCgroup
    );
    std::fs::create_dir(&options.cgroup).expect("anew");
    assert_eq!(
        kernel.check_links().expect("the check"),
        LinkCheck::Reattached(7)
    );
    assert_eq!(
        kernel.check_links().expect("the check"),
        LinkCheck::Attached
    );
    drop(kernel);
    cleanup(&options.pins).expect("cleanup");
    std::fs::remove_dir(&options.cgroup).expect("gone");
}

#[test]
fn the_object_has_every_program_and_map_by_name() {
    if !is_object_embedded() {
        eprintln!("SKIPPED: no eBPF object; run cargo xtask build");
        return;
    }
    for name in proxy_common::map::PINNED
        .iter()
        .chain(proxy_common::map::PROGRAMS)
    {
        // As a whole entry of the object's string table.
        let entry = [b"\0", name.as_bytes(), b"\0"].concat();
        let is_there = load::OBJECT
            .windows(entry.len())
            .any(|window| window == entry);
        assert!(is_there, "{name} is missing");
        assert!(name.len() <= 15, "bpftool cuts {name}");
    }
}

#[test]
fn a_missing_cgroup_is_named_in_the_error() {
    let options = KernelOptions {
        cgroup: "/nowhere/kubepods".into(),
        ..lab::options("missing")
    };
    let error = Kernel::open(&options)
        .err()
        .expect("no such directory")
        .to_string();
    assert!(error.contains("/nowhere/kubepods"), "{error}");
}
