//! Host-network pods under `captureHostNetwork`: told apart by their cgroups, served by listeners
//! of their own, over crashes and upgrades.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mizzen_tests::checks;
use mizzen_tests::fixture::{ECHO, Fixture, GET, Held, LIMITED, PLAIN, Split, WEB};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{DaemonOptions, Driver, Place, Pod, PodSpec, wait_until};
use mizzen_tests::workload::outcome::Summary;
use mizzen_tests::workload::tcp_client::Seen;

const LIMIT: Duration = Duration::from_secs(10);

/// What only pods of namespace `second` see: all of `plain` goes to v2 there.
const SECOND: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain, namespace: second}
spec:
  host: plain.default.svc.cluster.local
  exportTo: [\".\"]
  subsets:
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: plain, namespace: second}
spec:
  hosts: [plain.default.svc.cluster.local]
  exportTo: [\".\"]
  tcp:
  - route:
    - destination: {host: plain.default.svc.cluster.local, subset: v2}
";

fn options() -> DaemonOptions {
    DaemonOptions {
        settings: "captureHostNetwork: true\nworkers: 2\n".to_owned(),
        ..DaemonOptions::default()
    }
}

fn set_up() -> anyhow::Result<Fixture> {
    let fixture = Fixture::start(Driver::Cgroupfs, &options())?;
    fixture.lab.write_config("second.yaml", SECOND)?;
    for (namespace, name) in [("default", "host-a"), ("second", "host-b")] {
        let pod = fixture
            .lab
            .add_pod(PodSpec::new(namespace, name).host_network())?;
        fixture.wait_captured(&pod, LIMIT)?;
    }
    Ok(fixture)
}

/// The two pods of the set-up.
fn host_pods(it: &Fixture) -> anyhow::Result<[Arc<Pod>; 2]> {
    Ok([
        it.lab.pod("default", "host-a")?,
        it.lab.pod("second", "host-b")?,
    ])
}

fn ask(pod: &Pod, url: &str, args: &[&str]) -> anyhow::Result<Summary> {
    let mut all = vec!["--url", url];
    all.extend(args);
    pod.ask(&all)
}

/// The source address of a process on the node that dials an endpoint of `limited` itself.
fn source_towards(it: &Fixture, pod: &Pod, port: u16) -> anyhow::Result<String> {
    let endpoint = it.lab.pod("default", "limited-v1")?.address();
    let on_node = Place {
        cgroup: it.lab.node_place().cgroup.clone(),
        ..pod.place().clone()
    };
    let to = format!("{endpoint}:{port}");
    let held = Held::dial_at(pod, &on_node, &["--to", &to, "--send", "?peer"])?;
    Ok(held.local_ip()?.to_string())
}

fn host_pods_are_captured_on_both_paths(it: &mut Fixture) -> anyhow::Result<()> {
    let v1 = it.lab.pod("default", "echo-v1")?.address();
    let mut listeners = Vec::new();
    for pod in host_pods(it)? {
        let node = pod.address().to_string();
        // HTTP, by a header.
        for (header, expected) in [("x-version: v2", "web v2"), ("x-other: v2", "web v1")] {
            let url = format!("http://{}/", it.vip4("web", WEB)?);
            let seen = ask(&pod, &url, &["-n", "10", "-H", header])?;
            assert_eq!(seen.from(expected), 10, "{header}: {seen:?}");
        }
        // TCP in the kernel.
        let echo = it.vip4("echo", ECHO)?;
        let held = Held::dial(&pod, &["--to", &echo])?;
        assert!(held.goes_to(&format!("{v1}:{ECHO}")), "{held:?}");
        assert!(it.split(&pod, &echo, 40)?.is_all_v1());
        // TCP through the proxy; the pod sees what it dialled and the node's own address.
        let limited = it.vip4("limited", LIMITED)?;
        let held = Held::dial(&pod, &["--to", &limited, "--send", "?peer"])?;
        assert!(held.is_proxied(), "{held:?}");
        assert_eq!(held.seen.peer, limited, "{held:?}");
        assert_eq!(held.local_ip()?.to_string(), node, "{held:?}");
        // Upstream it has the address that the host's routes give it.
        let source = source_towards(it, &pod, LIMITED)?;
        assert!(held.seen.reply.contains(&source), "{source}: {held:?}");
        listeners.push(held.real.context("no socket")?);
    }
    assert_ne!(listeners[0], listeners[1], "one listener for two pods");
    Ok(())
}

fn both_families_and_every_kind_of_client_are_captured(it: &mut Fixture) -> anyhow::Result<()> {
    let spec = PodSpec::new("default", "host-dual").host_network();
    let pod = it
        .lab
        .add_pod(spec.families(mizzen_tests::lab::Families::Dual))?;
    it.wait_captured(&pod, LIMIT)?;
    for is_v6 in [false, true] {
        let to = it.vip("web", WEB, is_v6)?.to_string();
        let held = Held::dial(&pod, &["--to", &to, "--send", GET])?;
        assert!(held.is_proxied() && held.seen.error.is_empty(), "{held:?}");
    }
    let limited = it.vip4("limited", LIMITED)?;
    for extra in [
        &["--mode", "nonblocking"][..],
        &["--mode", "fastopen"],
        &["--v4-mapped"],
        &["--bind", "192.168.100.1:0"],
    ] {
        let mut args = vec!["--to", limited.as_str(), "-n", "10"];
        args.extend(extra);
        let split = Split::of(&pod.dial(&args)?);
        assert_eq!(split.failed, 0, "{extra:?}: {split:?}");
    }
    it.lab.remove_pod(&pod)
}

fn two_pods_of_one_namespace_see_what_their_scopes_see(it: &mut Fixture) -> anyhow::Result<()> {
    let plain = it.vip4("plain", PLAIN)?;
    let [first, second] = host_pods(it)?;
    for _ in 0..3 {
        let (a, b) = (
            it.split(&first, &plain, 30)?,
            it.split(&second, &plain, 30)?,
        );
        assert!(a.is_mixed(), "no rule is for it: {a:?}");
        assert_eq!((b.two, b.failed), (30, 0), "{b:?}");
    }
    Ok(())
}

/// Sum of a metric's samples that have all of these label texts.
fn metric(it: &Fixture, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
    it.daemon.metric(name, labels)
}

fn metrics_and_connections_name_the_right_pod(it: &mut Fixture) -> anyhow::Result<()> {
    let [first, second] = host_pods(it)?;
    let (web, echo) = (it.vip4("web", WEB)?, it.vip4("echo", ECHO)?);
    let source = |pod: &Pod| format!("source_workload=\"{}\"", pod.spec().name);
    let counts = |it: &Fixture, pod: &Pod| -> anyhow::Result<(f64, f64)> {
        let source = source(pod);
        let of = |name, service: &str| {
            let service = format!("destination_service_name=\"{service}\"");
            metric(it, name, &[&source, &service])
        };
        Ok((
            of("istio_requests_total", "web")?,
            of("istio_tcp_connections_opened_total", "echo")?,
        ))
    };
    let before = (counts(it, &first)?, counts(it, &second)?);
    let url = format!("http://{web}/");
    assert_eq!(ask(&first, &url, &["-n", "7"])?.from("web v1"), 7);
    assert_eq!(ask(&second, &url, &["-n", "4"])?.from("web v1"), 4);
    it.split(&first, &echo, 5)?;
    it.split(&second, &echo, 3)?;
    wait_until("the records of both pods", LIMIT, || {
        let now = (counts(it, &first)?, counts(it, &second)?);
        let grown = |now: (f64, f64), before: (f64, f64)| (now.0 - before.0, now.1 - before.1);
        let seen = (grown(now.0, before.0), grown(now.1, before.1));
        Ok((seen == ((7.0, 5.0), (4.0, 3.0))).then_some(()))
    })?;

    let held = [
        Held::dial(&first, &["--to", &it.vip4("limited", LIMITED)?])?,
        Held::dial(&first, &["--to", &echo])?,
        Held::dial(&second, &["--to", &echo])?,
    ];
    let expected = BTreeMap::from([
        (("default/host-a".to_owned(), "kernel".to_owned()), 1),
        (("default/host-a".to_owned(), "proxy".to_owned()), 1),
        (("second/host-b".to_owned(), "kernel".to_owned()), 1),
    ]);
    wait_until("the connections of both pods", LIMIT, || {
        let connections = it.daemon.cli_json(&["get", "connections"])?;
        let mut seen = BTreeMap::new();
        for connection in connections.as_array().context("no list")? {
            let text = |field: &str| connection[field].as_str().unwrap_or_default().to_owned();
            if text("pod").contains("/host-") {
                *seen.entry((text("pod"), text("path"))).or_insert(0) += 1;
            }
        }
        Ok((seen == expected).then_some(()))
    })?;
    drop(held);
    Ok(())
}

/// `get pods` of one pod.
fn pod_state(it: &Fixture, name: &str) -> anyhow::Result<serde_json::Value> {
    let pods = it.daemon.cli_json(&["get", "pods"])?;
    let mut list = pods.as_array().context("no list of pods")?.iter();
    list.find(|pod| pod["name"] == name)
        .cloned()
        .with_context(|| format!("no pod {name}"))
}

/// A process that a host pod starts in a namespace of its own is not the pod.
fn a_nested_namespace_of_a_host_pod_is_untouched(it: &mut Fixture) -> anyhow::Result<()> {
    let pod = it.lab.pod("default", "host-a")?;
    let workload = std::env::current_exe()?
        .ancestors()
        .skip(1)
        .map(|dir| dir.join("mizzen-workload"))
        .find(|path| path.is_file())
        .context("no mizzen-workload")?;
    let workload = workload.display().to_string();
    let cgroup = pod.place().cgroup.display().to_string();
    let dial = format!(
        "ip link set lo up && exec {workload} tcp-client --to {}",
        it.vip4("web", WEB)?
    );
    let args = [
        &workload,
        "enter",
        "--cgroup",
        &cgroup,
        "--new-net",
        "--",
        "sh",
        "-c",
        &dial,
    ];
    let seen: Vec<Seen> = serde_json::from_str(&pod.run(&args)?.ok()?)?;
    // Captured it would be refused by a loopback on which nobody listens.
    assert!(seen[0].error.contains("unreachable"), "{:?}", seen[0]);
    Ok(())
}

fn each_pod_is_itself_again_after_a_crash(it: &mut Fixture) -> anyhow::Result<()> {
    let [first, second] = host_pods(it)?;
    let echo = it.vip4("echo", ECHO)?;
    let stay = first.spawn_workload(
        "kernel-load",
        &["tcp-client", "--to", &echo, "--every-ms", "10"],
    )?;
    let url = format!("http://{}/", it.vip4("web", WEB)?);
    for _ in 0..5 {
        it.daemon.kill9()?;
        // Degraded: the L4 part of the rules.
        for pod in [&first, &second] {
            let seen = ask(pod, &url, &["-n", "10", "--no-keepalive"])?;
            assert_eq!(seen.from("web v1"), 10, "{seen:?}");
        }
        it.daemon.start_again()?;
        for pod in [&first, &second] {
            it.wait_captured(pod, LIMIT)?;
        }
        two_pods_of_one_namespace_see_what_their_scopes_see(it)?;
        let held = Held::dial(&second, &["--to", &it.vip4("limited", LIMITED)?])?;
        wait_until("its connection under its name", LIMIT, || {
            let connections = it.daemon.cli(&["get", "connections"])?.ok()?;
            let line = connections.lines().find(|line| line.contains("proxy"));
            Ok(line.filter(|line| line.contains("second/host-b")).map(drop))
        })?;
        drop(held);
    }
    let connections: Vec<Seen> = stay.stop_json()?;
    let split = Split::of(&connections);
    assert!(split.is_all_v1(), "on the kernel path: {split:?}");
    Ok(())
}

fn a_successor_gets_each_pods_own_listener(it: &mut Fixture) -> anyhow::Result<()> {
    let [first, second] = host_pods(it)?;
    let limited = it.vip4("limited", LIMITED)?;
    let plain = it.vip4("plain", PLAIN)?;
    let load = |pod: &Pod, to: &str| {
        pod.spawn_workload("load", &["tcp-client", "--to", to, "--every-ms", "10"])
    };
    let loads = [
        load(&first, &limited)?,
        load(&second, &limited)?,
        load(&second, &plain)?,
    ];
    let ports = |it: &Fixture| -> anyhow::Result<Vec<serde_json::Value>> {
        ["host-a", "host-b"]
            .map(|name| Ok(pod_state(it, name)?["listenerPorts"].clone()))
            .into_iter()
            .collect()
    };
    let before = ports(it)?;
    assert_ne!(before[0], before[1], "{before:?}");
    for _ in 0..3 {
        let next = it.lab.start_daemon(&options())?;
        let mut old = std::mem::replace(&mut it.daemon, next);
        old.wait_end()
            .context("the first daemon does not make room")?;
        it.daemon.wait_ready()?;
        it.wait_captured(&first, LIMIT)?;
        it.wait_captured(&second, LIMIT)?;
        assert_eq!(ports(it)?, before);
    }
    for load in loads {
        let connections: Vec<Seen> = load.stop_json()?;
        assert!(connections.len() > 30, "hardly any load");
        let bad: Vec<&Seen> = connections
            .iter()
            .filter(|it| !it.error.is_empty())
            .collect();
        assert!(bad.is_empty(), "{} connections: {bad:?}", bad.len());
    }
    two_pods_of_one_namespace_see_what_their_scopes_see(it)
}

fn host_pods_that_go_leave_nothing_behind(it: &mut Fixture) -> anyhow::Result<()> {
    let count = |it: &Fixture| -> anyhow::Result<(usize, BTreeMap<String, u64>)> {
        let maps = it.daemon.cli_json(&["get", "maps"])?;
        let maps = maps.as_array().context("no list of maps")?.iter();
        let entries = maps
            .filter_map(|map| Some((map["name"].as_str()?.to_owned(), map["entries"].as_u64()?)))
            .filter(|(name, _)| ["HOST_PODS", "LISTENERS", "SCOPES"].contains(&name.as_str()))
            .collect();
        let files = std::fs::read_dir(format!("/proc/{}/fd", it.daemon.pid()))?.count();
        Ok((files, entries))
    };
    let before = count(it)?;
    for index in 0..10 {
        let spec = PodSpec::new("default", &format!("host-brief-{index}"));
        let pod = it.lab.add_pod(spec.host_network())?;
        it.wait_captured(&pod, LIMIT)?;
        it.lab.remove_pod(&pod)?;
    }
    wait_until("all of it to go", Duration::from_secs(15), || {
        let now = count(it)?;
        anyhow::ensure!(
            now.0 <= before.0 + 2,
            "{} files, {} before",
            now.0,
            before.0
        );
        Ok((now.1 == before.1).then_some(()))
    })
}

fn without_the_setting_they_pass_again(it: &mut Fixture) -> anyhow::Result<()> {
    let [first, second] = host_pods(it)?;
    it.daemon.terminate()?;
    it.daemon = it.lab.start_daemon(&DaemonOptions::default())?;
    it.wait_captured(&it.client, LIMIT)?;
    let state = pod_state(it, "host-a")?;
    assert!(
        state.to_string().contains("captureHostNetwork is off"),
        "{state}"
    );
    let web = it.vip4("web", WEB)?;
    // The dead daemon's names go when its successor has found its own pods.
    wait_until("both to pass", Duration::from_secs(40), || {
        let mut is_passed = true;
        for pod in [&first, &second] {
            let held = Held::dial(pod, &["--to", &web, "--send", GET])?;
            assert_eq!(held.seen.error, "", "{held:?}");
            is_passed &= held.goes_to(&web);
        }
        Ok(is_passed.then_some(()))
    })
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            host_pods_are_captured_on_both_paths,
            both_families_and_every_kind_of_client_are_captured,
            two_pods_of_one_namespace_see_what_their_scopes_see,
            metrics_and_connections_name_the_right_pod,
            a_nested_namespace_of_a_host_pod_is_untouched,
            each_pod_is_itself_again_after_a_crash,
            a_successor_gets_each_pods_own_listener,
            host_pods_that_go_leave_nothing_behind,
            without_the_setting_they_pass_again,
        ],
    )
}
