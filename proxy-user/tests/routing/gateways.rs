//! Gateways: who serves them, which VirtualServices are bound, and what a request gets.

use std::sync::Arc;

use http::HeaderMap;
use proxy_user::snapshot::ClusterRef;
use proxy_user::snapshot::gateways::{GatewayListener, GatewayRoutes, GatewayView};
use proxy_user::snapshot::matchers::RequestFacts;
use proxy_user::snapshot::routes::{RouteAction, RouteTable};

use super::mesh::{Mesh, common, pod, virtual_service};

/// A gateway pod in `edge`, and a Gateway `gw` in `ns1` with these servers in flow style.
fn gateway(servers: &str) -> String {
    pod("edge", "gw", "10.9.0.9", "istio: ingress") + &gateway_object("gw", 1, servers)
}

fn gateway_object(name: &str, second: u8, servers: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: ns1, creationTimestamp: \"2026-01-01T00:00:0{second}Z\"}}
spec: {{selector: {{istio: ingress}}, servers: [{servers}]}}
---
"
    )
}

const HTTP: &str = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.ex.com', a.org]}";

fn bound(name: &str, host: &str, http: &str) -> String {
    let spec = format!("  hosts: [{host}]\n  gateways: [ns1/gw]\n  http: [{http}]");
    virtual_service("ns1", name, &spec)
}

fn only_view(mesh: &Mesh) -> &Arc<GatewayView> {
    match mesh.snapshot.gateways.as_slice() {
        [only] => only,
        other => panic!("one gateway workload expected, found {}", other.len()),
    }
}

fn listener(mesh: &Mesh, port: u16) -> &GatewayListener {
    let mut listeners = only_view(mesh).listeners.iter();
    let found = listeners.find(|listener| listener.port == port);
    found.expect("the port is listened on")
}

/// What a request gets on a plain port: `80||a.ns1`, or `404`.
fn ask(mesh: &Mesh, port: u16, host: &str, path: &str) -> String {
    let [chain] = listener(mesh, port).chains.as_slice() else {
        panic!("a plain port has one chain");
    };
    let GatewayRoutes::Http(table) = &chain.routes else {
        panic!("no HTTP on port {port}");
    };
    ask_table(table, host, path)
}

fn ask_table(table: &RouteTable, host: &str, path: &str) -> String {
    let headers = HeaderMap::new();
    let request = RequestFacts {
        path,
        query: None,
        method: "GET",
        scheme: "http",
        authority: host,
        headers: &headers,
    };
    let found = table.find(host).and_then(|found| found.find(&request));
    match found.map(|(route, _)| &route.action) {
        None => "404".to_owned(),
        Some(RouteAction::Forward(forward)) => {
            let cluster = forward.destinations.first().map(|to| match &to.cluster {
                ClusterRef::Known(cluster) => cluster.name.to_string(),
                ClusterRef::Missing(name) => format!("{name} NC"),
                ClusterRef::NotHonoured(name) => format!("{name} NH"),
            });
            let name = cluster.unwrap_or_default();
            let name = name.replace("outbound|", "");
            name.replace(".svc.cluster.local", "")
        }
        Some(other) => format!("{other:?}"),
    }
}

const TO_A: &str = "{route: [{destination: {host: a}}]}";
const TO_B: &str = "{route: [{destination: {host: b}}]}";

#[test]
fn a185_a_gateway_is_served_by_pods_of_any_namespace() {
    let selected = Mesh::new(&(common() + &gateway(HTTP)));
    let view = only_view(&selected);
    assert_eq!((&*view.namespace, &*view.gateways[0]), ("edge", "ns1/gw"));
    assert_eq!(view.pods, [Arc::from("edge/gw")]);
    // Only the pod's label is another one.
    let other = gateway(HTTP).replace("labels: {istio: ingress}", "labels: {istio: other}");
    let unserved = Mesh::new(&(common() + &other));
    assert!(unserved.snapshot.gateways.is_empty());
    assert!(unserved.codes().contains(&"empty-selector"));
}

#[test]
fn a186_virtual_hosts_are_the_narrower_of_server_and_host() {
    let objects =
        common() + &gateway(HTTP) + &bound("v", "a.ex.com", TO_A) + &bound("w", "'*.org'", TO_B);
    let mesh = Mesh::new(&objects);
    for (host, expected) in [
        ("a.ex.com", "80||a.ns1"),
        ("A.ex.com:80", "80||a.ns1"),
        ("b.ex.com", "404"), // the server has it, no VirtualService does
        ("a.org", "80||b.ns1"),
        ("b.org", "404"), // the VirtualService has it, no server does
        ("", "404"),
    ] {
        assert_eq!(ask(&mesh, 80, host, "/"), expected, "{host}");
    }
}

#[test]
fn a187_a_namespace_before_the_host_admits_its_virtual_services_only() {
    let server = |hosts: &str| {
        gateway(&format!(
            "{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [{hosts}]}}"
        ))
    };
    let foreign = virtual_service(
        "ns2",
        "v",
        "  hosts: [a.com]\n  gateways: [ns1/gw]\n  http: [{route: [{destination: {host: other}}]}]",
    );
    for (hosts, expected) in [
        ("'ns1/*'", "404"),
        ("'./*'", "404"),
        ("'ns2/*'", "80||other.ns2"),
        ("'*/*'", "80||other.ns2"),
        ("'*'", "80||other.ns2"),
    ] {
        let mesh = Mesh::new(&(common() + &server(hosts) + &foreign));
        assert_eq!(ask(&mesh, 80, "a.com", "/"), expected, "{hosts}");
        let is_reported = mesh.codes().contains(&"unbound-host");
        assert_eq!(is_reported, expected == "404", "{hosts}");
    }
}

#[test]
fn a188_virtual_services_of_one_host_merge_with_what_matches_everything_last() {
    let objects = common()
        + &gateway(HTTP)
        + &bound(
            "v",
            "a.ex.com",
            &format!(
                "{{match: [{{uri: {{prefix: /v}}}}], route: [{{destination: {{host: a}}}}]}}, {TO_A}"
            ),
        )
        + &bound(
            "w",
            "a.ex.com",
            "{match: [{uri: {prefix: /w}}], route: [{destination: {host: b}}]}",
        );
    let mesh = Mesh::new(&objects);
    for (path, expected) in [
        ("/v", "80||a.ns1"),
        ("/w", "80||b.ns1"), // stands behind the catch-all of the older one
        ("/other", "80||a.ns1"),
    ] {
        assert_eq!(ask(&mesh, 80, "a.ex.com", path), expected, "{path}");
    }
}

#[test]
fn a194_of_plain_text_and_tls_on_one_port_the_newer_is_left_out() {
    let plain = "{port: {number: 443, name: plain, protocol: HTTP}, hosts: [a.com]}";
    let tls =
        "{port: {number: 443, name: tls, protocol: TLS}, hosts: [b.com], tls: {mode: PASSTHROUGH}}";
    for (older, newer, is_tls) in [(plain, tls, false), (tls, plain, true)] {
        let objects = common() + &gateway(older) + &gateway_object("newer", 2, newer);
        let mesh = Mesh::new(&objects);
        let listener = listener(&mesh, 443);
        assert_eq!((listener.is_tls, listener.chains.len()), (is_tls, 1));
        let conflict = mesh.findings.iter().find(|f| f.code == "gateway-conflict");
        let conflict = conflict.expect("it is reported").to_string();
        assert!(
            conflict.contains("Gateway/ns1/newer: error: servers[0]"),
            "{conflict}"
        );
    }
    // Of one kind both stay.
    let second = tls.replace("b.com", "c.com");
    let mesh = Mesh::new(&(common() + &gateway(tls) + &gateway_object("newer", 2, &second)));
    assert_eq!(listener(&mesh, 443).chains.len(), 2);
}

#[test]
fn a078_a_destination_without_port_has_the_services_only_port_at_a_gateway() {
    let server = "{port: {number: 9080, name: http, protocol: HTTP}, hosts: ['*']}";
    let objects = common()
        + &gateway(server)
        + &bound("v", "a.com", TO_A)
        + &bound("w", "b.com", "{route: [{destination: {host: multi}}]}");
    let mesh = Mesh::new(&objects);
    assert_eq!(ask(&mesh, 9080, "a.com", "/"), "80||a.ns1");
    // With several ports the server's is meant, which the service does not have.
    assert_eq!(ask(&mesh, 9080, "b.com", "/"), "9080||multi.ns1 NC");
}

#[test]
fn a037_a038_gateways_decide_where_a_virtual_service_acts() {
    let rule = |gateways: &str| {
        let spec = format!("  hosts: [a.ns1.svc.cluster.local]\n{gateways}  http: [{TO_B}]");
        virtual_service("ns1", "v", &spec)
    };
    let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";
    for (gateways, in_mesh, at_gateway) in [
        ("", "80||b.ns1", "404"),
        ("  gateways: [mesh]\n", "80||b.ns1", "404"),
        ("  gateways: [gw]\n", "80||a.ns1", "80||b.ns1"), // A037
        ("  gateways: [gw, mesh]\n", "80||b.ns1", "80||b.ns1"), // A038
        ("  gateways: [other/gw]\n", "80||a.ns1", "404"),
    ] {
        let mesh = Mesh::new(&(common() + &gateway(server) + &rule(gateways)));
        assert_eq!(mesh.get("http://a/"), in_mesh, "{gateways}");
        let host = "a.ns1.svc.cluster.local";
        assert_eq!(ask(&mesh, 80, host, "/"), at_gateway, "{gateways}");
    }
}

#[test]
fn a_gateways_secret_is_looked_at_for_a_certificate() {
    let server = "{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], \
                  tls: {mode: SIMPLE, credentialName: c}}";
    for (secret, expected) in [
        ("", Some("unknown-secret")),
        ("data: {other: YQ==}", Some("secret")),
        ("data: {tls.crt: YQ==}", Some("secret")), // half of the pair
        ("data: {tls.crt: YQ==, tls.key: YQ==}", None),
        ("stringData: {cert: a, key: b}", None),
    ] {
        let object = format!(
            "
apiVersion: v1
kind: Secret
metadata: {{name: c, namespace: edge}}
{secret}
---
"
        );
        let object = if secret.is_empty() { "" } else { &object };
        let mesh = Mesh::new(&(common() + &gateway(server) + object));
        let codes = mesh.codes();
        let found = ["unknown-secret", "secret"];
        let found = found.into_iter().find(|code| codes.contains(code));
        assert_eq!(found, expected, "{secret}: {:#?}", mesh.findings);
    }
}
