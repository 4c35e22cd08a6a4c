//! A change of endpoints alone gives what compiling everything gives.

use serde_json::{Value, json};

use super::*;
use crate::api::{
    DestinationRule, EndpointSlice, ObjectSet, Pod, Service, VirtualService, WorkloadEntry,
};
use crate::compile::testing::{NODE, add, settings};
use crate::compile::{Compiled, compile};
use crate::snapshot::dump::dump;

/// Numbers that look drawn, the same in each run (Knuth's MMIX generator).
struct Draws(u64);

impl Draws {
    /// Uniform enough over `0..below`.
    fn below(&mut self, below: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32) % below
    }
}

const SERVICES: [&str; 4] = ["a", "b", "local", "none"];

/// Services of every kind, pods that slices may name, rules with subsets and routes.
fn mesh() -> ObjectSet {
    let mut set = ObjectSet::default();
    for (number, name) in SERVICES.into_iter().enumerate() {
        let ip = match name {
            "none" => "None".to_owned(),
            _ => format!("10.0.0.{number}"),
        };
        let policy = if name == "local" { "Local" } else { "Cluster" };
        let ports = json!([
            { "name": "http", "port": 80 },
            { "name": "tcp", "port": 9000 },
        ]);
        let selector = json!({ "app": name });
        add::<Service>(
            &mut set,
            &format!("ns1/{name}"),
            json!({ "clusterIP": ip, "ports": ports, "internalTrafficPolicy": policy, "selector": selector }),
        );
    }
    for number in 1..=6_u32 {
        let node = if number.is_multiple_of(2) {
            NODE
        } else {
            "other"
        };
        let version = format!("v{}", number % 3);
        add::<Pod>(
            &mut set,
            &format!("ns1/p{number}"),
            json!({
                "metadata": { "uid": format!("u{number}"), "labels": { "version": version } },
                "nodeName": node,
                "hostNetwork": number == 6,
                "status": { "podIPs": [{ "ip": format!("10.1.0.{number}") }] },
            }),
        );
    }
    let vm = json!({ "address": "10.3.0.1", "labels": { "app": "b" } });
    add::<WorkloadEntry>(&mut set, "ns1/vm", vm);
    for host in ["a", "b"] {
        let subsets = json!([
            { "name": "v1", "labels": { "version": "v1" } },
            { "name": "v2", "labels": { "version": "v2" } },
        ]);
        add::<DestinationRule>(
            &mut set,
            &format!("ns1/{host}"),
            json!({ "host": host, "subsets": subsets }),
        );
        let split = json!([
            { "destination": { "host": host, "subset": "v1" }, "weight": 70 },
            { "destination": { "host": host, "subset": "v2" }, "weight": 30 },
        ]);
        add::<VirtualService>(
            &mut set,
            &format!("ns1/{host}"),
            json!({ "hosts": [host], "http": [{ "route": split }], "tcp": [{ "route": split }] }),
        );
    }
    set
}

/// A slice of `service` with endpoints that `random` draws: pods that are there, one that is
/// not, addresses without a pod, in every state.
fn slice(random: &mut Draws, service: &str) -> Value {
    let count = random.below(4);
    let endpoints: Vec<Value> = (0..count)
        .map(|_| {
            let number = 1 + random.below(8);
            let mut endpoint = json!({
                "addresses": [format!("10.1.0.{number}")],
                "nodeName": if number.is_multiple_of(2) { NODE } else { "other" },
                "conditions": { "ready": random.below(4) > 0, "terminating": random.below(2) == 0 },
            });
            if number <= 7 {
                endpoint["targetRef"] = json!({ "kind": "Pod", "name": format!("p{number}") });
            }
            endpoint
        })
        .collect();
    let ports = match random.below(3) {
        0 => json!([{ "name": "http", "port": 8080 }]),
        _ => json!([{ "name": "http", "port": 8080 }, { "name": "tcp", "port": 9000 }]),
    };
    json!({
        "metadata": { "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints,
    })
}

/// One to three slices are others, gone or new; now and then something else is, too.
fn edit(random: &mut Draws, set: &mut ObjectSet) {
    for _ in 0..=random.below(3) {
        let name = format!("ns1/s{}", random.below(5));
        if random.below(5) == 0 {
            let (namespace, name) = name.split_once('/').expect("a namespace");
            set.endpoint_slices.remove(&ObjectKey::new(namespace, name));
            continue;
        }
        let service = SERVICES[random.below(4) as usize];
        let service = if random.below(20) == 0 {
            "nobody"
        } else {
            service
        };
        let document = slice(random, service);
        add::<EndpointSlice>(set, &name, document);
    }
    if random.below(15) == 0 {
        let service = json!({ "clusterIP": "10.0.0.9", "ports": [{ "name": "http", "port": 81 }] });
        add::<Service>(set, "ns1/another", service);
    }
}

fn apply(change: EndpointChange, compiled: &mut Compiled) {
    for (cell, set) in change.sets {
        assert_ne!(*cell.load(), set, "a set that is the same is no change");
        cell.store(set);
    }
    compiled.findings = change.findings;
}

#[test]
fn a_sequence_of_edits_gives_what_compiling_everything_gives() {
    let (mut swapped, mut whole) = (0, 0);
    for seed in 0..60 {
        let mut random = Draws(seed);
        let mut before = mesh();
        let mut state = compile(&before, &settings());
        for step in 0..12 {
            let mut after = before.clone();
            edit(&mut random, &mut after);
            let expected = compile(&after, &settings());
            let change = compile_endpoints(
                &before,
                &after,
                &settings(),
                &state.endpoints,
                &state.findings,
            );
            match change {
                Some(change) => {
                    swapped += 1;
                    apply(change, &mut state);
                    let place = format!("seed {seed} step {step}");
                    assert_eq!(state.findings, expected.findings, "{place}");
                    let (found, wanted) = (dump(&state.snapshot), dump(&expected.snapshot));
                    assert_eq!(found, wanted, "{place}");
                    assert_eq!(
                        state.snapshot.workloads, expected.snapshot.workloads,
                        "{place}"
                    );
                }
                None => {
                    whole += 1;
                    state = expected;
                }
            }
            before = after;
        }
    }
    // Both ways are taken often, or the test says little.
    assert!(swapped > 100, "{swapped} swapped, {whole} compiled");
    assert!(whole > 50, "{swapped} swapped, {whole} compiled");
}

#[test]
fn what_else_may_follow_from_a_slice_is_compiled() {
    let listed = |service: &str, endpoint: Value| {
        json!({
            "metadata": { "labels": { "kubernetes.io/service-name": service } },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": [endpoint],
        })
    };
    let pod = |number: u32| {
        json!({
            "addresses": [format!("10.1.0.{number}")],
            "targetRef": { "kind": "Pod", "name": format!("p{number}") },
        })
    };
    for (service, endpoint, is_swapped, why) in [
        ("local", pod(2), true, "a pod that is known"),
        (
            "local",
            json!({ "addresses": ["10.1.0.99"] }),
            true,
            "an address without a pod",
        ),
        (
            "none",
            pod(2),
            false,
            "a headless service is found by its endpoints",
        ),
        ("nobody", pod(2), false, "the finding about a lost slice"),
        (
            "local",
            pod(6),
            false,
            "a host-network pod is known by its endpoint only",
        ),
        ("a", pod(1), false, "a subset has an endpoint at last"),
    ] {
        let before = mesh();
        let compiled = compile(&before, &settings());
        let mut after = before.clone();
        add::<EndpointSlice>(&mut after, "ns1/s", listed(service, endpoint));
        let change = compile_endpoints(
            &before,
            &after,
            &settings(),
            &compiled.endpoints,
            &compiled.findings,
        );
        assert_eq!(change.is_some(), is_swapped, "{why}");
    }
}
