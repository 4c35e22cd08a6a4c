//! Which VirtualService and virtual host a request meets.

use super::mesh::{Mesh, common, service, service_without_endpoints, virtual_service};

/// A catch-all rule to `host`.
fn to(host: &str) -> String {
    format!("  http: [{{route: [{{destination: {{host: {host}}}}}]}}]")
}

fn rules(namespace: &str, name: &str, head: &str, host: &str) -> String {
    virtual_service(namespace, name, &format!("{head}\n{}", to(host)))
}

#[test]
fn services_without_rules_are_reached_by_each_of_their_names() {
    let mesh = Mesh::new(&common());
    for (url, host, expected) in [
        ("http://a/", "a", "80||a.ns1"),
        ("http://10.0.0.1/", "A.NS1", "80||a.ns1"), // A039: case
        ("http://10.0.0.1/", "a.ns1:80", "80||a.ns1"), // A039: port
        ("http://10.0.0.1/", "10.0.0.1", "80||a.ns1"), // A041
        ("http://10.0.0.1/", "a.ns1.svc.cluster.local.", "80||a.ns1"), // A042
        ("http://10.0.0.1/", "a.ns1.svc", "80||a.ns1"),
        ("http://10.0.0.1/", "b", "80||b.ns1"), // the Host decides, not the address
        ("http://10.0.0.1/", "other", "pass"),  // A040: another namespace's short name
        ("http://10.0.0.1/", "other.ns2", "80||other.ns2"),
        ("http://10.0.0.1/", "unknown.example", "pass"), // A047
        ("http://10.0.0.1/", "empty", "80||empty.ns1 UH"), // A052
        ("http://10.0.0.4:7000/", "anything", "7000||auto.ns1"), // A054
    ] {
        let found = mesh.ask("ns1/client", url, &[("host", host)]);
        assert_eq!(found, expected, "{url} {host}");
    }
}

#[test]
fn a048_a049_unknown_hosts_under_registry_only() {
    let mesh = Mesh::registry_only(&common());
    for (url, host, expected) in [
        ("http://10.0.0.1/", "unknown", "refused"), // A048
        ("http://10.0.0.1:8099/", "a", "refused"),  // A049: a port nobody listens on
        ("http://10.0.0.1/", "a", "80||a.ns1"),
    ] {
        let found = mesh.ask("ns1/client", url, &[("host", host)]);
        assert_eq!(found, expected, "{url} {host}");
    }
    let unknown_port = mesh.explain("ns1/client", "http://10.0.0.1:8099/", &[]);
    assert_eq!(unknown_port.found, "unknown");
    assert!(
        mesh.snapshot
            .kernel
            .scopes
            .iter()
            .all(|scope| scope.is_registry_only)
    );
}

#[test]
fn names_are_expanded_in_the_namespace_of_the_object() {
    for (objects, pod, host, expected) in [
        // A001
        (
            rules("ns1", "v", "  hosts: [a]", "b"),
            "ns1/client",
            "a",
            "80||b.ns1",
        ),
        // A002: a dotted name is no service
        (
            rules("ns1", "v", "  hosts: [a.ns1]", "b"),
            "ns1/client",
            "a.ns1.svc.cluster.local",
            "80||a.ns1",
        ),
        // ... yet it captures that very text on port 80.
        (
            rules("ns1", "v", "  hosts: [a.ns1]", "b"),
            "ns1/client",
            "a.ns1",
            "80||b.ns1",
        ),
        // A003: used from ns2, the destination is still that of ns1
        (
            rules("ns1", "v", "  hosts: [other.ns2.svc.cluster.local]", "b"),
            "ns2/client",
            "other",
            "80||b.ns1",
        ),
    ] {
        let mesh = Mesh::new(&(common() + &objects));
        let found = mesh.ask(pod, "http://10.0.0.1/", &[("host", host)]);
        assert_eq!(found, expected, "{pod} {host} {objects}");
    }
}

#[test]
fn which_virtual_service_applies() {
    let timed = |name: &str, stamp: &str, extra: &str, host: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: ns1, creationTimestamp: \"2026-01-0{stamp}T00:00:00Z\"}}
spec:
  hosts: [a]
{extra}{}
---
",
            to(host)
        )
    };
    for (objects, pod, expected, why) in [
        (
            rules("ns1", "v", "  hosts: [a]\n  gateways: [gw]", "b"),
            "ns1/client",
            "80||a.ns1",
            "A037",
        ),
        (
            rules("ns1", "v", "  hosts: [a]\n  gateways: [gw, mesh]", "b"),
            "ns1/client",
            "80||b.ns1",
            "A038",
        ),
        (
            rules(
                "ns1",
                "v",
                "  hosts: [other.ns2.svc.cluster.local]\n  exportTo: [\".\"]",
                "b",
            ),
            "ns2/client",
            "80||a.ns1",
            "A006: asked for a, untouched by a private rule for other",
        ),
        (
            timed("vx", "2", "", "multi") + &timed("vy", "1", "", "b"),
            "ns1/client",
            "80||b.ns1",
            "A007: the older",
        ),
        (
            timed("vy", "1", "", "b") + &timed("vx", "1", "", "multi"),
            "ns1/client",
            "80||multi.ns1",
            "A009: the name",
        ),
        (
            timed("vx", "1", "", "multi") + &timed("vy", "2", "  exportTo: [\".\"]\n", "b"),
            "ns1/client",
            "80||b.ns1",
            "A008: the private one, although younger",
        ),
        (
            timed("vx", "1", "", "multi") + &timed("vy", "2", "  exportTo: [\".\"]\n", "b"),
            "ns2/client",
            "80||multi.ns1",
            "A008: elsewhere the public one",
        ),
        (
            rules(
                "ns1",
                "w",
                "  hosts: [\"*.ns1.svc.cluster.local\"]",
                "multi",
            ) + &rules("ns1", "x", "  hosts: [a]", "b"),
            "ns1/client",
            "80||b.ns1",
            "A010: exact before wildcard",
        ),
        (
            rules("ns1", "w", "  hosts: [\"*.svc.cluster.local\"]", "b")
                + &rules(
                    "ns1",
                    "x",
                    "  hosts: [\"*.ns1.svc.cluster.local\"]",
                    "multi",
                ),
            "ns1/client",
            "80||multi.ns1",
            "A010: the longer wildcard",
        ),
    ] {
        let mesh = Mesh::new(&(common() + &objects));
        let found = mesh.ask(
            pod,
            "http://10.0.0.1/",
            &[("host", "a.ns1.svc.cluster.local")],
        );
        assert_eq!(found, expected, "{why}");
    }
}

#[test]
fn a006_a_private_rule_acts_in_its_namespace_alone() {
    let objects = rules("ns1", "v", "  hosts: [a]\n  exportTo: [\".\"]", "b");
    let mesh = Mesh::new(&(common() + &objects));
    let ask = |pod| mesh.ask(pod, "http://10.0.0.1/", &[("host", "a.ns1")]);
    assert_eq!(ask("ns1/client"), "80||b.ns1");
    assert_eq!(ask("ns2/client"), "80||a.ns1");
}

#[test]
fn two_rules_for_one_host_are_reported_on_the_younger() {
    let objects = rules("ns1", "v", "  hosts: [a]", "b") + &rules("ns1", "w", "  hosts: [a]", "b");
    let mesh = Mesh::new(&(common() + &objects));
    assert!(
        mesh.codes().contains(&"duplicate-host"),
        "{:#?}",
        mesh.findings
    );
}

#[test]
fn a_dotted_host_is_reported_where_a_service_was_probably_meant() {
    for (host, is_reported) in [("a.ns1", true), ("a.ns1.svc", true), ("x.com", false)] {
        let objects = rules("ns1", "v", &format!("  hosts: [{host}]"), "b");
        let mesh = Mesh::new(&(common() + &objects));
        assert_eq!(mesh.codes().contains(&"dotted-host"), is_reported, "{host}");
    }
}

#[test]
fn a043_hosts_without_a_service_are_routed_on_port_80_and_beside_a_service() {
    let foreign = rules("ns1", "v", "  hosts: [ext.example.com]", "b");
    let beside = rules("ns1", "v", "  hosts: [ext.example.com, multi]", "b");
    for (objects, url, expected) in [
        (&foreign, "http://10.0.0.1/", "80||b.ns1"),
        (&foreign, "http://10.0.0.3:8080/", "pass"),
        // `multi` has 8080, so the same rules act there.
        (&beside, "http://10.0.0.3:8080/", "8080||b.ns1 NC"),
    ] {
        let mesh = Mesh::new(&(common() + objects));
        let found = mesh.ask("ns1/client", url, &[("host", "ext.example.com")]);
        assert_eq!(found, expected, "{url} {objects}");
    }
}

#[test]
fn a025_a026_headless_services_and_aliases() {
    let headless = service("ns1", "h", "None", "http:80");
    let alias = "
apiVersion: v1
kind: Service
metadata: {name: e, namespace: ns1}
spec: {type: ExternalName, externalName: a.ns1.svc.cluster.local, ports: [{name: http, port: 80}]}
---
";
    let plain_alias = alias.replace(", ports: [{name: http, port: 80}]", "");
    let of_alias = rules("ns1", "v", "  hosts: [e]", "b");
    for (objects, host, expected) in [
        (headless, "pod-0.h.ns1.svc.cluster.local", "80||h.ns1"), // A025
        (alias.to_owned(), "e", "80||a.ns1"),                     // A026
        (
            alias.to_owned() + &rules("ns1", "v", "  hosts: [a]", "b"),
            "e",
            "80||b.ns1",
        ),
        (alias.to_owned() + &of_alias, "e", "80||b.ns1"),
        (alias.to_owned() + &of_alias, "a", "80||a.ns1"), // the alias's rules are not a's
        (plain_alias + &of_alias, "e", "80||a.ns1"),      // it declares no port
    ] {
        let mesh = Mesh::new(&(common() + &objects));
        let found = mesh.ask("ns1/client", "http://10.0.0.1/", &[("host", host)]);
        assert_eq!(found, expected, "{host} {objects}");
    }
}

#[test]
fn domains_that_two_services_claim_go_to_the_real_name_and_to_the_older() {
    // A ServiceEntry has the very name that is b's short form.
    let entry = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: ns2}
spec:
  hosts: [b.ns1]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.7.0.1}]
---
";
    let twin = service_without_endpoints("ns2", "twin", "10.0.0.1", "http:80");
    let mesh = Mesh::new(&(common() + entry + &twin));
    for (host, expected) in [
        ("b.ns1", "80||b.ns1"),
        ("b.ns1.svc", "80||b.ns1"),
        ("10.0.0.1", "80||a.ns1"), // the older by name
    ] {
        let found = mesh.explain("ns1/client", "http://10.0.0.1/", &[("host", host)]);
        let expected_host = if host == "b.ns1" { "b.ns1:80" } else { "" };
        if expected_host.is_empty() {
            let found = mesh.ask("ns1/client", "http://10.0.0.1/", &[("host", host)]);
            assert_eq!(found, expected, "{host}");
        } else {
            assert_eq!(found.virtual_host.as_deref(), Some(expected_host), "{host}");
        }
    }
}
