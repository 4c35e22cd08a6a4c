//! What the answer to a request must be, by Istio's rules read literally.

use std::collections::BTreeSet;

use super::model::{
    Action, Client, Destination, DestinationRule, HttpMatch, HttpRule, Mesh, Request, Service,
    Text, VirtualService,
};

const DOMAIN: &str = "svc.cluster.local";
const ROOT_NAMESPACE: &str = "istio-system";

/// What must come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A local answer.
    Status(u16),
    /// A redirect to this path and query.
    Redirect(String),
    /// One of these, by weight, with this path and query upstream.
    Forward {
        /// Weight and what that share gets.
        shares: Vec<(u32, Share)>,
        /// Upstream path with query.
        target: String,
    },
    /// Straight to the dialled address.
    Passthrough,
}

/// What one weighted destination gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    /// One of these addresses.
    Endpoints(BTreeSet<String>),
    /// 503: no such cluster, or nobody in it.
    Unavailable,
}

/// The answer for `client`'s request in this mesh.
#[must_use]
pub fn evaluate(mesh: &Mesh, client: &Client, request: &Request) -> Outcome {
    let port = request.dst_port;
    let owner = mesh
        .services
        .iter()
        .find(|service| service.vip == request.dst_ip && declares(service, port).is_some());
    // An auto-detected port of a service with an address knows that service alone.
    if let Some(owner) = owner.filter(|owner| declares(owner, port) == Some(false)) {
        return by_service(mesh, client, request, owner);
    }
    let somebody_speaks_http = mesh
        .services
        .iter()
        .any(|service| declares(service, port) == Some(true));
    if owner.is_none() && !somebody_speaks_http {
        return Outcome::Passthrough;
    }
    match named_service(mesh, client, request) {
        Some(service) => by_service(mesh, client, request, service),
        None => match extra_host(mesh, client, request) {
            Some(rules) => by_rules(mesh, client, request, rules),
            None if mesh.is_registry_only => Outcome::Status(502),
            None => Outcome::Passthrough,
        },
    }
}

/// Whether the service has this port: `Some(true)` declared HTTP, `Some(false)` auto.
fn declares(service: &Service, port: u16) -> Option<bool> {
    service
        .ports
        .iter()
        .find(|candidate| candidate.number == port)
        .map(|candidate| candidate.is_http)
}

fn fqdn(service: &Service) -> String {
    format!("{}.{}.{DOMAIN}", service.name, service.namespace)
}

fn bare_host(request: &Request) -> String {
    let host = request.host.to_lowercase();
    match host.rsplit_once(':') {
        Some((name, _)) => name.to_owned(),
        None => host,
    }
}

/// The service whose names include the request's Host, on the dialled port.
fn named_service<'a>(mesh: &'a Mesh, client: &Client, request: &Request) -> Option<&'a Service> {
    let host = bare_host(request);
    mesh.services
        .iter()
        .filter(|service| declares(service, request.dst_port).is_some())
        .find(|service| {
            let full = fqdn(service);
            let mut names = vec![
                full.clone(),
                format!("{full}."),
                format!("{}.{}.svc", service.name, service.namespace),
                format!("{}.{}", service.name, service.namespace),
                service.vip.clone(),
            ];
            if service.namespace == client.namespace {
                names.push(service.name.clone());
            }
            names.contains(&host)
        })
}

/// Services on this port that a VirtualService's host stands for: the one that it names
/// exactly, or those below its wildcard that no more specific VirtualService governs.
fn services_of<'a>(
    mesh: &'a Mesh,
    client: &Client,
    vs: &VirtualService,
    host: &str,
    port: u16,
) -> Vec<&'a Service> {
    let governs = |service: &Service| {
        applicable(mesh, client, &fqdn(service))
            .is_some_and(|first| first.name == vs.name && first.namespace == vs.namespace)
    };
    mesh.services
        .iter()
        .filter(|service| declares(service, port).is_some() && covers(host, &fqdn(service)))
        .filter(|service| !host.starts_with('*') || governs(service))
        .collect()
}

/// A VirtualService's hosts that stand for no service act on this port only if another of
/// its hosts does; if none does, the port must be 80.
fn has_extra_hosts_on(mesh: &Mesh, client: &Client, vs: &VirtualService, port: u16) -> bool {
    let hosts = expanded_hosts(vs);
    let has_services = hosts
        .iter()
        .any(|host| !services_of(mesh, client, vs, host, port).is_empty());
    has_services || port == 80
}

/// Rules of a VirtualService for a host that is no service.
fn extra_host<'a>(
    mesh: &'a Mesh,
    client: &Client,
    request: &Request,
) -> Option<&'a VirtualService> {
    let host = bare_host(request);
    let mut best: Option<(usize, &VirtualService)> = None;
    for vs in visible_virtual_services(mesh, client) {
        if !has_extra_hosts_on(mesh, client, vs, request.dst_port)
            || static_rules(vs, client, request.dst_port).is_empty()
        {
            continue;
        }
        for candidate in expanded_hosts(vs) {
            let is_registry =
                !services_of(mesh, client, vs, &candidate, request.dst_port).is_empty();
            if is_registry || !covers(&candidate, &host) {
                continue;
            }
            let rank = if candidate.starts_with('*') {
                candidate.len()
            } else {
                usize::MAX
            };
            if best.is_none_or(|(best_rank, _)| rank > best_rank) {
                best = Some((rank, vs));
            }
        }
    }
    best.map(|(_, vs)| vs)
}

/// The service's own answer: its VirtualService if one applies here, else its default route.
fn by_service(mesh: &Mesh, client: &Client, request: &Request, service: &Service) -> Outcome {
    match applicable(mesh, client, &fqdn(service)) {
        Some(vs) if !static_rules(vs, client, request.dst_port).is_empty() => {
            by_rules(mesh, client, request, vs)
        }
        Some(_) | None => Outcome::Forward {
            shares: vec![(1, endpoints_of(service, request.dst_port, None))],
            target: request.target.clone(),
        },
    }
}

fn by_rules(mesh: &Mesh, client: &Client, request: &Request, vs: &VirtualService) -> Outcome {
    let (path, query) = split_target(&request.target);
    for (rule, matches) in static_rules(vs, client, request.dst_port) {
        let hit = if rule.matches.is_empty() {
            Some(None)
        } else {
            matches
                .iter()
                .find(|element| is_match(element, request, path, query))
                .map(|hit| Some(*hit))
        };
        if let Some(hit) = hit {
            return act(mesh, client, request, vs, rule, hit);
        }
    }
    Outcome::Status(404)
}

fn act(
    mesh: &Mesh,
    client: &Client,
    request: &Request,
    vs: &VirtualService,
    rule: &HttpRule,
    hit: Option<&HttpMatch>,
) -> Outcome {
    let (path, query) = split_target(&request.target);
    let with_query = |path: String| match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    match &rule.action {
        Action::Direct(status) => Outcome::Status(*status),
        Action::Redirect(uri) => Outcome::Redirect(with_query(uri.clone())),
        Action::Route {
            destinations,
            rewrite_uri,
        } => Outcome::Forward {
            shares: shares(mesh, client, request.dst_port, vs, destinations),
            target: match rewrite_uri {
                None => request.target.clone(),
                Some(text) => with_query(rewrite(path, text, hit)),
            },
        },
    }
}

fn rewrite(path: &str, text: &str, hit: Option<&HttpMatch>) -> String {
    match hit.and_then(|hit| hit.uri.as_ref()) {
        Some(Text::Exact(_) | Text::Regex(_)) => text.to_owned(),
        Some(Text::Prefix(prefix)) => format!("{text}{}", &path[prefix.len()..]),
        // Without a path condition the matched prefix is "/".
        Some(Text::Present) | None => format!("{text}{}", path.strip_prefix('/').unwrap_or(path)),
    }
}

fn shares(
    mesh: &Mesh,
    client: &Client,
    port: u16,
    vs: &VirtualService,
    destinations: &[Destination],
) -> Vec<(u32, Share)> {
    if let [single] = destinations {
        return vec![(1, share(mesh, client, port, vs, single))];
    }
    destinations
        .iter()
        .filter(|destination| destination.weight.unwrap_or(0) > 0)
        .map(|destination| {
            (
                destination.weight.unwrap_or(0),
                share(mesh, client, port, vs, destination),
            )
        })
        .collect()
}

fn share(
    mesh: &Mesh,
    client: &Client,
    listener_port: u16,
    vs: &VirtualService,
    destination: &Destination,
) -> Share {
    let host = expand(&destination.host, &vs.namespace);
    let Some(service) = mesh.services.iter().find(|service| fqdn(service) == host) else {
        return Share::Unavailable;
    };
    let port = destination.port.unwrap_or(listener_port);
    if declares(service, port).is_none() {
        return Share::Unavailable;
    }
    if destination.subset.is_empty() {
        return endpoints_of(service, port, None);
    }
    match subset_version(mesh, client, service, &destination.subset) {
        Some(version) => endpoints_of(service, port, Some(&version)),
        None => Share::Unavailable,
    }
}

fn endpoints_of(service: &Service, port: u16, version: Option<&str>) -> Share {
    let ips: BTreeSet<String> = service
        .endpoints
        .iter()
        .filter(|endpoint| {
            endpoint.is_ready && version.is_none_or(|version| endpoint.version == version)
        })
        .map(|endpoint| format!("{}:{port}", endpoint.ip))
        .collect();
    if ips.is_empty() {
        Share::Unavailable
    } else {
        Share::Endpoints(ips)
    }
}

/// Where the DestinationRule for a service is looked for: the client's namespace, the
/// service's, the root's; in the first that has one for its name, the most specific wins,
/// and rules of equal host and visibility merge.
fn subset_version(mesh: &Mesh, client: &Client, service: &Service, subset: &str) -> Option<String> {
    let full = fqdn(service);
    for (namespace, is_own) in [
        (client.namespace.as_str(), true),
        (service.namespace.as_str(), false),
        (ROOT_NAMESPACE, false),
    ] {
        let mut rules: Vec<&DestinationRule> = mesh
            .destination_rules
            .iter()
            .filter(|rule| rule.namespace == namespace)
            .filter(|rule| is_own || is_exported(&rule.export_to, namespace, &client.namespace))
            .filter(|rule| covers(&expand(&rule.host, namespace), &full))
            .collect();
        if rules.is_empty() {
            continue;
        }
        rules.sort_by_key(|rule| (rule.created, rule.name.clone()));
        let best = rules
            .iter()
            .map(|rule| rank(&expand(&rule.host, namespace)))
            .max()?;
        rules.retain(|rule| rank(&expand(&rule.host, namespace)) == best);
        return rules
            .iter()
            .flat_map(|rule| &rule.subsets)
            .find(|(name, _)| name == subset)
            .map(|(_, version)| version.clone());
    }
    None
}

fn rank(host: &str) -> usize {
    if host.starts_with('*') {
        host.len()
    } else {
        usize::MAX
    }
}

/// The VirtualService that governs a service's name: the most specific host, ties by order.
fn applicable<'a>(mesh: &'a Mesh, client: &Client, full: &str) -> Option<&'a VirtualService> {
    let mut best: Option<(usize, &VirtualService)> = None;
    for vs in visible_virtual_services(mesh, client) {
        for host in expanded_hosts(vs).iter().filter(|host| covers(host, full)) {
            if best.is_none_or(|(best_rank, _)| rank(host) > best_rank) {
                best = Some((rank(host), vs));
            }
        }
    }
    best.map(|(_, vs)| vs)
}

/// Mesh VirtualServices that the client sees: private ones first, then those exported to
/// its namespace by name, then public ones; each by age, name, namespace.
fn visible_virtual_services<'a>(mesh: &'a Mesh, client: &Client) -> Vec<&'a VirtualService> {
    let bucket = |vs: &VirtualService| {
        if vs.export_to.is_empty() || vs.export_to.iter().any(|to| to == "*") {
            return Some(2);
        }
        let is_private = vs
            .export_to
            .iter()
            .all(|to| to == "." || *to == vs.namespace);
        if is_private {
            return (vs.namespace == client.namespace).then_some(0);
        }
        is_exported(&vs.export_to, &vs.namespace, &client.namespace).then_some(1)
    };
    let mut visible: Vec<(i32, &VirtualService)> = mesh
        .virtual_services
        .iter()
        .filter(|vs| vs.gateways.is_empty() || vs.gateways.iter().any(|gateway| gateway == "mesh"))
        .filter_map(|vs| Some((bucket(vs)?, vs)))
        .collect();
    visible
        .sort_by_key(|(bucket, vs)| (*bucket, vs.created, vs.name.clone(), vs.namespace.clone()));
    visible.into_iter().map(|(_, vs)| vs).collect()
}

fn is_exported(export_to: &[String], from: &str, to: &str) -> bool {
    export_to.is_empty()
        || export_to
            .iter()
            .any(|entry| entry == "*" || entry == to || (entry == "." && from == to))
}

fn expanded_hosts(vs: &VirtualService) -> Vec<String> {
    vs.hosts
        .iter()
        .map(|host| expand(host, &vs.namespace).to_lowercase())
        .collect()
}

fn expand(host: &str, namespace: &str) -> String {
    if host == "*" || host.contains('.') {
        host.to_owned()
    } else {
        format!("{host}.{namespace}.{DOMAIN}")
    }
}

fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => name.ends_with(suffix) && name.len() > suffix.len(),
        None => pattern == name,
    }
}

/// Rules that this client and port can reach at all, with their remaining match elements,
/// up to and including the first that accepts everything.
fn static_rules<'a>(
    vs: &'a VirtualService,
    client: &Client,
    port: u16,
) -> Vec<(&'a HttpRule, Vec<&'a HttpMatch>)> {
    let mut kept = Vec::new();
    for rule in &vs.http {
        let matches: Vec<&HttpMatch> = rule
            .matches
            .iter()
            .filter(|element| holds_statically(element, client, port))
            .collect();
        if !rule.matches.is_empty() && matches.is_empty() {
            continue;
        }
        let is_catch_all =
            rule.matches.is_empty() || matches.iter().any(|element| is_catch_all(element));
        kept.push((rule, matches));
        if is_catch_all {
            break;
        }
    }
    kept
}

fn holds_statically(element: &HttpMatch, client: &Client, port: u16) -> bool {
    if element.port.is_some_and(|wanted| wanted != port) {
        return false;
    }
    if !element.gateways.is_empty() {
        return element.gateways.iter().any(|gateway| gateway == "mesh");
    }
    element
        .source_app
        .as_ref()
        .is_none_or(|app| *app == client.app)
        && element
            .source_namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == client.namespace)
}

fn is_catch_all(element: &HttpMatch) -> bool {
    let any_path = match &element.uri {
        None => true,
        Some(Text::Prefix(prefix)) => prefix.is_empty() || prefix == "/",
        Some(Text::Regex(regex)) => regex == ".*",
        Some(Text::Exact(_) | Text::Present) => false,
    };
    any_path
        && element.method.is_none()
        && element.authority.is_none()
        && element.headers.is_empty()
        && element.without_headers.is_empty()
        && element.query_params.is_empty()
}

fn is_match(element: &HttpMatch, request: &Request, path: &str, query: Option<&str>) -> bool {
    let uri_holds = match &element.uri {
        None => true,
        Some(Text::Regex(regex)) => text_matches(&Text::Regex(regex.clone()), path),
        Some(Text::Exact(text)) if element.ignore_uri_case => {
            path.to_lowercase() == text.to_lowercase()
        }
        Some(Text::Prefix(text)) if element.ignore_uri_case => {
            path.to_lowercase().starts_with(&text.to_lowercase())
        }
        Some(text) => text_matches(text, path),
    };
    uri_holds
        && element
            .method
            .as_ref()
            .is_none_or(|text| text_matches(text, &request.method))
        && element
            .authority
            .as_ref()
            .is_none_or(|text| text_matches(text, &request.host))
        && element.headers.iter().all(|(name, text)| {
            lines(request, name)
                .iter()
                .any(|line| text_matches(text, line))
        })
        && element.without_headers.iter().all(|(name, text)| {
            let lines = lines(request, name);
            match text {
                Text::Present => lines.is_empty(),
                Text::Exact(_) | Text::Prefix(_) | Text::Regex(_) if lines.is_empty() => {
                    !text_matches(text, "")
                }
                Text::Exact(_) | Text::Prefix(_) | Text::Regex(_) => {
                    !lines.iter().any(|line| text_matches(text, line))
                }
            }
        })
        && element.query_params.iter().all(|(name, text)| {
            let value = query
                .into_iter()
                .flat_map(|query| query.split('&'))
                .find_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (key == name).then_some(value)
                });
            value.is_some_and(|value| text_matches(text, value))
        })
}

fn lines<'a>(request: &'a Request, name: &str) -> Vec<&'a str> {
    let wanted = request
        .headers
        .iter()
        .filter(|(header, _)| header.eq_ignore_ascii_case(name));
    wanted.map(|(_, value)| value.as_str()).collect()
}

fn text_matches(text: &Text, value: &str) -> bool {
    match text {
        Text::Exact(exact) => value == exact,
        Text::Prefix(prefix) => value.starts_with(prefix.as_str()),
        Text::Regex(pattern) => {
            regex::Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(value))
        }
        Text::Present => true,
    }
}

fn split_target(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}
