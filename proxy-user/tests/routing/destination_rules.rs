//! Which DestinationRule acts for whom, as a route's cluster shows it.

use std::sync::Arc;

use proxy_user::net::PodUid;
use proxy_user::snapshot::listeners::Found;
use proxy_user::snapshot::policy::LoadBalancer;
use proxy_user::snapshot::routes::RouteAction;
use proxy_user::snapshot::{Cluster, ClusterRef};

use super::mesh::{Mesh, common, pod, virtual_service};

fn rule(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{host: a.ns1.svc.cluster.local, {spec}}}
---
"
    )
}

fn cluster<'m>(mesh: &'m Mesh, name: &str, variant: &str) -> Option<&'m Cluster> {
    let mut clusters = mesh.snapshot.clusters.iter();
    let full = format!("outbound|80|{name}|a.ns1.svc.cluster.local");
    let found = clusters.find(|cluster| *cluster.name == full && &*cluster.variant == variant);
    found.map(|cluster| &**cluster)
}

/// The rule behind what `pod` gets from service `a`, as `namespace/name`.
fn rule_for(mesh: &Mesh, pod: &str) -> String {
    let uid = PodUid(Arc::from(pod.replace('/', "-")));
    let scope = mesh.snapshot.scope_of(&uid).expect("the pod is listed");
    let address = "10.0.0.1:80".parse().expect("an address");
    let Found::Exact(destination) = scope.find(address) else {
        panic!("service a stands at its address");
    };
    let table = scope.route_table(destination).expect("it is HTTP");
    let host = table.find("a.ns1.svc.cluster.local").expect("its host");
    let RouteAction::Forward(forward) = &host.routes[0].action else {
        panic!("a forward expected, found {:?}", host.routes[0].action);
    };
    let ClusterRef::Known(cluster) = &forward.destinations[0].cluster else {
        panic!("the service has a cluster");
    };
    cluster.variant.to_string()
}

#[test]
fn a151_the_clients_namespace_comes_before_the_services_and_the_root() {
    let random = "trafficPolicy: {loadBalancer: {simple: RANDOM}}";
    let all = [
        ("ns2", "client"),
        ("ns1", "service"),
        ("istio-system", "root"),
    ];
    // Each step takes the first rule away and changes nothing else.
    for (left, expected) in [
        (&all[..], "ns2/client"),
        (&all[1..], "ns1/service"),
        (&all[2..], "istio-system/root"),
        (&[], ""),
    ] {
        let rules: String = left
            .iter()
            .map(|(ns, name)| rule(ns, name, random))
            .collect();
        let mesh = Mesh::new(&(common() + &rules));
        assert_eq!(rule_for(&mesh, "ns2/client"), expected);
    }
}

#[test]
fn a153_two_rules_of_one_host_merge_with_the_policy_of_the_first() {
    let first = rule(
        "ns1",
        "p1",
        "trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v1}}]",
    );
    let second = rule(
        "ns1",
        "p2",
        "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, subsets: [{name: v2, labels: {version: v2}}]",
    );
    let to_both = virtual_service(
        "ns1",
        "v",
        "  hosts: [a]
  http:
  - route:
    - {destination: {host: a, subset: v1}, weight: 1}
    - {destination: {host: a, subset: v2}, weight: 1}",
    );
    let mesh = Mesh::new(&(common() + &first + &second + &to_both));
    for subset in ["v1", "v2"] {
        let found = cluster(&mesh, subset, "ns1/p1+ns1/p2").expect("both subsets are defined");
        assert_eq!(found.policy.load_balancer, LoadBalancer::Random, "{subset}");
    }
    // Alone, the second has its own policy, and v1 is not defined.
    let alone = Mesh::new(&(common() + &second + &to_both));
    let found = cluster(&alone, "v2", "ns1/p2").expect("its own subset");
    assert_eq!(found.policy.load_balancer, LoadBalancer::RoundRobin);
    assert!(alone.get("http://a/").contains("80|v1|a.ns1*1 NC"));
}

#[test]
fn a155_a_rule_with_a_selector_acts_alone_for_the_pods_it_selects() {
    let selecting = rule(
        "ns1",
        "selecting",
        "workloadSelector: {matchLabels: {app: x}}, trafficPolicy: {loadBalancer: {simple: RANDOM}}",
    );
    let plain = rule(
        "ns1",
        "plain",
        "trafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}}",
    );
    let pods = pod("ns1", "px", "10.9.0.3", "app: x") + &pod("ns1", "py", "10.9.0.4", "app: 'y'");
    let mesh = Mesh::new(&(common() + &pods + &selecting + &plain));
    assert_eq!(rule_for(&mesh, "ns1/px"), "ns1/selecting");
    assert_eq!(rule_for(&mesh, "ns1/py"), "ns1/plain");
    let for_x = cluster(&mesh, "", "ns1/selecting").expect("the cluster of x");
    assert_eq!(for_x.policy.load_balancer, LoadBalancer::Random);
    assert_eq!(
        for_x.policy.pool.max_connections,
        u32::MAX,
        "nothing is merged"
    );
    let for_y = cluster(&mesh, "", "ns1/plain").expect("the cluster of y");
    assert_eq!(for_y.policy.pool.max_connections, 3);
}

#[test]
fn policies_of_the_mesh_act_where_no_rule_has_that_block() {
    let mesh_config = "defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}, \
                       outlierDetection: {consecutive5xxErrors: 3}}";
    let own = rule(
        "ns1",
        "d",
        "trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}",
    );
    let mesh = Mesh::with_mesh(&(common() + &own), mesh_config);
    let a = cluster(&mesh, "", "ns1/d").expect("the cluster of a");
    assert_eq!(a.policy.pool.max_connections, 1, "the rule's own block");
    assert!(
        a.policy.outlier.is_some(),
        "the mesh's, as the rule has none"
    );
    let mut clusters = mesh.snapshot.clusters.iter();
    let tcp = clusters.find(|c| &*c.name == "outbound|9000||tcp.ns1.svc.cluster.local");
    let tcp = tcp.expect("a service of the mesh");
    assert_eq!(
        tcp.policy.pool.max_connections, 7,
        "without a block of its own"
    );
}
