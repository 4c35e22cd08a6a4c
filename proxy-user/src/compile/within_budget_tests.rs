//! One namespace multiplies what it can, the other must not notice.

use serde_json::{Value, json};

use super::super::testing::{add, lines, settings};
use super::*;
use crate::api::{DestinationRule, EndpointSlice, Pod, Service, ServiceEntry, VirtualService};
use crate::settings::NamespaceBudget;
use crate::snapshot::dump::dump;

/// What every small namespace may hold here.
fn small_budget() -> CompileSettings {
    CompileSettings {
        namespace_budget: NamespaceBudget {
            objects: 400,
            addresses: 2_000,
            regexes: 50,
            regex_bytes: 4 << 20,
            compiled_bytes: 4 << 20,
        },
        ..settings()
    }
}

/// `victim` with a service, an endpoint, a rule and a client pod.
fn victim() -> ObjectSet {
    let mut set = ObjectSet::default();
    let ports = json!([{ "name": "http", "port": 80 }]);
    let service = json!({ "clusterIP": "10.0.0.1", "ports": ports });
    add::<Service>(&mut set, "victim/web", service);
    let slice = json!({
        "metadata": { "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": [{ "addresses": ["10.1.0.1"] }],
    });
    add::<EndpointSlice>(&mut set, "victim/web-1", slice);
    let to_web = json!([{ "destination": { "host": "web" } }]);
    let rule = json!({ "hosts": ["web"], "http": [{ "timeout": "3s", "route": to_web }] });
    add::<VirtualService>(&mut set, "victim/web", rule);
    for namespace in ["victim", "attacker"] {
        let pod = json!({
            "metadata": { "uid": namespace, "labels": { "app": "client" } },
            "status": { "podIPs": [{ "ip": "10.9.0.1" }] },
        });
        let pod = json!({ "metadata": pod["metadata"], "status": pod["status"] });
        add::<Pod>(&mut set, &format!("{namespace}/client"), pod);
    }
    set
}

fn numbered(count: usize, text: impl Fn(usize) -> Value) -> Value {
    Value::Array((0..count).map(text).collect())
}

fn many_hosts(set: &mut ObjectSet) {
    let hosts = numbered(60, |n| json!(format!("h{n}.example.com")));
    let ports = numbered(
        60,
        |n| json!({ "number": 1000 + n, "name": format!("tcp-{n}"), "protocol": "TCP" }),
    );
    let endpoints = numbered(60, |n| json!({ "address": format!("10.7.0.{n}") }));
    let entry = json!({
        "hosts": hosts, "ports": ports, "endpoints": endpoints, "resolution": "STATIC",
        "addresses": ["10.8.0.1"],
    });
    add::<ServiceEntry>(set, "attacker/all", entry);
}

fn many_addresses(set: &mut ObjectSet) {
    let addresses = numbered(60, |n| json!(format!("10.8.0.{n}")));
    let ports = numbered(
        60,
        |n| json!({ "number": 1000 + n, "name": format!("tcp-{n}"), "protocol": "TCP" }),
    );
    let entry = json!({
        "hosts": ["x.example.com"], "ports": ports, "addresses": addresses, "resolution": "STATIC",
    });
    add::<ServiceEntry>(set, "attacker/addresses", entry);
}

fn many_routes_on_many_hosts(set: &mut ObjectSet) {
    let hosts = numbered(100, |n| json!(format!("h{n}.example.com")));
    let rules = numbered(100, |n| {
        json!({
            "match": [{ "uri": { "prefix": format!("/{n}/") } }],
            "route": [{ "destination": { "host": "web.victim.svc.cluster.local" } }],
        })
    });
    add::<VirtualService>(
        set,
        "attacker/rules",
        json!({ "hosts": hosts, "http": rules }),
    );
}

/// One short rule set over every service of the mesh.
fn one_wildcard(set: &mut ObjectSet) {
    for n in 0..200 {
        let service = json!({
            "clusterIP": format!("10.4.0.{n}"), "ports": [{ "name": "http", "port": 80 }],
        });
        add::<Service>(set, &format!("victim/s{n}"), service);
    }
    let rules = numbered(100, |n| {
        json!({
            "match": [{ "uri": { "prefix": format!("/{n}/") } }],
            "route": [{ "destination": { "host": "web.victim.svc.cluster.local" } }],
        })
    });
    let spec = json!({ "hosts": ["*.victim.svc.cluster.local"], "http": rules });
    add::<VirtualService>(set, "attacker/star", spec);
}

fn many_delegates(set: &mut ObjectSet) {
    let matches = numbered(
        150,
        |n| json!({ "headers": { "x": { "exact": n.to_string() } } }),
    );
    let root = json!({
        "hosts": ["d.example.com"],
        "http": [{ "match": matches, "delegate": { "name": "leaf" } }],
    });
    add::<VirtualService>(set, "attacker/root", root);
    let matches = numbered(150, |n| json!({ "uri": { "prefix": format!("/{n}") } }));
    let leaf = json!({
        "http": [{
            "match": matches,
            "route": [{ "destination": { "host": "web.victim.svc.cluster.local" } }],
        }],
    });
    add::<VirtualService>(set, "attacker/leaf", leaf);
}

fn many_regexes(set: &mut ObjectSet) {
    let rules = numbered(60, |n| {
        json!({
            "match": [{ "uri": { "regex": format!("/{n}/[a-z]+") } }],
            "route": [{ "destination": { "host": "web.victim.svc.cluster.local" } }],
        })
    });
    let spec = json!({ "hosts": ["r.example.com"], "http": rules });
    add::<VirtualService>(set, "attacker/regexes", spec);
}

fn large_regexes(set: &mut ObjectSet) {
    let rules = numbered(10, |n| {
        json!({
            "match": [{ "uri": { "regex": format!("/{n}/([a-z]{{100}}){{60}}") } }],
            "route": [{ "destination": { "host": "web.victim.svc.cluster.local" } }],
        })
    });
    let spec = json!({ "hosts": ["r.example.com"], "http": rules });
    add::<VirtualService>(set, "attacker/regexes", spec);
}

fn many_subsets_of_a_foreign_service(set: &mut ObjectSet) {
    let endpoints = numbered(250, |n| json!({ "addresses": [format!("10.2.0.{n}")] }));
    let slice = json!({
        "metadata": { "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": endpoints,
    });
    add::<EndpointSlice>(set, "victim/web-2", slice);
    let subsets = numbered(
        300,
        |n| json!({ "name": format!("v{n}"), "labels": { "n": n.to_string() } }),
    );
    let host = "web.victim.svc.cluster.local";
    add::<DestinationRule>(
        set,
        "attacker/web",
        json!({ "host": host, "subsets": subsets }),
    );
    let rules = numbered(300, |n| {
        json!({
            "match": [{ "uri": { "prefix": format!("/{n}/") } }],
            "route": [{ "destination": { "host": host, "subset": format!("v{n}") } }],
        })
    });
    let spec = json!({ "hosts": ["s.example.com"], "http": rules });
    add::<VirtualService>(set, "attacker/subsets", spec);
}

fn many_objects(set: &mut ObjectSet) {
    for n in 0..401 {
        let spec = json!({ "host": format!("h{n}.example.com") });
        add::<DestinationRule>(set, &format!("attacker/r{n}"), spec);
    }
}

fn many_ports_by_endpoints(set: &mut ObjectSet) {
    let ports = numbered(
        300,
        |n| json!({ "name": format!("tcp-{n}"), "port": 1000 + n }),
    );
    add::<Service>(
        set,
        "attacker/wide",
        json!({ "clusterIP": "10.0.0.9", "ports": ports }),
    );
    let endpoints = numbered(250, |n| json!({ "addresses": [format!("10.3.0.{n}")] }));
    let slice = json!({
        "metadata": { "labels": { "kubernetes.io/service-name": "wide" } },
        "addressType": "IPv4",
        "ports": numbered(300, |n| json!({ "name": format!("tcp-{n}"), "port": 1000 + n })),
        "endpoints": endpoints,
    });
    add::<EndpointSlice>(set, "attacker/wide-1", slice);
}

type Attack = (&'static str, fn(&mut ObjectSet));

const ATTACKS: [Attack; 10] = [
    ("compiledMebibytes", many_hosts),
    ("addresses", many_addresses),
    ("compiledMebibytes", many_routes_on_many_hosts),
    ("compiledMebibytes", one_wildcard),
    ("compiledMebibytes", many_delegates),
    ("regexes", many_regexes),
    ("regexMebibytes", large_regexes),
    ("compiledMebibytes", many_subsets_of_a_foreign_service),
    ("objects", many_objects),
    ("compiledMebibytes", many_ports_by_endpoints),
];

fn is_budget_line(line: &&String) -> bool {
    line.contains("namespace's budget")
}

#[test]
fn a_namespace_beyond_its_budget_is_left_out_and_others_do_not_notice() {
    for (budget, attack) in ATTACKS {
        let settings = small_budget();
        let mut attacked = victim();
        attack(&mut attacked);
        let mut without = attacked.clone();
        without.replace_namespace("attacker", &ObjectSet::default());
        let expected = compile(&without, &settings);
        assert_eq!(expected.overspent, [], "{budget}: the victim is within");

        let found = compile_within_budget(&attacked, &ObjectSet::default(), &settings);
        let lines = lines(&found.compiled.findings);
        let own: Vec<&String> = lines.iter().filter(is_budget_line).collect();
        assert!(
            matches!(own.as_slice(), [line] if line.contains("attacker") && line.contains(budget)),
            "{budget}: {lines:?}"
        );
        assert_eq!(
            dump(&found.compiled.snapshot),
            dump(&expected.snapshot),
            "{budget}"
        );
    }
}

#[test]
fn the_last_good_state_of_the_namespace_stays_until_it_is_mended() {
    let settings = small_budget();
    let mut modest = victim();
    let rule =
        json!({ "hosts": ["own.example.com"], "http": [{ "directResponse": { "status": 204 } }] });
    add::<VirtualService>(&mut modest, "attacker/own", rule);
    let before = compile_within_budget(&modest, &ObjectSet::default(), &settings);
    assert_eq!(lines(&before.compiled.findings), Vec::<String>::new());

    let mut attacked = modest.clone();
    many_routes_on_many_hosts(&mut attacked);
    let during = compile_within_budget(&attacked, &before.objects, &settings);
    assert_eq!(
        dump(&during.compiled.snapshot),
        dump(&before.compiled.snapshot)
    );
    assert_eq!(
        lines(&during.compiled.findings),
        [
            "Namespace/attacker: error: its objects need more than the namespace's budget \
             (compiledMebibytes: 4); its objects as they last were within it stay in force. Make \
             them fewer or smaller, or raise namespaceBudget.compiledMebibytes in the settings file"
        ]
    );

    let after = compile_within_budget(&modest, &during.objects, &settings);
    assert_eq!(lines(&after.compiled.findings), Vec::<String>::new());
}

#[test]
fn the_root_namespace_has_no_budget() {
    let mut set = victim();
    many_routes_on_many_hosts(&mut set);
    let mut settings = small_budget();
    settings.mesh.root_namespace = "attacker".to_owned();
    assert_eq!(compile(&set, &settings).overspent, []);
}
