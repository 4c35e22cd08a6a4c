//! Which path a destination takes, and its degraded form.

use super::mesh::{Mesh, common, virtual_service};
use proxy_user::snapshot::kernel_view::{KernelAction, KernelKey};

fn destination_rule(host: &str, policy: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: more, namespace: ns1}}
spec:
  host: {host}
  trafficPolicy: {{{policy}}}
---
"
    )
}

fn tcp_rule(destinations: &str) -> String {
    virtual_service(
        "ns1",
        "v",
        &format!("  hosts: [tcp]\n  tcp: [{{route: [{destinations}]}}]"),
    )
}

fn http_rule(rules: &str) -> String {
    virtual_service("ns1", "v", &format!("  hosts: [b]\n  http: [{rules}]"))
}

#[test]
fn tcp_takes_the_kernel_path_unless_a_policy_needs_the_proxy() {
    let split = "{destination: {host: tcp, subset: v1}, weight: 80}, {destination: {host: tcp, subset: v2}, weight: 20}";
    let policy = |policy: &str| destination_rule("tcp", policy);
    let pool = |tcp: &str| policy(&format!("connectionPool: {{tcp: {{{tcp}}}}}"));
    for (objects, path, degraded, why) in [
        (tcp_rule(split), "kernel", "l4", "weights and subsets"),
        (
            policy("loadBalancer: {simple: ROUND_ROBIN}"),
            "kernel",
            "l4",
            "a balancer",
        ),
        (
            policy("loadBalancer: {consistentHash: {useSourceIp: true}}"),
            "kernel",
            "l4",
            "source address",
        ),
        (
            pool("tcpKeepalive: {time: 60s}"),
            "kernel",
            "l4",
            "keepalive",
        ),
        (pool("maxConnections: 1"), "proxy", "l4", "maxConnections"),
        (pool("connectTimeout: 1s"), "proxy", "l4", "connectTimeout"),
        (pool("idleTimeout: 60s"), "proxy", "l4", "idleTimeout"),
        (
            pool("maxConnectionDuration: 60s"),
            "proxy",
            "l4",
            "maxConnectionDuration",
        ),
        (
            policy("tls: {mode: SIMPLE}"),
            "proxy",
            "deny",
            "a destination needs what is not honoured yet",
        ),
        (
            String::new(),
            "untouched",
            "pass",
            "no Istio object names it",
        ),
    ] {
        // The DestinationRule of the common mesh names `tcp` already.
        let base = common().replace(
            "metadata: {name: tcp, namespace: ns1}\nspec:\n  host: tcp\n",
            "metadata: {name: tcp, namespace: ns1}\nspec:\n  host: HOST\n",
        );
        let host = if why == "weights and subsets" {
            "tcp"
        } else {
            "elsewhere"
        };
        let mesh = Mesh::new(&(base.replace("HOST", host) + &objects));
        let found = mesh.explain("ns1/client", "tcp://tcp:9000", &[]);
        assert_eq!(
            (found.path.as_str(), found.degraded.as_str()),
            (path, degraded),
            "{why}: {found}"
        );
        if path == "proxy" {
            assert_eq!(found.path_reason, why);
        }
    }
}

#[test]
fn http_degrades_to_its_catch_all_route_to_pass_or_to_deny() {
    let canary = "{route: [{destination: {host: b, subset: v1}, weight: 90}, {destination: {host: b, subset: v2}, weight: 10}]}";
    let by_header = format!(
        "{{match: [{{headers: {{x: {{exact: a}}}}}}], route: [{{destination: {{host: multi}}}}]}}, {canary}"
    );
    for (objects, degraded, why) in [
        (String::new(), "pass", "the service itself"),
        (http_rule(canary), "l4", "a canary"),
        (
            http_rule(&by_header),
            "l4",
            "the catch-all behind another rule",
        ),
        (
            http_rule("{route: [{destination: {host: multi}}]}"),
            "pass",
            "another service",
        ),
        (
            http_rule("{match: [{uri: {prefix: /x}}], route: [{destination: {host: b}}]}"),
            "pass",
            "no catch-all",
        ),
        (
            http_rule("{redirect: {uri: /n}}"),
            "pass",
            "no catch-all that forwards",
        ),
        (
            http_rule(
                "{fault: {abort: {httpStatus: 503, percentage: {value: 100}}}, route: [{destination: {host: b}}]}",
            ),
            "deny",
            "everything is aborted",
        ),
        (
            http_rule(
                "{fault: {abort: {httpStatus: 503, percentage: {value: 50}}}, route: [{destination: {host: b, subset: v1}}]}",
            ),
            "l4",
            "half is aborted",
        ),
    ] {
        let mesh = Mesh::new(&(common() + &objects));
        let found = mesh.explain("ns1/client", "http://b/", &[]);
        assert_eq!(
            (found.path.as_str(), found.degraded.as_str()),
            ("proxy", degraded),
            "{why}: {found}"
        );
    }
    let tls = destination_rule("a", "tls: {mode: SIMPLE}");
    let mesh = Mesh::new(&(common() + &tls));
    let found = mesh.explain("ns1/client", "http://a/", &[]);
    assert_eq!(found.degraded, "deny", "TLS origination: {found}");
}

#[test]
fn an_external_host_by_way_of_a_gateway_of_the_mesh_is_denied() {
    let objects = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: ns1}
spec:
  hosts: [ext.example]
  addresses: [172.16.0.1]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.7.0.1}]
---
"
    .to_owned()
        + &virtual_service(
            "ns1",
            "v",
            "  hosts: [ext.example]\n  http: [{route: [{destination: {host: a}}]}]",
        );
    let mesh = Mesh::new(&(common() + &objects));
    let found = mesh.explain("ns1/client", "http://ext.example/", &[]);
    assert_eq!(
        (found.degraded.as_str(), found.degraded_reason.as_str()),
        ("deny", "egress gateway")
    );
}

#[test]
fn ports_found_without_an_address_pass_or_are_denied_under_registry_only() {
    for (mesh, degraded) in [
        (Mesh::new(&common()), "pass"),
        (Mesh::registry_only(&common()), "deny"),
    ] {
        let found = mesh.explain("ns1/client", "http://203.0.113.7/", &[]);
        assert_eq!(
            (found.found.as_str(), found.degraded.as_str()),
            ("portWide", degraded)
        );
    }
}

#[test]
fn the_kernel_is_told_what_the_proxy_is_told() {
    let objects = tcp_rule(
        "{destination: {host: tcp, subset: v1}, weight: 80}, {destination: {host: tcp, subset: nope}, weight: 20}",
    );
    let mesh = Mesh::new(&(common() + &objects));
    let kernel = &mesh.snapshot.kernel;
    let find = |key| {
        let found = kernel.services.iter().find(|service| service.key == key);
        found.and_then(|service| service.plan.clone())
    };
    let address = |text: &str| text.parse().expect("an address");
    let split = find(KernelKey::Exact(address("10.0.0.5"), 9000)).expect("tcp is there");
    let KernelAction::Split(entries) = &split.action else {
        panic!("expected a split, found {split:?}");
    };
    let weights: Vec<u32> = entries.iter().map(|entry| entry.weight).collect();
    assert_eq!(weights, [80, 20]);
    let http = find(KernelKey::Exact(address("10.0.0.1"), 80)).expect("a is there");
    assert_eq!(http.action, KernelAction::Proxy);
    let wide = find(KernelKey::PortWide(80)).expect("port 80 is HTTP");
    assert_eq!(
        (wide.action, wide.degraded),
        (KernelAction::Proxy, KernelAction::Pass)
    );
    assert!(kernel.services.is_sorted_by_key(|service| service.key));
}
