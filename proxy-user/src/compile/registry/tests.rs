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

#[test]
fn resolutions_that_are_not_honoured_yet_are_as_if_the_object_were_absent() {
    for resolution in ["DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"] {
        let mut set = ObjectSet::default();
        add::<ServiceEntry>(
            &mut set,
            "ns1/se",
            entry(&json!({ "resolution": resolution })),
        );
        assert!(build(&set).0.services.is_empty(), "{resolution}");
    }
}

#[test]
fn allocated_addresses_are_used_where_none_is_written() {
    for (extra, expected) in [
        (json!({}), "240.240.0.1/32"),
        (json!({ "addresses": ["10.9.0.1"] }), "10.9.0.1/32"),
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
        let own: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
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
    // An allocated address is one.
    let mut allocated = entry(&json!({ "hosts": ["y.com"], "ports": tcp }));
    allocated["status"] = json!({ "addresses": [{ "value": "240.240.0.2" }] });
    add::<ServiceEntry>(&mut set, "ns2/c", allocated);
    let (_, findings) = build(&set);
    let expected = [
        "ServiceEntry/ns2/b: warning: ports[0]: a TCP port without addresses takes every \
         connection to port 80 that no other service owns; give addresses",
        "ServiceEntry/ns2/b: warning: ports: ServiceEntry/ns1/a declares another protocol for x.com:80",
    ];
    assert_eq!(findings, expected);
}
