//! Rules, destinations and policies in the words of an explanation.

use crate::snapshot::clusters::Discovery;
use crate::snapshot::endpoints::Health;
use crate::snapshot::policy::{AbortWith, RetryOn, RetryPolicy};
use crate::snapshot::routes::{HttpRoute, PathRewrite, RouteAction};
use crate::snapshot::{ClusterRef, Provenance};

use super::{DestinationView, EndpointView, Outcome, RuleView};

/// The rule by name, object and place.
pub(super) fn rule_view(name: &str, provenance: Option<&Provenance>) -> RuleView {
    RuleView {
        name: name.to_owned(),
        object: provenance.map_or_else(String::new, |from| from.object.to_string()),
        field: provenance.map_or_else(String::new, |from| from.field.to_string()),
        origin: provenance.map_or_else(String::new, |from| from.origin.to_string()),
    }
}

/// What a route does with a request.
pub(super) fn outcome_of(route: &HttpRoute) -> Outcome {
    match &route.action {
        RouteAction::Forward(forward) => Outcome::Forward {
            destinations: forward
                .destinations
                .iter()
                .map(|entry| destination_view(entry.weight, &entry.cluster))
                .collect(),
            policies: policies_of(route, forward.path_rewrite.as_ref()),
        },
        RouteAction::Redirect(redirect) => Outcome::Redirect {
            status: redirect.status.as_u16(),
        },
        RouteAction::DirectResponse { status, .. } => Outcome::DirectResponse {
            status: status.as_u16(),
        },
        RouteAction::NotHonoured(field) => Outcome::NotHonoured {
            field: field.to_string(),
        },
    }
}

fn policies_of(route: &HttpRoute, rewrite: Option<&PathRewrite>) -> Vec<String> {
    let mut policies = Vec::new();
    policies.push(match route.timeout {
        Some(timeout) => format!("timeout {timeout:?}"),
        None => "no timeout".to_owned(),
    });
    policies.extend(route.retry.as_ref().map(|retry| retry_text(retry)));
    if let Some(fault) = &route.fault {
        if let Some((share, length)) = fault.delay {
            policies.push(format!("delay {length:?} for {}", percent(share)));
        }
        if let Some((share, answer)) = fault.abort {
            let answer = match answer {
                AbortWith::Http(status) => status.as_u16().to_string(),
                AbortWith::Grpc(status) => format!("gRPC status {status}"),
            };
            policies.push(format!("abort with {answer} for {}", percent(share)));
        }
    }
    policies.extend(rewrite.map(|rewrite| match rewrite {
        PathRewrite::Prefix(text) => format!("matched prefix becomes {text}"),
        PathRewrite::Full(text) => format!("path becomes {text}"),
        PathRewrite::Regex {
            pattern,
            replacement,
        } => format!("{} in the path becomes {replacement}", pattern.as_str()),
    }));
    for mirror in &route.mirrors {
        let share = percent(mirror.share);
        policies.push(format!("mirror {share} to {}", mirror.cluster.name()));
    }
    if route.cors.is_some() {
        policies.push("CORS".to_owned());
    }
    policies
}

fn retry_text(retry: &RetryPolicy) -> String {
    if retry.attempts == 0 {
        return "no retries".to_owned();
    }
    const NAMES: [(RetryOn, &str); 14] = [
        (RetryOn::FIVE_XX, "5xx"),
        (RetryOn::GATEWAY_ERROR, "gateway-error"),
        (RetryOn::RESET, "reset"),
        (RetryOn::RESET_BEFORE_REQUEST, "reset-before-request"),
        (RetryOn::CONNECT_FAILURE, "connect-failure"),
        (RetryOn::REFUSED_STREAM, "refused-stream"),
        (RetryOn::RETRIABLE_4XX, "retriable-4xx"),
        (RetryOn::STATUS_CODES, "retriable-status-codes"),
        (RetryOn::RATE_LIMITED, "envoy-ratelimited"),
        (RetryOn::GRPC_CANCELLED, "cancelled"),
        (RetryOn::GRPC_DEADLINE_EXCEEDED, "deadline-exceeded"),
        (RetryOn::GRPC_INTERNAL, "internal"),
        (RetryOn::GRPC_RESOURCE_EXHAUSTED, "resource-exhausted"),
        (RetryOn::GRPC_UNAVAILABLE, "unavailable"),
    ];
    let names: Vec<&str> = NAMES
        .iter()
        .filter(|(condition, _)| retry.on.contains(*condition))
        .map(|(_, name)| *name)
        .collect();
    let each = match retry.per_try_timeout {
        Some(limit) => format!(", {limit:?} each"),
        None => String::new(),
    };
    format!("{} retries{each} on {}", retry.attempts, names.join(", "))
}

fn percent(ppm: u32) -> String {
    format!("{} %", f64::from(ppm) / 10_000.0)
}

/// A destination with its healthy endpoints.
pub(super) fn destination_view(weight: u32, cluster: &ClusterRef) -> DestinationView {
    let mut view = DestinationView {
        cluster: cluster.name().to_string(),
        weight,
        ..DestinationView::default()
    };
    let known = match cluster {
        ClusterRef::Known(cluster) => cluster,
        ClusterRef::Missing(_) => {
            "missing".clone_into(&mut view.state);
            return view;
        }
        ClusterRef::NotHonoured(_) => {
            "notHonoured".clone_into(&mut view.state);
            return view;
        }
    };
    let set = known.endpoint_set();
    view.endpoints = set
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.health == Health::Healthy)
        .map(|endpoint| EndpointView {
            address: endpoint.address.to_string(),
            workload: endpoint.workload.name.to_string(),
            weight: endpoint.weight,
        })
        .collect();
    let named = known.dns.iter().flat_map(|dns| &dns.named);
    view.names = named
        .map(|named| format!("{}:{}", named.name, named.port))
        .collect();
    let is_listed = match known.discovery {
        Discovery::DynamicDns { port } => {
            view.names.push(format!("*:{port}"));
            false
        }
        Discovery::OriginalDst { .. } => false,
        Discovery::Endpoints | Discovery::Dns | Discovery::LogicalDns => true,
    };
    let state = match (
        is_listed && view.endpoints.is_empty(),
        view.names.is_empty(),
    ) {
        (false, _) => "ok",
        (true, true) => "noEndpoints",
        (true, false) => "unresolved",
    };
    state.clone_into(&mut view.state);
    view
}
