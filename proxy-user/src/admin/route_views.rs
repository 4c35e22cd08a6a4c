//! Views of the rules: every route table and every destination's tcp and tls rules, once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::describe;
use super::view::{PlanView, RouteView};
use super::walk::{all_scopes, destinations, service_of};
use crate::snapshot::routes::{L4Destination, RouteAction, RouteTable, VirtualHost};
use crate::snapshot::{Destination, ScopeView, Snapshot};

/// Virtual hosts that a table itself names, with their domains, in domain order.
pub(super) fn virtual_hosts(table: &RouteTable) -> Vec<(Vec<String>, Option<&Arc<VirtualHost>>)> {
    let mut by_domain: BTreeMap<String, Option<&Arc<VirtualHost>>> = BTreeMap::new();
    for (domain, host) in &table.exact {
        by_domain.insert(domain.to_string(), host.as_ref());
    }
    for (_, entries) in &table.suffixes {
        for (suffix, host) in entries {
            by_domain.insert(format!("*{suffix}"), host.as_ref());
        }
    }
    if let Some(any) = &table.any {
        by_domain.insert("*".to_owned(), Some(any));
    }
    let mut grouped: Vec<(Vec<String>, Option<&Arc<VirtualHost>>)> = Vec::new();
    let mut position = HashMap::new();
    for (domain, host) in by_domain {
        let place = host.map(Arc::as_ptr);
        match position.get(&place).filter(|_| place.is_some()) {
            Some(index) => {
                let group: Option<&mut (Vec<String>, _)> = grouped.get_mut::<usize>(*index);
                if let Some((domains, _)) = group {
                    domains.push(domain);
                }
            }
            None => {
                position.insert(place, grouped.len());
                grouped.push((vec![domain], host));
            }
        }
    }
    grouped
}

/// All rules: http by route table, tls and tcp by address. What scopes share is shown once.
pub(super) fn routes(snapshot: &Snapshot) -> Vec<RouteView> {
    let mut views = Vec::new();
    let mut seen_tables = HashSet::new();
    let mut seen_destinations = HashSet::new();
    for scope in all_scopes(snapshot) {
        let plans = plans_of(scope);
        for (address, destination) in destinations(scope) {
            let Some(destination) = destination else {
                continue;
            };
            let mut table = scope.route_table(destination);
            while let Some(next) = table {
                if !seen_tables.insert(Arc::as_ptr(next)) {
                    break;
                }
                http_routes(scope, destination, next, &plans, &mut views);
                table = next.base.as_ref();
            }
            if seen_destinations.insert(Arc::as_ptr(destination)) {
                l4_routes(scope, destination, &address, &mut views);
            }
        }
    }
    views
}

/// What becomes of connections to each service's own addresses, by service and the name of
/// its route table: services that share a table differ.
type Plans = HashMap<(String, Arc<str>), PlanView>;

fn plans_of(scope: &ScopeView) -> Plans {
    let mut plans = Plans::new();
    for (_, destination) in destinations(scope) {
        let Some(destination) = destination else {
            continue;
        };
        if let Some(table) = scope.route_table(destination) {
            let key = (service_of(destination), Arc::clone(&table.name));
            plans
                .entry(key)
                .or_insert_with(|| describe::plan(&destination.plan));
        }
    }
    plans
}

fn http_routes(
    scope: &ScopeView,
    destination: &Destination,
    table: &RouteTable,
    plans: &Plans,
    views: &mut Vec<RouteView>,
) {
    for (domains, host) in virtual_hosts(table) {
        let Some(host) = host else {
            continue;
        };
        let service = host.name.rsplit_once(':').map_or(&*host.name, |it| it.0);
        let plan = plans
            .get(&(service.to_owned(), Arc::clone(&table.name)))
            .cloned()
            .unwrap_or_else(|| describe::plan(&destination.plan));
        for (index, route) in host.routes.iter().enumerate() {
            let destinations = match &route.action {
                RouteAction::Forward(forward) => forward
                    .destinations
                    .iter()
                    .map(|entry| describe::weight(entry.weight, &entry.cluster))
                    .collect(),
                RouteAction::Redirect(_)
                | RouteAction::DirectResponse { .. }
                | RouteAction::NotHonoured(_) => Vec::new(),
            };
            let provenance = route.provenance.as_ref().or(host.provenance.as_ref());
            views.push(RouteView {
                scope: scope.key.to_string(),
                kind: "http".to_owned(),
                place: table.name.to_string(),
                host: host.name.to_string(),
                domains: domains.clone(),
                index,
                name: route.name.to_string(),
                matches: route.matches.iter().map(describe::http_match).collect(),
                action: describe::action(&route.action),
                destinations,
                policies: describe::policies(route),
                path: Some(plan.clone()),
                object: describe::object(provenance),
                origin: describe::origin(provenance),
            });
        }
    }
}

fn l4_routes(
    scope: &ScopeView,
    destination: &Destination,
    address: &str,
    views: &mut Vec<RouteView>,
) {
    let weights = |destinations: &[L4Destination]| {
        destinations
            .iter()
            .map(|entry| describe::weight(entry.weight, &entry.cluster))
            .collect()
    };
    let subnets = |nets: &[ipnet::IpNet]| -> Vec<String> {
        nets.iter()
            .map(|net| format!("destinationSubnet {net}"))
            .collect()
    };
    let base = RouteView {
        scope: scope.key.to_string(),
        kind: "tcp".to_owned(),
        place: address.to_owned(),
        host: service_of(destination),
        domains: Vec::new(),
        index: 0,
        name: String::new(),
        matches: Vec::new(),
        action: None,
        destinations: Vec::new(),
        policies: Vec::new(),
        path: Some(describe::plan(&destination.plan)),
        object: String::new(),
        origin: None,
    };
    for (index, route) in destination.tls.iter().enumerate() {
        views.push(RouteView {
            kind: "tls".to_owned(),
            domains: route.sni_hosts.iter().map(ToString::to_string).collect(),
            index,
            matches: subnets(&route.destination_subnets),
            destinations: weights(&route.destinations),
            object: describe::object(route.provenance.as_ref()),
            origin: describe::origin(route.provenance.as_ref()),
            ..base.clone()
        });
    }
    for (index, route) in destination.tcp.iter().enumerate() {
        views.push(RouteView {
            index,
            matches: subnets(&route.destination_subnets),
            destinations: weights(&route.destinations),
            object: describe::object(route.provenance.as_ref()),
            origin: describe::origin(route.provenance.as_ref()),
            ..base.clone()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compile::compile;
    use crate::settings::{CompileSettings, MeshSettings, NamespaceBudget, OnProxyDown};
    use crate::source::state::{DirectoryState, FileText};

    #[test]
    fn services_that_share_a_port_have_each_their_own_degraded_form() {
        let mut text = String::from(
            "apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default, uid: u}
status: {podIPs: [{ip: 10.9.0.1}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: b, namespace: default}
spec: {host: b, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b, namespace: default}
spec: {hosts: [b], http: [{route: [{destination: {host: b, subset: v1}}]}]}
---
",
        );
        for (last, name) in [(1, "a"), (2, "b")] {
            text += &format!(
                "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec: {{clusterIP: 10.0.0.{last}, ports: [{{name: http, port: 80}}]}}
---
"
            );
        }
        let files = BTreeMap::from([(Arc::from("a.yaml"), FileText::from(&*text))]);
        let settings = CompileSettings {
            node: "n".to_owned(),
            mesh: MeshSettings::default(),
            on_proxy_down: OnProxyDown::Degrade,
            is_capture_labelled: false,
            capture_host_network: false,
            accept_unenforced_policies: false,
            namespace_budget: NamespaceBudget::default(),
        };
        let loaded = DirectoryState::new().apply(&files);
        let views = routes(&compile(&loaded.objects, &settings).snapshot);
        let degraded: Vec<(&str, &str)> = views
            .iter()
            .filter_map(|view| Some((&*view.host, &*view.path.as_ref()?.degraded)))
            .collect();
        let expected = [
            ("a.default.svc.cluster.local:80", "pass"),
            ("b.default.svc.cluster.local:80", "l4"),
        ];
        assert_eq!(degraded, expected);
    }
}
