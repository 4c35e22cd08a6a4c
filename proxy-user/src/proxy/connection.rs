//! The life of a connection, top to bottom: original destination, what stands
//! there, protocol, then HTTP or a relay.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::context::{ConnectionFacts, PodContext, client_address};
use super::http;
use super::pod::Place;
use super::sniff::{self, Outcome, Sniffed};
use super::stream::PrefixedStream;
use super::tcp::{self, Target, TcpFacts};
use super::tls::{ClientHello, parse_client_hello};
use crate::net::{Accepted, DownstreamAddr, OriginalDst, OriginalDstSource};
use crate::snapshot::listeners::Found;
use crate::snapshot::routes::{L4Destination, TcpRoute, TlsRoute, pick_l4};
use crate::snapshot::{Destination, ScopeView, Snapshot};

/// Ports of Istio's own listeners: a connection to them at one of the pod's own
/// addresses would come back to a proxy for ever.
const LOOP_PORTS: [u16; 2] = [15_001, 15_006];

/// Room for the first bytes of most clients; grows only while sniffing needs more.
const SNIFF_BUFFER_BYTES: usize = 2048;

/// Serves one accepted connection until it ends.
pub(super) async fn serve(
    mut stream: TcpStream,
    accepted: &Accepted,
    original_dsts: &dyn OriginalDstSource,
    pod: Rc<PodContext>,
    place: &Place,
) {
    let start = SystemTime::now();
    let downstream = DownstreamAddr(accepted.client);
    let Some(captured) = original_dsts.take(accepted) else {
        // Nobody captured it: it dialled the listener itself.
        pod.stats.strangers.set(pod.stats.strangers.get() + 1);
        return tcp::refuse(stream);
    };
    let original_dst = OriginalDst(crate::net::addr::canonical(captured.dst.0));
    let snapshot = pod.snapshot.load_full();
    if is_loop(original_dst, &snapshot, &pod) {
        return tcp::refuse(stream);
    }
    let scope = snapshot.scope_of(&pod.uid).map(Arc::clone);
    let found = Standing::find(scope.as_deref(), original_dst);
    drop(snapshot);
    let remote = client_address(&pod, downstream, original_dst);
    place.note(|view| {
        view.original_dst = Some(original_dst.0);
        view.downstream = remote;
    });

    let mut buffer = BytesMut::new();
    let Ok(decision) = decide(&mut stream, &mut buffer, &found, original_dst, &pod).await else {
        // The client left before it had said anything that could be served.
        return;
    };
    let client = PrefixedStream::new(buffer.freeze(), stream);
    match (decision, found) {
        (Decision::Http { is_http2 }, Standing::Known { .. }) => {
            let facts = ConnectionFacts {
                downstream,
                original_dst,
                is_http2,
            };
            place.note(|view| view.protocol = if is_http2 { "http2" } else { "http" });
            http::serve(client, facts, pod).await;
        }
        (Decision::Http { .. }, Standing::Unknown { .. }) => {}
        (Decision::Relay(target, server_name), _) => {
            let facts = TcpFacts {
                downstream,
                original_dst,
                start,
                server_name,
            };
            place.note(|view| {
                view.protocol = "tcp";
                view.cluster = target.name();
            });
            tcp::serve(client, facts, target, &pod, place).await;
        }
    }
}

/// What stands at the original destination.
#[derive(Debug)]
enum Standing {
    Known {
        destination: Arc<Destination>,
        /// It was found by port alone: no service owns the address.
        is_port_wide: bool,
        is_registry_only: bool,
    },
    Unknown {
        is_registry_only: bool,
    },
}

/// What is done with the connection.
#[derive(Debug)]
enum Decision {
    Http { is_http2: bool },
    Relay(Target, Option<Box<str>>),
}

impl Standing {
    /// A pod without a scope is one that the configuration has just dropped: it
    /// reaches what it dials.
    fn find(scope: Option<&ScopeView>, original_dst: OriginalDst) -> Self {
        let Some(scope) = scope else {
            return Self::Unknown {
                is_registry_only: false,
            };
        };
        let is_registry_only = scope.is_registry_only;
        match scope.find(original_dst.0) {
            Found::Exact(destination) => Self::Known {
                destination: Arc::clone(destination),
                is_port_wide: false,
                is_registry_only,
            },
            Found::PortWide(destination) => Self::Known {
                destination: Arc::clone(destination),
                is_port_wide: true,
                is_registry_only,
            },
            Found::Unknown => Self::Unknown { is_registry_only },
        }
    }

    /// What happens to bytes that no rule names.
    fn unknown_target(&self) -> Target {
        let (Self::Known {
            is_registry_only, ..
        }
        | Self::Unknown { is_registry_only }) = self;
        if *is_registry_only {
            Target::BlackHole
        } else {
            Target::Passthrough
        }
    }
}

/// Reads as many of the client's first bytes as the decision needs.
async fn decide(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    standing: &Standing,
    original_dst: OriginalDst,
    pod: &PodContext,
) -> io::Result<Decision> {
    let Standing::Known {
        destination,
        is_port_wide,
        ..
    } = standing
    else {
        // A port on which nobody listens is never parsed.
        return Ok(Decision::Relay(standing.unknown_target(), None));
    };
    let protocol = destination.protocol;
    if protocol.is_tls() {
        buffer.reserve(SNIFF_BUFFER_BYTES);
        sniff::read_client_hello(stream, buffer).await?;
        let server_name = server_name(buffer);
        let target = tls_target(&destination.tls, server_name.as_deref(), original_dst);
        let target = target.unwrap_or_else(|| standing.unknown_target());
        return Ok(Decision::Relay(target, server_name));
    }
    let is_sniffed = destination.http.is_some()
        && (protocol.is_http() || protocol == crate::snapshot::listeners::Protocol::Auto);
    if !is_sniffed {
        return Ok(Decision::Relay(tcp_target(standing, original_dst), None));
    }
    buffer.reserve(SNIFF_BUFFER_BYTES);
    let wait = sniff_wait(destination, *is_port_wide, original_dst, pod);
    let outcome = sniff::read_protocol(stream, buffer, wait).await?;
    Ok(match outcome {
        Outcome::Decided(Sniffed::Http1) => Decision::Http { is_http2: false },
        Outcome::Decided(Sniffed::Http2) => Decision::Http { is_http2: true },
        Outcome::Decided(Sniffed::Tls) => {
            Decision::Relay(tcp_target(standing, original_dst), server_name(buffer))
        }
        Outcome::Decided(Sniffed::Other) | Outcome::TimedOut | Outcome::Ended => {
            Decision::Relay(tcp_target(standing, original_dst), None)
        }
    })
}

/// How long a silent client is waited for: for ever where the address belongs to a
/// service that is declared HTTP, else until the server must be the one who speaks first.
fn sniff_wait(
    destination: &Destination,
    is_port_wide: bool,
    original_dst: OriginalDst,
    pod: &PodContext,
) -> Option<Duration> {
    if destination.protocol.is_http() && !is_port_wide {
        return None;
    }
    if pod.server_first.borrow().contains(original_dst) {
        return Some(Duration::ZERO);
    }
    let timeout = pod.snapshot.load().mesh.protocol_detection_timeout;
    Some(if timeout.is_zero() {
        PROTOCOL_DETECTION_TIMEOUT
    } else {
        timeout
    })
}

/// Mizzen's own time-out of protocol detection, where the mesh sets none.
const PROTOCOL_DETECTION_TIMEOUT: Duration = Duration::from_secs(1);

fn server_name(buffer: &[u8]) -> Option<Box<str>> {
    match parse_client_hello(buffer) {
        ClientHello::Complete(name) => name,
        ClientHello::Incomplete | ClientHello::NotTls => None,
    }
}

/// The target of bytes that are not HTTP.
fn tcp_target(standing: &Standing, original_dst: OriginalDst) -> Target {
    let Standing::Known {
        destination,
        is_port_wide,
        ..
    } = standing
    else {
        return standing.unknown_target();
    };
    // Istio: what a port declared HTTP carries instead of HTTP goes where it was sent;
    // so does what comes by port alone and no TCP service claims.
    if destination.protocol.is_http() || (*is_port_wide && destination.tcp.is_empty()) {
        return standing.unknown_target();
    }
    let ip = original_dst.0.ip();
    let route = destination
        .tcp
        .iter()
        .find(|route| covers(&route.destination_subnets, ip));
    let cluster = route.and_then(|route: &TcpRoute| pick(&route.destinations, route.total_weight));
    cluster.unwrap_or(Target::NoRoute)
}

/// The first TLS rule that names this server and covers the address; `None`: the
/// connection counts as one to an unknown destination.
fn tls_target(
    routes: &[TlsRoute],
    server_name: Option<&str>,
    original_dst: OriginalDst,
) -> Option<Target> {
    let ip = original_dst.0.ip();
    let route = routes.iter().find(|route| {
        covers(&route.destination_subnets, ip) && names(&route.sni_hosts, server_name)
    })?;
    pick(&route.destinations, route.total_weight)
}

fn pick(destinations: &[L4Destination], total_weight: u32) -> Option<Target> {
    let ticket = fastrand::u32(0..total_weight.max(1));
    let destination = pick_l4(destinations, ticket)?;
    Some(Target::Cluster(destination.cluster.clone()))
}

fn covers(subnets: &[ipnet::IpNet], ip: IpAddr) -> bool {
    subnets.is_empty() || subnets.iter().any(|subnet| subnet.contains(&ip))
}

/// `*.x.com` covers `a.b.x.com` but not `x.com`.
fn names(sni_hosts: &[Arc<str>], server_name: Option<&str>) -> bool {
    let Some(server_name) = server_name else {
        return sni_hosts.is_empty();
    };
    let is_named = |host: &Arc<str>| match host.strip_prefix('*') {
        Some(suffix) => server_name.len() > suffix.len() && server_name.ends_with(suffix),
        None => **host == *server_name,
    };
    sni_hosts.is_empty() || sni_hosts.iter().any(is_named)
}

fn is_loop(original_dst: OriginalDst, snapshot: &Snapshot, pod: &PodContext) -> bool {
    if pod.listen_addrs.contains(&original_dst.0) {
        return true;
    }
    let ip = original_dst.0.ip();
    let is_own = || {
        let view = snapshot.pods.get(&pod.uid);
        ip.is_loopback() || view.is_some_and(|view| view.ips.contains(&ip))
    };
    LOOP_PORTS.contains(&original_dst.0.port()) && is_own()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_any_depth_but_not_its_own_domain() {
        for (hosts, server_name, expected) in [
            (&["a.com"][..], Some("a.com"), true),
            (&["a.com"], Some("b.com"), false),
            (&["*.x.com"], Some("a.b.x.com"), true),
            (&["*.x.com"], Some("x.com"), false),
            (&["*"], Some("anything"), true),
            (&[], None, true), // a catch-all takes clients without a name
            (&["a.com"], None, false),
        ] {
            let hosts: Vec<Arc<str>> = hosts.iter().map(|host| Arc::from(*host)).collect();
            assert_eq!(
                names(&hosts, server_name),
                expected,
                "{hosts:?} {server_name:?}"
            );
        }
    }
}
