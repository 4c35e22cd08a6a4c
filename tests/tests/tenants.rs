//! Users of a namespace are not root: what they write must not reach the node, nor take it
//! from others. Each check is an attack.

use std::fs;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use mizzen_tests::checks;
use mizzen_tests::fixture::{Fixture, RULES, WEB};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{DaemonOptions, Driver, Process, wait_until};
use rustix::fs::inotify;

/// A port on the node, as the kubelet's.
const KUBELET: u16 = 10250;
/// Where clouds answer questions about the node.
const METADATA: &str = "169.254.169.254";
/// Must not show up anywhere.
const SECRET: &str = "TOP-SECRET-BYTES";

fn set_up() -> anyhow::Result<Fixture> {
    let options = DaemonOptions {
        settings: "namespaceBudget: {compiledMebibytes: 4, objects: 300}\n".to_owned(),
        ..DaemonOptions::default()
    };
    Fixture::start(Driver::Systemd, &options)
}

/// Tells whether anybody opened a file since.
struct Watched(OwnedFd);

impl Watched {
    fn new(path: &Path) -> anyhow::Result<Self> {
        let events = inotify::init(inotify::CreateFlags::NONBLOCK)?;
        let flags = inotify::WatchFlags::OPEN | inotify::WatchFlags::ACCESS;
        inotify::add_watch(&events, path, flags)?;
        Ok(Self(events))
    }

    fn was_touched(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 512];
        inotify::Reader::new(&self.0, &mut buffer).next().is_ok()
    }
}

/// An external host at `address` with one endpoint.
fn service_entry(name: &str, address: &str, protocol: &str, port: u16, endpoint: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}.example.com]
  addresses: [{address}]
  ports: [{{number: {port}, name: p, protocol: {protocol}}}]
  resolution: STATIC
  endpoints: [{{address: '{endpoint}'}}]
---
"
    )
}

/// Waits until the daemon has taken an edit in.
fn wait_known(it: &Fixture, text: &str) -> anyhow::Result<()> {
    wait_until(
        &format!("{text} to be known"),
        Duration::from_secs(10),
        || {
            let shown = it.daemon.cli(&["get", "services"])?.ok()?;
            let found = it.daemon.cli(&["get", "findings"])?.ok()?;
            Ok((shown.contains(text) || found.contains(text)).then_some(()))
        },
    )
}

/// A server on the node that says `node` to whom it answers.
fn serve_on_node(it: &Fixture, port: u16) -> anyhow::Result<Process> {
    let port_text = port.to_string();
    let args = ["http", "--name", "node", "--port", &port_text];
    let server = it.lab.spawn_on_node(&format!("server-{port}"), &args)?;
    let probe = format!("/dev/tcp/127.0.0.1/{port}");
    wait_until("the node's server", Duration::from_secs(10), || {
        let found = it
            .lab
            .run_on_node(&["bash", "-c", &format!(": < {probe}")])?;
        Ok(found.ok().is_ok().then_some(()))
    })?;
    Ok(server)
}

fn objects_that_name_files_make_nobody_read_them(it: &mut Fixture) -> anyhow::Result<()> {
    let secret = it.lab.dir().join("node-secret.pem");
    fs::write(&secret, format!("-----BEGIN {SECRET}-----\n"))?;
    let log = it.lab.dir().join("stolen.log");
    let watched = Watched::new(&secret)?;
    let (secret, log) = (secret.display(), log.display());
    let text = format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: web-tls, namespace: default}}
spec:
  host: web
  trafficPolicy:
    tls: {{mode: MUTUAL, clientCertificate: {secret}, privateKey: {secret}, caCertificates: {secret}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: thief, namespace: default}}
spec:
  selector: {{app: client}}
  servers:
  - port: {{number: 8443, name: https, protocol: HTTPS}}
    hosts: ['*']
    tls: {{mode: MUTUAL, serverCertificate: {secret}, privateKey: {secret}, caCertificates: {secret}}}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: thief, namespace: default}}
spec:
  configPatches:
  - applyTo: CLUSTER
    match: {{context: SIDECAR_OUTBOUND}}
    patch:
      operation: MERGE
      value: {{transport_socket: {{name: tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{validation_context: {{trusted_ca: {{filename: {secret}}}}}}}}}}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: default}}
data:
  mesh: |
    accessLogFile: {log}
"
    );
    // The rule for `web` of the shared mesh is older, so this one stands alone.
    let rules = RULES.replacen("kind: DestinationRule", "kind: Unread", 1);
    it.lab.write_config("rules.yaml", &rules)?;
    it.lab.write_config("thief.yaml", &text)?;
    wait_known(it, "Gateway/default/thief")?;
    let url = format!("http://{}/", it.vip4("web", WEB)?);
    wait_until("the rule to act", Duration::from_secs(10), || {
        let seen = it.client.ask(&["--url", &url, "-n", "5"])?;
        Ok((seen.status(503) == 5).then_some(()))
    })?;
    let findings = it.daemon.cli(&["get", "findings"])?.ok()?;
    assert!(!findings.contains(SECRET), "{findings}");
    assert!(!it.daemon.log().contains(SECRET));
    assert!(!watched.was_touched(), "somebody read the node's file");
    assert!(!Path::new(&log.to_string()).exists(), "somebody made {log}");
    // The check can fail: reading shows.
    fs::read(secret.to_string())?;
    assert!(watched.was_touched());
    it.lab.remove_config("thief.yaml")?;
    it.lab.write_config("rules.yaml", RULES)?;
    wait_until("web to answer", Duration::from_secs(10), || {
        Ok((it.client.ask(&["--url", &url, "-n", "5"])?.status(200) == 5).then_some(()))
    })
}

fn endpoints_that_name_unix_sockets_reach_none(it: &mut Fixture) -> anyhow::Result<()> {
    let path = it.lab.dir().join("node.sock");
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    let admin = it.daemon.admin().trim_start_matches("unix:").to_owned();
    let path = path.display().to_string();
    let text: String = [
        ("sock-http", "10.99.1.1", "HTTP", 80, path.as_str()),
        ("sock-tcp", "10.99.1.2", "TCP", 7070, path.as_str()),
        ("admin-http", "10.99.1.3", "HTTP", 80, admin.as_str()),
    ]
    .map(|(name, address, protocol, port, path)| {
        service_entry(name, address, protocol, port, &format!("unix://{path}"))
    })
    .concat();
    it.lab.write_config("sockets.yaml", &text)?;
    wait_known(it, "admin-http.example.com")?;
    for address in ["10.99.1.1", "10.99.1.3"] {
        let url = format!("http://{address}/get/pods");
        let seen = it.client.ask(&["--url", &url, "-n", "3"])?;
        assert_eq!(seen.status(503), 3, "{address}: {seen:?}");
    }
    let seen = it.client.dial(&["--to", "10.99.1.2:7070"])?;
    assert!(seen.iter().all(|one| one.reply.is_empty()), "{seen:?}");
    let accepted = listener.accept();
    assert!(
        matches!(&accepted, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "{accepted:?}"
    );
    it.lab.remove_config("sockets.yaml")
}

fn endpoints_on_loopback_are_the_pods_own(it: &mut Fixture) -> anyhow::Result<()> {
    let server = serve_on_node(it, KUBELET)?;
    let text = service_entry("kubelet", "10.99.2.1", "HTTP", KUBELET, "127.0.0.1")
        + &service_entry("kubelet-tcp", "10.99.2.2", "TCP", KUBELET, "127.0.0.1")
        + &service_entry("own-listener", "10.99.2.3", "HTTP", 15001, "127.0.0.1");
    it.lab.write_config("loopback.yaml", &text)?;
    wait_known(it, "own-listener.example.com")?;
    for address in ["10.99.2.1:10250", "10.99.2.3:15001"] {
        let url = format!("http://{address}/");
        let seen = it.client.ask(&["--url", &url, "-n", "3"])?;
        assert_eq!(seen.status(503), 3, "{address}: {seen:?}");
        assert!(seen.answered_by.is_empty(), "{seen:?}");
    }
    let seen = it.client.dial(&["--to", "10.99.2.2:10250"])?;
    assert!(seen.iter().all(|one| !one.error.is_empty()), "{seen:?}");
    // What listens on the pod's own loopback is what the rule names.
    let port = KUBELET.to_string();
    let args = ["http", "--name", "own", "--port", &port];
    let own = it.client.spawn_workload("own-kubelet", &args)?;
    it.client.wait_listening(KUBELET)?;
    let url = format!("http://10.99.2.1:{KUBELET}/");
    let seen = it.client.ask(&["--url", &url, "-n", "3"])?;
    assert_eq!(seen.from("own v1"), 3, "{seen:?}");
    drop((own, server));
    it.lab.remove_config("loopback.yaml")
}

fn what_reaches_the_metadata_address_is_the_pod_and_never_the_node(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let server = serve_on_node(it, KUBELET)?;
    let address = format!("{METADATA}/32");
    it.lab
        .run_on_node(&["ip", "addr", "add", &address, "dev", "lo"])?
        .ok()?;
    let text = service_entry("metadata", "10.99.3.1", "HTTP", KUBELET, METADATA)
        + &service_entry("metadata-tcp", "10.99.3.2", "TCP", KUBELET, METADATA);
    it.lab.write_config("metadata.yaml", &text)?;
    wait_known(it, "metadata-tcp.example.com")?;
    let ask = |address: &str| {
        let url = format!("http://{address}:{KUBELET}/");
        it.client
            .ask(&["--url", &url, "-n", "3", "--no-keepalive", "--timeout", "2"])
    };
    for address in ["10.99.3.1", "10.99.3.2"] {
        let seen = ask(address)?;
        assert_eq!(seen.from("node v1"), 3, "{address}: {seen:?}");
    }
    let url = format!("http://127.0.0.1:{KUBELET}/stats");
    let stats = it
        .lab
        .spawn_on_node("stats", &["http-client", "--url", &url, "--show"])?
        .wait_json::<serde_json::Value>()?;
    let peers = stats["answer"]["json"]["peers"].as_object();
    let peers: Vec<&String> = peers.context("no peers")?.keys().collect();
    let own = it.client.address().to_string();
    assert_eq!(peers, [&own], "who asked the metadata address");
    // So a NetworkPolicy for the pod holds, whatever its namespace's objects say.
    let rule = format!("add rule inet deny input ip saddr {own} ip daddr {METADATA} drop");
    for command in [
        "add table inet deny",
        "add chain inet deny input { type filter hook input priority -20 ; }",
        &rule,
    ] {
        it.lab.run_on_node(&["nft", command])?.ok()?;
    }
    for address in ["10.99.3.1", "10.99.3.2"] {
        let seen = ask(address)?;
        assert!(seen.answered_by.is_empty(), "{address}: {seen:?}");
    }
    it.lab
        .run_on_node(&["nft", "delete table inet deny"])?
        .ok()?;
    it.lab
        .run_on_node(&["ip", "addr", "del", &address, "dev", "lo"])?
        .ok()?;
    drop(server);
    it.lab.remove_config("metadata.yaml")
}

/// Rules that multiply: hosts by routes.
fn flood() -> String {
    let hosts: Vec<String> = (0..200).map(|n| format!("h{n}.example.com")).collect();
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: flood, namespace: attacker}}\n\
         spec:\n  hosts: [{}]\n  http:\n",
        hosts.join(", ")
    );
    for n in 0..200 {
        text += &format!(
            "  - match: [{{uri: {{prefix: /{n}/}}}}]\n    \
             route: [{{destination: {{host: web.default.svc.cluster.local}}}}]\n"
        );
    }
    text
}

fn a_namespace_that_floods_does_not_hold_up_the_rules_of_another(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let url = format!("http://{}/", it.vip4("web", WEB)?);
    let load = it.client.spawn_workload(
        "load",
        &["load", "--url", &url, "--rate", "100", "-c", "4", "--each"],
    )?;
    it.lab.write_config("flood.yaml", &flood())?;
    wait_known(it, "Namespace/attacker: error: its objects need more")?;
    let moved = RULES.replace(
        "destination: {host: web, subset: v1}",
        "destination: {host: web, subset: v2}",
    );
    it.lab.write_config("rules.yaml", &moved)?;
    wait_until("the edit to act", Duration::from_secs(10), || {
        let seen = it.client.ask(&["--url", &url, "-n", "5"])?;
        Ok((seen.from("web v2") == 5).then_some(()))
    })?;
    let objects: String = (0..301)
        .map(|n| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
                 metadata: {{name: r{n}, namespace: attacker}}\nspec: {{host: h{n}.example.com}}\n"
            )
        })
        .collect();
    it.lab.write_config("flood.yaml", &objects)?;
    wait_known(it, "budget (objects: 300)")?;
    it.lab.write_config("rules.yaml", RULES)?;
    wait_until("the second edit to act", Duration::from_secs(10), || {
        let seen = it.client.ask(&["--url", &url, "-n", "5"])?;
        Ok((seen.from("web v1") == 5).then_some(()))
    })?;
    it.lab.remove_config("flood.yaml")?;
    wait_until("the finding to go", Duration::from_secs(10), || {
        let found = it.daemon.cli(&["get", "findings"])?.ok()?;
        Ok((!found.contains("namespace's budget")).then_some(()))
    })?;
    let seen: mizzen_tests::workload::outcome::Summary = load.stop_json()?;
    assert_eq!(seen.status(200), seen.total, "{:?}", seen.errors);
    assert!(seen.total > 20, "hardly any load: {}", seen.total);
    Ok(())
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            objects_that_name_files_make_nobody_read_them,
            endpoints_that_name_unix_sockets_reach_none,
            endpoints_on_loopback_are_the_pods_own,
            what_reaches_the_metadata_address_is_the_pod_and_never_the_node,
            a_namespace_that_floods_does_not_hold_up_the_rules_of_another,
        ],
    )
}
