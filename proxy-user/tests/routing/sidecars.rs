//! What a Sidecar lets its workloads see.

use super::mesh::{Mesh, common, pod, virtual_service};

fn sidecar(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{spec}}}
---
"
    )
}

/// What the client gets from service `other` of ns2 by its address and name.
fn ask_other(mesh: &Mesh, pod: &str) -> String {
    let host = [("host", "other.ns2.svc.cluster.local")];
    mesh.ask(pod, "http://10.0.0.7/", &host)
}

const OWN: &str = "egress: [{hosts: ['./*']}]";

#[test]
fn a195_services_of_other_namespaces_are_unknown() {
    let rule = virtual_service(
        "ns2",
        "v",
        "  hosts: [other]\n  http: [{directResponse: {status: 418}}]",
    );
    for (policy, expected) in [
        ("", "pass"), // by address, without the rules of ns2
        (", outboundTrafficPolicy: {mode: REGISTRY_ONLY}", "refused"),
    ] {
        let own = sidecar("ns1", "s", &format!("{OWN}{policy}"));
        let mesh = Mesh::new(&(common() + &rule + &own));
        assert_eq!(ask_other(&mesh, "ns1/client"), expected, "{policy}");
        assert_eq!(mesh.get("http://a/"), "80||a.ns1", "{policy}");
        // Without the Sidecar the service and its rules are there.
        let free = Mesh::new(&(common() + &rule));
        assert_eq!(ask_other(&free, "ns1/client"), "418");
    }
}

#[test]
fn a196_destinations_of_rules_in_scope_are_reached_wherever_they_are() {
    let rule = virtual_service(
        "ns1",
        "v",
        "  hosts: [a]\n  http: [{route: [{destination: {host: other.ns2.svc.cluster.local}}]}]",
    );
    let own = sidecar(
        "ns1",
        "s",
        &format!("{OWN}, outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}"),
    );
    let mesh = Mesh::new(&(common() + &rule + &own));
    assert_eq!(mesh.get("http://a/"), "80||other.ns2");
    // Without the rule nobody imports the destination.
    let without = Mesh::new(&(common() + &own));
    assert_eq!(ask_other(&without, "ns1/client"), "refused");
}

#[test]
fn a197_only_the_sidecar_with_a_selector_counts_for_its_workloads() {
    let objects = common()
        + &pod("ns1", "free", "10.9.0.5", "app: free")
        + &sidecar("ns1", "all", OWN)
        + &sidecar(
            "ns1",
            "some",
            "workloadSelector: {labels: {app: free}}, egress: [{hosts: ['ns2/*']}]",
        );
    let mesh = Mesh::new(&objects);
    for (pod, other, own) in [
        ("ns1/client", "pass", "80||a.ns1"),
        ("ns1/free", "80||other.ns2", "pass"), // nothing is merged with the other one
    ] {
        assert_eq!(ask_other(&mesh, pod), other, "{pod}");
        assert_eq!(
            mesh.ask(pod, "http://10.0.0.1/", &[("host", "a.ns1")]),
            own,
            "{pod}"
        );
    }
}

#[test]
fn a198_the_root_namespaces_sidecar_stands_in_as_if_it_were_the_clients() {
    let root = sidecar("istio-system", "default", OWN);
    let mesh = Mesh::new(&(common() + &root));
    for (pod, other, a) in [
        ("ns1/client", "pass", "80||a.ns1"),
        ("ns2/client", "80||other.ns2", "pass"),
    ] {
        assert_eq!(ask_other(&mesh, pod), other, "{pod}");
        let host = [("host", "a.ns1.svc.cluster.local")];
        assert_eq!(mesh.ask(pod, "http://10.0.0.1/", &host), a, "{pod}");
    }
    // One of the namespace's own takes its place.
    let own = sidecar("ns1", "s", "egress: [{hosts: ['*/*']}]");
    let mesh = Mesh::new(&(common() + &root + &own));
    assert_eq!(ask_other(&mesh, "ns1/client"), "80||other.ns2");
}

#[test]
fn a199_an_exclusion_takes_a_namespace_out_of_what_was_imported() {
    for (hosts, expected) in [
        ("'*/*'", "80||other.ns2"),
        ("'*/*', '~ns2/*'", "pass"),
        ("'*/*', '~ns3/*'", "80||other.ns2"),
        ("'*/*', '~/other.ns2.svc.cluster.local'", "pass"),
    ] {
        let own = sidecar("ns1", "s", &format!("egress: [{{hosts: [{hosts}]}}]"));
        let mesh = Mesh::new(&(common() + &own));
        assert_eq!(ask_other(&mesh, "ns1/client"), expected, "{hosts}");
        assert_eq!(mesh.get("http://a/"), "80||a.ns1", "{hosts}");
    }
}

#[test]
fn a_listener_of_a_port_has_its_own_services_and_virtual_services() {
    let rule = virtual_service(
        "ns1",
        "v",
        "  hosts: [multi]\n  http: [{directResponse: {status: 418}}]",
    );
    let own = |hosts: &str| {
        let listeners = format!(
            "egress: [{{port: {{number: 8080, protocol: HTTP, name: p}}, hosts: [{hosts}]}}, \
             {{hosts: ['*/*']}}]"
        );
        sidecar("ns1", "s", &listeners)
    };
    for (hosts, on_80, on_8080) in [
        ("'./multi.ns1.svc.cluster.local'", "418", "418"),
        ("'./a.ns1.svc.cluster.local'", "418", "pass"), // neither service nor rule is there
    ] {
        let mesh = Mesh::new(&(common() + &rule + &own(hosts)));
        let host = [("host", "multi.ns1.svc.cluster.local")];
        let ask = |url| mesh.ask("ns1/client", url, &host);
        assert_eq!(ask("http://10.0.0.3/"), on_80, "{hosts}");
        assert_eq!(ask("http://10.0.0.3:8080/"), on_8080, "{hosts}");
    }
}

#[test]
fn the_protocol_of_a_port_listener_is_that_of_the_port() {
    let rules = virtual_service(
        "ns1",
        "v",
        "  hosts: [a]
  http: [{directResponse: {status: 418}}]
  tcp: [{route: [{destination: {host: tcp}}]}]",
    );
    for (protocol, expected) in [("HTTP", "418"), ("TCP", "9000||tcp.ns1")] {
        let listener = format!(
            "egress: [{{port: {{number: 80, protocol: {protocol}, name: p}}, hosts: ['*/*']}}]"
        );
        let mesh = Mesh::new(&(common() + &rules + &sidecar("ns1", "s", &listener)));
        assert_eq!(mesh.get("http://10.0.0.1/"), expected, "{protocol}");
    }
}
