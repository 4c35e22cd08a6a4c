//! Attacks by way of host-network pods under `captureHostNetwork`: nobody on the node is served by
//! a listener that was not captured for it, and no rule leads a pod to what is the host's alone.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use mizzen_tests::checks;
use mizzen_tests::fixture::{Fixture, Held, LIMITED};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{
    DaemonOptions, Driver, Families, Place, Pod, PodSpec, Process, wait_until,
};

const LIMIT: Duration = Duration::from_secs(10);

fn set_up() -> anyhow::Result<Fixture> {
    let options = DaemonOptions {
        settings: "captureHostNetwork: true\n".to_owned(),
        ..DaemonOptions::default()
    };
    let fixture = Fixture::start(Driver::Systemd, &options)?;
    for name in ["host-a", "host-b"] {
        let pod = fixture
            .lab
            .add_pod(PodSpec::new("default", name).host_network())?;
        fixture.wait_captured(&pod, LIMIT)?;
    }
    Ok(fixture)
}

fn a_process_of_the_node_finds_nobody_behind_a_listener(it: &mut Fixture) -> anyhow::Result<()> {
    let first = it.lab.pod("default", "host-a")?;
    let second = it.lab.pod("default", "host-b")?;
    let used = Held::dial(&first, &["--to", &it.vip4("limited", LIMITED)?])?;
    let listener = used.real.context("no socket")?.to_string();
    let port = used.local_port()?;
    drop(used);
    let unknown = it.lab.add_pod(
        PodSpec::new("default", "host-unlisted")
            .host_network()
            .unlisted(),
    )?;
    let node = it.lab.node_place().clone();
    let on_node = Place {
        cgroup: node.cgroup.clone(),
        ..first.place().clone()
    };
    let bind = format!("127.0.0.1:{port}");
    let places: [(&str, &Pod, &Place); 3] = [
        ("a process outside the pods' cgroup", &first, &on_node),
        ("another captured pod", &second, second.place()),
        ("a pod that nobody knows", &unknown, unknown.place()),
    ];
    for (who, pod, place) in places {
        for extra in [&[][..], &["--bind", bind.as_str()]] {
            let mut args = vec!["--to", listener.as_str()];
            args.extend(extra);
            let seen = Held::dial_at(pod, place, &args)?.seen;
            assert!(
                seen.reply.is_empty() && !seen.error.is_empty(),
                "{who} is served: {seen:?}"
            );
        }
    }
    let own = Held::dial(&first, &["--to", &listener])?.seen;
    assert!(own.error.contains("refused"), "{own:?}");
    it.lab.remove_pod(&unknown)
}

/// How a connection is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// A request through the proxy.
    Http,
    /// A connection that the kernel decides.
    Kernel,
    /// A connection that the proxy relays.
    Relay,
}

const KERNEL_OFFSET: usize = 32;
const RELAY_OFFSET: usize = 64;

/// A rule that leads an address and its port 80 to somewhere else.
fn attack(number: usize, address: &str, path: Path, endpoint: &str, port: u16) -> String {
    let protocol = if path == Path::Http { "http" } else { "tcp" };
    let mut yaml = format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: attack-{number}, namespace: default}}
spec:
  hosts: [attack-{number}.test]
  addresses: [\"{address}\"]
  ports: [{{number: 80, name: {protocol}, protocol: {protocol}, targetPort: {port}}}]
  resolution: STATIC
  endpoints: [{{address: \"{endpoint}\"}}]
"
    );
    if path == Path::Relay {
        yaml += &format!(
            "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: attack-{number}, namespace: default}}
spec:
  host: attack-{number}.test
  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 1000}}}}}}
"
        );
    }
    yaml
}

fn no_rule_leads_to_what_is_the_hosts_alone(it: &mut Fixture) -> anyhow::Result<()> {
    let pod = it.lab.pod("default", "host-a")?;
    // What a rule must not reach: a server on the host's loopback, and one on all its addresses
    // under a port of the daemon's.
    let port = 7171;
    let serve = |ports: &str| {
        let args = ["tcp-echo", "--prefix", "secret", "--ports", ports];
        it.lab.spawn_on_node("secret", &args)
    };
    let _servers: [Process; 2] = [serve("7171")?, serve("10250")?];
    let control = it.lab.add_pod(
        PodSpec::new("default", "with-loopback")
            .workload(&["tcp-echo", "--prefix", "own", "--ports", "7171"]),
    )?;
    control.wait_listening(port)?;
    let node = pod.address().to_string();
    let bridge = "10.244.0.1";
    let targets: [(&str, u16); 9] = [
        ("127.0.0.1", port),
        ("127.9.9.9", port),
        ("::1", port),
        ("0.0.0.0", port),
        ("169.254.169.254", 80),
        ("fe80::1", 80),
        (&node, 15020),
        (&node, 10250),
        (bridge, 10250),
    ];
    let mut yaml = String::new();
    let mut dialled = Vec::new();
    for (at, (endpoint, port)) in targets.into_iter().enumerate() {
        for (offset, path) in [
            (0, Path::Http),
            (KERNEL_OFFSET, Path::Kernel),
            (RELAY_OFFSET, Path::Relay),
        ] {
            let number = at + offset + 1;
            let address = if endpoint.contains(':') {
                format!("fd00:240::{number}")
            } else {
                format!("240.10.0.{number}")
            };
            yaml += &attack(number, &address, path, endpoint, port);
            let address = SocketAddr::new(address.parse()?, 80);
            dialled.push((format!("{endpoint}:{port} by {path:?}"), address, path));
        }
    }
    it.lab.write_config("attacks.yaml", &yaml)?;
    wait_until("the rules to be in force", LIMIT, || {
        let clusters = it.daemon.cli(&["get", "clusters"])?.ok()?;
        let findings = it.daemon.cli(&["get", "findings"])?.ok()?;
        let last = "attack-73";
        Ok((clusters.contains(last) || findings.contains(last)).then_some(()))
    })?;
    let findings = it.daemon.cli(&["get", "findings"])?.ok()?;
    assert!(!findings.contains("attack-"), "{findings}");
    let spec = PodSpec::new("default", "host-attacker").host_network();
    let dual = it.lab.add_pod(spec.families(Families::Dual))?;
    it.wait_captured(&dual, LIMIT)?;
    for (what, address, path) in &dialled {
        let mut args = vec!["--to".to_owned(), address.to_string()];
        if *path == Path::Http {
            let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r");
            args.extend(["--half-close", "--send", &request].map(str::to_owned));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let seen = dual.dial(&args)?.remove(0);
        assert!(
            !seen.reply.contains("secret"),
            "{what} is reached: {seen:?}"
        );
        if *path == Path::Http {
            let (status, why) = ("HTTP/1.1 503", "host-network pod");
            assert!(seen.reply.starts_with(status), "{what}: {seen:?}");
            assert!(seen.reply.contains(why), "{what}: {seen:?}");
            continue;
        }
        assert_eq!(seen.reply, "", "{what} is reached: {seen:?}");
        let is_told = seen.error.contains("refused") || seen.error.contains("reset");
        assert!(is_told, "{what}: {seen:?}");
    }
    // The same rules in a pod with a loopback of its own reach what that pod has there.
    for at in [KERNEL_OFFSET + 1, RELAY_OFFSET + 1] {
        let seen = control
            .dial(&["--to", &format!("240.10.0.{at}:80")])?
            .remove(0);
        assert!(seen.reply.starts_with("own"), "{seen:?}");
    }
    // What the pod dials itself is its own affair.
    let own = dual.dial(&["--to", "127.0.0.1:7171"])?.remove(0);
    assert!(own.reply.starts_with("secret"), "{own:?}");
    // Counted in the kernel by their reason.
    wait_until("the kernel's refusals to be counted", LIMIT, || {
        let name = "mizzen_kernel_decisions_total";
        let refused = it.daemon.metric(name, &["reason=\"host_guard\""])?;
        Ok((refused >= 6.0).then_some(()))
    })?;
    it.lab.remove_config("attacks.yaml")?;
    it.lab.remove_pod(&control)?;
    it.lab.remove_pod(&dual)
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            a_process_of_the_node_finds_nobody_behind_a_listener,
            no_rule_leads_to_what_is_the_hosts_alone,
        ],
    )
}
