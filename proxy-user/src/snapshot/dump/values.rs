//! Small values of a snapshot as text.

use crate::snapshot::matchers::{HttpMatch, StringMatcher};
use crate::snapshot::policy::{
    ClusterPolicy, ConnectionPool, HeaderTemplate, OutlierDetection, RetryPolicy, TemplatePart,
};
use crate::snapshot::{ClusterRef, Provenance};

/// ` <- kind/namespace/name field`.
pub(super) fn from(provenance: Option<&Provenance>) -> String {
    match provenance {
        None => String::new(),
        Some(place) if place.field.is_empty() => format!(" <- {}", place.object),
        Some(place) => format!(" <- {} {}", place.object, place.field),
    }
}

pub(super) fn reference(cluster: &ClusterRef) -> String {
    match cluster {
        ClusterRef::Known(cluster) => match &*cluster.variant {
            "" => cluster.name.to_string(),
            variant => format!("{} rule={variant}", cluster.name),
        },
        ClusterRef::Missing(name) => format!("{name} MISSING"),
        ClusterRef::NotHonoured(name) => format!("{name} NOT HONOURED"),
    }
}

pub(super) fn share(weight: u32, total: u32) -> String {
    if weight == total {
        String::new()
    } else {
        format!("{weight}/{total} ")
    }
}

pub(super) fn subnets(nets: &[ipnet::IpNet]) -> String {
    let texts: Vec<String> = nets.iter().map(|net| format!(" {net}")).collect();
    texts.concat()
}

pub(super) fn text_match(matcher: &StringMatcher) -> String {
    match matcher {
        StringMatcher::Exact(text) => format!("={text}"),
        StringMatcher::Prefix(text) => format!("^{text}"),
        StringMatcher::Regex(regex) => format!("~{}", regex.as_str()),
        StringMatcher::ExactIgnoreCase(text) => format!("=i {text}"),
        StringMatcher::PrefixIgnoreCase(text) => format!("^i {text}"),
    }
}

pub(super) fn conditions(element: &HttpMatch) -> String {
    let mut parts = Vec::new();
    let value = |matcher: &Option<StringMatcher>| match matcher {
        Some(matcher) => text_match(matcher),
        None => "present".to_owned(),
    };
    for (name, matcher) in [
        ("uri", &element.uri),
        ("scheme", &element.scheme),
        ("method", &element.method),
        ("authority", &element.authority),
    ] {
        parts.extend(
            matcher
                .as_ref()
                .map(|matcher| format!("{name}{}", text_match(matcher))),
        );
    }
    for header in &element.headers {
        let not = if header.is_negated { "not " } else { "" };
        parts.push(format!(
            "{not}header {} {}",
            header.name,
            value(&header.value)
        ));
    }
    for header in &element.pseudo_headers {
        let not = if header.is_negated { "not " } else { "" };
        parts.push(format!(
            "{not}header {} {}",
            header.name.as_str(),
            value(&header.value)
        ));
    }
    for param in &element.query_params {
        parts.push(format!("query {} {}", param.name, value(&param.value)));
    }
    if parts.is_empty() {
        parts.push("everything".to_owned());
    }
    let name = element
        .name
        .as_ref()
        .map(|name| format!(" ({name})"))
        .unwrap_or_default();
    format!("{}{name}", parts.join(", "))
}

pub(super) fn template(template: &HeaderTemplate) -> String {
    let mut text = String::new();
    for part in &template.0 {
        if let TemplatePart::Literal(literal) = part {
            text.push_str(literal);
        } else {
            text.push_str(&format!("%{part:?}%"));
        }
    }
    text
}

/// Nothing for Istio's default policy.
pub(super) fn retry(policy: &RetryPolicy) -> String {
    if *policy == RetryPolicy::default() {
        return String::new();
    }
    let codes = if policy.status_codes.is_empty() {
        String::new()
    } else {
        format!(" codes={:?}", policy.status_codes)
    };
    let per_try = policy
        .per_try_timeout
        .map(|t| format!(" perTry={t:?}"))
        .unwrap_or_default();
    let remote = if policy.remote_localities {
        " remoteLocalities"
    } else {
        ""
    };
    let previous = if policy.skip_previous_hosts {
        ""
    } else {
        " samePreviousHosts"
    };
    format!(
        " retries={} on={:#x}{codes}{per_try} backoff={:?}..{:?}{previous}{remote}",
        policy.attempts, policy.on.0, policy.backoff_base, policy.backoff_cap
    )
}

/// What differs from the default policy.
pub(super) fn policy(policy: &ClusterPolicy) -> String {
    let default = ClusterPolicy::default();
    let mut text = String::new();
    if policy.load_balancer != default.load_balancer {
        text.push_str(&format!(" lb={:?}", policy.load_balancer));
    }
    text.push_str(&pool(&policy.pool));
    text.push_str(&policy.outlier.as_ref().map(outlier).unwrap_or_default());
    if policy.tls != default.tls {
        text.push_str(&format!(" tls={:?}", policy.tls));
    }
    text
}

fn pool(pool: &ConnectionPool) -> String {
    let default = ConnectionPool::default();
    let mut text = String::new();
    macro_rules! differing {
        ($($field:ident),*) => {$(
            if pool.$field != default.$field {
                text.push_str(&format!(concat!(" ", stringify!($field), "={:?}"), pool.$field));
            }
        )*};
    }
    differing!(
        max_connections,
        connect_timeout,
        has_explicit_connect_timeout,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        max_requests_per_connection,
        max_concurrent_streams,
        http_idle_timeout,
        tcp_idle_timeout,
        has_explicit_tcp_idle_timeout,
        max_connection_duration,
        tcp_keepalive,
        h2_upgrade,
        use_client_protocol,
        http2_keepalive
    );
    text
}

fn outlier(outlier: &OutlierDetection) -> String {
    format!(
        " outlier(5xx={} gateway={} local={}{} codes={:?} interval={:?} base={:?} max={}% min={}%)",
        outlier.consecutive_5xx,
        outlier.consecutive_gateway_errors,
        outlier.consecutive_local_origin_failures,
        if outlier.split_local_origin {
            " split"
        } else {
            ""
        },
        outlier.error_codes,
        outlier.interval,
        outlier.base_ejection_time,
        outlier.max_ejection_percent,
        outlier.min_health_percent
    )
}
