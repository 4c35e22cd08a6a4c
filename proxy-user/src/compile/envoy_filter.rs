//! EnvoyFilters: refused whole, with every patch named that could never be honoured. Start at
//! [`check`].
//!
//! Some patches have a meaning without Envoy: filters for local rate limits, headers, buffers,
//! compression, CORS and faults, and fields of routes, clusters and connection managers. An
//! EnvoyFilter with any other patch is refused, as half of it might be worse than nothing. None
//! is programmed yet, which is a finding too.

use serde_json::Value;

use crate::api::{ApplyTo, EnvoyConfigObjectPatch, EnvoyFilter, Object, ObjectSet, PatchOperation};
use crate::finding::{Finding, Severity};
use crate::settings::CompileSettings;

use super::security::{concerned, named};

/// Filters that can be honoured, with the fields that can. Source: Envoy, v3 API reference.
const FILTERS: &[(&str, &[&str])] = &[
    (
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        &[
            "stat_prefix",
            "token_bucket",
            "filter_enabled",
            "filter_enforced",
            "response_headers_to_add",
            "status",
            "rate_limited_as_resource_exhausted",
        ],
    ),
    (
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        &["mutations"],
    ),
    (
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
        &["mutations"],
    ),
    (
        "envoy.extensions.filters.http.buffer.v3.Buffer",
        &["max_request_bytes"],
    ),
    (
        "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
        &["disabled", "buffer"],
    ),
    (
        "envoy.extensions.filters.http.compressor.v3.Compressor",
        &["response_direction_config", "compressor_library"],
    ),
    (
        "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute",
        &["disabled"],
    ),
    ("envoy.extensions.filters.http.cors.v3.Cors", &[]),
    (
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        &[
            "allow_origin_string_match",
            "allow_methods",
            "allow_headers",
            "expose_headers",
            "max_age",
            "allow_credentials",
            "filter_enabled",
        ],
    ),
    (
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        &["delay", "abort", "headers"],
    ),
];

/// The connection manager, and what of it can be honoured.
const CONNECTION_MANAGER: (&str, &[&str]) = (
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    &[
        "stream_idle_timeout",
        "request_timeout",
        "request_headers_timeout",
        "use_remote_address",
        "xff_num_trusted_hops",
        "server_header_transformation",
        "normalize_path",
        "merge_slashes",
        "max_request_headers_kb",
        "common_http_protocol_options",
        "http2_protocol_options",
        "access_log",
    ],
);

const ROUTE: &[&str] = &[
    "route",
    "request_headers_to_add",
    "request_headers_to_remove",
    "response_headers_to_add",
    "response_headers_to_remove",
    "typed_per_filter_config",
];

const ROUTE_ACTION: &[&str] = &[
    "timeout",
    "idle_timeout",
    "retry_policy",
    "prefix_rewrite",
    "host_rewrite_literal",
    "hash_policy",
];

const VIRTUAL_HOST: &[&str] = &[
    "request_headers_to_add",
    "request_headers_to_remove",
    "response_headers_to_add",
    "response_headers_to_remove",
    "retry_policy",
    "typed_per_filter_config",
];

const CLUSTER: &[&str] = &[
    "connect_timeout",
    "circuit_breakers",
    "outlier_detection",
    "lb_policy",
    "least_request_lb_config",
    "ring_hash_lb_config",
    "maglev_lb_config",
    "round_robin_lb_config",
    "upstream_connection_options",
    "common_lb_config",
    "max_requests_per_connection",
    "typed_extension_protocol_options",
];

const LISTENER: &[&str] = &[
    "per_connection_buffer_limit_bytes",
    "tcp_backlog_size",
    "socket_options",
];

/// Reports what becomes of each EnvoyFilter, and which pods it concerns.
pub(crate) fn check(objects: &ObjectSet, settings: &CompileSettings, findings: &mut Vec<Finding>) {
    for object in objects.envoy_filters.values() {
        let pods = pods_of(object, objects, settings);
        let patches = object.spec.config_patches.iter().enumerate();
        let refused: Vec<(usize, String)> = patches
            .filter_map(|(at, patch)| Some((at, find_unsupported(patch)?)))
            .collect();
        for (at, cause) in &refused {
            findings.push(object.finding(
                Severity::Error,
                "unsupported-patch",
                &format!("configPatches[{at}]"),
                format!("{cause}; nothing of this EnvoyFilter is programmed; {pods}"),
            ));
        }
        if refused.is_empty() && !object.spec.config_patches.is_empty() {
            let message = format!("not yet honoured; nothing of it is programmed; {pods}");
            findings.push(object.finding(
                Severity::Error,
                "unprogrammed",
                "configPatches",
                message,
            ));
        }
    }
}

/// Which pods of this node the filter is for, in words.
fn pods_of(
    object: &Object<EnvoyFilter>,
    objects: &ObjectSet,
    settings: &CompileSettings,
) -> String {
    if !object.spec.target_refs.is_empty() {
        return "its targetRefs name no pod".to_owned();
    }
    let selector = object.spec.workload_selector.as_ref();
    let selector = selector.map(|selector| &selector.labels);
    let namespace = object.meta.namespace.as_str();
    named(&concerned(objects, settings, namespace, selector))
}

/// Why a patch can never be honoured: what it is applied to, how, and the type or field.
fn find_unsupported(patch: &EnvoyConfigObjectPatch) -> Option<String> {
    let change = patch.patch.as_ref()?;
    let what = format!(
        "{} {}",
        apply_to_text(patch.apply_to),
        operation_text(change.operation)
    );
    let is_merge = change.operation == PatchOperation::Merge;
    let value = change.value.as_ref();
    let unsupported = |part: String| format!("{what} {part} is not supported");
    let only = |fields: &[&str]| find_other(value, fields).map(&unsupported);
    let alone = || Some(format!("{what} is not supported"));
    match patch.apply_to {
        ApplyTo::HttpFilter => match change.operation {
            PatchOperation::Merge
            | PatchOperation::Add
            | PatchOperation::InsertFirst
            | PatchOperation::InsertBefore
            | PatchOperation::InsertAfter => {
                let config = value.and_then(|value| field_of(value, "typed_config"));
                find_other_filter(config).map(unsupported)
            }
            PatchOperation::Remove
            | PatchOperation::Replace
            | PatchOperation::MergeAndReplaceList
            | PatchOperation::Invalid => alone(),
        },
        ApplyTo::HttpRoute if is_merge => {
            let action = value.and_then(|value| field_of(value, "route"));
            let action = find_other(action, ROUTE_ACTION);
            let action = action.map(|part| unsupported(part.replace("field ", "field route.")));
            only(ROUTE)
                .or(action)
                .or_else(|| find_other_route_filter(value).map(unsupported))
        }
        ApplyTo::VirtualHost if is_merge => {
            only(VIRTUAL_HOST).or_else(|| find_other_route_filter(value).map(unsupported))
        }
        ApplyTo::Cluster if is_merge || change.operation == PatchOperation::MergeAndReplaceList => {
            only(CLUSTER)
        }
        ApplyTo::NetworkFilter if is_merge => {
            let config = value.and_then(|value| field_of(value, "typed_config"));
            let (name, fields) = CONNECTION_MANAGER;
            find_other_type(config, &[(name, fields)]).map(unsupported)
        }
        ApplyTo::Listener if is_merge => only(LISTENER),
        ApplyTo::HttpRoute
        | ApplyTo::VirtualHost
        | ApplyTo::Cluster
        | ApplyTo::NetworkFilter
        | ApplyTo::Listener
        | ApplyTo::FilterChain
        | ApplyTo::RouteConfiguration
        | ApplyTo::ExtensionConfig
        | ApplyTo::Bootstrap
        | ApplyTo::ListenerFilter
        | ApplyTo::Invalid => alone(),
    }
}

/// A field by its protobuf name, which JSON also writes in camel case.
fn field_of<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    let fields = value.as_object()?;
    let found = fields.iter().find(|(own, _)| snake_case(own) == name)?;
    Some(found.1)
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// The first field of `value` that is none of `fields`.
fn find_other(value: Option<&Value>, fields: &[&str]) -> Option<String> {
    let written = value?.as_object()?;
    let other = written
        .keys()
        .find(|name| *name != "@type" && !fields.contains(&snake_case(name).as_str()))?;
    Some(format!("field {other}"))
}

fn find_other_filter(config: Option<&Value>) -> Option<String> {
    find_other_type(config, FILTERS)
}

/// The first entry of `typed_per_filter_config` that cannot be honoured.
fn find_other_route_filter(value: Option<&Value>) -> Option<String> {
    let configs = field_of(value?, "typed_per_filter_config")?.as_object()?;
    configs
        .values()
        .find_map(|config| find_other_type(Some(config), FILTERS))
}

/// What of a typed configuration is none of `known`: its type, or a field.
fn find_other_type(config: Option<&Value>, known: &[(&str, &[&str])]) -> Option<String> {
    let Some(url) = config.and_then(|config| config.get("@type")?.as_str()) else {
        return Some("without typed_config".to_owned());
    };
    let name = url.rsplit('/').next().unwrap_or(url);
    match known.iter().find(|(own, _)| *own == name) {
        None => Some(format!("of type {name}")),
        Some((_, fields)) => {
            find_other(config, fields).map(|field| format!("of type {name} with {field}"))
        }
    }
}

fn apply_to_text(apply_to: ApplyTo) -> &'static str {
    match apply_to {
        ApplyTo::Invalid => "INVALID",
        ApplyTo::Listener => "LISTENER",
        ApplyTo::FilterChain => "FILTER_CHAIN",
        ApplyTo::NetworkFilter => "NETWORK_FILTER",
        ApplyTo::HttpFilter => "HTTP_FILTER",
        ApplyTo::RouteConfiguration => "ROUTE_CONFIGURATION",
        ApplyTo::VirtualHost => "VIRTUAL_HOST",
        ApplyTo::HttpRoute => "HTTP_ROUTE",
        ApplyTo::Cluster => "CLUSTER",
        ApplyTo::ExtensionConfig => "EXTENSION_CONFIG",
        ApplyTo::Bootstrap => "BOOTSTRAP",
        ApplyTo::ListenerFilter => "LISTENER_FILTER",
    }
}

fn operation_text(operation: PatchOperation) -> &'static str {
    match operation {
        PatchOperation::Invalid => "INVALID",
        PatchOperation::Merge => "MERGE",
        PatchOperation::Add => "ADD",
        PatchOperation::Remove => "REMOVE",
        PatchOperation::InsertBefore => "INSERT_BEFORE",
        PatchOperation::InsertAfter => "INSERT_AFTER",
        PatchOperation::InsertFirst => "INSERT_FIRST",
        PatchOperation::Replace => "REPLACE",
        PatchOperation::MergeAndReplaceList => "MERGE_AND_REPLACE_LIST",
    }
}

#[cfg(test)]
#[path = "envoy_filter_tests.rs"]
mod tests;
