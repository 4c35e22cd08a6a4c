use serde_json::{Value, json};

use super::*;
use crate::api::{EndpointSlice, Namespace, Node, ObjectSet, Pod, ServiceEntry, WorkloadEntry};
use crate::compile::testing::{NODE, add, client, created, lines, settings};

type KubeService = crate::api::Service;

fn build(set: &ObjectSet) -> (Registry, Vec<String>) {
    let mut findings = Vec::new();
    let registry = Registry::build(set, &settings(), &mut findings);
    (registry, lines(&findings))
}

/// `address` or `address!` for an unhealthy one, of the first port of the first definition of `host`.
fn endpoints(registry: &Registry, host: &str, port: usize) -> String {
    let service = registry
        .candidates(host)
        .next()
        .expect("the host is defined");
    let endpoints = service
        .endpoints
        .get(port)
        .expect("the port is there")
        .iter();
    let texts = endpoints.map(|endpoint| {
        let mark = if endpoint.health == crate::snapshot::endpoints::Health::Healthy {
            ""
        } else {
            "!"
        };
        format!("{}{mark}", endpoint.address)
    });
    texts.collect::<Vec<_>>().join(" ")
}

fn slice(service: &str, port: u16, endpoints: Value) -> Value {
    json!({
        "metadata": { "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": port }],
        "endpoints": endpoints,
    })
}

fn service(ip: &str) -> Value {
    json!({ "clusterIP": ip, "ports": [{ "name": "http", "port": 80 }] })
}

const HOST: &str = "a.ns1.svc.cluster.local";

#[test]
fn a021_a022_a023_conditions_of_endpoints() {
    let mut set = ObjectSet::default();
    add::<KubeService>(&mut set, "ns1/a", service("10.0.0.1"));
    let listed = json!([
        { "addresses": ["10.1.0.1"], "conditions": { "ready": true } },
        { "addresses": ["10.1.0.2"], "conditions": { "ready": false, "terminating": false } },
        { "addresses": ["10.1.0.3"] },
        { "addresses": ["10.1.0.4"], "conditions": { "ready": false, "terminating": true } },
        { "addresses": ["10.1.0.5"], "conditions": { "ready": false } },
        { "addresses": ["not an address"] },
    ]);
    add::<EndpointSlice>(&mut set, "ns1/s", slice("a", 8080, listed));
    let (registry, findings) = build(&set);
    let expected = "10.1.0.1:8080 10.1.0.2:8080! 10.1.0.3:8080";
    assert_eq!(endpoints(&registry, HOST, 0), expected);
    assert_eq!(findings, [""; 0]);
}

#[test]
fn slices_match_ports_by_name_and_the_newer_of_two_wins() {
    let mut set = ObjectSet::default();
    let ports = json!([{ "name": "http", "port": 80 }, { "name": "other", "port": 81 }]);
    add::<KubeService>(
        &mut set,
        "ns1/a",
        json!({ "clusterIP": "10.0.0.1", "ports": ports }),
    );
    for (name, second, port) in [("newer", 9, 9090), ("older", 1, 8080)] {
        let mut slice = slice("a", port, json!([{ "addresses": ["10.1.0.1"] }]));
        let created = created(second);
        slice["metadata"]["creationTimestamp"] = created["creationTimestamp"].clone();
        add::<EndpointSlice>(&mut set, &format!("ns1/{name}"), slice);
    }
    let names = json!({
        "metadata": { "labels": { "kubernetes.io/service-name": "a" } },
        "addressType": "FQDN",
        "ports": [{ "name": "http", "port": 1 }],
        "endpoints": [{ "addresses": ["10.1.0.9"] }],
    });
    add::<EndpointSlice>(&mut set, "ns1/names", names);
    let (registry, _) = build(&set);
    assert_eq!(endpoints(&registry, HOST, 0), "10.1.0.1:9090");
    assert_eq!(endpoints(&registry, HOST, 1), "");
}

#[test]
fn an_endpoint_waits_for_the_pod_that_it_names() {
    let mut set = ObjectSet::default();
    add::<KubeService>(&mut set, "ns1/a", service("10.0.0.1"));
    let target = json!({ "kind": "Pod", "name": "p" });
    let listed = json!([{ "addresses": ["10.1.0.1"], "targetRef": target }]);
    add::<EndpointSlice>(&mut set, "ns1/s", slice("a", 80, listed));
    let (registry, findings) = build(&set);
    assert_eq!(endpoints(&registry, HOST, 0), "");
    let expected = "EndpointSlice/ns1/s: warning: endpoints[0].targetRef: 10.1.0.1 gets no \
                    traffic until Pod ns1/p, which it names, is there";
    assert_eq!(findings, [expected]);
    add::<Pod>(&mut set, "ns1/p", json!({}));
    let (registry, findings) = build(&set);
    assert_eq!(endpoints(&registry, HOST, 0), "10.1.0.1:80");
    assert_eq!(findings, [""; 0]);
}

#[test]
fn a035_internal_traffic_policy_local_keeps_to_the_node() {
    for (policy, expected) in [
        ("Local", "10.1.0.1:80 10.1.0.3:80"),
        ("Cluster", "10.1.0.1:80 10.1.0.2:80 10.1.0.3:80 10.1.0.4:80"),
    ] {
        let mut set = ObjectSet::default();
        let mut a = service("10.0.0.1");
        a["internalTrafficPolicy"] = json!(policy);
        add::<KubeService>(&mut set, "ns1/a", a);
        let here = json!({ "nodeName": NODE });
        add::<Pod>(&mut set, "ns1/here", here);
        add::<Pod>(&mut set, "ns1/there", json!({ "nodeName": "n2" }));
        let listed = json!([
            { "addresses": ["10.1.0.1"], "nodeName": NODE },
            { "addresses": ["10.1.0.2"], "nodeName": "n2" },
            { "addresses": ["10.1.0.3"], "targetRef": { "kind": "Pod", "name": "here" } },
            { "addresses": ["10.1.0.4"], "targetRef": { "kind": "Pod", "name": "there" } },
        ]);
        add::<EndpointSlice>(&mut set, "ns1/s", slice("a", 80, listed));
        let (registry, _) = build(&set);
        assert_eq!(endpoints(&registry, HOST, 0), expected, "{policy}");
    }
}

#[test]
fn services_have_their_addresses_and_ports() {
    for (spec, addresses, ports, resolution, findings) in [
        (
            json!({ "clusterIPs": ["10.0.0.1", "fd00::1"], "clusterIP": "10.0.0.1",
                 "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP" }] }),
            "10.0.0.1/32 fd00::1/128",
            "80",
            Resolution::Endpoints,
            0,
        ),
        (
            json!({ "clusterIP": "None", "ports": [{ "port": 80 }] }),
            "",
            "80",
            Resolution::Headless,
            0,
        ),
        (
            json!({ "ports": [{ "port": 80 }] }),
            "",
            "80",
            Resolution::Endpoints,
            1,
        ),
        (
            json!({ "clusterIP": "10.0.0.256", "ports": [] }),
            "",
            "",
            Resolution::Endpoints,
            2,
        ),
    ] {
        let mut set = ObjectSet::default();
        let text = spec.to_string();
        add::<KubeService>(&mut set, "ns1/a", spec);
        let (registry, found) = build(&set);
        let service = registry.services.first().expect("one service");
        let own: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(own.join(" "), addresses, "{text}");
        let own: Vec<String> = service.ports.iter().map(|p| p.number.to_string()).collect();
        assert_eq!(own.join(" "), ports, "{text}");
        assert_eq!(service.resolution, resolution, "{text}");
        assert_eq!(found.len(), findings, "{text} {found:?}");
    }
}

#[test]
fn a026_an_external_name_is_an_alias_of_what_it_leads_to() {
    let mut set = ObjectSet::default();
    add::<KubeService>(&mut set, "ns1/a", service("10.0.0.1"));
    for (name, target) in [
        ("direct", HOST),
        ("two-steps", "direct.ns1.svc.cluster.local"),
        ("foreign", "example.com"),
        ("loop-a", "loop-b.ns1.svc.cluster.local"),
        ("loop-b", "loop-a.ns1.svc.cluster.local"),
    ] {
        let ports = json!([{ "port": 80 }]);
        let spec = json!({ "type": "ExternalName", "externalName": target, "ports": ports });
        add::<KubeService>(&mut set, &format!("ns1/{name}"), spec);
    }
    let (registry, _) = build(&set);
    assert_eq!(registry.services.len(), 1);
    let service = registry.services.first().expect("one service");
    let names: Vec<&str> = service.aliases.iter().map(|alias| &*alias.host).collect();
    assert_eq!(
        names,
        [
            "direct.ns1.svc.cluster.local",
            "two-steps.ns1.svc.cluster.local"
        ]
    );
}

fn entry(extra: &Value) -> Value {
    let mut spec = json!({
        "hosts": ["x.com"],
        "ports": [{ "number": 80, "name": "http", "protocol": "HTTP" }],
        "resolution": "STATIC",
    });
    for (name, value) in extra.as_object().expect("fields") {
        spec[name] = value.clone();
    }
    spec
}

#[test]
fn a027_a030_static_endpoints_have_weights_and_ports_of_their_own() {
    let mut set = ObjectSet::default();
    let extra = json!({
        "ports": [{ "number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080 }],
        "endpoints": [
            { "address": "10.2.0.1", "weight": 3 },
            { "address": "10.2.0.2", "ports": { "http": 9000 } },
            { "address": "example.com" },
        ],
    });
    add::<ServiceEntry>(&mut set, "ns1/se", entry(&extra));
    let (registry, _) = build(&set);
    assert_eq!(
        endpoints(&registry, "x.com", 0),
        "10.2.0.1:8080 10.2.0.2:9000"
    );
    let service = registry.services.first().expect("one service");
    let weights: Vec<u32> = service
        .endpoints
        .iter()
        .flatten()
        .map(|e| e.weight)
        .collect();
    assert_eq!(weights, [3, 1]);
}

#[test]
fn a029_resolution_none_keeps_the_address_and_may_change_the_port() {
    let mut set = ObjectSet::default();
    let extra = json!({
        "resolution": "NONE",
        "addresses": ["10.9.0.0/16"],
        "ports": [{ "number": 80, "name": "tcp", "protocol": "TCP", "targetPort": 8080 }],
    });
    add::<ServiceEntry>(&mut set, "ns1/se", entry(&extra));
    let (registry, findings) = build(&set);
    let service = registry.services.first().expect("one service");
    assert_eq!(service.resolution, Resolution::OriginalDst);
    assert_eq!(
        service.ports.first().and_then(|port| port.target_port),
        Some(8080)
    );
    assert_eq!(service.vips().count(), 0); // a network is no VIP
    assert_eq!(findings, [""; 0]);
}

#[test]
fn a033_a_workload_selector_selects_pods_and_entries_of_its_namespace() {
    let mut set = ObjectSet::default();
    let extra = json!({ "workloadSelector": { "labels": { "app": "x" } } });
    add::<ServiceEntry>(&mut set, "ns1/se", entry(&extra));
    let pod = |ip: &str, app: &str, phase: &str| {
        json!({
            "metadata": { "labels": { "app": app } },
            "status": { "podIPs": [{ "ip": ip }], "phase": phase },
        })
    };
    add::<Pod>(&mut set, "ns1/p", pod("10.1.0.1", "x", "Running"));
    add::<Pod>(&mut set, "ns1/other", pod("10.1.0.2", "y", "Running"));
    add::<Pod>(&mut set, "ns2/foreign", pod("10.1.0.3", "x", "Running"));
    add::<Pod>(&mut set, "ns1/done", pod("10.1.0.4", "x", "Succeeded"));
    let mut unready = pod("10.1.0.5", "x", "Running");
    unready["status"]["conditions"] = json!([{ "type": "Ready", "status": "False" }]);
    add::<Pod>(&mut set, "ns1/unready", unready);
    let vm = json!({ "address": "10.3.0.1", "ports": { "http": 81 }, "labels": { "app": "x" } });
    add::<WorkloadEntry>(&mut set, "ns1/vm", vm);
    let labelled = json!({ "metadata": { "labels": { "app": "x" } }, "address": "10.3.0.2" });
    add::<WorkloadEntry>(&mut set, "ns1/vm2", labelled);
    let sick = json!({
        "address": "10.3.0.3",
        "labels": { "app": "x" },
        "status": { "conditions": [{ "type": "Healthy", "status": "False" }] },
    });
    add::<WorkloadEntry>(&mut set, "ns1/sick", sick);
    let (registry, _) = build(&set);
    let expected = "10.1.0.1:80 10.1.0.5:80! 10.3.0.1:81 10.3.0.2:80";
    assert_eq!(endpoints(&registry, "x.com", 0), expected);
}

#[test]
fn a_service_selector_selects_workload_entries_too() {
    let mut set = ObjectSet::default();
    let mut a = service("10.0.0.1");
    a["selector"] = json!({ "app": "x" });
    a["ports"][0]["targetPort"] = json!(8080);
    add::<KubeService>(&mut set, "ns1/a", a);
    let vm = json!({ "address": "10.3.0.1", "labels": { "app": "x" }, "weight": 5 });
    add::<WorkloadEntry>(&mut set, "ns1/vm", vm);
    let (registry, _) = build(&set);
    assert_eq!(endpoints(&registry, HOST, 0), "10.3.0.1:8080");
}

#[test]
fn a031_a032_one_definition_of_a_host_is_chosen_per_client() {
    let mut set = ObjectSet::default();
    add::<KubeService>(
        &mut set,
        "ns1/a",
        json!({
            "metadata": created(9),
            "clusterIP": "10.0.0.1",
            "ports": [{ "name": "http", "port": 80 }],
        }),
    );
    for (name, second, export_to) in [
        ("ns2/se", 1, json!(["*"])),
        ("ns3/se", 2, json!(["*"])),
        ("ns4/se", 3, json!(["."])),
    ] {
        let extra = json!({ "hosts": [HOST], "exportTo": export_to, "metadata": created(second) });
        add::<ServiceEntry>(&mut set, name, entry(&extra));
    }
    let (registry, _) = build(&set);
    for (namespace, expected) in [
        ("ns1", "ns1"),
        ("ns2", "ns2"), // A032: the own namespace first
        ("ns4", "ns4"),
        ("ns9", "ns1"), // A031: Kubernetes before an entry, though younger
    ] {
        let found = registry
            .find(&client(namespace, &[]), HOST)
            .expect("visible");
        assert_eq!(&*found.namespace, expected, "client in {namespace}");
    }
    set.services.clear();
    let (registry, _) = build(&set);
    let found = registry.find(&client("ns9", &[]), HOST).expect("visible");
    assert_eq!(&*found.namespace, "ns2"); // the oldest
    let dependent: Vec<&str> = registry
        .namespace_dependent_hosts()
        .map(|host| &**host)
        .collect();
    assert_eq!(dependent, [HOST]);
}

#[test]
fn entries_of_one_namespace_that_agree_share_a_service_and_all_pool_their_endpoints() {
    let mut set = ObjectSet::default();
    let port =
        |number: u16, name: &str| json!([{ "number": number, "name": name, "protocol": "HTTP" }]);
    for (name, second, extra) in [
        (
            "ns1/1",
            1,
            json!({ "ports": port(80, "http"), "endpoints": [{ "address": "10.2.0.1" }] }),
        ),
        (
            "ns1/2",
            2,
            json!({ "ports": port(81, "http"), "endpoints": [{ "address": "10.2.0.2" }] }),
        ),
        // Another exportTo: stays behind, but its endpoint pools.
        (
            "ns1/3",
            3,
            json!({ "ports": port(82, "http"), "exportTo": ["."],
                             "endpoints": [{ "address": "10.2.0.3" }] }),
        ),
    ] {
        let mut spec = entry(&extra);
        spec["metadata"] = created(second);
        add::<ServiceEntry>(&mut set, name, spec);
    }
    let (registry, findings) = build(&set);
    assert_eq!(registry.services.len(), 2);
    let chosen = registry
        .find(&client("ns1", &[]), "x.com")
        .expect("visible");
    let ports: Vec<u16> = chosen.ports.iter().map(|port| port.number).collect();
    assert_eq!(ports, [80, 81]);
    assert_eq!(
        endpoints(&registry, "x.com", 0),
        "10.2.0.1:80 10.2.0.2:81 10.2.0.3:82"
    );
    let expected = "ServiceEntry/ns1/3: warning: hosts[0]: x.com is defined by ServiceEntry/ns1/1 \
                    already; of this definition only the endpoints are used";
    assert_eq!(findings, [expected]);
}

/// `name:port` or `name:port*weight` of the names of the first port, then its addresses.
fn resolved_from(registry: &Registry, host: &str) -> String {
    let service = registry.candidates(host).next().expect("it is defined");
    let names = service.named.first().into_iter().flatten();
    let names = names.map(|named| match named.weight {
        1 => format!("{}:{}", named.name, named.port),
        weight => format!("{}:{}*{weight}", named.name, named.port),
    });
    let listed = service.endpoints.first().into_iter().flatten();
    let listed = listed.map(|endpoint| endpoint.address.to_string());
    names.chain(listed).collect::<Vec<_>>().join(" ")
}

/// Checklist ids A028 and A030: which names are resolved, and on which port they are dialled.
#[test]
fn a028_a030_dns_resolves_the_endpoints_or_the_host_itself() {
    let port = |extra: Value| {
        let mut port = json!({ "number": 80, "name": "http", "protocol": "HTTP" });
        merge(&mut port, extra);
        json!([port])
    };
    for (resolution, extra, expected) in [
        ("DNS", json!({}), "x.com:80"),
        ("DNS_ROUND_ROBIN", json!({}), "x.com:80"),
        (
            "DNS",
            json!({ "ports": port(json!({ "targetPort": 8080 })) }),
            "x.com:8080",
        ),
        (
            "DNS",
            json!({
                "ports": port(json!({ "targetPort": 8080 })),
                "endpoints": [
                    { "address": "B.example.com", "weight": 3, "ports": { "http": 9000 } },
                    { "address": "a.example.com" },
                    { "address": "10.7.0.1" },
                ],
            }),
            "b.example.com:9000*3 a.example.com:8080 10.7.0.1:8080",
        ),
        // What a request asks for is known only then.
        ("DYNAMIC_DNS", json!({}), ""),
        // Names are for DNS only.
        (
            "STATIC",
            json!({ "endpoints": [{ "address": "b.example.com" }] }),
            "",
        ),
    ] {
        let mut set = ObjectSet::default();
        let mut spec = json!({ "resolution": resolution });
        merge(&mut spec, extra);
        add::<ServiceEntry>(&mut set, "ns1/se", entry(&spec));
        let (registry, _) = build(&set);
        assert_eq!(resolved_from(&registry, "x.com"), expected, "{spec}");
    }
}

fn merge(target: &mut Value, extra: Value) {
    let extra = extra.as_object().cloned().expect("an object");
    target.as_object_mut().expect("an object").extend(extra);
}

/// R-34: entries with host names are used by resolution DNS only.
#[test]
fn a033_a_workload_selector_gives_names_to_dns() {
    for (resolution, expected) in [
        ("DNS", "vm.example.com:80 10.1.0.1:80 10.3.0.1:80"),
        ("STATIC", "10.1.0.1:80 10.3.0.1:80"),
    ] {
        let mut set = ObjectSet::default();
        let selector = json!({ "labels": { "app": "x" } });
        let spec = json!({ "resolution": resolution, "workloadSelector": selector });
        add::<ServiceEntry>(&mut set, "ns1/se", entry(&spec));
        for (name, address) in [
            ("ns1/w", "vm.example.com"),
            ("ns1/v", "10.3.0.1"),
            ("ns2/w", "10.3.0.2"),
        ] {
            let workload = json!({ "address": address, "labels": { "app": "x" } });
            add::<WorkloadEntry>(&mut set, name, workload);
        }
        let status = json!({ "podIPs": [{ "ip": "10.1.0.1" }] });
        let pod = json!({ "metadata": { "labels": { "app": "x" } }, "status": status });
        add::<Pod>(&mut set, "ns1/p", pod.clone());
        add::<Pod>(&mut set, "ns2/p", pod);
        let (registry, _) = build(&set);
        assert_eq!(resolved_from(&registry, "x.com"), expected, "{resolution}");
    }
}

/// R-50: endpoints of one host in one namespace pool, whatever their resolution; an entry that
/// cannot merge leaves its own port behind.
#[test]
fn endpoints_pool_and_ports_of_entries_that_cannot_merge_lead_nowhere() {
    let port = |number: u16| json!([{ "number": number, "name": "http", "protocol": "HTTP" }]);
    let mut set = ObjectSet::default();
    let older = json!({ "resolution": "DNS", "metadata": created(1) });
    add::<ServiceEntry>(&mut set, "ns1/a", entry(&older));
    let endpoints = json!([{ "address": "10.7.0.1" }]);
    let younger = json!({
        "resolution": "STATIC", "ports": port(81), "endpoints": endpoints, "metadata": created(2)
    });
    add::<ServiceEntry>(&mut set, "ns1/b", entry(&younger));
    let (registry, _) = build(&set);
    let chosen = registry
        .find(&client("ns1", &[]), "x.com")
        .expect("the older");
    assert_eq!(&*chosen.name, "a");
    assert_eq!(resolved_from(&registry, "x.com"), "x.com:80 10.7.0.1:81");
    let dead: Vec<u16> = chosen.dead_ports.iter().map(|port| port.number).collect();
    assert_eq!(dead, [81]);
}

#[test]
fn hosts_without_an_address_are_given_one_that_stays() {
    let allocated = |set: &ObjectSet, host: &str| -> Vec<String> {
        let (registry, _) = build(set);
        let service = registry.candidates(host).next().expect("it is defined");
        service.allocated.iter().map(ToString::to_string).collect()
    };
    for (extra, count) in [
        (json!({ "resolution": "DNS" }), 2),
        (json!({ "resolution": "STATIC" }), 2),
        (json!({ "resolution": "NONE" }), 0), // it goes where the client dials
        (json!({ "resolution": "DNS", "addresses": ["10.9.0.1"] }), 0),
        (json!({ "resolution": "DNS", "hosts": ["*.x.com"] }), 0),
        (
            json!({ "resolution": "DYNAMIC_DNS", "hosts": ["*.x.com"] }),
            2,
        ),
        (
            json!({ "resolution": "DNS", "metadata": {
                "labels": { "networking.istio.io/enable-autoallocate-ip": "false" } } }),
            0,
        ),
    ] {
        let mut set = ObjectSet::default();
        add::<ServiceEntry>(&mut set, "ns1/se", entry(&extra));
        let host = extra["hosts"][0].as_str().unwrap_or("x.com").to_owned();
        let found = allocated(&set, &host);
        assert_eq!(found.len(), count, "{extra}: {found:?}");
        if let [v4, v6] = found.as_slice() {
            assert!(
                v4.starts_with("240.240.") && v6.starts_with("2001:2::f0f0:"),
                "{found:?}"
            );
        }
        // Others come, it stays.
        let other = json!({ "hosts": ["y.com"], "resolution": "DNS" });
        add::<ServiceEntry>(&mut set, "ns1/other", entry(&other));
        assert_eq!(allocated(&set, &host), found);
        if count == 2 {
            assert_ne!(allocated(&set, "y.com"), found);
        }
    }
}

#[test]
fn what_a_controller_allocated_stands_where_no_address_is_written() {
    for (extra, expected) in [
        (json!({}), "240.240.0.1"),
        (json!({ "addresses": ["10.9.0.1"] }), ""),
        (
            json!({ "metadata": { "labels": { "networking.istio.io/enable-autoallocate-ip": "false" } } }),
            "",
        ),
    ] {
        let mut set = ObjectSet::default();
        let mut spec = entry(&extra);
        spec["status"] = json!({ "addresses": [
            { "value": "240.240.0.1", "host": "x.com" },
            { "value": "240.240.0.2", "host": "y.com" },
        ] });
        add::<ServiceEntry>(&mut set, "ns1/se", spec);
        let (registry, _) = build(&set);
        let service = registry.services.first().expect("one service");
        let own: Vec<String> = service.allocated.iter().map(ToString::to_string).collect();
        assert_eq!(own.join(" "), expected, "{extra}");
    }
}

#[test]
fn workloads_have_their_nodes_locality() {
    let mut set = ObjectSet::default();
    let labels =
        json!({ "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z" });
    add::<Node>(&mut set, "/n2", json!({ "metadata": { "labels": labels } }));
    add::<Namespace>(&mut set, "/ns1", json!({}));
    let pod = json!({ "nodeName": "n2", "status": { "podIPs": [{ "ip": "10.1.0.1" }] } });
    add::<Pod>(&mut set, "ns1/p", pod);
    let host = json!({ "nodeName": "n2", "hostNetwork": true, "status": { "podIPs": [{ "ip": "10.0.0.9" }] } });
    add::<Pod>(&mut set, "ns1/h", host);
    let (registry, _) = build(&set);
    let ip: IpAddr = "10.1.0.1".parse().expect("an address");
    let workload = registry.workloads.get(&ip).expect("the pod is known");
    assert_eq!(
        (&*workload.locality.region, &*workload.locality.zone),
        ("r", "z")
    );
    assert_eq!(&*workload.node, "n2");
    assert_eq!(registry.workloads.len(), 1); // a node's address names no pod
}

#[test]
fn entries_that_declare_another_protocol_or_no_address_are_reported() {
    let mut set = ObjectSet::default();
    let tcp = json!([{ "number": 80, "name": "tcp", "protocol": "TCP" }]);
    add::<ServiceEntry>(&mut set, "ns1/a", entry(&json!({})));
    add::<ServiceEntry>(&mut set, "ns2/b", entry(&json!({ "ports": tcp })));
    // An allocated address is none: no client learns of it.
    let mut allocated = entry(&json!({ "hosts": ["y.com"], "ports": tcp }));
    allocated["status"] = json!({ "addresses": [{ "value": "240.240.0.2" }] });
    add::<ServiceEntry>(&mut set, "ns2/c", allocated);
    let (_, findings) = build(&set);
    let expected = [
        "ServiceEntry/ns2/b: warning: ports[0]: a TCP port without addresses takes every \
         connection to port 80 that no other service owns; give addresses",
        "ServiceEntry/ns2/c: warning: ports[0]: a TCP port without addresses takes every \
         connection to port 80 that no other service owns; give addresses",
        "ServiceEntry/ns2/b: warning: ports: ServiceEntry/ns1/a declares another protocol for x.com:80",
    ];
    assert_eq!(findings, expected);
}
