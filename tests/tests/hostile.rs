//! Pods that do what they like, on purpose or by accident.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use mizzen_tests::checks;
use mizzen_tests::fixture::{ECHO, Fixture, GET, Held, LIMITED, WEB};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{DaemonOptions, Driver, Families, PodSpec, wait_until};

fn set_up() -> anyhow::Result<Fixture> {
    Fixture::start(Driver::Systemd, &DaemonOptions::default())
}

fn a_pod_that_holds_the_capture_port_is_captured_by_another(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let spec = PodSpec::new("default", "squatter")
        .families(Families::Dual)
        .workload(&["tcp-echo", "--prefix", "own", "--ports", "15001"]);
    // Unannounced, so that it has the port before Mizzen looks for it.
    let pod = it.lab.add_pod_unannounced(spec)?;
    pod.wait_listening(15001)?;
    it.lab.announce_pod(&pod)?;
    it.wait_captured(&pod, Duration::from_secs(10))?;
    for is_v6 in [false, true] {
        let to = it.vip("web", WEB, is_v6)?.to_string();
        let held = Held::dial(&pod, &["--to", &to, "--send", GET])?;
        assert_eq!(held.seen.error, "", "{held:?}");
        assert!(held.is_proxied(), "{held:?}");
        let listener = held.real.context("no socket")?;
        assert_ne!(listener.port(), 15001, "{held:?}");
    }
    for to in ["127.0.0.1:15001", "[::1]:15001"] {
        let seen = pod.dial(&["--to", to])?;
        assert!(seen[0].reply.starts_with("own"), "{to}: {:?}", seen[0]);
    }
    it.lab.remove_pod(&pod)
}

fn pods_that_go_amid_their_connections_leave_no_namespace(it: &mut Fixture) -> anyhow::Result<()> {
    let counts = || -> anyhow::Result<(usize, usize)> {
        let devices = it.lab.run_on_node(&["ip", "-o", "link"])?.ok()?;
        let files = std::fs::read_dir(format!("/proc/{}/fd", it.daemon.pid()))?;
        Ok((devices.lines().count(), files.count()))
    };
    // Entries of each eBPF map, but for what live connections and edits move.
    let entries = || -> anyhow::Result<BTreeMap<String, u64>> {
        let maps = it.daemon.cli_json(&["get", "maps"])?;
        let maps = maps.as_array().context("no list of maps")?.iter();
        Ok(maps
            .filter_map(|map| Some((map["name"].as_str()?.to_owned(), map["entries"].as_u64()?)))
            .filter(|(name, _)| {
                ["PODS", "HOST_PODS", "LISTENERS", "EXCLUSIONS", "SCOPES"].contains(&name.as_str())
            })
            .collect())
    };
    let slow = format!("http://{}/?delay_ms=60000", it.vip4("web", WEB)?);
    let limited = it.vip4("limited", LIMITED)?;
    let echo = it.vip4("echo", ECHO)?;
    let (before, entries_before) = (counts()?, entries()?);
    assert_eq!(entries_before.len(), 5, "{entries_before:?}");
    for index in 0..10 {
        let spec = PodSpec::new("default", &format!("busy-{index}"))
            .annotation("traffic.sidecar.istio.io/excludeOutboundPorts", "5432,6379");
        let pod = it.lab.add_pod(spec)?;
        it.wait_captured(&pod, Duration::from_secs(10))?;
        let relay = Held::dial(&pod, &["--to", &limited])?;
        let kernel = Held::dial(&pod, &["--to", &echo])?;
        assert!(
            relay.is_proxied() && relay.seen.error.is_empty(),
            "{relay:?}"
        );
        assert_eq!(kernel.seen.error, "", "{kernel:?}");
        // A request on its way, and a client that has stopped reading.
        let request = pod.spawn_workload("slow", &["http-client", "--url", &slow])?;
        relay.process.signal(rustix::process::Signal::STOP)?;
        wait_until("the request", Duration::from_secs(10), || {
            let connections = it.daemon.cli(&["get", "connections"])?.ok()?;
            let own = format!("default/busy-{index}");
            Ok((connections.matches(&own).count() >= 2).then_some(()))
        })?;
        it.lab.remove_pod(&pod)?;
        drop((relay, kernel, request));
    }
    wait_until("all of it to go", Duration::from_secs(15), || {
        let now = counts()?;
        anyhow::ensure!(now.0 <= before.0, "{} devices, {} before", now.0, before.0);
        anyhow::ensure!(
            now.1 <= before.1 + 2,
            "{} files, {} before",
            now.1,
            before.1
        );
        Ok(Some(()))
    })
}

fn a_way_out_that_comes_and_goes_is_followed(it: &mut Fixture) -> anyhow::Result<()> {
    let port = WEB.to_string();
    let args = ["http", "--name", "outside", "--port", &port];
    let outside = PodSpec::new("default", "outside").external();
    let outside = it
        .lab
        .add_pod(outside.families(Families::Dual).workload(&args))?;
    outside.wait_listening(WEB)?;
    let to = outside.address_v6().context("no IPv6 address")?;
    let to = SocketAddr::new(to, WEB).to_string();
    let pod = it.lab.add_pod(PodSpec::new("default", "late-v6"))?;
    it.wait_captured(&pod, Duration::from_secs(10))?;
    let get = format!("GET / HTTP/1.1\r\nhost: {to}\r\n\r");
    let dial = || Held::dial(&pod, &["--to", &to, "--send", &get]);
    let without = dial()?;
    assert!(without.seen.error.contains("unreachable"), "{without:?}");
    for command in [
        "ip addr add fd00:244::7777/64 dev eth0 nodad",
        "ip route add ::/0 via fd00:244::1",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        pod.run(&words)?.ok()?;
    }
    wait_until("the new way out", Duration::from_secs(10), || {
        let held = dial()?;
        assert_eq!(held.seen.error, "", "{held:?}");
        Ok(held.is_proxied().then_some(()))
    })?;
    pod.run(&["ip", "route", "del", "::/0", "via", "fd00:244::1"])?
        .ok()?;
    wait_until("no way out", Duration::from_secs(10), || {
        Ok(dial()?.seen.error.contains("unreachable").then_some(()))
    })?;
    it.lab.remove_pod(&pod)
}

fn a_pod_that_uses_up_its_connections_is_named_while_it_does(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let pod = it
        .lab
        .add_pod_unannounced(PodSpec::new("default", "crowded"))?;
    let range = "echo 40000 40099 > /proc/sys/net/ipv4/ip_local_port_range";
    pod.run(&["sh", "-c", range])?.ok()?;
    it.lab.announce_pod(&pod)?;
    it.wait_captured(&pod, Duration::from_secs(10))?;
    let named = |it: &Fixture| -> anyhow::Result<bool> {
        let findings = it.daemon.cli(&["get", "findings"])?.ok()?;
        let mut lines = findings.lines();
        Ok(lines.any(|line| line.contains("crowded") && line.contains("of the 100 captured")))
    };
    let limited = it.vip4("limited", LIMITED)?;
    let hold = |number: &str| -> anyhow::Result<_> {
        let args = ["tcp-client", "--to", &limited, "-n", number, "--hold"];
        let process = pod.spawn_workload("hold", &args)?;
        let seen: Vec<mizzen_tests::workload::tcp_client::Seen> = process.wait_json()?;
        let failed: Vec<_> = seen.iter().filter(|it| !it.error.is_empty()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        Ok(process)
    };
    let most = hold("60")?;
    wait_until("the gauge to follow", Duration::from_secs(10), || {
        let open = it
            .daemon
            .metric("mizzen_captured_connections", &["crowded"])?;
        Ok((open >= 60.0).then_some(()))
    })?;
    assert!(!named(it)?, "60 of 100 are no reason");
    let rest = hold("24")?;
    wait_until("the finding", Duration::from_secs(10), || {
        Ok(named(it)?.then_some(()))
    })?;
    drop(rest);
    wait_until("the finding to go", Duration::from_secs(10), || {
        Ok((!named(it)?).then_some(()))
    })?;
    drop(most);
    it.lab.remove_pod(&pod)
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            a_pod_that_holds_the_capture_port_is_captured_by_another,
            pods_that_go_amid_their_connections_leave_no_namespace,
            a_way_out_that_comes_and_goes_is_followed,
            a_pod_that_uses_up_its_connections_is_named_while_it_does,
        ],
    )
}
