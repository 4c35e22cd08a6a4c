//! The mesh that most end-to-end checks share, and how they look at it.
//!
//! Two client pods (`client` dual stack, `client-v4` IPv4 alone), a `stranger`
//! without a Pod object, and services in both families: `web` (HTTP, version by
//! the header `x-version`, else v1), `echo` (TCP, all to v1 on the kernel path),
//! `limited` and `other` (TCP on the proxy path), `plain` (TCP that no Istio
//! object names). kube-proxy's stand-in spreads each over v1 and v2, so an answer
//! also tells whether Mizzen or plain Kubernetes chose.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::lab::{
    Daemon, DaemonOptions, Driver, Families, Lab, Place, Pod, PodSpec, Process, ServiceSpec,
    TcpState, wait_until,
};
use crate::workload::tcp_client::Seen;

/// HTTP port of `web`; port-wide rules take every address on it to the proxy.
pub const WEB: u16 = 8000;
/// Port of `echo`.
pub const ECHO: u16 = 9000;
/// Port of `limited`.
pub const LIMITED: u16 = 9200;
/// Port of `other`.
pub const OTHER: u16 = 9300;
/// Port of `plain`.
pub const PLAIN: u16 = 9400;

/// The rules of the shared mesh.
pub const RULES: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: default}
spec:
  host: web
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: default}
spec:
  hosts: [web]
  http:
  - name: by-version
    match:
    - headers: {x-version: {exact: v2}}
    route:
    - destination: {host: web, subset: v2}
  - name: everybody
    route:
    - destination: {host: web, subset: v1}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: default}
spec:
  host: echo
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo, namespace: default}
spec:
  hosts: [echo]
  tcp:
  - route:
    - destination: {host: echo, subset: v1}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: limited, namespace: default}
spec:
  host: limited
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 1000}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: other, namespace: default}
spec:
  host: other
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 1000}}}
"#;

/// A lab with the shared mesh and a running daemon.
#[derive(Debug)]
pub struct Fixture {
    /// The daemon; first, so that it ends before the lab.
    pub daemon: Daemon,
    /// The node.
    pub lab: Lab,
    /// A captured pod, both families.
    pub client: Arc<Pod>,
    /// A captured pod, IPv4 alone.
    pub client_v4: Arc<Pod>,
    /// A pod without a Pod object: what plain Kubernetes does.
    pub stranger: Arc<Pod>,
}

/// Brings the shared mesh up in a new lab, without a daemon.
pub fn mesh(driver: Driver) -> anyhow::Result<Lab> {
    let lab = Lab::builder().driver(driver).build()?;
    let service = |name: &str, port: &str, number: u16| {
        lab.add_service(
            ServiceSpec::new("default", name)
                .port(port, number)
                .families(Families::Dual),
        )
    };
    service("web", "http", WEB)?;
    lab.add_service(
        ServiceSpec::new("default", "echo")
            .port("tcp", ECHO)
            .udp_port("udp", ECHO)
            .families(Families::Dual),
    )?;
    service("limited", "tcp", LIMITED)?;
    service("other", "tcp", OTHER)?;
    service("plain", "tcp", PLAIN)?;
    for (version, prefix) in [("v1", "one"), ("v2", "two")] {
        let pod = |app: &str, args: &[&str]| {
            lab.add_pod(
                PodSpec::new("default", &format!("{app}-{version}"))
                    .label("app", app)
                    .label("version", version)
                    .families(Families::Dual)
                    .workload(args),
            )
        };
        let port = WEB.to_string();
        pod(
            "web",
            &[
                "http",
                "--name",
                "web",
                "--version",
                version,
                "--port",
                &port,
            ],
        )?;
        for (app, port) in [
            ("echo", ECHO),
            ("limited", LIMITED),
            ("other", OTHER),
            ("plain", PLAIN),
        ] {
            // The prefix of "other" tells it from "limited".
            let prefix = if app == "other" {
                format!("other-{prefix}")
            } else {
                prefix.to_owned()
            };
            pod(
                app,
                &[
                    "tcp-echo",
                    "--prefix",
                    &prefix,
                    "--ports",
                    &port.to_string(),
                ],
            )?
            .wait_listening(port)?;
        }
        lab.pod("default", &format!("web-{version}"))?
            .wait_listening(WEB)?;
    }
    lab.add_pod(PodSpec::new("default", "client").families(Families::Dual))?;
    lab.add_pod(PodSpec::new("default", "client-v4"))?;
    lab.add_pod(
        PodSpec::new("default", "stranger")
            .families(Families::Dual)
            .unlisted(),
    )?;
    lab.write_config("rules.yaml", RULES)?;
    Ok(lab)
}

impl Fixture {
    /// The shared mesh with a daemon, and both clients captured.
    pub fn start(driver: Driver, options: &DaemonOptions) -> anyhow::Result<Self> {
        let lab = mesh(driver)?;
        let daemon = lab.start_daemon(options)?;
        let fixture = Self {
            daemon,
            client: lab.pod("default", "client")?,
            client_v4: lab.pod("default", "client-v4")?,
            stranger: lab.pod("default", "stranger")?,
            lab,
        };
        for pod in [&fixture.client, &fixture.client_v4] {
            fixture.wait_captured(pod, Duration::from_secs(10))?;
        }
        Ok(fixture)
    }

    /// A service's virtual address of one family, with its port.
    pub fn vip(&self, service: &str, port: u16, is_v6: bool) -> anyhow::Result<SocketAddr> {
        let addresses = self.lab.service_addresses("default", service)?;
        let address = addresses.into_iter().find(|it| it.is_ipv6() == is_v6);
        Ok(SocketAddr::new(
            address.context("the service lacks the family")?,
            port,
        ))
    }

    /// A service's IPv4 virtual address with its port, as text.
    pub fn vip4(&self, service: &str, port: u16) -> anyhow::Result<String> {
        Ok(self.vip(service, port, false)?.to_string())
    }

    /// Waits until a pod's connections to `web` go to the proxy.
    pub fn wait_captured(&self, pod: &Arc<Pod>, limit: Duration) -> anyhow::Result<()> {
        let to = self.vip4("web", WEB)?;
        let what = format!("{} to be captured", pod.spec().name);
        wait_until(&what, limit, || {
            let held = Held::dial(pod, &["--to", &to, "--send", GET])?;
            Ok(held.is_proxied().then_some(()))
        })
        .with_context(|| self.explain_state())
    }

    /// The state of the daemon, for the message of a failed wait.
    fn explain_state(&self) -> String {
        let say = |args: &[&str]| {
            self.daemon
                .cli(args)
                .map_or_else(|error| error.to_string(), |it| it.stdout + &it.stderr)
        };
        format!(
            "pods:\n{}\nfindings:\n{}",
            say(&["get", "pods"]),
            say(&["get", "findings"])
        )
    }

    /// Dials a TCP service so often and counts the answers of v1 (`one`) and v2 (`two`).
    pub fn split(&self, pod: &Pod, to: &str, number: u32) -> anyhow::Result<Split> {
        let number = number.to_string();
        Ok(Split::of(&pod.dial(&["--to", to, "-n", &number])?))
    }
}

/// One HTTP request in the lines that `tcp-client --send` sends; it adds the last line feed.
pub const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r";

/// How many connections each version answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Split {
    /// By v1.
    pub one: usize,
    /// By v2.
    pub two: usize,
    /// By nobody.
    pub failed: usize,
}

impl Split {
    /// Counts answers by their prefix.
    pub fn of(seen: &[Seen]) -> Self {
        let mut split = Self::default();
        for connection in seen {
            let prefix = connection.reply.split(' ').next().unwrap_or_default();
            if !connection.error.is_empty() {
                split.failed += 1;
            } else if prefix.ends_with("one") {
                split.one += 1;
            } else if prefix.ends_with("two") {
                split.two += 1;
            } else {
                split.failed += 1;
            }
        }
        split
    }

    /// Whether both versions answered and nothing failed, as kube-proxy's choice looks.
    pub fn is_mixed(&self) -> bool {
        self.failed == 0 && self.one > 0 && self.two > 0
    }

    /// Whether v1 answered everything, as the rules say.
    pub fn is_all_v1(&self) -> bool {
        self.failed == 0 && self.two == 0 && self.one > 0
    }
}

/// A connection that stays open, with what its application and the kernel see of it.
#[derive(Debug)]
pub struct Held {
    /// The client, which holds it.
    pub process: Process,
    /// What the application saw.
    pub seen: Seen,
    /// Where the kernel's socket goes; none if there is no such socket.
    pub real: Option<SocketAddr>,
}

impl Held {
    /// Connects from a pod and keeps the connection: arguments of `tcp-client`.
    pub fn dial(pod: &Pod, args: &[&str]) -> anyhow::Result<Self> {
        Self::dial_at(pod, pod.place(), args)
    }

    /// The same from another place in the pod's namespace.
    pub fn dial_at(pod: &Pod, place: &Place, args: &[&str]) -> anyhow::Result<Self> {
        let mut all = vec!["tcp-client", "--hold"];
        all.extend(args);
        let process = pod.spawn_workload_at(place, "held", &all)?;
        let seen: Vec<Seen> = process.wait_json()?;
        let seen = seen.into_iter().next().context("the client saw nothing")?;
        let port = seen
            .local
            .parse::<SocketAddr>()
            .map(|local| local.port())
            .unwrap_or(0);
        let real = pod
            .tcp_sockets()?
            .into_iter()
            // An earlier connection with this port may still be in TIME_WAIT.
            .find(|entry| entry.local.port() == port && entry.state == TcpState::Established)
            .map(|entry| SocketAddr::new(entry.remote.ip().to_canonical(), entry.remote.port()));
        Ok(Self {
            process,
            seen,
            real,
        })
    }

    /// Whether its socket goes to the in-pod listener.
    pub fn is_proxied(&self) -> bool {
        self.real.is_some_and(|real| real.ip().is_loopback())
    }

    /// Whether its socket goes to this very address.
    pub fn goes_to(&self, address: &str) -> bool {
        self.real.is_some_and(|real| address.parse() == Ok(real))
    }

    /// Port of the client's end.
    pub fn local_port(&self) -> anyhow::Result<u16> {
        let local: SocketAddr = self.seen.local.parse().context("not connected")?;
        Ok(local.port())
    }

    /// Address of the client's end, IPv4-mapped ones as IPv4.
    pub fn local_ip(&self) -> anyhow::Result<IpAddr> {
        let local: SocketAddr = self.seen.local.parse().context("not connected")?;
        Ok(local.ip().to_canonical())
    }
}
