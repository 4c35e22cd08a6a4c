//! WebSocket: which upgrades go on, and the raw bytes after a `101` (RFC 6455,
//! Envoy `upgrade_configs`).

use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tracing::debug;

use super::exchange::Exchange;
use crate::proxy::upstream::UpstreamBody;

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
pub(crate) fn requested(head: &Parts) -> Upgrade {
    if head.version == Version::HTTP_2 {
        return Upgrade::None;
    }
    let Some(token) = head.headers.get(UPGRADE) else {
        return Upgrade::None;
    };
    if !names_upgrade(&head.headers) {
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

/// Both ends of an accepted upgrade.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// The client's connection, once its `101` is written.
    pub(crate) client: OnUpgrade,
    /// The upstream's connection.
    pub(crate) upstream: OnUpgrade,
    /// Keeps the upstream's place in its limits.
    pub(crate) hold: UpstreamBody,
    /// Closed with the tunnel.
    pub(crate) exchange: Box<Exchange>,
}

impl Tunnel {
    /// Moves bytes both ways until both sides are done. No timeout cuts it.
    pub(crate) async fn run(self) {
        let Self {
            client,
            upstream,
            hold,
            mut exchange,
        } = self;
        let (client, upstream) = match tokio::try_join!(client, upstream) {
            Ok(ends) => ends,
            Err(error) => {
                debug!(%error, "an upgrade did not come about");
                return;
            }
        };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        match copy_bidirectional(&mut client, &mut upstream).await {
            Ok((received, sent)) => {
                exchange.record.bytes_received += received;
                exchange.record.bytes_sent += sent;
            }
            Err(error) => debug!(%error, "a WebSocket broke off"),
        }
        exchange.close();
        drop(hold);
    }
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
            assert_eq!(requested(&head), expected, "{connection} {upgrade}");
        }
    }
}
