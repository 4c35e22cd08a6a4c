//! What a running daemon tells about real traffic: Istio's metrics with their labels, the
//! access log field by field, live connections and the node's own numbers, on both paths.
//!
//! Sources: Istio, "Istio Standard Metrics"; pilot/pkg/model/telemetry_logging.go
//! (`EnvoyTextLogFormat`, `EnvoyJSONLogFormatIstio`).

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use regex::Regex;
use serde_json::Value;

use mizzen_tests::checks;
use mizzen_tests::fixture::{ECHO, Fixture, GET, Held, LIMITED, PLAIN, WEB, mesh};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{DaemonOptions, Driver, Lab, wait_until};

const LIMIT: Duration = Duration::from_secs(15);

/// The mesh's own settings, as a cluster has them.
fn config_map(lab: &Lab, encoding: &str) -> String {
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |-
    accessLogFile: {}
    accessLogEncoding: {encoding}
    enableTracing: true
",
        lab.dir().join("access.log").display()
    )
}

fn set_up() -> anyhow::Result<Fixture> {
    let lab = mesh(Driver::Systemd)?;
    lab.write_config("istio.yaml", &config_map(&lab, "TEXT"))?;
    let daemon = lab.start_daemon(&DaemonOptions {
        settings: "mesh: {trustDomain: example.org}\nfiles: /nowhere\ngateway: istio=edge\n"
            .to_owned(),
        ..DaemonOptions::default()
    })?;
    let fixture = Fixture {
        daemon,
        client: lab.pod("default", "client")?,
        client_v4: lab.pod("default", "client-v4")?,
        stranger: lab.pod("default", "stranger")?,
        lab,
    };
    for pod in [&fixture.client, &fixture.client_v4] {
        fixture.wait_captured(pod, LIMIT)?;
    }
    Ok(fixture)
}

/// Label names and values of one sample.
type Labels = BTreeMap<String, String>;

/// All samples of a metric.
fn samples(it: &Fixture, name: &str) -> anyhow::Result<Vec<(Labels, f64)>> {
    let label = Regex::new(r#"([a-z_]+)="([^"]*)""#)?;
    let text = it.daemon.metrics()?;
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines
        .filter(|rest| rest.starts_with(['{', ' ']))
        .map(|rest| {
            let value = rest.rsplit(' ').next().unwrap_or_default();
            let pair = |found: regex::Captures<'_>| (found[1].to_owned(), found[2].to_owned());
            let labels = label.captures_iter(rest).map(pair).collect();
            Ok((labels, value.parse()?))
        })
        .collect()
}

fn has(labels: &Labels, wanted: &[(&str, &str)]) -> bool {
    let is_so = |(name, value): &(&str, &str)| labels.get(*name).is_some_and(|it| it == value);
    wanted.iter().all(is_so)
}

/// Waits for a sample with these labels, and gives all of its labels and its value.
fn wait_sample(
    it: &Fixture,
    name: &str,
    wanted: &[(&str, &str)],
    least: f64,
) -> anyhow::Result<(Labels, f64)> {
    let what = format!("{name} with {wanted:?} to be {least}");
    wait_until(&what, LIMIT, || {
        let all = samples(it, name)?;
        let found = all.iter().find(|(labels, _)| has(labels, wanted));
        let found = found.with_context(|| format!("there are {all:#?}"))?;
        anyhow::ensure!(found.1 >= least, "it is {}", found.1);
        Ok(Some(found.clone()))
    })
}

fn owned(pairs: &[(&str, &str)]) -> Labels {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

/// The labels that every metric of a client has, for a service of the shared mesh.
fn between(client: &str, service: &str, version: &str) -> Labels {
    let workload = format!("{service}-{version}");
    owned(&[
        ("reporter", "source"),
        ("source_workload", client),
        ("source_workload_namespace", "default"),
        ("source_principal", "unknown"),
        ("source_app", client),
        ("source_version", "unknown"),
        ("source_canonical_service", client),
        ("source_canonical_revision", "latest"),
        ("source_cluster", "Kubernetes"),
        ("destination_workload", &workload),
        ("destination_workload_namespace", "default"),
        ("destination_principal", "unknown"),
        ("destination_app", service),
        ("destination_version", version),
        (
            "destination_service",
            &format!("{service}.default.svc.cluster.local"),
        ),
        ("destination_service_name", service),
        ("destination_service_namespace", "default"),
        ("destination_canonical_service", service),
        ("destination_canonical_revision", version),
        ("destination_cluster", "Kubernetes"),
        ("connection_security_policy", "unknown"),
    ])
}

fn requests_are_counted_with_all_of_istios_labels(it: &mut Fixture) -> anyhow::Result<()> {
    let url = format!("http://{}/", it.vip4("web", WEB)?);
    let seen = it
        .client_v4
        .ask(&["--url", &url, "-n", "7", "-H", "x-version: v2"])?;
    assert_eq!(seen.from("web v2"), 7, "{seen:?}");
    let wanted = [
        ("source_workload", "client-v4"),
        ("destination_workload", "web-v2"),
    ];
    let (labels, count) = wait_sample(it, "istio_requests_total", &wanted, 7.0)?;
    let mut expected = between("client-v4", "web", "v2");
    expected.extend(owned(&[
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("grpc_response_status", ""),
        ("response_flags", "-"),
    ]));
    assert_eq!(labels, expected);
    assert!((count - 7.0).abs() < 0.5, "{count}");
    for metric in [
        "istio_request_duration_milliseconds",
        "istio_request_bytes",
        "istio_response_bytes",
    ] {
        let (_, count) = wait_sample(it, &format!("{metric}_count"), &wanted, 7.0)?;
        assert!((count - 7.0).abs() < 0.5, "{metric}: {count}");
        for le in ["0.5", "1", "1000", "3600000", "+Inf"] {
            let mut with_bound = wanted.to_vec();
            with_bound.push(("le", le));
            wait_sample(it, &format!("{metric}_bucket"), &with_bound, 0.0)?;
        }
    }
    wait_sample(it, "istio_build", &[("component", "proxy")], 1.0)?;
    Ok(())
}

const BREAKER: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: default}
spec:
  host: web
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 1}
      http: {http1MaxPendingRequests: 1}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

fn an_overflow_is_a_503_with_the_flag_uo(it: &mut Fixture) -> anyhow::Result<()> {
    it.lab.write_config("aa-breaker.yaml", BREAKER)?;
    let url = format!("http://{}/?delay_ms=100", it.vip4("web", WEB)?);
    let seen = wait_until("an overflow", LIMIT, || {
        let seen = it
            .client
            .ask(&["--url", &url, "-n", "12", "-c", "4", "--together"])?;
        Ok((seen.overloaded > 0).then_some(seen))
    })?;
    assert_eq!(seen.status(200) + seen.status(503), 12, "{seen:?}");
    let wanted = [("response_code", "503"), ("source_workload", "client")];
    let (labels, count) = wait_sample(it, "istio_requests_total", &wanted, 1.0)?;
    assert_eq!(labels.get("response_flags").map(String::as_str), Some("UO"));
    assert!(
        has(&labels, &[("destination_service_name", "web")]),
        "{labels:?}"
    );
    assert!(count >= seen.overloaded as f64, "{count}");
    let line = wait_line(it, " 503 UO ")?;
    assert!(
        line.contains("upstream_reset_before_response_started{overflow}"),
        "{line}"
    );
    it.lab.remove_config("aa-breaker.yaml")
}

fn what_no_service_claims_is_the_passthrough_cluster(it: &mut Fixture) -> anyhow::Result<()> {
    let pod = it.lab.pod("default", "web-v1")?.address();
    let seen = it
        .client
        .ask(&["--url", &format!("http://{pod}:{WEB}/passed-through")])?;
    assert_eq!(seen.from("web v1"), 1, "{seen:?}");
    let wanted = [("destination_service_name", "PassthroughCluster")];
    let (labels, _) = wait_sample(it, "istio_requests_total", &wanted, 1.0)?;
    assert!(
        has(
            &labels,
            &[("response_code", "200"), ("source_workload", "client")]
        ),
        "{labels:?}"
    );
    let line = wait_line(it, "/passed-through ")?;
    assert!(line.contains(" PassthroughCluster "), "{line}");
    Ok(())
}

const TCP_METRICS: [&str; 2] = [
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
];

fn tcp_is_counted_alike_on_both_paths(it: &mut Fixture) -> anyhow::Result<()> {
    for (service, port, path) in [("echo", ECHO, "kernel"), ("limited", LIMITED, "proxy")] {
        let to = it.vip4(service, port)?;
        let seen = it.client_v4.dial(&["--to", &to, "-n", "40"])?;
        let bytes: usize = seen.iter().map(|one| one.reply.len() + 1).sum();
        assert!(seen.iter().all(|one| one.error.is_empty()), "{seen:?}");
        let wanted = [
            ("source_workload", "client-v4"),
            ("destination_workload", &*format!("{service}-v1")),
        ];
        // The kernel sends all of echo to v1; limited has both versions.
        let least = if service == "echo" { 40.0 } else { 1.0 };
        for metric in TCP_METRICS {
            let (labels, count) = wait_sample(it, metric, &wanted, least)?;
            let mut expected = between("client-v4", service, "v1");
            expected.extend(owned(&[
                ("request_protocol", "tcp"),
                ("response_flags", "-"),
            ]));
            assert_eq!(labels, expected, "{path}");
            assert!(count <= 40.5, "{path}: {metric} {count}");
        }
        let of_service = [
            ("source_workload", "client-v4"),
            ("destination_service_name", service),
        ];
        wait_until("all closes to be counted", LIMIT, || {
            let all = samples(it, "istio_tcp_connections_closed_total")?;
            let of = all.iter().filter(|(labels, _)| has(labels, &of_service));
            let closed: f64 = of.map(|(_, value)| value).sum();
            Ok(((closed - 40.0).abs() < 0.5).then_some(()))
        })?;
        for (metric, expected) in [
            ("istio_tcp_sent_bytes_total", bytes as f64),
            // "hello" and a line feed.
            ("istio_tcp_received_bytes_total", 40.0 * 6.0),
        ] {
            let all = samples(it, metric)?;
            let of = all.iter().filter(|(labels, _)| has(labels, &of_service));
            let sum: f64 = of.map(|(_, value)| value).sum();
            // The server's parting words may or may not arrive at a client that has closed.
            let most = expected + 40.0 * "one got 6 bytes\n".len() as f64;
            assert!(
                (expected..=most).contains(&sum),
                "{path}: {metric} {sum}, expected {expected}"
            );
        }
    }
    Ok(())
}

/// Waits for the line of the access log that contains a text.
fn wait_line(it: &Fixture, text: &str) -> anyhow::Result<String> {
    wait_until(&format!("{text:?} in the access log"), LIMIT, || {
        let log = std::fs::read_to_string(it.lab.dir().join("access.log"))?;
        Ok(log
            .lines()
            .find(|line| line.contains(text))
            .map(str::to_owned))
    })
}

/// The fields of Istio's text format, in its order.
const TEXT_LINE: &str = r#"^\[(?<start>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)\] "(?<method>\S+) (?<path>\S+) (?<protocol>\S+)" (?<code>\d+) (?<flags>\S+) (?<details>\S+) (?<termination>\S+) "(?<failure>[^"]*)" (?<received>\d+) (?<sent>\d+) (?<duration>\d+) (?<service_time>\S+) "(?<forwarded>[^"]*)" "(?<agent>[^"]*)" "(?<id>[^"]*)" "(?<authority>[^"]*)" "(?<host>[^"]*)" (?<cluster>\S+) (?<upstream_local>\S+) (?<local>\S+) (?<remote>\S+) (?<sni>\S+) (?<route>\S+)$"#;

/// One line by field.
fn fields(line: &str) -> anyhow::Result<Labels> {
    let format = Regex::new(TEXT_LINE)?;
    let found = format
        .captures(line)
        .with_context(|| format!("not in Istio's format: {line}"))?;
    let names = format.capture_names().flatten();
    Ok(names
        .map(|name| (name.to_owned(), found[name].to_owned()))
        .collect())
}

fn a_request_is_one_line_in_istios_order(it: &mut Fixture) -> anyhow::Result<()> {
    let to = it.vip4("web", WEB)?;
    let id = "5f0c2b2e-0d5e-4a5b-9a5f-0a1b2c3d4e5f";
    let seen = it.client_v4.ask(&[
        "--url",
        &format!("http://{to}/logged?q=1"),
        "-X",
        "POST",
        "--body-bytes",
        "123",
        "-H",
        "user-agent: the agent/1.0",
        "-H",
        &format!("x-request-id: {id}"),
        "-H",
        "x-version: v2",
    ])?;
    assert_eq!(seen.from("web v2"), 1, "{seen:?}");
    let line = wait_line(it, "/logged?q=1 ")?;
    let fields = fields(&line)?;
    let v2 = it.lab.pod("default", "web-v2")?.address();
    for (name, expected) in [
        ("method", "POST"),
        ("path", "/logged?q=1"),
        ("protocol", "HTTP/1.1"),
        ("code", "200"),
        ("flags", "-"),
        ("details", "via_upstream"),
        ("termination", "-"),
        ("failure", "-"),
        ("received", "123"),
        ("forwarded", "-"),
        ("agent", "the agent/1.0"),
        ("id", id),
        ("authority", &*to),
        ("host", &*format!("{v2}:{WEB}")),
        (
            "cluster",
            &*format!("outbound|{WEB}|v2|web.default.svc.cluster.local"),
        ),
        ("local", &*to),
        ("sni", "-"),
        ("route", "by-version"),
    ] {
        assert_eq!(fields[name], expected, "{name} of {line}");
    }
    let own = it.client_v4.address().to_string();
    for name in ["upstream_local", "remote"] {
        assert!(
            fields[name].starts_with(&format!("{own}:")),
            "{name} of {line}"
        );
    }
    assert!(fields["service_time"].parse::<u64>().is_ok(), "{line}");
    assert!(fields["sent"].parse::<u64>()? > 0, "{line}");
    Ok(())
}

fn a_connection_is_one_line_on_both_paths(it: &mut Fixture) -> anyhow::Result<()> {
    // Of one family, so that its endpoints are.
    let own = it.client_v4.address().to_string();
    for (service, port, path) in [("echo", ECHO, "kernel"), ("limited", LIMITED, "proxy")] {
        let to = it.vip4(service, port)?;
        let seen = it.client_v4.dial(&["--to", &to])?;
        let local = seen
            .first()
            .map(|one| one.local.clone())
            .unwrap_or_default();
        let line = wait_line(it, &format!(" {to} {local} "))?;
        let fields = fields(&line)?;
        let subset = if service == "echo" { "v1" } else { "" };
        for (name, expected) in [
            ("method", "-"),
            ("path", "-"),
            ("protocol", "-"),
            ("code", "0"),
            ("flags", "-"),
            ("details", "-"),
            ("received", "6"),
            ("service_time", "-"),
            ("agent", "-"),
            ("authority", "-"),
            (
                "cluster",
                &*format!("outbound|{port}|{subset}|{service}.default.svc.cluster.local"),
            ),
            ("local", &*to),
            ("remote", &*local),
            ("sni", "-"),
            ("route", "-"),
        ] {
            assert_eq!(fields[name], expected, "{path}: {name} of {line}");
        }
        assert!(fields["host"].ends_with(&format!(":{port}")), "{line}");
        assert!(
            fields["upstream_local"].starts_with(&format!("{own}:")),
            "{line}"
        );
    }
    Ok(())
}

fn live_connections_are_listed_with_path_and_endpoint(it: &mut Fixture) -> anyhow::Result<()> {
    let own = it.client.address().to_string();
    let mut held = Vec::new();
    for (service, port) in [("echo", ECHO), ("limited", LIMITED), ("plain", PLAIN)] {
        let to = it.vip4(service, port)?;
        held.push((to.clone(), Held::dial(&it.client, &["--to", &to])?));
    }
    let web = it.vip4("web", WEB)?;
    let keep = Held::dial(&it.client, &["--to", &web, "--send", GET])?;
    let listed = wait_until("all four connections", LIMIT, || {
        let listed = it.daemon.cli_json(&["get", "connections"])?;
        let of = |to: &str| {
            let rows = listed.as_array()?;
            let mine = |row: &&Value| row["destination"] == to && row["pod"] == "default/client";
            rows.iter().find(mine).cloned()
        };
        let mut found = BTreeMap::new();
        for to in held.iter().map(|(to, _)| to).chain([&web]) {
            let row = of(to).with_context(|| format!("{to} is not among {listed:#}"))?;
            found.insert(to.clone(), row);
        }
        Ok(Some(found))
    })?;
    let text = |to: &str, key: &str| listed[to][key].as_str().unwrap_or_default().to_owned();
    for ((to, held), path) in held.iter().zip(["kernel", "proxy", "untouched"]) {
        assert_eq!(text(to, "path"), path, "{:#}", listed[to]);
        assert!(text(to, "client").starts_with(&own), "{:#}", listed[to]);
        match path {
            "kernel" => assert!(held.goes_to(&text(to, "upstream")), "{:#}", listed[to]),
            "proxy" => assert!(text(to, "upstream").ends_with(&format!(":{LIMITED}"))),
            _ => assert_eq!(listed[to]["upstream"], Value::Null),
        }
    }
    assert_eq!(listed[&held[0].0]["bytesReceived"], 6);
    assert_eq!(text(&web, "protocol"), "http");
    drop(keep);
    Ok(())
}

fn the_node_shows_its_own_state(it: &mut Fixture) -> anyhow::Result<()> {
    let status = it.daemon.cli_json(&["status"])?;
    let workers = status["workers"].as_array().context("workers")?;
    assert!(!workers.is_empty());
    for worker in workers {
        assert_eq!(worker["isAlive"], true, "{worker}");
        let age = worker["heartbeatAgeMs"].as_u64().context("an age")?;
        assert!(age < 3_000, "{worker}");
    }
    wait_sample(
        it,
        "mizzen_worker_heartbeat_age_seconds",
        &[("worker", "0")],
        0.0,
    )?;
    wait_sample(it, "mizzen_map_entries", &[("map", "PODS")], 2.0)?;
    wait_sample(it, "mizzen_map_capacity", &[("map", "PODS")], 2.0)?;
    for metric in [
        "mizzen_flow_events_dropped_total",
        "mizzen_kernel_sync_errors_total",
    ] {
        let (_, value) = wait_sample(it, metric, &[], 0.0)?;
        assert!(value < 0.5, "{metric} {value}");
    }
    // What is given and does nothing is a finding and a line of the log.
    let findings = it.daemon.cli(&["get", "findings"])?.ok()?;
    let ignored = "ConfigMap/istio-system/istio: warning: data.mesh.enableTracing: not honoured";
    assert!(findings.contains(ignored), "{findings}");
    for unused in ["mesh.trustDomain", "files", "gateway"] {
        let unused = format!("warning: {unused}: ");
        assert!(findings.contains(&unused), "{findings}");
        assert!(it.daemon.log().contains(&unused), "{unused}");
    }
    Ok(())
}

fn json_has_istios_keys_after_the_next_start(it: &mut Fixture) -> anyhow::Result<()> {
    it.lab
        .write_config("istio.yaml", &config_map(&it.lab, "JSON"))?;
    wait_until("the finding about the access log", LIMIT, || {
        let findings = it.daemon.cli(&["get", "findings"])?.ok()?;
        Ok(findings
            .contains("until the daemon starts anew")
            .then_some(()))
    })?;
    it.daemon.terminate()?;
    it.daemon.start_again()?;
    it.wait_captured(&it.client_v4, LIMIT)?;
    let to = it.vip4("web", WEB)?;
    it.client_v4
        .ask(&["--url", &format!("http://{to}/as-json")])?;
    let line = wait_line(it, "/as-json")?;
    let value: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
    let keys: Vec<&str> = value
        .as_object()
        .context("an object")?
        .keys()
        .map(String::as_str)
        .collect();
    let mut expected = vec![
        "start_time",
        "route_name",
        "method",
        "path",
        "protocol",
        "response_code",
        "response_flags",
        "response_code_details",
        "connection_termination_details",
        "bytes_received",
        "bytes_sent",
        "duration",
        "upstream_service_time",
        "x_forwarded_for",
        "user_agent",
        "request_id",
        "authority",
        "upstream_host",
        "upstream_cluster",
        "upstream_local_address",
        "downstream_local_address",
        "downstream_remote_address",
        "requested_server_name",
        "upstream_transport_failure_reason",
    ];
    expected.sort_unstable();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert_eq!(value["response_code"], 200);
    assert_eq!(value["route_name"], "everybody");
    assert_eq!(value["requested_server_name"], Value::Null);
    let echo = it.vip4("echo", ECHO)?;
    it.client_v4.dial(&["--to", &echo])?;
    let line = wait_line(it, &format!("\"downstream_local_address\":\"{echo}\""))?;
    let value: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
    assert_eq!(value["response_code"], 0);
    assert_eq!(value["method"], Value::Null);
    Ok(())
}

fn an_access_log_that_cannot_be_opened_does_not_keep_the_daemon_down(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let text = config_map(&it.lab, "TEXT");
    let unusable = text.replace("/access.log", "/access.log/below/a/file");
    it.lab.write_config("istio.yaml", &unusable)?;
    it.daemon.terminate()?;
    it.daemon.start_again()?;
    it.wait_captured(&it.client_v4, LIMIT)?;
    let status = it.daemon.cli(&["status"])?.ok()?;
    assert!(status.contains("cannot open the access log"), "{status}");
    let to = it.vip4("web", WEB)?;
    it.client_v4.ask(&["--url", &format!("http://{to}/")])?;
    Ok(())
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            requests_are_counted_with_all_of_istios_labels,
            tcp_is_counted_alike_on_both_paths,
            an_overflow_is_a_503_with_the_flag_uo,
            what_no_service_claims_is_the_passthrough_cluster,
            a_request_is_one_line_in_istios_order,
            a_connection_is_one_line_on_both_paths,
            live_connections_are_listed_with_path_and_endpoint,
            the_node_shows_its_own_state,
            json_has_istios_keys_after_the_next_start,
            an_access_log_that_cannot_be_opened_does_not_keep_the_daemon_down,
        ],
    )
}
