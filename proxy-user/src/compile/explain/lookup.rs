//! The lookup itself, in the order in which the data planes do it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::net::PodUid;
use crate::snapshot::listeners::{DegradedForm, Found, PathPlan, TrafficPath};
use crate::snapshot::matchers::{HttpMatch, Mismatch, RequestFacts};
use crate::snapshot::routes::{L4Destination, UnknownHost, VirtualHost};
use crate::snapshot::{
    Capture, Destination, Provenance, RouteTable, ScopeView, ServiceView, Snapshot,
};

use super::describe::{destination_view, outcome_of, rule_view};
use super::request::{ExplainRequest, Scheme};
use super::{Explanation, Outcome, PassedOver};

/// Explains `request` of the pod `from`; `None` when the snapshot does not list the pod.
#[must_use]
pub fn explain(
    snapshot: &Snapshot,
    from: &PodUid,
    request: &ExplainRequest,
) -> Option<Explanation> {
    let pod = snapshot.pods.get(from)?;
    let scope = snapshot.scope_of(from)?;
    let address = address_of(snapshot, scope, request);
    let ip = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let found = scope.find(SocketAddr::new(ip, request.port));
    let mut explanation = Explanation {
        from: format!("{}/{}", pod.workload.namespace, pod.workload.name),
        scope: scope.key.to_string(),
        untouched: match &pod.capture {
            Capture::Captured => None,
            Capture::Untouched(reason) => Some(reason.to_string()),
        },
        address: address.map(|ip| SocketAddr::new(ip, request.port).to_string()),
        ..Explanation::default()
    };
    let (destination, word) = match found {
        Found::Exact(destination) => (destination, "exact"),
        Found::PortWide(destination) => (destination, "portWide"),
        Found::Unknown => {
            describe_unknown(scope, &mut explanation);
            return Some(explanation);
        }
    };
    word.clone_into(&mut explanation.found);
    explanation.service = destination.service.as_deref().map(str::to_owned);
    explanation.protocol = Some(format!("{:?}", destination.protocol).to_lowercase());
    describe_plan(&destination.plan, &mut explanation);
    match (request.scheme, scope.route_table(destination)) {
        (Scheme::Http, Some(table)) => explain_http(table, request, &mut explanation),
        (Scheme::Https, _) => explain_tls(scope, destination, ip, request, &mut explanation),
        (Scheme::Http | Scheme::Tcp, _) => explain_tcp(scope, destination, ip, &mut explanation),
    }
    Some(explanation)
}

fn describe_unknown(scope: &ScopeView, explanation: &mut Explanation) {
    "unknown".clone_into(&mut explanation.found);
    let (path, degraded) = if scope.is_registry_only {
        ("refused", "deny")
    } else {
        ("untouched", "pass")
    };
    path.clone_into(&mut explanation.path);
    "no service listens here".clone_into(&mut explanation.path_reason);
    explanation.outcome = unknown_outcome(scope.is_registry_only);
    degraded.clone_into(&mut explanation.degraded);
    "no service listens here".clone_into(&mut explanation.degraded_reason);
}

fn unknown_outcome(is_registry_only: bool) -> Outcome {
    if is_registry_only {
        Outcome::BlackHole
    } else {
        Outcome::Passthrough
    }
}

fn describe_plan(plan: &PathPlan, explanation: &mut Explanation) {
    let path = match plan.path {
        TrafficPath::Kernel => "kernel",
        TrafficPath::Proxy => "proxy",
        TrafficPath::Untouched => "untouched",
    };
    let degraded = match plan.degraded {
        DegradedForm::L4 => "l4",
        DegradedForm::Pass => "pass",
        DegradedForm::Deny => "deny",
    };
    path.clone_into(&mut explanation.path);
    explanation.path_reason = plan.reason.to_string();
    degraded.clone_into(&mut explanation.degraded);
    explanation.degraded_reason = plan.degraded_reason.to_string();
}

/// What name resolution would give: the address itself, or that of the service the name
/// means to this client.
fn address_of(snapshot: &Snapshot, scope: &ScopeView, request: &ExplainRequest) -> Option<IpAddr> {
    if let Some(ip) = request.ip() {
        return Some(ip);
    }
    let names = full_names(&request.host, &scope.namespace, &snapshot.mesh.domain);
    names.iter().find_map(|name| {
        let mut candidates: Vec<&ServiceView> = snapshot
            .services
            .iter()
            .map(AsRef::as_ref)
            .filter(|service| *service.host == **name)
            .collect();
        // As the registry chooses: the client's own namespace, then Kubernetes, then age.
        candidates.sort_by_key(|service| {
            let is_foreign = service.namespace != scope.namespace;
            (is_foreign, service.kind != "Service")
        });
        let service = candidates.first()?;
        let mut addresses = service.addresses.iter();
        let vip = addresses.find(|net| net.prefix_len() == net.max_prefix_len());
        vip.map(ipnet::IpNet::addr)
    })
}

/// The names that a resolver with Kubernetes' search list tries.
fn full_names(host: &str, namespace: &str, domain: &str) -> Vec<String> {
    let name = host.trim_end_matches('.');
    vec![
        name.to_owned(),
        format!("{name}.{namespace}.svc.{domain}"),
        format!("{name}.svc.{domain}"),
        format!("{name}.{domain}"),
    ]
}

fn explain_http(table: &RouteTable, request: &ExplainRequest, explanation: &mut Explanation) {
    let Some(host) = table.find(&request.authority) else {
        explanation.outcome = unknown_outcome(table.unknown == UnknownHost::BlackHole);
        return;
    };
    explanation.virtual_host = Some(host.name.to_string());
    let facts = RequestFacts {
        path: &request.path,
        query: request.query.as_deref(),
        method: &request.method,
        scheme: "http",
        authority: &request.authority,
        headers: &request.headers,
    };
    explanation.passed_over = passed_over(host, &facts);
    let Some((route, hit)) = host.find(&facts) else {
        explanation.outcome = Outcome::NotFound;
        return;
    };
    let provenance = hit
        .and_then(|hit| hit.provenance.as_ref())
        .or(route.provenance.as_ref());
    explanation.rule = Some(rule_view(&route.effective_name(hit), provenance));
    explanation.outcome = outcome_of(route);
}

/// Rules up to the one that acts, with the reason of each alternative.
fn passed_over(host: &VirtualHost, facts: &RequestFacts<'_>) -> Vec<PassedOver> {
    let mut passed_over = Vec::new();
    for route in &host.routes {
        let results: Vec<Result<(), Mismatch>> = route
            .matches
            .iter()
            .map(|element| element.check(facts))
            .collect();
        if results.is_empty() || results.iter().any(Result::is_ok) {
            break;
        }
        let reasons = results
            .into_iter()
            .zip(&route.matches)
            .filter_map(|(result, element)| Some(reason(&result.err()?, element)));
        passed_over.push(PassedOver {
            rule: rule_view(&route.name, route.provenance.as_ref()),
            mismatches: reasons.collect(),
        });
    }
    passed_over
}

fn reason(mismatch: &Mismatch, element: &HttpMatch) -> String {
    let condition = match mismatch {
        Mismatch::Uri => "uri".to_owned(),
        Mismatch::Scheme => "scheme".to_owned(),
        Mismatch::Method => "method".to_owned(),
        Mismatch::Authority => "authority".to_owned(),
        Mismatch::Header(name) => format!("header {name}"),
        Mismatch::PseudoHeader(name) => format!("header {}", name.as_str()),
        Mismatch::QueryParam(name) => format!("queryParam {name}"),
    };
    match &element.name {
        Some(name) => format!("{name}: {condition}"),
        None => condition,
    }
}

fn explain_tls(
    scope: &ScopeView,
    destination: &Destination,
    ip: IpAddr,
    request: &ExplainRequest,
    explanation: &mut Explanation,
) {
    if destination.tls.is_empty() {
        explain_tcp(scope, destination, ip, explanation);
        return;
    }
    let name = request.host.as_str();
    let route = destination.tls.iter().find(|route| {
        let names = &route.sni_hosts;
        let is_named = names.is_empty() || names.iter().any(|host| covers(host, name));
        is_named && holds(&route.destination_subnets, ip)
    });
    match route {
        Some(route) => describe_l4(route.provenance.as_ref(), &route.destinations, explanation),
        None => explanation.outcome = unknown_outcome(scope.is_registry_only),
    }
}

fn explain_tcp(
    scope: &ScopeView,
    destination: &Destination,
    ip: IpAddr,
    explanation: &mut Explanation,
) {
    let route = destination
        .tcp
        .iter()
        .find(|route| holds(&route.destination_subnets, ip));
    if let Some(route) = route {
        describe_l4(route.provenance.as_ref(), &route.destinations, explanation);
        return;
    }
    let unnamed = destination
        .tls
        .iter()
        .find(|route| route.sni_hosts.is_empty() && holds(&route.destination_subnets, ip));
    match unnamed {
        Some(route) => describe_l4(route.provenance.as_ref(), &route.destinations, explanation),
        None => explanation.outcome = unknown_outcome(scope.is_registry_only),
    }
}

fn describe_l4(
    provenance: Option<&Provenance>,
    destinations: &[L4Destination],
    explanation: &mut Explanation,
) {
    explanation.rule = Some(rule_view("", provenance));
    explanation.outcome = Outcome::Forward {
        destinations: destinations
            .iter()
            .map(|entry| destination_view(entry.weight, &entry.cluster))
            .collect(),
        policies: Vec::new(),
    };
}

/// Whether a server name of a rule covers `name`.
fn covers(host: &str, name: &str) -> bool {
    match host.strip_prefix('*') {
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        None => host == name,
    }
}

fn holds(subnets: &[ipnet::IpNet], ip: IpAddr) -> bool {
    subnets.is_empty() || subnets.iter().any(|net| net.contains(&ip))
}
