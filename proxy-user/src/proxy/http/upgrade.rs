//! WebSocket: which upgrades go on, and the raw bytes after a `101` (RFC 6455,
//! Envoy `upgrade_configs`).

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Version};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tracing::debug;

use super::exchange::Exchange;
use crate::proxy::relay::{Moved, Observer, RelayLimits, relay};
use crate::proxy::upstream::Upgraded;

/// What an HTTP/1.1 request wants its connection to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// Nothing else, or `h2c`, which is served as HTTP/1.1.
    None,
    /// A WebSocket.
    WebSocket,
    /// Anything else: refused.
    Other,
}

/// Reads `upgrade`, if `connection` names it.
pub(crate) fn requested(version: Version, headers: &HeaderMap) -> Upgrade {
    if version == Version::HTTP_2 {
        return Upgrade::None;
    }
    let Some(token) = headers.get(UPGRADE) else {
        return Upgrade::None;
    };
    if !names_upgrade(headers) {
        return Upgrade::None;
    }
    let token = token.as_bytes();
    if token.eq_ignore_ascii_case(b"websocket") {
        Upgrade::WebSocket
    } else if token.eq_ignore_ascii_case(b"h2c") {
        Upgrade::None
    } else {
        Upgrade::Other
    }
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// An accepted upgrade, but for the client's end of it.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// The endpoint's connection.
    pub(crate) upstream: Upgraded,
    /// Closed with the tunnel.
    pub(crate) exchange: Box<Exchange>,
}

impl Tunnel {
    /// Moves bytes both ways until both sides are done. No timeout cuts it. `early`: what
    /// the client has sent already.
    pub(crate) async fn run(self, mut client: TcpStream, early: Bytes) {
        let Self {
            upstream:
                Upgraded {
                    mut stream,
                    prefix,
                    hold,
                },
            mut exchange,
        } = self;
        if client.write_all(&prefix).await.is_ok() {
            let limits = RelayLimits::default();
            let (end, moved) =
                relay(&mut client, &mut stream, early, limits, &mut Unobserved).await;
            debug!(?end, "a WebSocket ended");
            exchange.record.bytes_received += moved.received;
            exchange.record.bytes_sent += moved.sent + prefix.len() as u64;
        }
        exchange.close();
        drop(hold);
    }
}

/// A WebSocket is recorded once, at its end.
struct Unobserved;

impl Observer for Unobserved {
    fn progress(&mut self, _: Moved) {}
    fn server_spoke_first(&mut self) {}
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn only_websockets_are_upgraded_and_h2c_is_ignored() {
        for (connection, upgrade, expected) in [
            ("Upgrade", "websocket", Upgrade::WebSocket),
            ("keep-alive, upgrade", "WebSocket", Upgrade::WebSocket), // case does not matter
            ("Upgrade, HTTP2-Settings", "h2c", Upgrade::None),
            ("Upgrade", "tls/1.3", Upgrade::Other),
            ("keep-alive", "websocket", Upgrade::None), // not named by connection
        ] {
            let head = Request::builder()
                .header(CONNECTION, connection)
                .header(UPGRADE, upgrade)
                .body(())
                .expect("a request")
                .into_parts()
                .0;
            assert_eq!(
                requested(head.version, &head.headers),
                expected,
                "{connection} {upgrade}"
            );
        }
    }
}
