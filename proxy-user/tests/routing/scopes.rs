//! Views of several clients on one node, and that sharing changes nothing.

use super::mesh::{Mesh, common, pod, service, virtual_service};

#[test]
fn clients_of_two_namespaces_see_their_own_short_names_and_private_rules() {
    let objects = service("ns2", "a", "10.0.0.20", "http:80")
        + &virtual_service(
            "ns2",
            "p",
            "  hosts: [other]\n  exportTo: [\".\"]\n  http: [{route: [{destination: {host: a}}]}]",
        );
    let mesh = Mesh::new(&(common() + &objects));
    for (pod, host, expected) in [
        ("ns1/client", "a", "80||a.ns1"),
        ("ns2/client", "a", "80||a.ns2"),
        ("ns1/client", "other.ns2", "80||other.ns2"),
        ("ns2/client", "other.ns2", "80||a.ns2"),
        ("ns2/client", "b", "pass"),
        ("ns2/client", "b.ns1", "80||b.ns1"),
    ] {
        let found = mesh.ask(pod, "http://10.0.0.1/", &[("host", host)]);
        assert_eq!(found, expected, "{pod} {host}");
    }
}

#[test]
fn private_services_exist_for_their_namespace_alone() {
    let hidden = service("ns1", "secret", "10.0.0.30", "tcp:6000").replace(
        "metadata: {name: secret, namespace: ns1}",
        "metadata: {name: secret, namespace: ns1, annotations: {networking.istio.io/exportTo: \".\"}}",
    );
    let rule = virtual_service(
        "ns1",
        "s",
        "  hosts: [secret]\n  tcp: [{route: [{destination: {host: secret}}]}]",
    );
    let mesh = Mesh::registry_only(&(common() + &hidden + &rule));
    let ask = |pod| mesh.ask(pod, "tcp://10.0.0.30:6000", &[]);
    assert_eq!(ask("ns1/client"), "6000||secret.ns1");
    assert_eq!(ask("ns2/client"), "refused");
    let kernel = &mesh.snapshot.kernel;
    let secret = kernel
        .services
        .iter()
        .position(|service| service.name.starts_with("secret."))
        .expect("it is in the table");
    assert_eq!(kernel.services[secret].plan, None, "the base hides it");
    assert_eq!(
        kernel
            .overrides
            .iter()
            .filter(|entry| entry.service == secret)
            .count(),
        1
    );
}

#[test]
fn a_destination_rule_of_the_clients_namespace_gives_it_clusters_of_its_own() {
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: mine, namespace: ns2}
spec:
  host: a.ns1.svc.cluster.local
  exportTo: [\".\"]
  trafficPolicy: {loadBalancer: {simple: RANDOM}}
---
";
    let mesh = Mesh::new(&(common() + rule));
    let variants: Vec<&str> = mesh
        .snapshot
        .clusters
        .iter()
        .filter(|cluster| &*cluster.name == "outbound|80||a.ns1.svc.cluster.local")
        .map(|cluster| &*cluster.variant)
        .collect();
    assert_eq!(variants, ["", "ns2/mine"]);
    for pod in ["ns1/client", "ns2/client"] {
        assert_eq!(
            mesh.ask(pod, "http://10.0.0.1/", &[("host", "a.ns1")]),
            "80||a.ns1"
        );
    }
}

#[test]
fn what_scopes_share_is_not_copied() {
    let mut text = common();
    for index in 0..20 {
        text += &service(
            "ns1",
            &format!("s{index}"),
            &format!("10.2.0.{index}"),
            "http:80",
        );
        text += &pod(&format!("ns-{index}"), "client", "10.9.1.1", "app: a");
    }
    let mesh = Mesh::new(&text);
    for scope in &mesh.snapshot.scopes {
        if scope.namespace.starts_with("ns-") {
            assert!(
                scope.exact.is_empty() && scope.port_tables.is_empty(),
                "{scope:?}"
            );
        }
    }
    assert!(mesh.snapshot.kernel.overrides.is_empty());
}

#[test]
fn equal_input_gives_equal_output() {
    let objects = virtual_service(
        "ns1",
        "v",
        "  hosts: [a, tcp]\n  http: [{route: [{destination: {host: b}}]}]\n  tcp: [{route: [{destination: {host: tcp}}]}]",
    );
    let text = common() + &objects;
    let (first, second) = (Mesh::new(&text), Mesh::new(&text));
    assert_eq!(
        format!("{:?}", first.snapshot.kernel),
        format!("{:?}", second.snapshot.kernel)
    );
    assert_eq!(first.findings, second.findings);
}

#[test]
fn a_sidecar_imports_what_its_rules_lead_to() {
    let sidecar = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: s, namespace: ns2}
spec:
  egress: [{hosts: [\"ns1/a.ns1.svc.cluster.local\"]}]
---
";
    let rule = virtual_service(
        "ns1",
        "v",
        "  hosts: [a]\n  http: [{match: [{uri: {prefix: /b}}], route: [{destination: {host: b}}]}, {route: [{destination: {host: multi, port: {number: 8080}}}]}]",
    );
    let mesh = Mesh::new(&(common() + sidecar + &rule));
    for (pod, url, host, expected) in [
        ("ns2/client", "http://10.0.0.1/", "a.ns1", "8080||multi.ns1"),
        ("ns2/client", "http://10.0.0.1/b", "a.ns1", "80||b.ns1"),
        ("ns2/client", "http://10.0.0.1/", "b.ns1", "80||b.ns1"), // a destination without port: all of it
        (
            "ns2/client",
            "http://10.0.0.3:8080/",
            "multi.ns1",
            "8080||multi.ns1",
        ),
        ("ns2/client", "http://10.0.0.1/", "multi.ns1", "pass"), // port 80 is not referred to
        ("ns2/client", "http://10.0.0.1/", "other", "pass"), // its own namespace is not imported
        (
            "ns1/client",
            "http://10.0.0.1/",
            "other.ns2",
            "80||other.ns2",
        ),
    ] {
        let found = mesh.ask(pod, url, &[("host", host)]);
        assert_eq!(found, expected, "{pod} {url} {host}");
    }
}
