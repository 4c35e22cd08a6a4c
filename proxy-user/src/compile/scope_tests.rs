use serde_json::{Value, json};

use super::*;
use crate::api::{DestinationRule, Pod, ServiceEntry, Sidecar, VirtualService};
use crate::compile::registry::Registry;
use crate::compile::testing::{add, created, lines, settings};

fn pod(labels: &Value) -> Value {
    json!({ "metadata": { "labels": labels } })
}

fn keys(set: &ObjectSet) -> (Vec<String>, Vec<String>) {
    let mut findings = Vec::new();
    let scopes = Scopes::build(set, &settings(), &mut findings);
    let keys = scopes.clients.iter().map(|client| client.key.to_string());
    (keys.collect(), lines(&findings))
}

#[test]
fn pods_share_a_scope_unless_somebody_asks_for_what_tells_them_apart() {
    let mut set = ObjectSet::default();
    add::<Pod>(
        &mut set,
        "ns1/a",
        pod(&json!({ "app": "a", "version": "v1" })),
    );
    add::<Pod>(
        &mut set,
        "ns1/b",
        pod(&json!({ "app": "b", "version": "v2" })),
    );
    add::<Pod>(&mut set, "ns2/c", pod(&json!({ "app": "a" })));
    let elsewhere = json!({ "nodeName": "n2" });
    add::<Pod>(&mut set, "ns3/d", elsewhere);
    assert_eq!(keys(&set).0, ["ns1", "ns2"]);
    let matches = json!([{ "sourceLabels": { "app": "a" } }]);
    add::<VirtualService>(
        &mut set,
        "ns1/vs",
        json!({ "http": [{ "match": matches }] }),
    );
    assert_eq!(keys(&set).0, ["ns1", "ns1{app=a}", "ns2{app=a}"]);
    let selector = json!({ "matchLabels": { "version": "v2" } });
    add::<DestinationRule>(&mut set, "ns1/dr", json!({ "workloadSelector": selector }));
    assert_eq!(
        keys(&set).0,
        ["ns1{app=a}", "ns1{version=v2}", "ns2{app=a}"]
    );
}

#[test]
fn one_sidecar_applies_by_selector_then_namespace_then_root() {
    let mut set = ObjectSet::default();
    for name in ["ns1/a", "ns1/b", "ns2/a", "istio-system/a"] {
        let (_, app) = name.split_once('/').expect("a slash");
        add::<Pod>(&mut set, name, pod(&json!({ "app": app })));
    }
    let selector = json!({ "labels": { "app": "a" } });
    add::<Sidecar>(&mut set, "istio-system/root", json!({}));
    add::<Sidecar>(
        &mut set,
        "istio-system/some",
        json!({ "workloadSelector": selector }),
    );
    add::<Sidecar>(&mut set, "ns1/all", json!({}));
    add::<Sidecar>(
        &mut set,
        "ns1/some",
        json!({ "workloadSelector": selector }),
    );
    let expected = [
        "istio-system by istio-system/some",
        "ns1 by ns1/all",
        "ns1 by ns1/some",
        "ns2 by istio-system/root", // one with a selector has no effect outside the root
    ];
    let (found, findings) = keys(&set);
    assert_eq!(found, expected);
    assert_eq!(findings, [""; 0]);
}

#[test]
fn conflicting_sidecars_are_reported_and_the_oldest_is_used() {
    let mut set = ObjectSet::default();
    add::<Pod>(&mut set, "ns1/p", pod(&json!({ "app": "a" })));
    add::<Pod>(&mut set, "ns1/q", pod(&json!({ "app": "b" })));
    let selector = json!({ "labels": { "app": "a" } });
    for (name, second, selector) in [
        ("ns1/1", 1, None),
        ("ns1/2", 2, None),
        ("ns1/3", 3, Some(&selector)),
        ("ns1/4", 4, Some(&selector)),
    ] {
        let mut spec = json!({ "metadata": created(second) });
        if let Some(selector) = selector {
            spec["workloadSelector"] = selector.clone();
        }
        add::<Sidecar>(&mut set, name, spec);
    }
    let (found, findings) = keys(&set);
    assert_eq!(found, ["ns1 by ns1/1", "ns1 by ns1/3"]);
    let expected = [
        "Sidecar/ns1/2: error: is ignored: Sidecar/ns1/1 is older and has no workloadSelector either",
        "Sidecar/ns1/4: error: workloadSelector: also selects Pod ns1/p, which Sidecar ns1/3 \
         selects; the older one is used there",
    ];
    assert_eq!(findings, expected);
}

/// Services x.com of ns1, y.com of ns2 and z.y.com of ns2, ports 80 and 443.
fn registry() -> Registry {
    let mut set = ObjectSet::default();
    for (name, host) in [("ns1/x", "x.com"), ("ns2/y", "y.com"), ("ns2/z", "z.y.com")] {
        let ports = json!([
            { "number": 80, "name": "http", "protocol": "HTTP" },
            { "number": 443, "name": "tls", "protocol": "TLS" },
        ]);
        add::<ServiceEntry>(&mut set, name, json!({ "hosts": [host], "ports": ports }));
    }
    Registry::build(&set, &settings(), &mut Vec::new())
}

fn client_with(egress: &Value) -> ClientView {
    let mut set = ObjectSet::default();
    add::<Pod>(&mut set, "ns1/p", json!({}));
    add::<Sidecar>(&mut set, "ns1/s", json!({ "egress": egress }));
    let scopes = Scopes::build(&set, &settings(), &mut Vec::new());
    scopes.clients.first().expect("one scope").as_ref().clone()
}

#[test]
fn egress_hosts_import_services() {
    let registry = registry();
    for (egress, expected) in [
        (json!([]), "x.com y.com z.y.com"), // absent is everything
        (json!([{ "hosts": ["*/*"] }]), "x.com y.com z.y.com"),
        (json!([{ "hosts": ["./*"] }]), "x.com"),
        (json!([{ "hosts": ["ns2/*"] }]), "y.com z.y.com"),
        (json!([{ "hosts": ["*/y.com"] }]), "y.com"),
        (json!([{ "hosts": ["*/*.y.com"] }]), "z.y.com"), // not the name itself
        (json!([{ "hosts": ["ns1/y.com"] }]), ""),        // it is in ns2
        (json!([{ "hosts": ["~/*"] }]), ""),
        (json!([{ "hosts": ["*/*", "~ns2/y.com"] }]), "x.com z.y.com"),
        (json!([{ "hosts": ["*/*", "~/*.y.com"] }]), "x.com y.com"),
        (json!([{ "hosts": ["*/*", "~./*"] }]), "y.com z.y.com"),
    ] {
        let client = client_with(&egress);
        let seen: Vec<&str> = registry
            .visible(&client)
            .map(|service| &*service.host)
            .collect();
        assert_eq!(seen.join(" "), expected, "{egress}");
    }
}

#[test]
fn a_dedicated_listener_owns_its_port() {
    let registry = registry();
    let client = client_with(&json!([
        { "port": { "number": 80, "protocol": "HTTP", "name": "h" }, "hosts": ["*/x.com"] },
        { "hosts": ["*/y.com"] },
    ]));
    for (host, port, expected) in [
        ("x.com", 80, true),
        ("x.com", 443, false), // trimmed to the port
        ("y.com", 80, false),  // the catch-all leaves port 80 out
        ("y.com", 443, true),
        ("z.y.com", 443, false),
    ] {
        let service = registry.candidates(host).next().expect("it is there");
        assert_eq!(
            client.imports_port(service, port),
            expected,
            "{host}:{port}"
        );
    }
}

#[test]
fn virtual_services_are_imported_by_overlap_and_excluded_by_cover() {
    for (hosts, own, expected) in [
        (json!(["*/x.com"]), &["x.com"][..], true),
        (json!(["*/*.com"]), &["x.com", "q.org"], true), // whole, by one of its hosts
        (json!(["*/x.com"]), &["*.com"], true),
        (json!(["*/q.org"]), &["x.com"], false),
        (json!(["ns2/x.com"]), &["x.com"], false), // it is in ns1
        (json!(["*/*", "~/*.com"]), &["x.com"], false),
        (json!(["*/*", "~/x.com"]), &["*.com"], true), // not covered whole
    ] {
        let client = client_with(&json!([{ "hosts": hosts }]));
        let found = client.imports_virtual_service("ns1", own.iter().copied(), None);
        assert_eq!(found, expected, "{hosts} {own:?}");
    }
}
