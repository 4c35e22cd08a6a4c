//! Keys of consistent hashing: what DestinationRule `consistentHash` hashes of a
//! request, and the cookie that is set when it asks for one (Envoy `HashPolicy`).

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use super::headers::FORWARDED_FOR;
use crate::proxy::upstream::hash::{hash_lines, xx_hash64};
use crate::snapshot::Cluster;
use crate::snapshot::matchers::first_param;
use crate::snapshot::policy::{HashKey, LoadBalancer};

/// What the key may be made of, after header operations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HashFacts<'a> {
    /// Request headers as sent upstream.
    pub(crate) headers: &'a HeaderMap,
    /// Query as received.
    pub(crate) query: Option<&'a str>,
    /// The client's address.
    pub(crate) client: SocketAddr,
    /// The address it dialled.
    pub(crate) dialled: SocketAddr,
}

/// The key, if there is one, and the `set-cookie` that makes it last.
pub(crate) fn hash_key(
    cluster: &Cluster,
    facts: &HashFacts<'_>,
) -> (Option<u64>, Option<HeaderValue>) {
    let LoadBalancer::ConsistentHash(consistent) = &cluster.policy.load_balancer else {
        return (None, None);
    };
    match &consistent.key {
        HashKey::Header(name) => {
            let lines = facts.headers.get_all(name).iter();
            let mut lines: Vec<&[u8]> = lines.map(HeaderValue::as_bytes).collect();
            (hash_lines(&mut lines), None)
        }
        HashKey::SourceIp => {
            let address = source_ip(facts.headers, facts.client.ip());
            (Some(xx_hash64(address.to_string().as_bytes(), 0)), None)
        }
        HashKey::Query(name) => {
            let value = facts.query.and_then(|query| first_param(query, name));
            (value.map(|value| xx_hash64(value.as_bytes(), 0)), None)
        }
        HashKey::Cookie {
            name,
            path,
            ttl,
            attributes,
        } => {
            if let Some(value) = cookie(facts.headers, name) {
                return (Some(xx_hash64(value.as_bytes(), 0)), None);
            }
            let Some(ttl) = ttl else {
                return (None, None);
            };
            let value = generated_value(facts);
            let header = set_cookie(name, &value, path.as_deref(), *ttl, attributes);
            (Some(xx_hash64(value.as_bytes(), 0)), header)
        }
    }
}

/// The client as `x-forwarded-for` tells it, else its socket.
fn source_ip(headers: &HeaderMap, client: IpAddr) -> IpAddr {
    headers
        .get(FORWARDED_FOR)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.rsplit(',').next())
        .and_then(|last| last.trim().parse().ok())
        .unwrap_or(client)
}

/// First non-empty value of a cookie, quotes removed.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim_matches('"'))
        .filter(|value| !value.is_empty())
}

/// 16 hex digits of the connection's addresses, so that one connection keeps its value.
fn generated_value(facts: &HashFacts<'_>) -> String {
    let text = format!("{}{}", facts.client, facts.dialled);
    format!("{:016x}", xx_hash64(text.as_bytes(), 0))
}

fn set_cookie(
    name: &str,
    value: &str,
    path: Option<&str>,
    ttl: Duration,
    attributes: &[(std::sync::Arc<str>, std::sync::Arc<str>)],
) -> Option<HeaderValue> {
    let mut text = format!("{name}=\"{value}\"");
    // Writing to a String cannot fail.
    if !ttl.is_zero() {
        let _ = write!(text, "; Max-Age={}", ttl.as_secs());
    }
    if let Some(path) = path {
        let _ = write!(text, "; Path={path}");
    }
    for (name, value) in attributes {
        if value.is_empty() {
            let _ = write!(text, "; {name}");
        } else {
            let _ = write!(text, "; {name}={value}");
        }
    }
    text.push_str("; HttpOnly");
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn cookies_are_found_unquoted_and_empty_ones_count_as_absent() {
        for (lines, expected) in [
            (&[("cookie", "a=1; s=v; t=2")][..], Some("v")),
            (&[("cookie", "a=1"), ("cookie", "s=\"v\"")], Some("v")),
            (&[("cookie", "s=")], None),
            (&[("cookie", "ss=v")], None),
            (&[], None),
        ] {
            assert_eq!(cookie(&headers(lines), "s"), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_generated_cookie_has_envoys_form() {
        for (path, ttl, attributes, expected) in [
            (
                Some("/p"),
                Duration::from_millis(1999),
                vec![
                    ("SameSite".into(), "Strict".into()),
                    ("Secure".into(), "".into()),
                ],
                "s=\"v\"; Max-Age=1; Path=/p; SameSite=Strict; Secure; HttpOnly",
            ),
            (None, Duration::ZERO, vec![], "s=\"v\"; HttpOnly"), // a session cookie
        ] {
            let cookie = set_cookie("s", "v", path, ttl, &attributes).expect("a value");
            assert_eq!(cookie, expected);
        }
    }

    #[test]
    fn the_source_address_is_the_forwarded_one_if_there_is_one() {
        let client: IpAddr = [10, 0, 0, 1].into();
        for (lines, expected) in [
            (&[("x-forwarded-for", "1.1.1.1, 2.2.2.2")][..], "2.2.2.2"),
            (&[("x-forwarded-for", "nonsense")], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(source_ip(&headers(lines), client).to_string(), expected);
        }
    }
}
