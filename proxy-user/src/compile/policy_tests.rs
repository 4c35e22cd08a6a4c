use serde_json::json;

use super::*;
use crate::snapshot::policy::CONNECT_TIMEOUT_DEFAULT;

fn policy(value: serde_json::Value) -> TrafficPolicy {
    serde_json::from_value(value).expect("a traffic policy")
}

/// Balancer, connectTimeout in seconds and whether there is outlier detection.
fn summary(blocks: &Blocks<'_>) -> (LoadBalancer, u64, bool) {
    let compiled = compile_policy(blocks, &MeshSettings::default());
    (
        compiled.load_balancer,
        compiled.pool.connect_timeout.as_secs(),
        compiled.outlier.is_some(),
    )
}

#[test]
fn a156_to_a161_blocks_come_whole_from_port_subset_or_destination() {
    // Istio, "MergeSubsetTrafficPolicy": pool A has 1 s, pool B 2 s, none 10 s.
    let destination = policy(json!({
        "loadBalancer": { "simple": "RANDOM" },
        "connectionPool": { "tcp": { "connectTimeout": "1s" } },
        "portLevelSettings": [{
            "port": { "number": 8080 },
            "connectionPool": { "tcp": { "connectTimeout": "2s" } },
        }],
    }));
    let v1 = policy(json!({ "outlierDetection": {} }));
    let v2 = policy(json!({
        "portLevelSettings": [{
            "port": { "number": 8080 },
            "loadBalancer": { "simple": "ROUND_ROBIN" },
        }],
    }));
    for (id, port, subset, expected) in [
        ("A156", 9090, None, (LoadBalancer::Random, 1, false)),
        ("A157", 8080, None, (LoadBalancer::LeastRequest, 2, false)),
        ("A158", 9090, Some(&v1), (LoadBalancer::Random, 1, true)),
        (
            "A159",
            8080,
            Some(&v1),
            (LoadBalancer::LeastRequest, 2, true),
        ),
        (
            "A160",
            8080,
            Some(&v2),
            (LoadBalancer::RoundRobin, 10, false),
        ),
        ("A161", 9090, Some(&v2), (LoadBalancer::Random, 1, false)),
    ] {
        let blocks = effective(Some(&destination), subset, port);
        assert_eq!(summary(&blocks), expected, "{id}");
    }
}

#[test]
fn blocks_outside_the_four_survive_a_port_of_the_subset_but_not_one_of_the_destination() {
    let destination = policy(json!({
        "retryBudget": { "percent": 50.0 },
        "portLevelSettings": [{ "port": { "number": 1 } }],
    }));
    let subset = policy(json!({ "portLevelSettings": [{ "port": { "number": 2 } }] }));
    for (port, subset, expected) in [
        (1, None, false), // dropped for that port
        (2, None, true),
        (2, Some(&subset), true),
        (1, Some(&subset), false),
    ] {
        let blocks = effective(Some(&destination), subset, port);
        assert_eq!(blocks.retry_budget.is_some(), expected, "port {port}");
    }
    // Without a destination policy the subset's is used alone.
    let alone = policy(json!({ "loadBalancer": { "simple": "RANDOM" } }));
    let blocks = effective(None, Some(&alone), 1);
    assert_eq!(summary(&blocks).0, LoadBalancer::Random);
    assert_eq!(effective(None, None, 1), Blocks::default());
}

#[test]
fn zero_means_the_default_of_a_limit() {
    let pool = |value| -> ConnectionPool {
        let settings: ConnectionPoolSettings = serde_json::from_value(value).expect("a pool");
        compile_pool(Some(&settings), &MeshSettings::default())
    };
    let defaults = ConnectionPool::default();
    assert_eq!(compile_pool(None, &MeshSettings::default()), defaults);
    let zeros = json!({
        "tcp": { "maxConnections": 0 },
        "http": { "http1MaxPendingRequests": 0, "http2MaxRequests": 0, "maxRetries": 0,
                  "maxRequestsPerConnection": 0, "maxConcurrentStreams": 0 },
    });
    assert_eq!(pool(zeros), defaults);
    let ones = pool(json!({
        "tcp": { "maxConnections": 1 },
        "http": { "http1MaxPendingRequests": 2, "http2MaxRequests": 3, "maxRetries": 4,
                  "maxRequestsPerConnection": 5, "maxConcurrentStreams": 6 },
    }));
    let limits = (
        ones.max_connections,
        ones.max_pending_requests,
        ones.max_requests,
        ones.max_retries,
        ones.max_requests_per_connection,
        ones.max_concurrent_streams,
    );
    assert_eq!(limits, (1, 2, 3, 4, 5, 6));
    assert_eq!(ones.connect_timeout, CONNECT_TIMEOUT_DEFAULT);
    assert!(!ones.has_explicit_connect_timeout); // the mesh's value keeps the kernel path
}

#[test]
fn idle_timeouts_fall_back_from_http_to_tcp_to_an_hour() {
    let hour = Some(Duration::from_secs(3600));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (settings, http, tcp, is_explicit) in [
        (json!({}), hour, hour, false),
        (
            json!({ "tcp": { "idleTimeout": "5s" } }),
            seconds(5),
            seconds(5),
            true,
        ),
        (
            json!({ "http": { "idleTimeout": "7s" } }),
            seconds(7),
            hour,
            false,
        ),
        (
            json!({ "tcp": { "idleTimeout": "5s" }, "http": { "idleTimeout": "7s" } }),
            seconds(7),
            seconds(5),
            true,
        ),
        (json!({ "tcp": { "idleTimeout": "0s" } }), None, None, true), // 0s disables
    ] {
        let text = settings.to_string();
        let settings: ConnectionPoolSettings = serde_json::from_value(settings).expect("a pool");
        let pool = compile_pool(Some(&settings), &MeshSettings::default());
        assert_eq!(pool.http_idle_timeout, http, "{text}");
        assert_eq!(pool.tcp_idle_timeout, tcp, "{text}");
        assert_eq!(pool.has_explicit_tcp_idle_timeout, is_explicit, "{text}");
    }
}

#[test]
fn balancers_are_least_request_unless_said_otherwise() {
    let ring = |key, minimum_size| {
        LoadBalancer::ConsistentHash(Arc::new(ConsistentHash {
            key,
            table: HashTable::Ring { minimum_size },
        }))
    };
    let maglev = |key, table_size| {
        LoadBalancer::ConsistentHash(Arc::new(ConsistentHash {
            key,
            table: HashTable::Maglev { table_size },
        }))
    };
    let query = || HashKey::Query(Arc::from("q"));
    for (settings, expected) in [
        (json!({}), LoadBalancer::LeastRequest),
        (
            json!({ "simple": "UNSPECIFIED" }),
            LoadBalancer::LeastRequest,
        ),
        (
            json!({ "simple": "LEAST_CONN" }),
            LoadBalancer::LeastRequest,
        ),
        (
            json!({ "simple": "LEAST_REQUEST" }),
            LoadBalancer::LeastRequest,
        ),
        (json!({ "simple": "RANDOM" }), LoadBalancer::Random),
        (json!({ "simple": "ROUND_ROBIN" }), LoadBalancer::RoundRobin),
        (
            json!({ "simple": "PASSTHROUGH" }),
            LoadBalancer::Passthrough,
        ),
        (
            json!({ "consistentHash": { "useSourceIp": true } }),
            ring(HashKey::SourceIp, 1024),
        ),
        (
            json!({ "consistentHash": { "httpQueryParameterName": "q", "minimumRingSize": 9 } }),
            ring(query(), 9),
        ),
        (
            json!({ "consistentHash": { "httpQueryParameterName": "q",
                 "ringHash": { "minimumRingSize": 8 }, "minimumRingSize": 9 } }),
            ring(query(), 8),
        ),
        (
            json!({ "consistentHash": { "httpQueryParameterName": "q", "maglev": {} } }),
            maglev(query(), 65_537),
        ),
        (
            json!({ "consistentHash": { "httpHeaderName": "x-user", "maglev": { "tableSize": 11 } } }),
            maglev(HashKey::Header(HeaderName::from_static("x-user")), 11),
        ),
        (
            json!({ "consistentHash": { "useSourceIp": false } }),
            LoadBalancer::LeastRequest,
        ),
    ] {
        let text = settings.to_string();
        let settings: LoadBalancerSettings = serde_json::from_value(settings).expect("settings");
        assert_eq!(compile_balancer(Some(&settings)), expected, "{text}");
    }
}

#[test]
fn a016_the_declared_protocol_is_spoken_unless_upgraded() {
    use Protocol::{Auto, Grpc, Http, Http2, Https, Tcp};
    use UpstreamProtocol as Up;
    let mesh = MeshSettings::default();
    let upgrading = MeshSettings {
        h2_upgrade: true,
        ..MeshSettings::default()
    };
    let upgrade = json!({ "http": { "h2UpgradePolicy": "UPGRADE" } });
    let stay = json!({ "http": { "h2UpgradePolicy": "DO_NOT_UPGRADE" } });
    let same = json!({ "http": { "useClientProtocol": true, "h2UpgradePolicy": "UPGRADE" } });
    for (port, pool, mesh, expected) in [
        (Http, json!({}), &mesh, Up::Http1),
        (Http2, json!({}), &mesh, Up::Http2),
        (Grpc, json!({}), &mesh, Up::Http2),
        (Auto, json!({}), &mesh, Up::SameAsClient),
        (Tcp, json!({}), &mesh, Up::Tcp),
        (Https, upgrade.clone(), &mesh, Up::Tcp), // opaque
        (Http, upgrade.clone(), &mesh, Up::Http2),
        (Auto, upgrade, &mesh, Up::Http2), // on any kind of port
        (Http, json!({}), &upgrading, Up::Http2),
        (Auto, json!({}), &upgrading, Up::SameAsClient), // the mesh's policy: declared ports only
        (Http, stay, &upgrading, Up::Http1),
        (Http, same.clone(), &upgrading, Up::SameAsClient), // switches the upgrade off
        (Http2, same, &mesh, Up::SameAsClient),
    ] {
        let text = format!("{port:?} {pool}");
        let pool: ConnectionPoolSettings = serde_json::from_value(pool).expect("a pool");
        assert_eq!(
            upstream_protocol(port, Some(&pool), mesh).0,
            expected,
            "{text}"
        );
    }
}

#[test]
fn outlier_detection_has_istios_defaults() {
    let defaults = compile_outlier(&api::OutlierDetection::default());
    let expected = OutlierDetection {
        consecutive_5xx: 5,
        consecutive_gateway_errors: 0,
        split_local_origin: false,
        consecutive_local_origin_failures: 5,
        error_codes: Vec::new(),
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_percent: 10,
        min_health_percent: 0,
    };
    assert_eq!(defaults, expected);
}

#[test]
fn what_cannot_be_sent_as_asked_is_not_sent_otherwise() {
    for (value, expected) in [
        (json!({ "tls": { "mode": "DISABLE" } }), None),
        (json!({ "tls": { "mode": "SIMPLE" } }), Some("tls")),
        (json!({ "tls": { "mode": "ISTIO_MUTUAL" } }), Some("tls")),
        (
            json!({ "tunnel": { "targetHost": "x", "targetPort": 1 } }),
            Some("tunnel"),
        ),
        (json!({ "proxyProtocol": {} }), Some("proxyProtocol")),
    ] {
        let text = value.to_string();
        let policy = policy(value);
        assert_eq!(
            effective(Some(&policy), None, 1).not_honoured(),
            expected,
            "{text}"
        );
    }
}
