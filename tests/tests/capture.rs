//! What capture must not change, and what it must: source addresses, the
//! addresses that applications see, pods that come and go, the in-pod listener.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use mizzen_tests::checks;
use mizzen_tests::fixture::{ECHO, Fixture, GET, Held, LIMITED, PLAIN, WEB};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{
    DaemonOptions, Driver, Families, Place, Placement, PodSpec, TcpState, wait_until,
};
use mizzen_tests::workload::tcp_client::Seen;

fn set_up() -> anyhow::Result<Fixture> {
    Fixture::start(Driver::Cgroupfs, &DaemonOptions::default())
}

fn the_upstream_sees_the_pods_own_address(it: &mut Fixture) -> anyhow::Result<()> {
    for is_v6 in [false, true] {
        let url = format!("http://{}/", it.vip("web", WEB, is_v6)?);
        let own = if is_v6 {
            it.client.address_v6().context("no v6")?
        } else {
            it.client.address()
        };
        let seen = it
            .client
            .workload(&["http-client", "--url", &url, "--show"])?;
        let peer = seen["answer"]["json"]["peer"].as_str().unwrap_or_default();
        let peer: SocketAddr = peer.parse().with_context(|| format!("{seen}"))?;
        // Pooled connections go to endpoints of either family, whatever the client dialled.
        assert!(
            it.client.addresses().contains(&peer.ip()),
            "HTTP by the proxy, {url}: {peer}"
        );
        let to = it.vip("limited", LIMITED, is_v6)?.to_string();
        let seen = it.client.dial(&["--to", &to, "--send", "?peer"])?;
        let peer = seen[0].reply.rsplit(' ').next().unwrap_or_default();
        let peer: SocketAddr = peer.parse().with_context(|| format!("{:?}", seen[0]))?;
        assert!(
            it.client.addresses().contains(&peer.ip()),
            "the TCP relay, {to}: {peer}"
        );
        let to = it.vip("echo", ECHO, is_v6)?.to_string();
        let seen = it.client.dial(&["--to", &to, "--send", "?peer"])?;
        assert!(
            seen[0].reply.contains(&own.to_string()),
            "the kernel path: {:?}",
            seen[0]
        );
    }
    Ok(())
}

/// Ports of both paths, dialled in every way, next to a pod that is not captured.
fn getpeername_and_getsockname_show_what_an_uncaptured_pod_sees(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    for (service, port, is_proxied) in [
        ("web", WEB, true),
        ("limited", LIMITED, true),
        ("echo", ECHO, false),
    ] {
        let send = if service == "web" { GET } else { "hello" };
        for (is_v6, extra) in [
            (false, vec![]),
            (true, vec![]),
            (false, vec!["--v4-mapped"]),
            (false, vec!["--mode", "nonblocking"]),
            (false, vec!["--mode", "fastopen"]),
        ] {
            let to = it.vip(service, port, is_v6)?.to_string();
            let mut args = vec!["--to", &to, "--send", send];
            args.extend(&extra);
            let captured = Held::dial(&it.client, &args)?;
            let plain = Held::dial(&it.stranger, &args)?;
            let what = format!("{service} {to} {extra:?}: {captured:?} beside {plain:?}");
            assert_eq!(captured.seen.error, "", "{what}");
            assert_eq!(captured.is_proxied(), is_proxied, "{what}");
            assert!(plain.goes_to(&to), "{what}");
            assert_eq!(captured.seen.peer, plain.seen.peer, "{what}");
            assert!(
                it.client.addresses().contains(&captured.local_ip()?),
                "{what}"
            );
            // Also the form is the same: an IPv6 socket sees mapped addresses.
            assert_eq!(
                captured.seen.local.contains("ffff"),
                plain.seen.local.contains("ffff"),
                "{what}"
            );
        }
    }
    Ok(())
}

fn a_process_outside_the_pods_cgroup_is_untouched(it: &mut Fixture) -> anyhow::Result<()> {
    let outside = Place {
        cgroup: it.lab.node_place().cgroup.clone(),
        ..it.client.place().clone()
    };
    for (service, port) in [("web", WEB), ("limited", LIMITED), ("echo", ECHO)] {
        let to = it.vip4(service, port)?;
        let send = if service == "web" { GET } else { "hello" };
        let held = Held::dial_at(&it.client, &outside, &["--to", &to, "--send", send])?;
        assert_eq!(held.seen.error, "", "{held:?}");
        assert!(held.goes_to(&to), "{service}: {held:?}");
    }
    Ok(())
}

fn a_service_that_no_istio_object_names_passes_untouched(it: &mut Fixture) -> anyhow::Result<()> {
    let to = it.vip4("plain", PLAIN)?;
    let held = Held::dial(&it.client, &["--to", &to])?;
    assert!(held.goes_to(&to), "{held:?}");
    assert!(it.split(&it.client, &to, 60)?.is_mixed());
    Ok(())
}

fn the_proxys_own_connections_go_straight_to_the_endpoint(it: &mut Fixture) -> anyhow::Result<()> {
    check_own_connections(it)
}

/// One proxied connection is two sockets of the pod: to the listener and to the endpoint.
fn check_own_connections(it: &Fixture) -> anyhow::Result<()> {
    let held = Held::dial(&it.client_v4, &["--to", &it.vip4("limited", LIMITED)?])?;
    assert!(held.is_proxied(), "{held:?}");
    let endpoints = [
        it.lab.pod("default", "limited-v1")?.address(),
        it.lab.pod("default", "limited-v2")?.address(),
    ];
    let sockets = it.client_v4.tcp_sockets()?;
    let upstream = sockets
        .iter()
        .filter(|entry| entry.state == TcpState::Established)
        .filter(|entry| endpoints.contains(&entry.remote.ip()) && entry.remote.port() == LIMITED)
        .count();
    assert_eq!(upstream, 1, "{sockets:?}");
    Ok(())
}

fn a_daemon_elsewhere_is_not_captured_either(it: &mut Fixture) -> anyhow::Result<()> {
    // Outside the pods' cgroup, in a pod with a private cgroup namespace, and back.
    for placement in [Placement::Node, Placement::PrivatePod, Placement::Pod] {
        it.daemon.terminate()?;
        it.daemon = it.lab.start_daemon(&DaemonOptions {
            placement,
            ..DaemonOptions::default()
        })?;
        it.wait_captured(&it.client_v4, Duration::from_secs(10))?;
        check_own_connections(it).with_context(|| format!("{placement:?}"))?;
        // A pod that comes now is found, too.
        let pod = it
            .lab
            .add_pod(PodSpec::new("default", "of-another-place"))?;
        it.wait_captured(&pod, Duration::from_secs(10))
            .with_context(|| format!("{placement:?}"))?;
        it.lab.remove_pod(&pod)?;
    }
    Ok(())
}

fn a_pod_that_starts_while_the_daemon_runs_is_captured_within_a_second(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    for index in 0..3 {
        let pod = it
            .lab
            .add_pod(PodSpec::new("default", &format!("late-{index}")))?;
        it.wait_captured(&pod, Duration::from_secs(1))?;
        it.lab.remove_pod(&pod)?;
    }
    Ok(())
}

fn a_pod_whose_first_instruction_is_connect_is_never_broken(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let web = it.vip4("web", WEB)?;
    let echo = it.vip4("echo", ECHO)?;
    for index in 0..20 {
        let (to, text) = if index % 2 == 0 {
            (&web, GET)
        } else {
            (&echo, "first")
        };
        let spec = PodSpec::new("default", &format!("first-{index}")).workload(&[
            "first-connect",
            to,
            text,
        ]);
        // Either order of the Pod object and the process happens on real nodes.
        let pod = if index % 4 < 2 {
            it.lab.add_pod(spec)?
        } else {
            let pod = it.lab.add_pod_unannounced(spec)?;
            it.lab.announce_pod(&pod)?;
            pod
        };
        let seen = wait_until("the first connection", Duration::from_secs(20), || {
            Ok(serde_json::from_str::<Seen>(pod.app_log().trim()).ok())
        })?;
        assert_eq!(seen.error, "", "{index}: {seen:?}");
        assert!(!seen.reply.is_empty(), "{index}: {seen:?}");
        it.lab.remove_pod(&pod)?;
    }
    Ok(())
}

/// What the daemon's file descriptors are, by kind.
fn descriptors(pid: u32) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = std::fs::read_link(entry?.path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        let kind = target
            .split([':', '['])
            .next()
            .unwrap_or_default()
            .to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    Ok(kinds)
}

fn after_100_pods_the_node_has_the_same_namespaces_sockets_and_descriptors(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let web = format!("http://{}/", it.vip4("web", WEB)?);
    let visit = |name: String| -> anyhow::Result<()> {
        let pod = it.lab.add_pod(PodSpec::new("default", &name))?;
        it.wait_captured(&pod, Duration::from_secs(10))?;
        assert_eq!(pod.ask(&["--url", &web, "-n", "2"])?.status(200), 2);
        it.lab.remove_pod(&pod)
    };
    // The first ones fill caches and pools that stay.
    for index in 0..3 {
        visit(format!("warm-{index}"))?;
    }
    // A namespace that is gone takes its end of the veth pair along.
    let devices = || -> anyhow::Result<usize> {
        Ok(it
            .lab
            .run_on_node(&["ip", "-o", "link"])?
            .ok()?
            .lines()
            .count())
    };
    // Pods that have just gone are forgotten within two seconds: two looks agree after that.
    let mut last = None;
    let (kinds, links) = wait_until("the node to settle", Duration::from_secs(30), || {
        let now = (descriptors(it.daemon.pid())?, devices()?);
        std::thread::sleep(Duration::from_millis(2500));
        let is_settled = last.as_ref() == Some(&now);
        last = Some(now.clone());
        Ok(is_settled.then_some(now))
    })?;
    for index in 0..100 {
        visit(format!("guest-{index}"))?;
    }
    wait_until("the node to be as before", Duration::from_secs(20), || {
        let now = (descriptors(it.daemon.pid())?, devices()?);
        anyhow::ensure!(now.1 <= links, "{} devices, {links} before", now.1);
        for (kind, count) in &now.0 {
            let before = kinds.get(kind).copied().unwrap_or(0);
            anyhow::ensure!(
                *count <= before,
                "{count} descriptors {kind}, {before} before"
            );
        }
        Ok(Some(()))
    })
}

fn a_direct_connection_to_the_listener_is_refused_from_any_port(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let outside = Place {
        cgroup: it.lab.node_place().cgroup.clone(),
        ..it.client.place().clone()
    };
    for (is_v6, loopback) in [(false, "127.0.0.1"), (true, "[::1]")] {
        let held = Held::dial(
            &it.client,
            &["--to", &it.vip("limited", LIMITED, is_v6)?.to_string()],
        )?;
        let listener = held.real.context("no socket")?.to_string();
        assert!(listener.starts_with(loopback), "{held:?}");
        let used = held.local_port()?;
        // A reset end leaves no TIME_WAIT: its port is free for the next socket at once.
        drop(held);
        for place in [it.client.place(), &outside] {
            let bound = format!("{loopback}:{used}");
            for extra in [vec![], vec!["--bind", &bound]] {
                let mut args = vec!["--to", &listener, "--send", "hello"];
                args.extend(&extra);
                let seen = Held::dial_at(&it.client, place, &args)?.seen;
                assert_eq!(seen.reply, "", "{args:?}: {seen:?}");
                assert_ne!(seen.error, "", "{args:?}: {seen:?}");
                if place == it.client.place() {
                    assert!(seen.error.contains("refused"), "{args:?}: {seen:?}");
                }
            }
        }
    }
    Ok(())
}

fn one_that_sends_and_closes_before_the_proxy_accepts_is_delivered(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let to = it.vip4("limited", LIMITED)?;
    for round in 0..5 {
        let line = format!("parting-{round}-#");
        it.daemon.freeze()?;
        let seen = it
            .client
            .dial(&["--to", &to, "--send", &line, "--no-read", "-n", "5"]);
        it.daemon.thaw()?;
        assert!(seen?.iter().all(|seen| seen.error.is_empty()));
        let servers = [
            it.lab.pod("default", "limited-v1")?,
            it.lab.pod("default", "limited-v2")?,
        ];
        for number in 0..5 {
            let ask = format!("?seen parting-{round}-{number}");
            wait_until("the line to arrive", Duration::from_secs(10), || {
                for server in &servers {
                    let to = format!("{}:{LIMITED}", server.address());
                    let seen = it.stranger.dial(&["--to", &to, "--send", &ask])?;
                    if seen[0].reply.ends_with("true") {
                        return Ok(Some(()));
                    }
                }
                Ok(None)
            })?;
        }
    }
    Ok(())
}

fn half_close_and_reset_are_carried_through_the_proxy(it: &mut Fixture) -> anyhow::Result<()> {
    let to = it.vip4("limited", LIMITED)?;
    let seen = it.client.dial(&["--to", &to, "--half-close"])?;
    assert!(seen[0].reply.contains("got 6 bytes"), "{:?}", seen[0]);
    let seen = it.client.dial(&["--to", &to, "--send", "?reset"])?;
    assert!(
        seen[0].error.to_lowercase().contains("reset"),
        "{:?}",
        seen[0]
    );
    Ok(())
}

fn a_pod_of_both_families_and_a_v4_pod_are_routed_alike(it: &mut Fixture) -> anyhow::Result<()> {
    for pod in [&it.client, &it.client_v4] {
        for (version, header) in [("v1", "x-none: 1"), ("v2", "x-version: v2")] {
            let url = format!("http://web:{WEB}/");
            let seen = pod.ask(&["--url", &url, "-n", "20", "-H", header])?;
            assert_eq!(seen.from(&format!("web {version}")), 20, "{seen:?}");
        }
        assert!(it.split(pod, &it.vip4("echo", ECHO)?, 40)?.is_all_v1());
    }
    let v6 = it.vip("echo", ECHO, true)?.to_string();
    assert!(it.split(&it.client, &v6, 40)?.is_all_v1());
    let only_v6 = it
        .lab
        .add_pod(PodSpec::new("default", "only-v6").families(Families::V6))?;
    wait_until(
        "the IPv6 pod to be captured",
        Duration::from_secs(10),
        || Ok(it.split(&only_v6, &v6, 20)?.is_all_v1().then_some(())),
    )?;
    it.lab.remove_pod(&only_v6)
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            the_upstream_sees_the_pods_own_address,
            getpeername_and_getsockname_show_what_an_uncaptured_pod_sees,
            a_process_outside_the_pods_cgroup_is_untouched,
            a_service_that_no_istio_object_names_passes_untouched,
            the_proxys_own_connections_go_straight_to_the_endpoint,
            a_pod_of_both_families_and_a_v4_pod_are_routed_alike,
            a_direct_connection_to_the_listener_is_refused_from_any_port,
            one_that_sends_and_closes_before_the_proxy_accepts_is_delivered,
            half_close_and_reset_are_carried_through_the_proxy,
            a_pod_that_starts_while_the_daemon_runs_is_captured_within_a_second,
            a_pod_whose_first_instruction_is_connect_is_never_broken,
            after_100_pods_the_node_has_the_same_namespaces_sockets_and_descriptors,
            a_daemon_elsewhere_is_not_captured_either,
        ],
    )
}
