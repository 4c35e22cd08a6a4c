//! tls and tcp rules, and which section is used on which port.

use super::mesh::{Mesh, common, virtual_service};

const EXTERNAL_TLS: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: ns1}
spec:
  hosts: [a.com, b.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 10.7.0.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: x, namespace: ns1}
spec:
  hosts: [x.com]
  ports: [{number: 8443, name: tls, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 10.7.0.2}]
---
";

#[test]
fn a071_a142_a143_tls_by_server_name() {
    let rules = |condition: &str| {
        virtual_service(
            "ns1",
            "v",
            &format!(
                "  hosts: [a.com, b.com]
  tls:
  - {{match: [{{sniHosts: [a.com]}}], route: [{{destination: {{host: tls.ns1.svc.cluster.local}}}}]}}
  - {{match: [{{sniHosts: [b.com]{condition}}}], route: [{{destination: {{host: x.com}}}}]}}"
            ),
        )
    };
    let plain = common() + EXTERNAL_TLS + &rules("");
    let labelled = common() + EXTERNAL_TLS + &rules(", gateways: [mesh], sourceLabels: {app: z}");
    for (objects, url, expected, why) in [
        (&plain, "https://a.com", "443||tls.ns1", "A142"),
        (
            &plain,
            "https://b.com",
            "8443||x.com",
            "A142: the destination's only port",
        ),
        (&plain, "https://c.com", "pass", "A143"),
        (
            &labelled,
            "https://b.com",
            "pass",
            "A071: labels count beside gateways",
        ),
    ] {
        assert_eq!(Mesh::new(objects).get(url), expected, "{why}");
    }
    let closed = Mesh::registry_only(&plain);
    assert_eq!(
        closed.get("https://c.com"),
        "refused",
        "A143 under REGISTRY_ONLY"
    );
}

#[test]
fn tls_ports_without_rules_are_found_by_address_or_by_name() {
    let mesh = Mesh::new(&(common() + EXTERNAL_TLS));
    for (url, expected) in [
        ("https://tls", "443||tls.ns1"),
        ("https://10.0.0.6", "443||tls.ns1"), // by its address, whatever the name
        ("https://a.com", "443||a.com"),
        ("https://x.com:8443", "8443||x.com"),
        ("https://c.com", "pass"),
    ] {
        assert_eq!(mesh.get(url), expected, "{url}");
    }
}

#[test]
fn a144_http_rules_have_no_effect_on_other_ports() {
    let objects = virtual_service(
        "ns1",
        "v",
        "  hosts: [tls, tcp]
  http: [{route: [{destination: {host: b}}]}]",
    );
    let mesh = Mesh::new(&(common() + &objects));
    assert_eq!(mesh.get("https://tls"), "443||tls.ns1");
    assert_eq!(mesh.get("tcp://tcp:9000"), "9000||tcp.ns1");
}

#[test]
fn a145_a146_tcp_rules() {
    let split = "  hosts: [tcp]
  tcp:
  - route:
    - {destination: {host: tcp, subset: v1}, weight: 80}
    - {destination: {host: tcp, subset: v2}, weight: 20}";
    let by_subnet = |first: &str| {
        format!(
            "  hosts: [tcp]
  tcp:
  - {{match: [{{destinationSubnets: [{first}]}}], route: [{{destination: {{host: tcp, subset: v1}}}}]}}
  - {{route: [{{destination: {{host: tcp, subset: v2}}}}]}}"
        )
    };
    let longest = "  hosts: [tcp]
  tcp:
  - {match: [{destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: tcp, subset: v1}}]}
  - {match: [{destinationSubnets: [10.0.0.0/16]}], route: [{destination: {host: tcp, subset: v2}}]}";
    let by_port = "  hosts: [tcp]
  tcp:
  - {match: [{port: 9001}], route: [{destination: {host: tcp, subset: v1}}]}";
    for (spec, expected, why) in [
        (
            split.to_owned(),
            "9000|v1|tcp.ns1*80 9000|v2|tcp.ns1*20",
            "A145",
        ),
        (
            by_subnet("10.0.0.0/8"),
            "9000|v1|tcp.ns1",
            "A146: the address is within",
        ),
        (
            by_subnet("11.0.0.0/8"),
            "9000|v2|tcp.ns1",
            "A146: it is not",
        ),
        (longest.to_owned(), "9000|v2|tcp.ns1", "the longest prefix"),
        (
            by_port.to_owned(),
            "9000||tcp.ns1",
            "no rule applies: the service itself",
        ),
    ] {
        let mesh = Mesh::new(&(common() + &virtual_service("ns1", "v", &spec)));
        assert_eq!(mesh.get("tcp://tcp:9000"), expected, "{why}");
    }
}

#[test]
fn an_undeclared_port_has_http_rules_and_tcp_rules() {
    let objects = virtual_service(
        "ns1",
        "v",
        "  hosts: [auto]
  http: [{route: [{destination: {host: b, port: {number: 80}}}]}]
  tcp: [{route: [{destination: {host: tcp}}]}]",
    );
    let mesh = Mesh::new(&(common() + &objects));
    assert_eq!(mesh.get("http://auto:7000/"), "80||b.ns1");
    assert_eq!(mesh.get("tcp://auto:7000"), "9000||tcp.ns1");
}

#[test]
fn entries_without_addresses_capture_their_port_and_networks_their_addresses() {
    let objects = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wide, namespace: ns1}
spec:
  hosts: [wide.example]
  ports: [{number: 5000, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 10.7.0.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: net, namespace: ns1}
spec:
  hosts: [net.example]
  addresses: [172.16.0.0/16]
  ports: [{number: 5001, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 10.7.0.2}]
---
";
    let mesh = Mesh::new(&(common() + objects));
    for (url, expected) in [
        ("tcp://203.0.113.9:5000", "5000||wide.example"),
        ("tcp://172.16.3.4:5001", "5001||net.example"),
        ("tcp://172.17.3.4:5001", "pass"),
    ] {
        assert_eq!(mesh.get(url), expected, "{url}");
    }
}
