//! Pools against real servers on loopback.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};

use super::testing::{Loopback, cluster, endpoint};
use super::*;
use crate::net::{NameError, NoNames};
use crate::snapshot::clusters::Discovery;
use crate::snapshot::policy::ConnectionPool;

/// A server that counts connections and answers when a permit is there.
struct Server {
    address: SocketAddr,
    connections: Rc<Cell<u32>>,
    permits: Arc<Semaphore>,
}

impl Server {
    async fn start(protocol: WireProtocol, permits: usize) -> Self {
        Self::start_with(protocol, permits, 1024).await
    }

    async fn start_with(protocol: WireProtocol, permits: usize, streams_max: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Rc::new(Cell::new(0));
        let permits = Arc::new(Semaphore::new(permits));
        let (count, gate) = (Rc::clone(&connections), Arc::clone(&permits));
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                count.set(count.get() + 1);
                let gate = Arc::clone(&gate);
                let service = service_fn(move |_: Request<Incoming>| {
                    let gate = Arc::clone(&gate);
                    async move {
                        gate.acquire().await.expect("open").forget();
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
                    }
                });
                let io = TokioIo::new(stream);
                spawn_local(async move {
                    let _ = match protocol {
                        WireProtocol::Http1 => {
                            http1::Builder::new().serve_connection(io, service).await
                        }
                        WireProtocol::Http2 => {
                            let mut builder = http2::Builder::new(LocalExecutor);
                            builder.max_concurrent_streams(streams_max);
                            builder.serve_connection(io, service).await
                        }
                    };
                });
            }
        });
        Self {
            address,
            connections,
            permits,
        }
    }
}

struct Client {
    upstreams: Upstreams,
    cluster: Arc<Cluster>,
    protocol: WireProtocol,
}

impl Client {
    fn new(server: &Server, protocol: WireProtocol, pool: ConnectionPool) -> Rc<Self> {
        let cluster = cluster(vec![endpoint(server.address.port(), 1, 0)], pool);
        Rc::new(Self {
            upstreams: Upstreams::new(Arc::new(Loopback), Arc::new(NoNames)),
            cluster: Arc::new(cluster),
            protocol,
        })
    }

    fn context(&self) -> PickContext<'static> {
        PickContext {
            hash: None,
            tried: &[],
            client_protocol: self.protocol,
            is_upgrade: false,
            original_dst: OriginalDst(SocketAddr::from(([127, 0, 0, 1], 1))),
            bind: None,
            name: None,
        }
    }

    async fn get(&self) -> Result<Bytes, Kind> {
        let lease = self.upstreams.acquire(&self.cluster, &self.context()).await;
        let request = UpstreamRequest {
            method: &http::Method::GET,
            target: &crate::proxy::Target::new("/"),
            authority: &http::HeaderValue::from_static("a"),
            headers: &http::HeaderMap::new(),
            body: RequestBody::Empty,
        };
        let lease = lease.map_err(|e| e.kind)?;
        let response = lease.send(request, &mut |_, _| {}).await;
        let body = response.map_err(|e| e.kind)?.into_body().collect().await;
        Ok(body.map_err(|_| Kind::RemoteReset)?.to_bytes())
    }

    /// So many requests at once: how many succeed and how many overflow.
    async fn burst(self: &Rc<Self>, count: usize, server: &Server) -> (usize, usize) {
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                let this = Rc::clone(self);
                spawn_local(async move { this.get().await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.permits.add_permits(count);
        let (mut ok, mut overflow) = (0, 0);
        for task in tasks {
            match task.await.expect("no panic") {
                Ok(_) => ok += 1,
                Err(Kind::Overflow) => overflow += 1,
                Err(other) => panic!("unexpected {other:?}"),
            }
        }
        (ok, overflow)
    }

    fn counts(&self) -> [u32; 4] {
        let counts = self.upstreams.counts();
        let counts = counts.first().expect("one cluster");
        [
            counts.connections,
            counts.pending,
            counts.requests,
            counts.retries,
        ]
    }
}

const MANY: usize = 1000;

/// Checklist id A162: one pooled idle connection, then 10 at once give 2 and 8; a cold
/// pool gives 1 and 9.
#[tokio::test]
async fn pending_requests_are_limited_also_while_a_connection_opens() {
    LocalSet::new()
        .run_until(async {
            let server = Server::start(WireProtocol::Http1, 0).await;
            let pool = ConnectionPool {
                max_connections: 1,
                max_pending_requests: 1,
                ..ConnectionPool::default()
            };
            let client = Client::new(&server, WireProtocol::Http1, pool);
            assert_eq!(client.burst(10, &server).await, (1, 9), "cold");
            tokio::time::sleep(Duration::from_millis(10)).await;
            let left = server.permits.available_permits();
            server.permits.forget_permits(left);
            assert_eq!(client.burst(10, &server).await, (2, 8), "warm");
            assert_eq!(server.connections.get(), 1);
            assert_eq!(client.counts(), [1, 0, 0, 0]);
        })
        .await;
}

/// Checklist id A163.
#[tokio::test]
async fn active_requests_are_limited_over_all_connections() {
    LocalSet::new()
        .run_until(async {
            let server = Server::start(WireProtocol::Http1, 0).await;
            let pool = ConnectionPool {
                max_requests: 2,
                ..ConnectionPool::default()
            };
            let client = Client::new(&server, WireProtocol::Http1, pool);
            assert_eq!(client.burst(5, &server).await, (2, 3));
        })
        .await;
}

/// Checklist id A165, and keep-alive without the limit.
#[tokio::test]
async fn connections_are_reused_until_their_requests_are_used_up() {
    for (protocol, max, expected) in [
        (WireProtocol::Http1, 0, 1),
        (WireProtocol::Http1, 1, 5),
        (WireProtocol::Http1, 2, 3),
        (WireProtocol::Http2, 0, 1),
        (WireProtocol::Http2, 2, 3),
    ] {
        LocalSet::new()
            .run_until(async {
                let server = Server::start(protocol, MANY).await;
                let pool = ConnectionPool {
                    max_requests_per_connection: max,
                    ..ConnectionPool::default()
                };
                let client = Client::new(&server, protocol, pool);
                for _ in 0..5 {
                    assert_eq!(client.get().await.as_deref(), Ok(&b"ok"[..]));
                }
                assert_eq!(server.connections.get(), expected, "{protocol:?} {max}");
            })
            .await;
    }
}

#[tokio::test]
async fn http2_shares_one_connection_up_to_its_streams() {
    LocalSet::new()
        .run_until(async {
            for (streams, expected) in [(1024, 1), (2, 3)] {
                let server = Server::start(WireProtocol::Http2, 0).await;
                let pool = ConnectionPool {
                    max_concurrent_streams: streams,
                    ..ConnectionPool::default()
                };
                let client = Client::new(&server, WireProtocol::Http2, pool);
                assert_eq!(client.burst(6, &server).await, (6, 0));
                assert_eq!(server.connections.get(), expected, "{streams} streams");
                assert_eq!(client.counts()[2], 0);
            }
        })
        .await;
}

/// The limit that the server announces counts as much as the policy's.
#[tokio::test]
async fn more_streams_than_the_server_allows_go_over_another_connection() {
    LocalSet::new()
        .run_until(async {
            let server = Server::start_with(WireProtocol::Http2, 1, 2).await;
            let client = Client::new(&server, WireProtocol::Http2, ConnectionPool::default());
            client.get().await.expect("a response");
            assert_eq!(client.burst(6, &server).await, (6, 0));
            assert!(server.connections.get() > 1);
        })
        .await;
}

#[tokio::test]
async fn an_idle_connection_closes_after_its_time() {
    LocalSet::new()
        .run_until(async {
            let server = Server::start(WireProtocol::Http1, MANY).await;
            let pool = ConnectionPool {
                http_idle_timeout: Some(Duration::from_millis(30)),
                ..ConnectionPool::default()
            };
            let client = Client::new(&server, WireProtocol::Http1, pool);
            client.get().await.expect("a response");
            assert_eq!(client.counts()[0], 1);
            tokio::time::timeout(Duration::from_secs(5), async {
                while client.counts()[0] != 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await
            .expect("closed");
        })
        .await;
}

/// A server that closes idle connections never costs a request.
#[tokio::test]
async fn a_connection_that_closed_while_idle_is_replaced_unnoticed() {
    LocalSet::new()
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            spawn_local(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.expect("a connection");
                    let mut buffer = [0; 1024];
                    let _ = stream.read(&mut buffer).await;
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                        .await;
                    // Dropped here: closed right after a keep-alive response.
                }
            });
            let client = Rc::new(Client {
                upstreams: Upstreams::new(Arc::new(Loopback), Arc::new(NoNames)),
                cluster: Arc::new(cluster(
                    vec![endpoint(port, 1, 0)],
                    ConnectionPool::default(),
                )),
                protocol: WireProtocol::Http1,
            });
            for pause in [0, 0, 2, 5, 20, 0] {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                assert_eq!(client.get().await.as_deref(), Ok(&b"ok"[..]), "{pause} ms");
            }
        })
        .await;
}

#[tokio::test]
async fn what_the_server_does_instead_of_answering_has_its_kind() {
    LocalSet::new()
        .run_until(async {
            for (answer, expected) in [
                (&b""[..], Kind::ConnectionTermination),
                (b"HTTP/1.1 200 O", Kind::ProtocolError),
                (b"nonsense\r\n\r\n", Kind::ProtocolError),
            ] {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let port = listener.local_addr().expect("an address").port();
                spawn_local(async move {
                    let (mut stream, _) = listener.accept().await.expect("a connection");
                    let mut buffer = [0; 1024];
                    let _ = stream.read(&mut buffer).await;
                    let _ = stream.write_all(answer).await;
                });
                let client = Client {
                    upstreams: Upstreams::new(Arc::new(Loopback), Arc::new(NoNames)),
                    cluster: Arc::new(cluster(
                        vec![endpoint(port, 1, 0)],
                        ConnectionPool::default(),
                    )),
                    protocol: WireProtocol::Http1,
                };
                assert_eq!(client.get().await, Err(expected), "{answer:?}");
            }
        })
        .await;
}

/// Checklist id A166, refused instead of a black hole, and the same for many at once.
#[tokio::test]
async fn a_refused_connect_tells_all_that_wait() {
    LocalSet::new()
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            drop(listener);
            let client = Rc::new(Client {
                upstreams: Upstreams::new(Arc::new(Loopback), Arc::new(NoNames)),
                cluster: Arc::new(cluster(
                    vec![endpoint(port, 1, 0)],
                    ConnectionPool::default(),
                )),
                protocol: WireProtocol::Http1,
            });
            let tasks: Vec<_> = (0..5)
                .map(|_| {
                    let client = Rc::clone(&client);
                    spawn_local(async move { client.get().await })
                })
                .collect();
            for task in tasks {
                assert_eq!(task.await.expect("no panic"), Err(Kind::ConnectFailed));
            }
            assert_eq!(client.counts(), [0; 4]);
        })
        .await;
}

#[tokio::test]
async fn an_endpoint_that_leaves_takes_its_idle_connections_along() {
    LocalSet::new()
        .run_until(async {
            let first = Server::start(WireProtocol::Http1, MANY).await;
            let second = Server::start(WireProtocol::Http1, MANY).await;
            let client = Client::new(&first, WireProtocol::Http1, ConnectionPool::default());
            client.get().await.expect("a response");
            client
                .cluster
                .endpoints
                .store(crate::snapshot::EndpointSet {
                    endpoints: vec![endpoint(second.address.port(), 1, 0)],
                });
            client.get().await.expect("a response");
            assert_eq!(second.connections.get(), 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(client.counts()[0], 1, "the old connection is closed");
            client.upstreams.forget_unnamed(|_| false);
            assert!(client.upstreams.counts().is_empty());
        })
        .await;
}

/// Envoy's LOGICAL_DNS: connections to an earlier answer stay in use, further ones go to the
/// current one.
#[tokio::test]
async fn a_host_that_dns_moves_keeps_its_connections() {
    LocalSet::new()
        .run_until(async {
            let first = Server::start(WireProtocol::Http1, MANY).await;
            let second = Server::start(WireProtocol::Http1, MANY).await;
            let listed = vec![endpoint(first.address.port(), 1, 0)];
            let mut moving = cluster(listed, ConnectionPool::default());
            moving.discovery = Discovery::LogicalDns;
            let client = Client {
                upstreams: Upstreams::new(Arc::new(Loopback), Arc::new(NoNames)),
                cluster: Arc::new(moving),
                protocol: WireProtocol::Http1,
            };
            client.get().await.expect("a response");
            client
                .cluster
                .endpoints
                .store(crate::snapshot::EndpointSet {
                    endpoints: vec![endpoint(second.address.port(), 1, 0)],
                });
            client.get().await.expect("a response");
            assert_eq!(second.connections.get(), 0, "the idle connection is used");
            let both = tokio::join!(client.get(), client.get());
            both.0.and(both.1).expect("two responses");
            assert_eq!(second.connections.get(), 1, "a further one goes there");
        })
        .await;
}

/// Knows one name.
struct OneName(IpAddr);

impl crate::net::NameResolver for OneName {
    fn resolve(
        &self,
        name: &str,
    ) -> futures_util::future::BoxFuture<'static, Result<Arc<[IpAddr]>, NameError>> {
        let found = match name {
            "a.x.com" => Ok(Arc::from([self.0])),
            _ => Err(NameError::NoAddress),
        };
        Box::pin(async move { found })
    }
}

#[tokio::test]
async fn a_cluster_of_many_names_goes_where_the_request_asks() {
    LocalSet::new()
        .run_until(async {
            let server = Server::start(WireProtocol::Http1, MANY).await;
            let names = Arc::new(OneName(server.address.ip()));
            let upstreams = Upstreams::new(Arc::new(Loopback), names);
            let mut any = cluster(Vec::new(), ConnectionPool::default());
            any.discovery = Discovery::DynamicDns {
                port: server.address.port(),
            };
            let any = Arc::new(any);
            let client = Client::new(&server, WireProtocol::Http1, ConnectionPool::default());
            for (name, expected) in [
                (Some("A.x.com:9"), Ok(server.address)), // the port is the cluster's
                (Some("b.x.com"), Err(Kind::DnsFailed)),
                (None, Err(Kind::DnsFailed)),
            ] {
                let context = PickContext {
                    name,
                    ..client.context()
                };
                let lease = upstreams.acquire(&any, &context).await;
                let found = lease.map(|lease| lease.endpoint().address);
                assert_eq!(found.map_err(|error| error.kind), expected, "{name:?}");
            }
        })
        .await;
}

/// Retries skip endpoints tried before, but only six picks long.
#[tokio::test]
async fn a_host_tried_before_is_avoided_unless_it_is_the_only_one() {
    LocalSet::new()
        .run_until(async {
            let servers = [
                Server::start(WireProtocol::Http1, MANY).await,
                Server::start(WireProtocol::Http1, MANY).await,
            ];
            let ports = servers.iter().map(|server| server.address.port());
            let endpoints: Vec<_> = ports.map(|port| endpoint(port, 1, 0)).collect();
            let both = Arc::new(cluster(endpoints.clone(), ConnectionPool::default()));
            let one = Arc::new(cluster(endpoints[..1].to_vec(), ConnectionPool::default()));
            let upstreams = Upstreams::new(Arc::new(Loopback), Arc::new(NoNames));
            let client = Client::new(&servers[0], WireProtocol::Http1, ConnectionPool::default());
            let tried = [endpoints[0].address];
            let context = PickContext {
                tried: &tried,
                ..client.context()
            };
            let lease = upstreams.acquire(&one, &context).await.expect("a lease");
            assert_eq!(
                lease.endpoint().address,
                tried[0],
                "a single host is retried"
            );
            drop(lease);
            let mut repeated = 0;
            for _ in 0..200 {
                let lease = upstreams.acquire(&both, &context).await.expect("a lease");
                repeated += u32::from(lease.endpoint().address == tried[0]);
            }
            assert!(repeated < 20, "about 1 in 64 of 200, got {repeated}");
        })
        .await;
}
