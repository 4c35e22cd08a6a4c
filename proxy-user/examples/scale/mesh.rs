//! Texts of a large mesh: a directory of each namespace, a file of each kind in it.

use std::fmt::Write as _;
use std::sync::Arc;

use proxy_user::source::state::{FileText, Files};

/// How large.
pub(crate) struct Size {
    /// Services, dealt out over the namespaces.
    pub(crate) services: usize,
    /// Endpoints and Pods of each service.
    pub(crate) endpoints: usize,
    /// VirtualServices, and as many DestinationRules.
    pub(crate) virtual_services: usize,
    /// Namespaces; each has one pod on this node, and hence a scope.
    pub(crate) namespaces: usize,
}

/// What differs from one version of the mesh to the next.
#[derive(Clone, Copy, Default)]
pub(crate) struct Version {
    /// Whether the last endpoint of service 0 has gone.
    pub(crate) is_endpoint_gone: bool,
    /// Share of VirtualService 0 that goes to subset v1, in percent.
    pub(crate) weight: usize,
}

/// Name of a namespace's file of one kind.
pub(crate) fn file_name(namespace: usize, kind: &str) -> Arc<str> {
    Arc::from(format!("ns{namespace:04}/{kind}.yaml"))
}

/// All files.
pub(crate) fn files(size: &Size, version: Version) -> Files {
    let mut files = Files::new();
    for namespace in 0..size.namespaces {
        for (kind, text) in [
            ("services", services(size, namespace)),
            ("slices", slices(size, version, namespace)),
            ("pods", pods(size, namespace)),
            ("routes", routes(size, version, namespace)),
            ("rules", rules(size, namespace)),
        ] {
            let text = FileText::from(text.as_str());
            files.insert(file_name(namespace, kind), text);
        }
    }
    files
}

fn of_namespace(size: &Size, all: usize, namespace: usize) -> impl Iterator<Item = usize> {
    (namespace..all).step_by(size.namespaces)
}

/// Every fourth service is TCP.
fn section(service: usize) -> &'static str {
    if service % 4 == 3 { "tcp" } else { "http" }
}

fn services(size: &Size, namespace: usize) -> String {
    let mut out = String::new();
    for service in of_namespace(size, size.services, namespace) {
        let (a, b) = (service / 250, service % 250 + 1);
        let name = section(service);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{service}, namespace: ns{namespace}}}\n\
             spec: {{clusterIP: 10.{a}.0.{b}, ports: [{{name: {name}, port: 80, targetPort: 8080}}]}}"
        );
    }
    out
}

fn endpoint_ip(number: usize) -> String {
    let (x, y, z) = (number / 62_500, number / 250 % 250, number % 250 + 1);
    format!("11.{x}.{y}.{z}")
}

pub(crate) fn slices(size: &Size, version: Version, namespace: usize) -> String {
    let mut out = String::new();
    for service in of_namespace(size, size.services, namespace) {
        let name = section(service);
        let _ = writeln!(
            out,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{service}, \
             namespace: ns{namespace}, labels: {{kubernetes.io/service-name: s{service}}}}}\n\
             addressType: IPv4\nports: [{{name: {name}, port: 8080}}]\nendpoints:"
        );
        let gone = usize::from(version.is_endpoint_gone && service == 0);
        for endpoint in 0..size.endpoints - gone {
            let number = service * size.endpoints + endpoint;
            let ip = endpoint_ip(number);
            let _ = writeln!(
                out,
                "- {{addresses: [{ip}], targetRef: {{kind: Pod, namespace: ns{namespace}, \
                 name: p{number}}}}}"
            );
        }
    }
    out
}

/// One pod of each namespace is on this node.
fn pods(size: &Size, namespace: usize) -> String {
    let mut out = String::new();
    for service in of_namespace(size, size.services, namespace) {
        for endpoint in 0..size.endpoints {
            let number = service * size.endpoints + endpoint;
            let ip = endpoint_ip(number);
            let is_here = service == namespace && endpoint == 0;
            let node = if is_here { "here" } else { "there" };
            let _ = writeln!(
                out,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}, namespace: ns{namespace}, uid: u{number}, \
                 labels: {{app: s{service}, version: v{}}}}}\n\
                 spec: {{nodeName: {node}}}\nstatus: {{podIPs: [{{ip: {ip}}}]}}",
                endpoint % 2 + 1
            );
        }
    }
    out
}

/// One VirtualService in ten is private.
pub(crate) fn routes(size: &Size, version: Version, namespace: usize) -> String {
    let mut out = String::new();
    for number in of_namespace(size, size.virtual_services, namespace) {
        let service = number % size.services.max(1);
        let export = if number % 10 == 0 { "." } else { "*" };
        let section = section(service);
        let weight = if number == 0 { version.weight } else { 90 };
        let _ = writeln!(
            out,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{name: v{number}, namespace: ns{namespace}}}\n\
             spec:\n  hosts: [s{service}]\n  exportTo: ['{export}']\n  {section}:\n  - route:\n    \
             - {{destination: {{host: s{service}, subset: v1}}, weight: {weight}}}\n    \
             - {{destination: {{host: s{service}, subset: v2}}, weight: {}}}",
            100 - weight
        );
    }
    out
}

fn rules(size: &Size, namespace: usize) -> String {
    let mut out = String::new();
    for number in of_namespace(size, size.virtual_services, namespace) {
        let service = number % size.services.max(1);
        let _ = writeln!(
            out,
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
             metadata: {{name: d{number}, namespace: ns{namespace}}}\n\
             spec:\n  host: s{service}\n  subsets:\n  - {{name: v1, labels: {{version: v1}}}}\n  \
             - {{name: v2, labels: {{version: v2}}}}"
        );
    }
    out
}
