//! A snapshot as text: deterministic, one thing a line, defaults left out.
//!
//! For golden tests and for people; nothing parses it. Start at [`dump`].

mod gateways;
mod routes;
mod values;

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use super::clusters::{Discovery, UpstreamProtocol};
use super::endpoints::Health;
use super::kernel_view::{KernelAction, KernelKey, KernelPlan, SplitTarget};
use super::{Capture, Cluster, Destination, PodView, ScopeView, Snapshot};
use values::{from, policy};

/// The whole snapshot: services, pods, clusters, scopes with their destinations
/// and routes, gateways with their listeners, and the kernel's part.
#[must_use]
pub fn dump(snapshot: &Snapshot) -> String {
    let mut out = Dump::default();
    out.services(snapshot);
    out.pods(snapshot);
    for cluster in &snapshot.clusters {
        out.cluster(cluster);
    }
    let mut bases: Vec<&Arc<ScopeView>> = Vec::new();
    for scope in &snapshot.scopes {
        if let Some(base) = &scope.base
            && !bases.iter().any(|known| Arc::ptr_eq(known, base))
        {
            bases.push(base);
        }
    }
    for base in bases {
        out.line(0, format_args!("base"));
        out.scope_entries(base);
    }
    for scope in &snapshot.scopes {
        let policy = if scope.is_registry_only {
            " REGISTRY_ONLY"
        } else {
            ""
        };
        out.line(
            0,
            format_args!("scope {} {}{policy}", scope.id.0, scope.key),
        );
        out.scope_entries(scope);
    }
    out.gateways(snapshot);
    out.kernel(snapshot);
    out.text
}

#[derive(Default)]
struct Dump {
    text: String,
    /// Addresses of shared parts that were printed already.
    printed: HashSet<usize>,
}

impl Dump {
    fn line(&mut self, depth: usize, text: fmt::Arguments<'_>) {
        for _ in 0..depth {
            self.text.push_str("  ");
        }
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(text);
        self.text.push('\n');
    }

    /// Whether `part` comes for the first time: shared parts are printed once.
    fn is_first<T>(&mut self, part: &Arc<T>) -> bool {
        self.printed.insert(Arc::as_ptr(part).addr())
    }

    fn services(&mut self, snapshot: &Snapshot) {
        for service in &snapshot.services {
            let written = service.addresses.iter().map(ToString::to_string);
            let allocated = service.allocated.iter().map(|ip| format!("auto:{ip}"));
            let addresses: Vec<String> = written.chain(allocated).collect();
            let ports: Vec<String> = service
                .ports
                .iter()
                .map(|(number, name, protocol)| format!("{number}/{name}={protocol:?}"))
                .collect();
            let by = from(service.provenance.as_ref());
            let (addresses, ports) = (addresses.join(" "), ports.join(" "));
            self.line(
                0,
                format_args!("service {} [{addresses}] {ports}{by}", service.host),
            );
        }
    }

    fn pods(&mut self, snapshot: &Snapshot) {
        let mut pods: Vec<&Arc<PodView>> = snapshot.pods.values().collect();
        pods.sort_by(|a, b| a.uid.cmp(&b.uid));
        for pod in pods {
            let state = match &pod.capture {
                Capture::Captured => "captured".to_owned(),
                Capture::Untouched(reason) => format!("untouched: {reason}"),
            };
            let (namespace, name) = (&pod.workload.namespace, &pod.workload.name);
            self.line(
                0,
                format_args!(
                    "pod {} {namespace}/{name} workload={} scope={} down={:?} {state}",
                    pod.uid, pod.workload.workload, pod.scope.0, pod.on_proxy_down
                ),
            );
        }
    }

    fn cluster(&mut self, cluster: &Cluster) {
        let variant = match &*cluster.variant {
            "" => String::new(),
            variant => format!(" rule={variant}"),
        };
        let protocol = match cluster.protocol {
            UpstreamProtocol::Http1 => "http1",
            UpstreamProtocol::Http2 => "http2",
            UpstreamProtocol::SameAsClient => "same",
            UpstreamProtocol::Tcp => "tcp",
        };
        let discovery = match cluster.discovery {
            Discovery::Endpoints => String::new(),
            Discovery::Dns => " dns".to_owned(),
            Discovery::LogicalDns => " logical-dns".to_owned(),
            Discovery::DynamicDns { port } => format!(" dynamic-dns:{port}"),
            Discovery::OriginalDst { port: None } => " original-dst".to_owned(),
            Discovery::OriginalDst { port: Some(port) } => format!(" original-dst:{port}"),
        };
        let policy = policy(&cluster.policy);
        let by = from(cluster.provenance.as_ref());
        self.line(
            0,
            format_args!(
                "cluster {}{variant} {protocol}{discovery}{policy}{by}",
                cluster.name
            ),
        );
        for named in cluster.dns.iter().flat_map(|dns| &dns.named) {
            let weight = if named.weight == 1 {
                String::new()
            } else {
                format!(" weight={}", named.weight)
            };
            self.line(
                1,
                format_args!("by name {}:{}{weight}", named.name, named.port),
            );
        }
        for endpoint in &cluster.endpoint_set().endpoints {
            let weight = if endpoint.weight == 1 {
                String::new()
            } else {
                format!(" weight={}", endpoint.weight)
            };
            let health = if endpoint.health == Health::Healthy {
                ""
            } else {
                " unhealthy"
            };
            let name = match &*endpoint.workload.name {
                "" => String::new(),
                name => format!(" {}/{name}", endpoint.workload.namespace),
            };
            self.line(
                1,
                format_args!("{}{weight}{health}{name}", endpoint.address),
            );
        }
    }

    fn scope_entries(&mut self, scope: &ScopeView) {
        let mut exact: Vec<_> = scope.exact.iter().collect();
        exact.sort_by_key(|(key, _)| **key);
        for ((ip, port), entry) in exact {
            self.destination(
                &format!("{}", std::net::SocketAddr::new(*ip, *port)),
                entry.as_ref(),
            );
        }
        let cidr_mode = if scope.replaces_cidrs { "only " } else { "" };
        for (net, port, entry) in &scope.cidrs {
            self.destination(&format!("{cidr_mode}{net}:{port}"), Some(entry));
        }
        let mut wide: Vec<_> = scope.port_wide.iter().collect();
        wide.sort_by_key(|(port, _)| **port);
        for (port, entry) in wide {
            self.destination(&format!("*:{port}"), entry.as_ref());
        }
        let mut tables: Vec<_> = scope.port_tables.iter().collect();
        tables.sort_by_key(|(port, _)| **port);
        for (port, table) in tables {
            self.line(1, format_args!("table of port {port}"));
            self.table(2, table);
        }
    }

    fn destination(&mut self, place: &str, entry: Option<&Arc<Destination>>) {
        let Some(destination) = entry else {
            self.line(1, format_args!("{place} hidden"));
            return;
        };
        let service = destination.service.as_deref().unwrap_or("-");
        let plan = &destination.plan;
        self.line(
            1,
            format_args!("{place} {service} {:?}", destination.protocol),
        );
        self.line(2, format_args!("path {:?}: {}", plan.path, plan.reason));
        self.line(
            2,
            format_args!("degraded {:?}: {}", plan.degraded, plan.degraded_reason),
        );
        if let Some(table) = &destination.http {
            self.table(2, table);
        }
        for route in &destination.tls {
            self.tls(2, route);
        }
        for route in &destination.tcp {
            self.tcp(2, route);
        }
    }

    fn kernel(&mut self, snapshot: &Snapshot) {
        let view = &snapshot.kernel;
        for (index, service) in view.services.iter().enumerate() {
            let key = match service.key {
                KernelKey::Exact(ip, port) => std::net::SocketAddr::new(ip, port).to_string(),
                KernelKey::Cidr(net, port) => format!("{net}:{port}"),
                KernelKey::PortWide(port) => format!("*:{port}"),
            };
            let kubernetes = if service.is_routed_by_kubernetes {
                " kubernetes"
            } else {
                ""
            };
            let plan = plan_text(snapshot, service.plan.as_ref());
            self.line(
                0,
                format_args!("kernel {key} {}{kubernetes} {plan}", service.name),
            );
            for own in view.overrides.iter().filter(|own| own.service == index) {
                let scope = view.scopes.get(own.scope).map_or("?", |scope| &*scope.key);
                let plan = plan_text(snapshot, own.plan.as_ref());
                self.line(1, format_args!("in {scope}: {plan}"));
            }
        }
    }
}

fn plan_text(snapshot: &Snapshot, plan: Option<&KernelPlan>) -> String {
    let Some(plan) = plan else {
        return "hidden".to_owned();
    };
    let stale = if plan.deny_when_stale {
        " deny-when-stale"
    } else {
        ""
    };
    let action = action_text(snapshot, &plan.action);
    format!(
        "{action} degraded {}{stale}",
        action_text(snapshot, &plan.degraded)
    )
}

fn action_text(snapshot: &Snapshot, action: &KernelAction) -> String {
    match action {
        KernelAction::Pass => "pass".to_owned(),
        KernelAction::Refuse => "refuse".to_owned(),
        KernelAction::Proxy => "proxy".to_owned(),
        KernelAction::Split(entries) => {
            let target = |target: &SplitTarget| match target {
                SplitTarget::Refuse => "refuse".to_owned(),
                SplitTarget::Cluster(index) => match snapshot.kernel.clusters.get(*index) {
                    Some(cluster) => format!("{} {:?}", cluster.key.name, cluster.balancer),
                    None => "?".to_owned(),
                },
            };
            let parts = entries
                .iter()
                .map(|e| format!("{}x{}", e.weight, target(&e.target)));
            format!("split({})", parts.collect::<Vec<_>>().join(", "))
        }
    }
}
