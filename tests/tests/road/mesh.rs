//! The common mesh of all cases: who is there, at which loopback addresses.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Client pods: namespace, name, labels.
pub(crate) const CLIENTS: [(&str, &str, &str); 3] = [
    ("ns1", "client", "app: a"),
    ("ns1", "zed", "app: z"),
    ("ns2", "client", "app: a"),
];

/// Services: namespace, name, ports as `name:number`. Each has a pod of version v1 and one of
/// v2, but `empty`; `direct` listens where the server does, so that a connection that passes
/// through meets it.
pub(crate) const SERVICES: [(&str, &str, &str); 9] = [
    ("ns1", "a", "http:80"),
    ("ns1", "b", "http:80"),
    ("ns1", "multi", "http:80,http-alt:8080"),
    ("ns1", "single", "http:9080"),
    ("ns1", "auto", "web:7000"),
    ("ns1", "tcp", "tcp:9000"),
    ("ns1", "secure", "https:443"),
    ("ns1", "direct", "http:SERVER"),
    ("ns2", "other", "http:80"),
];

const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: b, namespace: ns1}
spec:
  host: b
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: ns1}
spec: {clusterIP: 127.2.0.100, ports: [{name: http, port: 80}]}
---
";

pub(crate) fn virtual_ip(service: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 2, 0, u8::try_from(service + 1).expect("few services"))
}

fn pod_ip(service: usize, version: u8) -> Ipv4Addr {
    Ipv4Addr::new(
        127,
        3,
        u8::try_from(service + 1).expect("few services"),
        version,
    )
}

pub(crate) fn uid(client: usize) -> String {
    format!("client-{client}")
}

/// The common mesh, with endpoints on this port.
pub(crate) fn mesh(server: u16) -> String {
    let mut text = SUBSETS.to_owned();
    let mut add = |document: std::fmt::Arguments<'_>| {
        text.write_fmt(document).expect("a String takes everything");
        text.push_str("\n---\n");
    };
    for (at, (namespace, name, labels)) in CLIENTS.into_iter().enumerate() {
        let uid = uid(at);
        add(format_args!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, uid: {uid}, labels: {{{labels}}}}}, spec: {{nodeName: here}}, status: {{podIPs: [{{ip: 127.4.0.{at}}}]}}}}"
        ));
    }
    for (at, (namespace, name, ports)) in SERVICES.into_iter().enumerate() {
        let ports = ports.replace("SERVER", &server.to_string());
        let list = |number_of: &dyn Fn(&str) -> String| {
            let ports = ports.split(',').filter_map(|port| port.split_once(':'));
            let ports: Vec<String> = ports
                .map(|(name, number)| format!("{{name: {name}, port: {}}}", number_of(number)))
                .collect();
            ports.join(", ")
        };
        let ip = virtual_ip(at);
        let dialled = list(&|number| number.to_owned());
        let served = list(&|_| server.to_string());
        add(format_args!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{clusterIP: {ip}, ports: [{dialled}]}}}}"
        ));
        let mut endpoints = String::new();
        for version in 1..=2 {
            let ip = pod_ip(at, version);
            add(format_args!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}-v{version}, namespace: {namespace}, uid: u-{namespace}-{name}-{version}, labels: {{app: {name}, version: v{version}}}}}, spec: {{nodeName: there}}, status: {{podIPs: [{{ip: {ip}}}]}}}}"
            ));
            write!(
                endpoints,
                "{{addresses: [{ip}], targetRef: {{kind: Pod, name: {name}-v{version}}}}}, "
            )
            .expect("a String takes everything");
        }
        add(format_args!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{served}], endpoints: [{endpoints}]}}"
        ));
    }
    text
}

/// `127.3.2.1:port` to `b/v1`; another address as it is.
pub(crate) fn server_name(address: &str) -> String {
    let ip = address.rsplit_once(':').map_or(address, |(ip, _)| ip);
    for (at, service) in SERVICES.iter().enumerate() {
        for version in 1..=2 {
            if ip == pod_ip(at, version).to_string() {
                return format!("{}/v{version}", service.1);
            }
        }
        if ip == virtual_ip(at).to_string() {
            return format!("address of {}", service.1);
        }
    }
    ip.to_owned()
}
