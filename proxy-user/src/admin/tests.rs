//! The servers as a whole: a node that is made up, a socket in a temporary directory,
//! and clients that are not ours.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::testing::{MadeUp, spawn};
use super::{ServerAddresses, Servers};
use crate::settings::AdminAddress;
use crate::telemetry::MetricsRegistry;

fn ask(mut stream: impl Read + Write, request: &str) -> (String, String) {
    stream
        .write_all(request.as_bytes())
        .expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    (head.to_owned(), body.to_owned())
}

fn get(stream: impl Read + Write, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    ask(stream, &request)
}

fn admin(socket: &Path, path: &str) -> Value {
    let stream = UnixStream::connect(socket).expect("the socket is there");
    let (head, body) = get(stream, path);
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    serde_json::from_str(&body).expect("JSON")
}

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("run/admin.sock");
    (directory, socket)
}

#[test]
fn the_socket_is_closed_to_others_and_answers_views() {
    let (_directory, socket) = temporary();
    let servers = spawn(&socket, None);
    let mode = std::fs::metadata(&socket).expect("a socket").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);

    let clusters = admin(&socket, "/clusters");
    assert_eq!(clusters[0]["paths"], json!(["kernel"]));
    assert_eq!(clusters[0]["reasons"], json!(["kernel: weights only"]));
    assert_eq!(clusters[0]["healthy"], 1);
    assert_eq!(clusters[0]["endpoints"], 2);
    assert_eq!(clusters[0]["loadBalancer"], "LEAST_REQUEST");
    let routes = admin(&socket, "/routes");
    assert_eq!(routes[0]["scope"], "base");
    assert_eq!(routes[0]["place"], "10.96.0.1:9000");
    assert_eq!(routes[0]["destinations"][0]["weight"], 80);
    assert_eq!(routes[0]["destinations"][1]["state"], "missing");
    assert_eq!(routes[0]["path"]["degraded"], "l4");
    let listeners = admin(&socket, "/listeners");
    assert_eq!(listeners[0]["address"], "10.96.0.1:9000");
    let endpoints = admin(&socket, "/endpoints");
    assert_eq!(endpoints[1]["health"], "unhealthy");
    let pods = admin(&socket, "/pods");
    assert_eq!(pods[0]["state"], "waiting for cgroup");
    let findings = admin(&socket, "/findings");
    assert_eq!(
        findings[1]["text"],
        "a.yaml:3: VirtualService/shop/v: error: wrong"
    );
    let status = admin(&socket, "/status");
    assert_eq!(status["isReady"], true);
    assert_eq!(status["node"], "n1");
    assert_eq!(status["pods"][0]["name"], "waiting for cgroup");
    assert_eq!(
        status["findings"][0],
        json!({ "name": "error", "count": 1 })
    );
    assert!(
        status["findingTexts"][0]
            .as_str()
            .is_some_and(|text| text.contains("error: wrong")),
        "errors come first: {status}"
    );
    let dump = admin(&socket, "/config_dump");
    assert_eq!(dump["settings"]["node"], "n1");
    drop(servers);
    assert!(!socket.exists(), "the socket goes with its server");
}

#[test]
fn explain_takes_a_question_and_says_what_is_wrong_with_it() {
    let (_directory, socket) = temporary();
    let _servers = spawn(&socket, None);
    for (body, status, expected) in [
        (
            r#"{"from":"shop/web-1","url":"tcp://10.96.0.1:9000","method":"GET","headers":[]}"#,
            200,
            r#"{"from":"shop/web-1","scope":"shop""#,
        ),
        (
            r#"{"from":"shop/x","url":"http://a/","method":"GET","headers":[]}"#,
            422,
            "no pod shop/x on this node; there are shop/web-1\n",
        ),
        ("{", 400, "the body is no explain query"),
    ] {
        let stream = UnixStream::connect(&socket).expect("the socket is there");
        let request = format!(
            "POST /explain HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (head, answer) = ask(stream, &request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert!(answer.starts_with(expected), "{answer}");
    }
}

#[test]
fn ports_serve_their_own_path_only() {
    let (_directory, socket) = temporary();
    let servers = spawn(&socket, Some("no snapshot yet"));
    let metrics = servers.metrics.expect("a port was asked for");
    let health = servers.health.expect("a port was asked for");
    for (address, path, status, expected) in [
        (metrics, "/metrics", 200, "# HELP istio_build"),
        (metrics, "/stats/prometheus", 200, "# HELP istio_build"),
        (metrics, "/config_dump", 404, "no such path"),
        (health, "/healthz/ready", 503, "not ready: no snapshot yet"),
        (health, "/metrics", 404, "no such path"),
    ] {
        let stream = TcpStream::connect(address).expect("the port is open");
        let (head, body) = get(stream, path);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {head}"
        );
        assert!(body.starts_with(expected), "{path}: {body}");
        if path == "/metrics" && status == 200 {
            assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"));
        }
    }
}

#[test]
fn browsers_are_refused() {
    let (_directory, socket) = temporary();
    let _servers = spawn(&socket, None);
    let stream = UnixStream::connect(&socket).expect("the socket is there");
    let request = "GET /status HTTP/1.1\r\nhost: a\r\norigin: http://evil\r\n\
                   connection: close\r\n\r\n";
    let (head, _) = ask(stream, request);
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
}

#[test]
fn a_successor_takes_the_socket_over_and_keeps_it() {
    let (_directory, socket) = temporary();
    let first = spawn(&socket, Some("first"));
    let second = spawn(&socket, Some("second"));
    assert_eq!(admin(&socket, "/status")["notReadyReason"], "second");
    drop(first);
    assert_eq!(admin(&socket, "/status")["notReadyReason"], "second");
    drop(second);
    assert!(!socket.exists());
}

#[test]
fn a_file_in_the_sockets_place_is_not_touched() {
    let (directory, _) = temporary();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").expect("a file");
    let addresses = ServerAddresses {
        admin: Some(AdminAddress::Unix(path.clone())),
        ..ServerAddresses::default()
    };
    let node = MadeUp {
        snapshot: Arc::default(),
        not_ready: None,
    };
    let metrics = Arc::new(MetricsRegistry::default());
    let error = Servers::spawn(&addresses, Arc::new(node), metrics).err();
    let text = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains("precious"), "{text}");
    assert!(text.contains("--admin unix:PATH"), "{text}");
    assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), Some("data"));
}
