//! Names: hosts outside the mesh that DNS moves about, on both paths, and what a resolver that
//! fails changes (nothing); addresses and ports that ServiceEntries choose.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use mizzen_tests::checks;
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{
    Daemon, DaemonOptions, Driver, Lab, Mood, NameServer, Pod, PodSpec, Process, wait_until,
};
use mizzen_tests::statistics::agrees;
use mizzen_tests::workload::outcome::Summary;
use mizzen_tests::workload::tcp_client::Seen;

/// HTTP port of the outside machines.
const WEB: u16 = 8100;
/// TCP port of the outside machines.
const ECHO: u16 = 9100;
/// Where nobody is: clients dial it, and only a rule leads on.
const NOWHERE: &str = "203.0.113.9";

/// What the client is told about the outside.
const ENTRIES: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: default}
spec:
  hosts: [ext.example.com]
  ports: [{number: 8100, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: default}
spec:
  hosts: [db.example.com]
  addresses: [10.99.0.1]
  ports: [{number: 9100, name: tcp, protocol: TCP}]
  resolution: DNS
  endpoints: [{address: ext.example.com}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: turn, namespace: default}
spec:
  hosts: [turn.example.com]
  addresses: [10.99.0.2]
  ports: [{number: 9100, name: tcp, protocol: TCP}, {number: 8100, name: http, protocol: HTTP}]
  resolution: DNS_ROUND_ROBIN
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: late, namespace: default}
spec:
  hosts: [late.example.com]
  ports: [{number: 8100, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: any, namespace: default}
spec:
  hosts: ["*.any.example.com"]
  ports: [{number: 8100, name: http, protocol: HTTP}]
  resolution: DYNAMIC_DNS
"#;

struct Names {
    daemon: Daemon,
    server: NameServer,
    client: Arc<Pod>,
    one: Arc<Pod>,
    two: Arc<Pod>,
    _echoes: [Process; 2],
    // Last, so that it is removed when nobody is in it any more.
    lab: Lab,
}

fn nameserver(lab: &Lab, address: &str) -> anyhow::Result<NameServer> {
    let address: IpAddr = address.parse()?;
    NameServer::start(lab.node_netns(), SocketAddr::new(address, 53), 1)
}

/// A machine outside, with an HTTP and a TCP server that say its name.
fn outside(lab: &Lab, name: &str) -> anyhow::Result<(Arc<Pod>, Process)> {
    let port = WEB.to_string();
    let args = ["http", "--name", name, "--version", "v1", "--port", &port];
    let pod = lab.add_pod(PodSpec::new("outside", name).external().workload(&args))?;
    let ports = ECHO.to_string();
    let echo = ["tcp-echo", "--prefix", name, "--ports", &ports];
    let echo = pod.spawn_workload(&format!("{name}-echo"), &echo)?;
    pod.wait_listening(WEB)?;
    pod.wait_listening(ECHO)?;
    Ok((pod, echo))
}

fn set_up() -> anyhow::Result<Names> {
    let lab = Lab::builder().driver(Driver::Systemd).build()?;
    let client = lab.add_pod(PodSpec::new("default", "client"))?;
    let ((one, echo_one), (two, echo_two)) = (outside(&lab, "one")?, outside(&lab, "two")?);
    for name in ["ext", "turn", "late", "a.any", "b.any", "c.any"] {
        lab.add_host(&format!("{name}.example.com"), NOWHERE.parse()?)?;
    }
    let server = nameserver(&lab, "127.0.0.1")?;
    for name in ["ext.example.com", "turn.example.com", "a.any.example.com"] {
        server.set(name, &[one.address()]);
    }
    server.set("b.any.example.com", &[two.address()]);
    lab.write_config("entries.yaml", ENTRIES)?;
    let resolv_conf = lab.dir().join("resolv.conf").display().to_string();
    let daemon = lab.start_daemon(&DaemonOptions {
        extra_args: vec!["--resolv-conf".to_owned(), resolv_conf],
        ..DaemonOptions::default()
    })?;
    let it = Names {
        daemon,
        server,
        client,
        one,
        two,
        _echoes: [echo_one, echo_two],
        lab,
    };
    it.wait_answer("ext.example.com", "one")?;
    Ok(it)
}

impl Names {
    fn ask(&self, host: &str, number: u32) -> anyhow::Result<Summary> {
        let url = format!("http://{host}:{WEB}/");
        let number = number.to_string();
        self.client.ask(&["--url", &url, "-n", &number])
    }

    /// Waits until this machine alone answers for `host` on the proxy path.
    fn wait_answer(&self, host: &str, machine: &str) -> anyhow::Result<()> {
        let what = format!("{machine} to answer for {host}");
        wait_until(&what, Duration::from_secs(10), || {
            let seen = self.ask(host, 5)?;
            anyhow::ensure!(
                seen.from(&format!("{machine} v1")) == 5,
                "{seen:?}\n{}",
                self.state()
            );
            Ok(Some(()))
        })
    }

    /// Who answers on the kernel path, by name.
    fn dial(&self, to: &str, number: u32) -> anyhow::Result<BTreeMap<String, u64>> {
        let number = number.to_string();
        let seen = self.client.dial(&["--to", to, "-n", &number])?;
        let mut answers = BTreeMap::new();
        for connection in seen {
            let name = match connection.reply.split(' ').next() {
                Some(name) if connection.error.is_empty() => name.to_owned(),
                Some(_) | None => format!("failed: {}", connection.error),
            };
            *answers.entry(name).or_default() += 1;
        }
        Ok(answers)
    }

    fn wait_dial(&self, to: &str, machine: &str) -> anyhow::Result<()> {
        let what = format!("{machine} to answer at {to}");
        wait_until(&what, Duration::from_secs(10), || {
            let answers = self.dial(to, 5)?;
            anyhow::ensure!(
                answers.len() == 1 && answers.contains_key(machine),
                "{answers:?}\n{}",
                self.state()
            );
            Ok(Some(()))
        })
    }

    /// What the daemon knows, for the message of a failed wait.
    fn state(&self) -> String {
        let say = |what: &str| {
            let shown = self.daemon.cli(&["get", what]);
            shown.map_or_else(|error| error.to_string(), |it| it.stdout + &it.stderr)
        };
        format!("{}{}{}", say("clusters"), say("endpoints"), say("findings"))
    }
}

/// Issue 4, acceptance 6, first half.
fn an_external_host_whose_address_changes_is_followed_without_a_failed_request(
    it: &mut Names,
) -> anyhow::Result<()> {
    let url = format!("http://ext.example.com:{WEB}/");
    let load = |name: &str, extra: &[&str]| {
        let mut args = vec!["load", "--url", &url, "--rate", "100", "-c", "4", "--each"];
        args.extend(extra);
        it.client.spawn_workload(name, &args)
    };
    let loads = [load("kept", &[])?, load("fresh", &["--no-keepalive"])?];
    let db = format!("10.99.0.1:{ECHO}");
    let args = ["tcp-client", "--to", &db, "--every-ms", "5"];
    let kernel = it.client.spawn_workload("kernel", &args)?;
    let version = it.daemon.metric("mizzen_snapshot_version", &[])?;
    for round in 0..6 {
        let (machine, pod) = match round % 2 {
            0 => ("two", &it.two),
            _ => ("one", &it.one),
        };
        // Both for a while, as careful operators do, then the other alone.
        it.server
            .set("ext.example.com", &[it.one.address(), it.two.address()]);
        wait_until("both to answer", Duration::from_secs(10), || {
            let seen = it.ask("ext.example.com", 40)?;
            Ok((seen.from("one v1") > 0 && seen.from("two v1") > 0).then_some(()))
        })?;
        it.server.set("ext.example.com", &[pod.address()]);
        it.wait_answer("ext.example.com", machine)?;
        it.wait_dial(&db, machine)?;
    }
    // Nothing was compiled for it.
    let after = it.daemon.metric("mizzen_snapshot_version", &[])?;
    assert!((after - version).abs() < 0.5, "{version} {after}");
    for load in loads {
        let seen: Summary = load.stop_json()?;
        let bad: Vec<_> = seen.outcomes.iter().filter(|it| it.status != 200).collect();
        assert!(bad.is_empty(), "{} of {}: {bad:?}", bad.len(), seen.total);
        assert!(seen.total > 200, "hardly any load: {}", seen.total);
    }
    let connections: Vec<Seen> = kernel.stop_json()?;
    let bad: Vec<_> = connections
        .iter()
        .filter(|it| !it.error.is_empty())
        .collect();
    assert!(
        bad.is_empty(),
        "{} of {}: {bad:?}",
        bad.len(),
        connections.len()
    );
    assert!(connections.len() > 200, "{}", connections.len());
    Ok(())
}

/// Issue 4, acceptance 6, second half.
fn a_dead_resolver_changes_nothing_for_known_names(it: &mut Names) -> anyhow::Result<()> {
    let db = format!("10.99.0.1:{ECHO}");
    it.server.set("ext.example.com", &[it.one.address()]);
    it.wait_answer("ext.example.com", "one")?;
    it.wait_dial(&db, "one")?;
    for mood in [Mood::Silent, Mood::Failing] {
        it.server.set_mood(mood);
        let asked = it.server.queries();
        // Several lifetimes of the answer: it is asked for again and again in vain.
        wait_until("vain questions", Duration::from_secs(30), || {
            Ok((it.server.queries() > asked + 4).then_some(()))
        })?;
        let seen = it.ask("ext.example.com", 20)?;
        assert_eq!(seen.from("one v1"), 20, "{mood:?}: {seen:?}");
        let answers = it.dial(&db, 20)?;
        assert_eq!(answers.get("one"), Some(&20), "{mood:?}: {answers:?}");
        // An edit of the rules while it is dead changes nothing for them either.
        let extra = ENTRIES
            .split("---")
            .next()
            .unwrap_or_default()
            .replace("ext", "extra");
        it.lab.write_config("extra.yaml", &extra)?;
        wait_until("the edit", Duration::from_secs(10), || {
            let shown = it.daemon.cli(&["get", "services"])?.ok()?;
            Ok(shown.contains("extra.example.com").then_some(()))
        })?;
        let seen = it.ask("ext.example.com", 20)?;
        assert_eq!(seen.from("one v1"), 20, "{mood:?} after an edit: {seen:?}");
        it.lab.remove_config("extra.yaml")?;
    }
    it.server.set_mood(Mood::Well);
    it.server.set("ext.example.com", &[it.two.address()]);
    let what = "the answer after the silence";
    // The pauses between vain questions have grown meanwhile.
    wait_until(what, Duration::from_secs(70), || {
        Ok((it.ask("ext.example.com", 5)?.from("two v1") == 5).then_some(()))
    })?;
    it.wait_dial(&db, "two")
}

fn another_resolv_conf_is_followed(it: &mut Names) -> anyhow::Result<()> {
    let other = nameserver(&it.lab, "127.0.0.2")?;
    other.set("ext.example.com", &[it.one.address()]);
    it.server.set("ext.example.com", &[it.two.address()]);
    it.wait_answer("ext.example.com", "two")?;
    let file = it.lab.dir().join("resolv.conf");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("127.0.0.1", "127.0.0.2"))?;
    it.wait_answer("ext.example.com", "one")?;
    // One that names nobody is not used.
    std::fs::write(&file, "search example.com\n")?;
    std::thread::sleep(Duration::from_secs(3));
    it.wait_answer("ext.example.com", "one")?;
    std::fs::write(&file, &text)?;
    it.wait_answer("ext.example.com", "two")
}

fn a_name_without_an_address_is_503_uh_and_a_finding_until_it_has_one(
    it: &mut Names,
) -> anyhow::Result<()> {
    let seen = it.ask("late.example.com", 3)?;
    assert_eq!(seen.status(503), 3, "{seen:?}");
    let finding = "DNS gives no address for late.example.com";
    wait_until("the finding", Duration::from_secs(10), || {
        let shown = it.daemon.cli(&["get", "findings"])?.ok()?;
        Ok(shown.contains(finding).then_some(()))
    })?;
    it.server.set("late.example.com", &[it.one.address()]);
    // Its questions have become rare: up to the mesh's refresh rate apart.
    wait_until("the name to be found", Duration::from_secs(70), || {
        Ok((it.ask("late.example.com", 3)?.status(200) == 3).then_some(()))
    })?;
    let shown = it.daemon.cli(&["get", "findings"])?.ok()?;
    assert!(!shown.contains(finding), "{shown}");
    Ok(())
}

/// Checklist id A028.
fn a028_all_answers_are_used_or_one_at_a_time(it: &mut Names) -> anyhow::Result<()> {
    let (one, two) = (it.one.address(), it.two.address());
    it.server.set("ext.example.com", &[one, two]);
    it.server.set("turn.example.com", &[one, two]);
    let db = format!("10.99.0.1:{ECHO}");
    wait_until("both to answer", Duration::from_secs(10), || {
        let seen = it.ask("ext.example.com", 40)?;
        let answers = it.dial(&db, 40)?;
        let is_mixed = seen.from("one v1") > 0 && seen.from("two v1") > 0;
        Ok((is_mixed && answers.len() == 2).then_some(()))
    })?;
    let turn = format!("10.99.0.2:{ECHO}");
    it.wait_dial(&turn, "one")?;
    assert_eq!(it.dial(&turn, 40)?.get("one"), Some(&40));
    assert_eq!(it.ask("turn.example.com", 40)?.from("one v1"), 40);
    it.server.set("turn.example.com", &[two, one]);
    it.wait_dial(&turn, "two")?;
    assert_eq!(it.dial(&turn, 40)?.get("two"), Some(&40));
    // Connections that exist stay in use, as Envoy's LOGICAL_DNS keeps them: one more machine
    // than that is never seen.
    let seen = it.ask("turn.example.com", 40)?;
    assert_eq!(seen.from("one v1").max(seen.from("two v1")), 40, "{seen:?}");
    Ok(())
}

/// R-31, R-39: what the request asks for is resolved then.
fn a_wildcard_is_resolved_by_the_host_of_each_request(it: &mut Names) -> anyhow::Result<()> {
    assert_eq!(it.ask("a.any.example.com", 5)?.from("one v1"), 5);
    assert_eq!(it.ask("b.any.example.com", 5)?.from("two v1"), 5);
    let url = format!("http://c.any.example.com:{WEB}/");
    let seen = it
        .client
        .workload(&["http-client", "--url", &url, "--show"])?;
    let text = seen.to_string();
    assert!(
        text.contains("503") && text.contains("DNS resolution failure"),
        "{text}"
    );
    it.server.set("a.any.example.com", &[it.two.address()]);
    it.wait_answer("a.any.example.com", "two")
}

/// Checklist ids A027 and A029.
fn a027_a029_weights_and_target_ports_on_both_paths(it: &mut Names) -> anyhow::Result<()> {
    let (one, two) = (it.one.address(), it.two.address());
    let entries = format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: weighted, namespace: default}}
spec:
  hosts: [weighted.example.com]
  addresses: [10.99.0.3]
  ports: [{{number: 9100, name: tcp, protocol: TCP}}, {{number: 8100, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: {one}, weight: 1}}, {{address: {two}, weight: 3}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: weighted, namespace: default}}
spec:
  host: weighted.example.com
  trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: dialled, namespace: default}}
spec:
  hosts: [dialled.example.com]
  addresses: [{one}, {two}]
  ports:
  - {{number: 9101, name: tcp, protocol: TCP, targetPort: 9100}}
  - {{number: 8101, name: http, protocol: HTTP, targetPort: 8100}}
  resolution: NONE
"
    );
    it.lab.write_config("choices.yaml", &entries)?;
    wait_until("the entries", Duration::from_secs(10), || {
        Ok((it.dial("10.99.0.3:9100", 1)?.len() == 1
            && it.dial(&format!("{two}:9101"), 1)?.contains_key("two"))
        .then_some(()))
    })?;
    let answers = it.dial("10.99.0.3:9100", 400)?;
    let heavy = answers.get("two").copied().unwrap_or_default();
    assert!(agrees(heavy, 400, 0.75), "{answers:?}");
    let seen = it
        .client
        .ask(&["--url", "http://10.99.0.3:8100/", "-n", "400"])?;
    assert!(agrees(seen.from("two v1"), 400, 0.75), "{seen:?}");
    for (name, ip) in [("one", one), ("two", two)] {
        assert_eq!(it.dial(&format!("{ip}:9101"), 10)?.get(name), Some(&10));
        let url = format!("http://{ip}:8101/");
        let seen =
            it.client
                .ask(&["--url", &url, "-n", "10", "-H", "host: dialled.example.com"])?;
        assert_eq!(seen.from(&format!("{name} v1")), 10, "{seen:?}");
    }
    it.lab.remove_config("choices.yaml")
}

fn an_allocated_address_is_shown_and_leads_to_its_host(it: &mut Names) -> anyhow::Result<()> {
    let services = it.daemon.cli_json(&["get", "services"])?;
    let services = services.as_array().cloned().unwrap_or_default();
    let own = services
        .iter()
        .find(|service| service["host"] == "ext.example.com")
        .and_then(|service| service["allocated"][0].as_str().map(str::to_owned));
    let address = own.unwrap_or_default();
    assert!(address.starts_with("240.240."), "{services:?}");
    let shown = it.daemon.cli(&["get", "services"])?.ok()?;
    assert!(shown.contains(&format!("{address} (auto)")), "{shown}");
    let url = format!("http://{address}:{WEB}/");
    let seen = it.client.ask(&["--url", &url, "-n", "5"])?;
    assert_eq!(seen.status(200), 5, "{seen:?}");
    Ok(())
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            an_external_host_whose_address_changes_is_followed_without_a_failed_request,
            a_dead_resolver_changes_nothing_for_known_names,
            another_resolv_conf_is_followed,
            a_name_without_an_address_is_503_uh_and_a_finding_until_it_has_one,
            a028_all_answers_are_used_or_one_at_a_time,
            a_wildcard_is_resolved_by_the_host_of_each_request,
            a027_a029_weights_and_target_ports_on_both_paths,
            an_allocated_address_is_shown_and_leads_to_its_host,
        ],
    )
}
