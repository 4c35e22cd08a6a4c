use serde_json::{Value, json};

use super::*;
use crate::api::{ObjectSet, Pod};
use crate::compile::testing::{NODE, add, lines, settings};

const LUA: &str = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua";
const LIMIT: &str =
    "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

fn patch(apply_to: &str, operation: &str, value: Value) -> Value {
    json!({ "applyTo": apply_to, "patch": { "operation": operation, "value": value } })
}

fn found(name: &str, spec: Value) -> Vec<String> {
    let mut set = ObjectSet::default();
    for (pod, app) in [("ns1/a", "a"), ("ns1/b", "b"), ("ns2/c", "a")] {
        add::<Pod>(
            &mut set,
            pod,
            json!({ "metadata": { "labels": { "app": app } }, "nodeName": NODE }),
        );
    }
    add::<EnvoyFilter>(&mut set, name, spec);
    let mut findings = Vec::new();
    check(&set, &settings(), &mut findings);
    lines(&findings)
}

#[test]
fn a201_one_patch_of_lua_refuses_the_whole_filter_and_is_named() {
    let limit = json!({ "name": "limit", "typed_config": { "@type": LIMIT, "stat_prefix": "x" } });
    let lua = json!({ "name": "lua", "typed_config": { "@type": LUA, "inlineCode": "" } });
    let patches = json!([
        patch("HTTP_FILTER", "INSERT_BEFORE", limit),
        patch("HTTP_FILTER", "INSERT_BEFORE", lua),
    ]);
    assert_eq!(
        found("ns1/f", json!({ "configPatches": patches })),
        [
            "EnvoyFilter/ns1/f: error: configPatches[1]: HTTP_FILTER INSERT_BEFORE of type \
             envoy.extensions.filters.http.lua.v3.Lua is not supported; nothing of this \
             EnvoyFilter is programmed; concerned: ns1/a, ns1/b"
        ]
    );
}

#[test]
fn patches_outside_the_known_ones_are_named_by_what_is_not_known() {
    let filter = |config: Value| json!({ "name": "f", "typed_config": config });
    for (apply_to, operation, value, expected) in [
        (
            "HTTP_FILTER",
            "INSERT_BEFORE",
            filter(json!({ "@type": LIMIT, "status": {} })),
            None,
        ),
        (
            "HTTP_FILTER",
            "ADD",
            filter(json!({ "@type": LIMIT, "descriptors": [] })),
            Some("LocalRateLimit with field descriptors"),
        ),
        (
            "HTTP_FILTER",
            "ADD",
            json!({ "name": "f" }),
            Some("ADD without typed_config"),
        ),
        (
            "HTTP_FILTER",
            "REMOVE",
            json!({}),
            Some("HTTP_FILTER REMOVE is"),
        ),
        (
            "NETWORK_FILTER",
            "MERGE",
            filter(json!({ "@type": MANAGER, "mergeSlashes": true })),
            None,
        ),
        (
            "NETWORK_FILTER",
            "MERGE",
            filter(json!({ "@type": MANAGER, "via": "x" })),
            Some("HttpConnectionManager with field via"),
        ),
        (
            "NETWORK_FILTER",
            "INSERT_FIRST",
            filter(json!({})),
            Some("NETWORK_FILTER INSERT_FIRST is"),
        ),
        (
            "HTTP_ROUTE",
            "MERGE",
            json!({ "route": { "timeout": "1s" } }),
            None,
        ),
        (
            "HTTP_ROUTE",
            "MERGE",
            json!({ "route": { "cluster": "x" } }),
            Some("field route.cluster"),
        ),
        (
            "HTTP_ROUTE",
            "MERGE",
            json!({ "name": "x" }),
            Some("field name"),
        ),
        (
            "HTTP_ROUTE",
            "MERGE",
            json!({ "typed_per_filter_config": { "f": { "@type": LUA } } }),
            Some("of type envoy.extensions.filters.http.lua.v3.Lua"),
        ),
        ("HTTP_ROUTE", "ADD", json!({}), Some("HTTP_ROUTE ADD is")),
        ("VIRTUAL_HOST", "MERGE", json!({ "retryPolicy": {} }), None),
        (
            "VIRTUAL_HOST",
            "MERGE",
            json!({ "domains": [] }),
            Some("field domains"),
        ),
        ("CLUSTER", "MERGE", json!({ "connect_timeout": "1s" }), None),
        (
            "CLUSTER",
            "MERGE_AND_REPLACE_LIST",
            json!({ "circuit_breakers": {} }),
            None,
        ),
        (
            "CLUSTER",
            "MERGE",
            json!({ "transport_socket": {} }),
            Some("field transport_socket"),
        ),
        ("CLUSTER", "ADD", json!({}), Some("CLUSTER ADD is")),
        (
            "LISTENER",
            "MERGE",
            json!({ "perConnectionBufferLimitBytes": 1 }),
            None,
        ),
        (
            "LISTENER",
            "MERGE",
            json!({ "address": {} }),
            Some("field address"),
        ),
        (
            "FILTER_CHAIN",
            "MERGE",
            json!({}),
            Some("FILTER_CHAIN MERGE is"),
        ),
        (
            "ROUTE_CONFIGURATION",
            "MERGE",
            json!({}),
            Some("ROUTE_CONFIGURATION MERGE is"),
        ),
        (
            "EXTENSION_CONFIG",
            "ADD",
            json!({}),
            Some("EXTENSION_CONFIG ADD is"),
        ),
        ("BOOTSTRAP", "MERGE", json!({}), Some("BOOTSTRAP MERGE is")),
        (
            "LISTENER_FILTER",
            "ADD",
            json!({}),
            Some("LISTENER_FILTER ADD is"),
        ),
    ] {
        let label = format!("{apply_to} {operation} {value}");
        let written = patch(apply_to, operation, value);
        let written = serde_json::from_value(written).expect("a patch");
        let found = find_unsupported(&written);
        match expected {
            None => assert_eq!(found, None, "{label}"),
            Some(part) => assert!(
                found.as_ref().is_some_and(|found| found.contains(part)),
                "{label}: {found:?}"
            ),
        }
    }
}

#[test]
fn a_filter_that_could_be_honoured_says_that_it_is_not_and_whom_it_concerns() {
    let patches = json!([patch(
        "CLUSTER",
        "MERGE",
        json!({ "connect_timeout": "1s" })
    )]);
    for (name, spec, pods) in [
        ("ns1/f", json!({}), "concerned: ns1/a, ns1/b"),
        (
            "istio-system/f",
            json!({}),
            "concerned: ns1/a, ns1/b, ns2/c",
        ),
        (
            "ns1/f",
            json!({ "workloadSelector": { "labels": { "app": "a" } } }),
            "concerned: ns1/a",
        ),
        ("ns3/f", json!({}), "no pod of this node is concerned"),
        (
            "ns1/f",
            json!({ "targetRefs": [{ "kind": "Gateway", "name": "g" }] }),
            "its targetRefs name no pod",
        ),
    ] {
        let mut spec = spec;
        spec["configPatches"] = patches.clone();
        let expected = format!(
            "EnvoyFilter/{name}: error: configPatches: not yet honoured; nothing of it is \
             programmed; {pods}"
        );
        assert_eq!(found(name, spec), [expected]);
    }
}
