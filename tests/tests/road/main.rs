//! Checklist lines about requests, on the whole road: YAML, compile, snapshot, a worker, sockets.
//!
//! Each case of `tests/checklist` names its checklist ids, gives the objects that the line is
//! about beside a common mesh, and says what a request must come to: who serves it, what the
//! server reads, what the client gets. Start at [`every_case_comes_to_what_it_says`].

mod bench;
mod case;
mod mesh;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

use bench::Bench;
use case::{Ask, Case, cases};

#[test]
fn every_case_comes_to_what_it_says() {
    let mut bench = Bench::start();
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() > 50, "{} cases", cases.len());
    for (file, case) in &cases {
        if let Err(reason) = run(&mut bench, case) {
            wrong.push(format!("{file}: {}: {reason}", case.id));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn run(bench: &mut Bench, case: &Case) -> Result<(), String> {
    bench.publish(&case.objects, &case.settings)?;
    for ask in &case.asks {
        let found = match ask.times {
            0 => check(bench, ask),
            times => check_shares(bench, ask, times),
        };
        found.map_err(|reason| format!("{}: {reason}", ask.send))?;
    }
    Ok(())
}

/// One request, and all that is said of it.
fn check(bench: &Bench, ask: &Ask) -> Result<(), String> {
    let answer = bench.ask(ask);
    let expect = |what: &str, found: &str, expected: &str| {
        if found == expected {
            return Ok(());
        }
        Err(format!("{what} {found:?}, not {expected:?}; {answer:?}"))
    };
    expect(
        "status",
        &answer.status.to_string(),
        &ask.status.to_string(),
    )?;
    if let Some(served) = &ask.served {
        let found = answer.served.as_deref().unwrap_or("nobody");
        let by = if served.contains('/') || served == "nobody" {
            found
        } else {
            found.split('/').next().unwrap_or_default()
        };
        expect("served by", by, served)?;
    }
    if let Some(path) = &ask.path {
        expect("path", &answer.target, path)?;
    }
    if let Some(body) = &ask.body {
        expect("body", &answer.body, body)?;
    }
    for (name, lines) in &ask.sees {
        expect(
            name,
            &format!("{:?}", answer.seen(name)),
            &format!("{lines:?}"),
        )?;
    }
    for (name, lines) in &ask.answers {
        expect(
            name,
            &format!("{:?}", answer.header(name)),
            &format!("{lines:?}"),
        )?;
    }
    Ok(())
}

/// Many requests, and who served how many of a hundred: within 3.
fn check_shares(bench: &Bench, ask: &Ask, times: u32) -> Result<(), String> {
    let mut counts = std::collections::BTreeMap::new();
    for answer in bench.ask_often(ask, times) {
        *counts
            .entry(answer.served.unwrap_or_default())
            .or_insert(0_u32) += 1;
    }
    for (server, percent) in &ask.shares {
        let found = f64::from(counts.remove(server).unwrap_or_default()) * 100.0 / f64::from(times);
        if (found - percent).abs() > 3.0 {
            return Err(format!("{server} has {found} %, not {percent} %"));
        }
    }
    if counts.is_empty() {
        return Ok(());
    }
    Err(format!("somebody else served: {counts:?}"))
}

/// A Service of this name at 127.2.0.77 with one port, and its endpoint at `server`.
fn service(port: &str, server: u16) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: extra, namespace: ns1}}
spec: {{clusterIP: 127.2.0.77, ports: [{port}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: extra, namespace: ns1, labels: {{kubernetes.io/service-name: extra}}}}
addressType: IPv4
ports: [{{port: {server}}}]
endpoints: [{{addresses: [127.3.9.9]}}]
"
    )
}

/// An ask to a port of that Service.
fn ask(port: u16) -> Ask {
    let text = format!("{{to: '127.2.0.77:{port}', host: extra}}");
    serde_yaml::from_str(&text).expect("an ask")
}

#[test]
fn a016_a_port_declared_h2c_speaks_http2_to_its_endpoint() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    let server = listener.local_addr().expect("bound").port();
    let mut bench = Bench::start();
    for (protocol, expected) in [("kubernetes.io/h2c", "PRI "), ("http", "GET ")] {
        let port = format!("{{port: 80, appProtocol: {protocol}}}");
        let published = bench.publish(&service(&port, server), &[]);
        assert_eq!(published, Ok(()));
        let mut first = [0; 4];
        std::thread::scope(|scope| {
            scope.spawn(|| bench.ask(&ask(80)));
            let (mut stream, _) = listener.accept().expect("the proxy dials");
            stream.read_exact(&mut first).expect("the proxy speaks");
        });
        assert_eq!(String::from_utf8_lossy(&first), expected, "{protocol}");
    }
}

/// With a time-out of half a minute for undeclared ports, a wait would be seen.
#[test]
fn a018_an_unnamed_port_3306_lets_the_server_speak_first() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    let server = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.write_all(b"hello").expect("the proxy reads");
            let _ = stream.read(&mut [0]);
        }
    });
    let mut bench = Bench::start();
    let published = bench.publish(&service("{port: 3306}", server), &["patient".to_owned()]);
    assert_eq!(published, Ok(()));
    let started = Instant::now();
    let mut greeting = [0; 5];
    let mut client = bench.connect(&ask(3306));
    client.read_exact(&mut greeting).expect("a greeting");
    assert_eq!(&greeting, b"hello");
    assert!(started.elapsed() < bench::PATIENCE / 2, "it waited");
}
