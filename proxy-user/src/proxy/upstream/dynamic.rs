//! Clusters that are resolved at the time of the request: from the name that it asks for to
//! an address. Source: Istio ServiceEntry `DYNAMIC_DNS`, Envoy's dynamic forward proxy.

use std::net::{IpAddr, SocketAddr};

use super::error::{Kind, TrafficError};
use crate::net::{NameResolver, OriginalDst, SocketFactory};

/// Longest name in DNS (RFC 1035 2.3.4).
const NAME_LEN_MAX: usize = 253;

/// Where `name` is, on `port`: the first address of a family that the client has and that is
/// not among `tried`, else the first at all.
pub(super) async fn find(
    names: &dyn NameResolver,
    sockets: &dyn SocketFactory,
    name: Option<&str>,
    port: u16,
    tried: &[SocketAddr],
) -> Result<OriginalDst, TrafficError> {
    let failed = || TrafficError::upstream(Kind::DnsFailed, None);
    let name = name.and_then(host_of).ok_or_else(failed)?;
    let addresses: Vec<IpAddr> = match name.parse() {
        Ok(ip) => vec![ip],
        Err(_) => {
            let resolved = names.resolve(&name.to_ascii_lowercase()).await;
            resolved.map_err(|error| failed().because(error))?.to_vec()
        }
    };
    let reachable = addresses
        .into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .filter(|address| sockets.has_family_of(*address));
    let all: Vec<SocketAddr> = reachable.collect();
    let untried = all.iter().find(|address| !tried.contains(address));
    let chosen = untried.or(all.first());
    chosen
        .map(|address| OriginalDst(*address))
        .ok_or_else(failed)
}

/// The host of an authority: without port, brackets and user.
fn host_of(authority: &str) -> Option<&str> {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    let is_name = !host.is_empty() && host.len() <= NAME_LEN_MAX && !host.contains('@');
    is_name.then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_authority() {
        for (authority, expected) in [
            ("a.x.com", Some("a.x.com")),
            ("a.x.com:8080", Some("a.x.com")),
            ("[fd00::1]:80", Some("fd00::1")),
            ("[fd00::1", None),
            ("", None),
            (":80", None),
            ("me@a.x.com", None),
        ] {
            assert_eq!(host_of(authority), expected, "{authority}");
        }
    }
}
