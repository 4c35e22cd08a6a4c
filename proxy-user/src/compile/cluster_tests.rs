use serde_json::json;

use super::*;
use crate::api::{DestinationRule, EndpointSlice, ObjectSet, Pod};
use crate::compile::testing::{add, client, created, lines, settings, with_clusters};

/// Service a in ns1 with pods of version v1 and v2, port 80 to 8080.
fn mesh() -> ObjectSet {
    let mut set = ObjectSet::default();
    let ports = json!([{ "name": "http", "port": 80, "targetPort": 8080 }]);
    add::<crate::api::Service>(
        &mut set,
        "ns1/a",
        json!({ "clusterIP": "10.0.0.1", "ports": ports }),
    );
    let mut endpoints = Vec::new();
    for (name, version, ip) in [("a-v1", "v1", "10.1.0.1"), ("a-v2", "v2", "10.1.0.2")] {
        let labels = json!({ "labels": { "app": "a", "version": version } });
        let status = json!({ "podIPs": [{ "ip": ip }] });
        let pod = json!({ "metadata": labels, "status": status });
        add::<Pod>(&mut set, &format!("ns1/{name}"), pod);
        endpoints.push(json!({ "addresses": [ip], "targetRef": { "kind": "Pod", "name": name } }));
    }
    let slice = json!({
        "metadata": { "labels": { "kubernetes.io/service-name": "a" } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": endpoints,
    });
    add::<EndpointSlice>(&mut set, "ns1/a-1", slice);
    set
}

const HOST: &str = "a.ns1.svc.cluster.local";

fn random() -> serde_json::Value {
    json!({ "loadBalancer": { "simple": "RANDOM" } })
}

fn round_robin() -> serde_json::Value {
    json!({ "loadBalancer": { "simple": "ROUND_ROBIN" } })
}

/// The variant (which rules) and balancer that a client gets for port 80 of a.
fn seen(set: &ObjectSet, client: &ClientView, subset: &str) -> String {
    with_clusters(set, &settings(), |table, _, _| {
        match table.resolve(client, HOST, 80, subset) {
            ClusterRef::Known(cluster) => {
                format!("{} {:?}", cluster.variant, cluster.policy.load_balancer)
            }
            ClusterRef::Missing(_) => "missing".to_owned(),
            ClusterRef::NotHonoured(_) => "not honoured".to_owned(),
        }
    })
}

#[test]
fn a024_a036_subsets_select_by_label_and_endpoints_are_dialled_on_their_own_port() {
    let mut set = mesh();
    let subsets = json!([
        { "name": "v1", "labels": { "version": "v1" } },
        { "name": "all", "labels": {} },
        { "name": "none", "labels": { "version": "v9" } },
    ]);
    add::<DestinationRule>(
        &mut set,
        "ns1/dr",
        json!({ "host": "a", "subsets": subsets }),
    );
    with_clusters(&set, &settings(), |table, _, findings| {
        for (subset, expected) in [
            ("", Some("10.1.0.1:8080 10.1.0.2:8080")),
            ("v1", Some("10.1.0.1:8080")),
            ("all", Some("10.1.0.1:8080 10.1.0.2:8080")),
            ("none", Some("")), // defined, so it is a cluster: 503 UH
            ("v2", None),       // not defined: 503 NC
        ] {
            let cluster = table.resolve(&client("ns1", &[]), HOST, 80, subset);
            let found = match cluster {
                ClusterRef::Known(cluster) => {
                    let set = cluster.endpoint_set();
                    let addresses = set.endpoints.iter().map(|e| e.address.to_string());
                    Some(addresses.collect::<Vec<_>>().join(" "))
                }
                ClusterRef::Missing(_) | ClusterRef::NotHonoured(_) => None,
            };
            assert_eq!(found.as_deref(), expected, "{subset:?}");
        }
        let expected = "DestinationRule/ns1/dr: error: subsets[2].labels: no endpoint has the \
                        labels of subset none: what goes there gets 503";
        assert_eq!(lines(findings), [expected]);
    });
}

#[test]
fn a151_the_clients_namespace_wins_over_the_services_and_that_over_the_root() {
    let mut set = mesh();
    let host = json!({ "host": HOST });
    for name in ["ns2/client", "ns1/service", "istio-system/root"] {
        add::<DestinationRule>(&mut set, name, host.clone());
    }
    for (namespace, expected) in [
        ("ns2", "ns2/client LeastRequest"),
        ("ns3", "ns1/service LeastRequest"),
        ("ns1", "ns1/service LeastRequest"),
        // A client of the root namespace prefers only what is private there.
        ("istio-system", "ns1/service LeastRequest"),
    ] {
        assert_eq!(
            seen(&set, &client(namespace, &[]), ""),
            expected,
            "{namespace}"
        );
    }
    set.destination_rules
        .retain(|key, _| key.namespace == "istio-system");
    assert_eq!(
        seen(&set, &client("ns2", &[]), ""),
        "istio-system/root LeastRequest"
    );
}

#[test]
fn a004_a005_a152_the_most_specific_host_is_used_alone() {
    for (hosts, expected) in [
        (&["*.local"][..], "istio-system/0 LeastRequest"), // A152
        (
            &["*.local", "*.cluster.local"],
            "istio-system/1 LeastRequest",
        ),
        (&["*", "*.local", HOST], "istio-system/2 LeastRequest"), // A005
        (&["*.a.ns1.svc.cluster.local"], " LeastRequest"),        // A004: not its own parent
        (&["*"], "istio-system/0 LeastRequest"),
    ] {
        let mut set = mesh();
        for (at, host) in hosts.iter().enumerate() {
            let rule = json!({ "host": host });
            add::<DestinationRule>(&mut set, &format!("istio-system/{at}"), rule);
        }
        assert_eq!(seen(&set, &client("ns2", &[]), ""), expected, "{hosts:?}");
    }
}

#[test]
fn an_exact_rule_for_others_hides_a_wildcard_that_is_exported_but_a_private_one_does_not() {
    for (export_to, expected) in [
        (json!(["ns9"]), " LeastRequest"),
        (json!(["."]), "ns1/wild Random"),
        (json!(["*"]), "ns1/exact LeastRequest"),
    ] {
        let mut set = mesh();
        let wild = json!({ "host": "*.local", "trafficPolicy": random() });
        add::<DestinationRule>(&mut set, "ns1/wild", wild);
        let exact = json!({ "host": "a", "exportTo": export_to });
        add::<DestinationRule>(&mut set, "ns1/exact", exact);
        assert_eq!(seen(&set, &client("ns2", &[]), ""), expected, "{export_to}");
    }
}

#[test]
fn a153_a154_rules_of_one_host_merge_in_order_of_age() {
    let mut set = mesh();
    let v1 = json!([{ "name": "v1", "labels": { "version": "v1" } }]);
    let newer = json!([
        { "name": "v1", "labels": { "version": "v2" } },
        { "name": "v2", "labels": { "version": "v2" } },
    ]);
    // The older rule has the later name, so that age and not name decides.
    let older =
        json!({ "host": "a", "metadata": created(1), "trafficPolicy": random(), "subsets": v1 });
    add::<DestinationRule>(&mut set, "ns1/z", older);
    let newer = json!({ "host": HOST, "metadata": created(2), "trafficPolicy": round_robin(), "subsets": newer });
    add::<DestinationRule>(&mut set, "ns1/b", newer);
    for subset in ["", "v1", "v2"] {
        assert_eq!(
            seen(&set, &client("ns1", &[]), subset),
            "ns1/z+ns1/b Random",
            "{subset:?}"
        );
    }
    with_clusters(&set, &settings(), |table, _, findings| {
        let ClusterRef::Known(v1) = table.resolve(&client("ns1", &[]), HOST, 80, "v1") else {
            panic!("the subset is there");
        };
        let address = v1
            .endpoint_set()
            .endpoints
            .first()
            .map(|e| e.address.to_string());
        assert_eq!(address.as_deref(), Some("10.1.0.1:8080")); // A154: the older definition
        let expected = [
            "DestinationRule/ns1/b: warning: subsets[0]: subset v1 is ignored: \
             DestinationRule/ns1/z defines it already",
            "DestinationRule/ns1/b: warning: trafficPolicy: is ignored: DestinationRule/ns1/z \
             sets the policy of this host already; nothing is merged",
        ];
        assert_eq!(lines(findings), expected);
    });
}

#[test]
fn rules_merge_only_if_everybody_who_sees_the_older_sees_the_newer() {
    for (older, newer, in_ns1, in_ns2) in [
        (
            json!(["*"]),
            json!(["*"]),
            "ns1/1+ns1/2 LeastRequest",
            "ns1/1+ns1/2 LeastRequest",
        ),
        (
            json!(["ns2"]),
            json!(["*"]),
            "ns1/2 LeastRequest",
            "ns1/1+ns1/2 LeastRequest",
        ),
        // The newer is narrower: both stay candidates, and the last without selector is used.
        (
            json!(["*"]),
            json!(["."]),
            "ns1/2 LeastRequest",
            "ns1/1 LeastRequest",
        ),
    ] {
        let mut set = mesh();
        let rule = |at, export_to: &serde_json::Value| json!({ "host": "a", "metadata": created(at), "exportTo": export_to });
        add::<DestinationRule>(&mut set, "ns1/1", rule(1, &older));
        add::<DestinationRule>(&mut set, "ns1/2", rule(2, &newer));
        assert_eq!(
            seen(&set, &client("ns1", &[]), ""),
            in_ns1,
            "{older} {newer}"
        );
        assert_eq!(
            seen(&set, &client("ns2", &[]), ""),
            in_ns2,
            "{older} {newer}"
        );
    }
}

#[test]
fn a155_a_rule_with_a_selector_replaces_the_other_for_whom_it_selects() {
    let mut set = mesh();
    let everybody = json!({ "host": "a", "trafficPolicy": random() });
    add::<DestinationRule>(&mut set, "ns1/everybody", everybody);
    let selector = json!({ "matchLabels": { "app": "x" } });
    let some = json!({ "host": "a", "workloadSelector": selector, "exportTo": ["*"] });
    add::<DestinationRule>(&mut set, "ns1/some", some);
    for (namespace, app, expected) in [
        ("ns1", "x", "ns1/some LeastRequest"), // alone, nothing is merged
        ("ns1", "y", "ns1/everybody Random"),
        ("ns2", "x", "ns1/everybody Random"), // never exported
    ] {
        let client = client(namespace, &[("app", app)]);
        assert_eq!(seen(&set, &client, ""), expected, "{namespace} {app}");
    }
}

#[test]
fn equal_answers_are_one_cluster_and_variants_share_their_endpoints() {
    let mut set = mesh();
    add::<DestinationRule>(
        &mut set,
        "ns2/dr",
        json!({ "host": HOST, "trafficPolicy": random() }),
    );
    with_clusters(&set, &settings(), |table, registry, _| {
        let known = |cluster| match cluster {
            ClusterRef::Known(cluster) => cluster,
            ClusterRef::Missing(name) | ClusterRef::NotHonoured(name) => panic!("{name}"),
        };
        let first = known(table.resolve(&client("ns1", &[]), HOST, 80, ""));
        let again = known(table.resolve(&client("ns3", &[]), HOST, 80, ""));
        let other = known(table.resolve(&client("ns2", &[]), HOST, 80, ""));
        assert!(Arc::ptr_eq(&first, &again));
        assert_ne!(first.key(), other.key());
        assert!(Arc::ptr_eq(&first.endpoints, &other.endpoints));
        let service = registry.services.first().expect("one service");
        for (namespace, expected) in [("ns1", true), ("ns2", false), ("ns3", true)] {
            let client = client(namespace, &[]);
            assert_eq!(table.is_shared(&client, service), expected, "{namespace}");
        }
    });
}

#[test]
fn what_is_missing_is_said_with_a_way_out() {
    let mut set = mesh();
    let subsets = json!([{ "name": "v1", "labels": { "version": "v1" } }]);
    add::<DestinationRule>(
        &mut set,
        "ns1/dr",
        json!({ "host": "a", "subsets": subsets }),
    );
    with_clusters(&set, &settings(), |table, _, _| {
        for (host, port, subset, expected) in [
            (HOST, 80, "v1", None),
            (HOST, 81, "", Some("has no port 81, only 80")),
            (
                HOST,
                80,
                "v7",
                Some("no subset v7: DestinationRule/ns1/dr defines v1"),
            ),
            (
                "a.ns1",
                80,
                "",
                Some("a name with a dot is not expanded, write a.ns1.svc.cluster.local"),
            ),
            ("b", 80, "", Some("no service b is visible here")),
        ] {
            let problem = table.problem(&client("ns1", &[]), host, port, subset);
            let text = problem.map(|problem| problem.to_string());
            match (&text, expected) {
                (None, None) => {}
                (Some(text), Some(part)) => assert!(text.contains(part), "{text}"),
                (Some(_), None) | (None, Some(_)) => panic!("{host} {port} {subset}: {text:?}"),
            }
        }
    });
}

#[test]
fn a_cluster_that_asks_for_tls_is_not_reached_without() {
    let mut set = mesh();
    let tls = json!({ "host": "a", "trafficPolicy": { "tls": { "mode": "SIMPLE" } } });
    add::<DestinationRule>(&mut set, "ns1/dr", tls);
    assert_eq!(seen(&set, &client("ns1", &[]), ""), "not honoured");
}
