//! What is proved: each reader of foreign bytes, its seeds and its vocabulary.

use std::path::Path;
use std::sync::Arc;

use proxy_user::compile::compile;
use proxy_user::proxy::{http, sniff, tls};
use proxy_user::settings::{CompileSettings, MeshSettings, NamespaceBudget, OnProxyDown};
use proxy_user::source::document::fuzz_entry;
use proxy_user::source::state::{DirectoryState, FileText, Files};

/// One reader of foreign bytes.
pub(super) struct Target {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// Inputs to start from.
    pub(super) seeds: fn() -> anyhow::Result<Vec<Vec<u8>>>,
    /// Words that mutations insert.
    pub(super) tokens: &'static [&'static str],
    /// Reads one input; a panic or a hang is the failure.
    pub(super) run: fn(&[u8]),
}

/// All targets.
pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "yaml",
        seeds: yaml_seeds,
        tokens: YAML_TOKENS,
        run: read_yaml,
    },
    Target {
        name: "compile",
        seeds: yaml_seeds,
        tokens: YAML_TOKENS,
        run: compile_yaml,
    },
    Target {
        name: "http-head",
        seeds: http_seeds,
        tokens: HTTP_TOKENS,
        run: read_http_head,
    },
    Target {
        name: "sniff",
        seeds: first_bytes,
        tokens: HTTP_TOKENS,
        run: read_first_bytes,
    },
];

const HTTP_TOKENS: &[&str] = &[
    "\r\n",
    "\n",
    "\r\n\r\n",
    " ",
    "\t",
    "GET ",
    "POST ",
    "CONNECT ",
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    "PRI * HTTP/2.0",
    "host: a\r\n",
    "content-length: 1\r\n",
    "transfer-encoding: chunked\r\n",
    "0\r\n\r\n",
    "4\r\ndata\r\n",
    "ffffffffffffffff\r\n",
    ";extension=1",
    "\r\n folded",
    "\r",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 103 Early Hints\r\n\r\n",
    "connection: upgrade, x\r\n",
    "upgrade: websocket\r\n",
    "te: trailers\r\n",
    "grpc-timeout: 99999999H\r\n",
    "x-envoy-retry-on: 5xx\r\n",
    "http://[::1]:80/",
    "*",
    "/../",
    "/./",
    "%2e%2e",
    "%00",
    "%2F",
    "%",
    "\\",
    "?",
    "#",
    "\u{e9}",
];

const YAML_TOKENS: &[&str] = &[
    "\n---\n",
    "&a ",
    "*a",
    "<<: *a",
    "!!str ",
    "!!binary ",
    "|-\n",
    ">+\n",
    "\t",
    "\u{feff}",
    "? ",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "#",
    "null",
    "~",
    "0x7fffffffffffffff",
    "-1",
    "1e999",
    ".nan",
    "\r\n",
    "kind: List\nitems:\n",
    "weight: 4294967296",
    "timeout: 99999999999h",
    "subset: v1",
    "hosts: [\"*\"]",
    "exact: ",
    "regex: \"(a+)+$\"",
    "number: 70000",
    "simple: ROUND_ROBIN",
    "portLevelSettings:",
    "exportTo: [\".\"]",
    "delegate: {name: a}",
];

/// The repository's own configuration, and forms that it does not use.
fn yaml_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let mut seeds = vec![
        crate::fixture::RULES.as_bytes().to_vec(),
        b"{\"kind\": \"List\", \"items\": [{\"kind\": \"Service\", \"metadata\": {\"name\": \"a\"}}]}".to_vec(),
        b"a: &a {b: 1}\nc: {<<: *a, d: [1, 2]}\n".to_vec(),
    ];
    read_tree(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../config"),
        &mut seeds,
    )?;
    let mut golden = Vec::new();
    read_tree(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/validation"),
        &mut golden,
    )?;
    // One object each: mutations of a whole file mostly break its first one.
    for file in golden {
        let text = String::from_utf8_lossy(&file);
        seeds.extend(
            text.split("\n---\n")
                .map(|object| object.as_bytes().to_vec()),
        );
    }
    Ok(seeds)
}

fn http_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let heads = [
        "GET /productpage?u=normal HTTP/1.1\r\nhost: productpage:9080\r\naccept: */*\r\n\r\n",
        "POST /a/../%62?x=%2e HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\naccept: a\r\naccept: b\r\n\r\n",
        "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
        "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4;x\r\ndata\r\n0\r\nt: 1\r\n\r\nGET / HTTP/1.1\r\nhost: b\r\nx: 1\r\n 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nserver: s\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "a\r\n0123456789\r\n0;last\r\ntrailer: 1\r\n\r\n",
        "POST /s/m HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\nte: trailers\r\ngrpc-timeout: 1S\r\n\r\n",
    ];
    Ok(heads.iter().map(|head| head.as_bytes().to_vec()).collect())
}

/// Heads, the HTTP/2 preface and a TLS ClientHello's first bytes.
fn first_bytes() -> anyhow::Result<Vec<Vec<u8>>> {
    let mut seeds = http_seeds()?;
    seeds.push(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec());
    seeds.push(client_hello("a.example.com"));
    Ok(seeds)
}

/// A TLS 1.2 ClientHello with this server name and nothing else (RFC 5246 7.4.1.2,
/// RFC 6066 section 3).
fn client_hello(server_name: &str) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let name = server_name.as_bytes();
    let mut extension = vec![0, 0];
    extension.extend(length(name.len() + 5));
    extension.extend(length(name.len() + 3));
    extension.push(0);
    extension.extend(length(name.len()));
    extension.extend(name);
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0x13, 1, 1, 0]);
    hello.extend(length(extension.len()));
    hello.extend(extension);
    let mut record = vec![22, 3, 1];
    record.extend(length(hello.len() + 4));
    record.extend([1, 0]);
    record.extend(length(hello.len()));
    record.extend(hello);
    record
}

fn read_http_head(input: &[u8]) {
    std::hint::black_box(http::fuzz_entry(input));
}

fn read_first_bytes(input: &[u8]) {
    std::hint::black_box(sniff::sniff(input));
    std::hint::black_box(tls::parse_client_hello(input));
}

pub(super) fn read_tree(directory: &Path, seeds: &mut Vec<Vec<u8>>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            read_tree(&path, seeds)?;
        } else {
            seeds.push(std::fs::read(&path)?);
        }
    }
    Ok(())
}

fn read_yaml(input: &[u8]) {
    std::hint::black_box(fuzz_entry(input));
}

/// From text to snapshot, as `mizzen validate` does; twice gives the same findings.
fn compile_yaml(input: &[u8]) {
    let name: Arc<str> = Arc::from("fuzz.yaml");
    let files = Files::from([(name, FileText::Read(input.to_vec()))]);
    let loaded = DirectoryState::new().apply(&files);
    let settings = CompileSettings {
        node: "node".to_owned(),
        mesh: MeshSettings::default(),
        on_proxy_down: OnProxyDown::Degrade,
        is_capture_labelled: false,
        capture_host_network: false,
        accept_unenforced_policies: false,
        namespace_budget: NamespaceBudget::default(),
    };
    let first = compile(&loaded.objects, &settings);
    let second = compile(&loaded.objects, &settings);
    assert_eq!(
        first.findings, second.findings,
        "compiling twice gave different findings"
    );
}
