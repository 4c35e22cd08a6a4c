//! HTTP through a whole worker, and what is not HTTP on its ports.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use super::mesh::{Mesh, destination, echo_at_end, one, read_all, scope, serve, to_cluster, vip};
use crate::snapshot::Cluster;
use crate::snapshot::clusters::ClusterRef;
use crate::snapshot::listeners::{Destination, Protocol, ScopeView};
use crate::snapshot::policy::HeaderOps;
use crate::snapshot::routes::{
    ForwardAction, HttpRoute, RouteAction, RouteTable, VirtualHost, WeightedDestination,
};

/// A route table that sends every Host to `cluster`.
fn table_to(cluster: Cluster) -> RouteTable {
    let route = HttpRoute {
        name: Arc::from("default"),
        matches: Vec::new(),
        action: RouteAction::Forward(ForwardAction {
            destinations: vec![WeightedDestination {
                weight: 1,
                cluster: ClusterRef::Known(Arc::new(cluster)),
                request_headers: HeaderOps::default(),
                response_headers: HeaderOps::default(),
                authority: None,
                provenance: None,
            }],
            total_weight: 1,
            authority: None,
            path_rewrite: None,
        }),
        timeout: None,
        retry: None,
        fault: None,
        mirrors: Vec::new(),
        cors: None,
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        provenance: None,
    };
    RouteTable {
        any: Some(Arc::new(VirtualHost {
            name: Arc::from("a:80"),
            routes: vec![route],
            redirects_to_https: false,
            provenance: None,
        })),
        ..RouteTable::default()
    }
}

/// Answers every request head with the number of requests on its connection.
fn http_server() -> u16 {
    serve(|stream| {
        let mut reader = std::io::BufReader::new(stream);
        for count in 1.. {
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                let read = std::io::BufRead::read_line(&mut reader, &mut line);
                if read.unwrap_or(0) == 0 {
                    return;
                }
            }
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
            let answer = format!("{head}{count:02}");
            let _ = reader.get_mut().write_all(answer.as_bytes());
        }
    })
}

fn request(client: &mut TcpStream) -> String {
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("written");
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).expect("a head");
        bytes.push(byte[0]);
    }
    let mut body = [0; 2];
    client.read_exact(&mut body).expect("a body");
    String::from_utf8_lossy(&body).into_owned()
}

#[test]
fn http_is_served_request_by_request_over_one_upstream_connection() {
    for protocol in [Protocol::Http, Protocol::Auto] {
        let mesh = Mesh::start(scope(Destination {
            http: Some(Arc::new(table_to(one(http_server())))),
            ..destination(protocol)
        }));
        let mut first = mesh.dial(vip());
        assert_eq!(request(&mut first), "01", "{protocol:?}");
        assert_eq!(request(&mut first), "02", "{protocol:?}");
        let mut second = mesh.dial(vip());
        assert_eq!(request(&mut second), "03", "pooled between connections");
        drop((first, second));
        mesh.stop();
    }
}

/// Checklist id A020: what the client says first decides which of the service's routes apply.
#[test]
fn a020_an_undeclared_port_routes_http_1_1_as_http_and_http_1_0_as_tcp() {
    let mesh = Mesh::start(scope(Destination {
        http: Some(Arc::new(table_to(one(http_server())))),
        tcp: vec![to_cluster(ClusterRef::Known(Arc::new(one(serve(
            echo_at_end,
        )))))],
        ..destination(Protocol::Auto)
    }));
    let mut client = mesh.dial(vip());
    assert_eq!(request(&mut client), "01", "the HTTP server's count");
    let bytes = b"GET / HTTP/1.0\r\n\r\n";
    let mut raw = mesh.dial(vip());
    raw.write_all(bytes).expect("written");
    raw.shutdown(Shutdown::Write).expect("shut down");
    let mut got = read_all(&mut raw).expect("an answer");
    got.reverse();
    assert_eq!(got, bytes, "the TCP server's echo, untouched");
    drop((client, raw));
    mesh.stop();
}

/// Istio sniffs ports declared HTTP too: other bytes go to the original destination.
#[test]
fn bytes_that_are_not_http_go_raw_to_where_they_were_sent() {
    let port = serve(echo_at_end);
    let dst = SocketAddr::from(([127, 0, 0, 1], port));
    let declared = Destination {
        http: Some(Arc::new(table_to(one(http_server())))),
        ..destination(Protocol::Http)
    };
    let mut scope = ScopeView::default();
    scope
        .exact
        .insert((dst.ip(), port), Some(Arc::new(declared)));
    let mesh = Mesh::start(scope);
    for bytes in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        b"\x00\x01binary",
        b"\x16\x03\x01tls",
    ] {
        let mut client = mesh.dial(dst);
        client.write_all(bytes).expect("written");
        client.shutdown(Shutdown::Write).expect("shut down");
        let mut got = read_all(&mut client).expect("an answer");
        got.reverse();
        assert_eq!(got, bytes);
    }
    assert_eq!(
        &*mesh.closed(3)[0].service.service_name,
        "PassthroughCluster"
    );
    mesh.stop();
}

/// A port-wide hit on an address that nobody owns: the same time-out as on undeclared ports.
#[test]
fn a_silent_client_of_a_port_wide_http_listener_is_passed_through_in_time() {
    let port = serve(|mut stream| stream.write_all(b"hello").expect("written"));
    let declared = Destination {
        http: Some(Arc::new(table_to(one(http_server())))),
        ..destination(Protocol::Http)
    };
    let mut scope = ScopeView::default();
    scope.port_wide.insert(port, Some(Arc::new(declared)));
    let mesh = Mesh::start(scope);
    let mut client = mesh.dial(SocketAddr::from(([127, 0, 0, 1], port)));
    assert_eq!(read_all(&mut client).expect("a greeting"), b"hello");
    drop(client);
    mesh.stop();
}
