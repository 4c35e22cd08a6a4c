//! Redirects: the Location of a `redirect` route (VirtualService `HTTPRedirect`,
//! Envoy `RedirectAction`).

use std::fmt::Write as _;

use crate::snapshot::routes::{RedirectAction, RedirectPath, RedirectPort};

/// What the Location is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RedirectFacts<'a> {
    /// `x-forwarded-proto` if it says http or https, else http.
    pub(crate) scheme: &'a str,
    /// Host as received.
    pub(crate) authority: &'a str,
    /// Normalised path, without query.
    pub(crate) path: &'a str,
    /// Query without `?`.
    pub(crate) query: Option<&'a str>,
    /// How many bytes of the path the matched prefix took.
    pub(crate) matched_len_bytes: usize,
}

/// Always absolute: `scheme://host[:port]/path[?query]`.
pub(crate) fn location(action: &RedirectAction, facts: &RedirectFacts<'_>) -> String {
    let scheme = action.scheme.as_deref().unwrap_or(facts.scheme);
    let mut out = String::with_capacity(64 + facts.path.len());
    out.push_str(scheme);
    out.push_str("://");
    push_authority(&mut out, action, facts, scheme);
    let (path, query) = target(&action.path, facts);
    if !path.starts_with('/') {
        out.push('/');
    }
    out.push_str(&path);
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    out
}

fn push_authority(
    out: &mut String,
    action: &RedirectAction,
    facts: &RedirectFacts<'_>,
    scheme: &str,
) {
    let received = action.authority.as_deref().unwrap_or(facts.authority);
    let (host, port) = split_port(received);
    // A port that is the scheme's default counts as not given.
    let wanted = match action.port {
        RedirectPort::Explicit(port) if Some(port) == default_port(scheme) => RedirectPort::Keep,
        RedirectPort::Explicit(_) | RedirectPort::ProtocolDefault | RedirectPort::Keep => {
            action.port
        }
    };
    match wanted {
        RedirectPort::Explicit(port) => {
            out.push_str(host);
            // Writing to a String cannot fail.
            let _ = write!(out, ":{port}");
        }
        RedirectPort::ProtocolDefault => out.push_str(host),
        RedirectPort::Keep => {
            let is_old_default = action.authority.is_none()
                && scheme != facts.scheme
                && port.is_some_and(|port| port.parse().ok() == default_port(facts.scheme));
            out.push_str(if is_old_default { host } else { received });
        }
    }
}

fn target<'a>(
    path: &'a RedirectPath,
    facts: &RedirectFacts<'a>,
) -> (std::borrow::Cow<'a, str>, Option<&'a str>) {
    match path {
        RedirectPath::Keep => (facts.path.into(), facts.query),
        RedirectPath::Full(uri) => {
            let query = facts.query.filter(|_| !uri.contains('?'));
            ((&**uri).into(), query)
        }
        RedirectPath::Prefix(prefix) => {
            let rest = facts.path.get(facts.matched_len_bytes..).unwrap_or("");
            (format!("{prefix}{rest}").into(), facts.query)
        }
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Host (brackets kept) and what follows its last colon.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => {
            (&authority[..colon], Some(&authority[colon + 1..]))
        }
        Some(_) | None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn action() -> RedirectAction {
        RedirectAction {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: None,
            authority: None,
            port: RedirectPort::Keep,
            path: RedirectPath::Keep,
        }
    }

    fn facts(authority: &'static str) -> RedirectFacts<'static> {
        RedirectFacts {
            scheme: "http",
            authority,
            path: "/o",
            query: Some("a=1"),
            matched_len_bytes: 1,
        }
    }

    /// Checklist ids A102 to A107.
    #[test]
    fn a102_a107_locations_are_absolute_and_keep_what_is_not_replaced() {
        let full = |text: &str| RedirectPath::Full(text.into());
        let https = || Some("https".into());
        for (name, action, facts, expected) in [
            (
                "A102: the query is kept",
                RedirectAction {
                    path: full("/n"),
                    ..action()
                },
                facts("host"),
                "http://host/n?a=1",
            ),
            (
                "A103: unless uri has its own",
                RedirectAction {
                    path: full("/n?b=2"),
                    ..action()
                },
                facts("host"),
                "http://host/n?b=2",
            ),
            (
                "A104: the old scheme's default port goes",
                RedirectAction {
                    scheme: https(),
                    ..action()
                },
                facts("h:80"),
                "https://h/o?a=1",
            ),
            (
                "A105: an explicit port replaces Host's",
                RedirectAction {
                    port: RedirectPort::Explicit(8443),
                    ..action()
                },
                facts("h:80"),
                "http://h:8443/o?a=1",
            ),
            (
                "A106: 443 with https is left out",
                RedirectAction {
                    scheme: https(),
                    port: RedirectPort::Explicit(443),
                    ..action()
                },
                facts("h"),
                "https://h/o?a=1",
            ),
            (
                "A106: and port 80 of Host goes",
                RedirectAction {
                    scheme: https(),
                    port: RedirectPort::Explicit(443),
                    ..action()
                },
                facts("h:80"),
                "https://h/o?a=1",
            ),
            (
                "A106: but another port of Host stays",
                RedirectAction {
                    scheme: https(),
                    port: RedirectPort::Explicit(443),
                    ..action()
                },
                facts("h:8080"),
                "https://h:8080/o?a=1",
            ),
            (
                "A107: FROM_REQUEST_PORT",
                RedirectAction {
                    port: RedirectPort::Explicit(8080),
                    ..action()
                },
                facts("h"),
                "http://h:8080/o?a=1",
            ),
            (
                "FROM_PROTOCOL_DEFAULT emits none",
                RedirectAction {
                    port: RedirectPort::ProtocolDefault,
                    ..action()
                },
                facts("h:8080"),
                "http://h/o?a=1",
            ),
            (
                "without a port setting Host's port is kept",
                action(),
                facts("h:80"),
                "http://h:80/o?a=1",
            ),
            (
                "authority replaces host and port",
                RedirectAction {
                    authority: Some("b:1".into()),
                    ..action()
                },
                facts("h:80"),
                "http://b:1/o?a=1",
            ),
            (
                "IPv6",
                RedirectAction {
                    port: RedirectPort::Explicit(81),
                    ..action()
                },
                facts("[::1]:80"),
                "http://[::1]:81/o?a=1",
            ),
            (
                "a missing slash is added",
                RedirectAction {
                    path: full("n"),
                    ..action()
                },
                facts("h"),
                "http://h/n?a=1",
            ),
            (
                "prefixRewrite",
                RedirectAction {
                    path: RedirectPath::Prefix("/new/".into()),
                    ..action()
                },
                facts("h"),
                "http://h/new/o?a=1",
            ),
        ] {
            assert_eq!(location(&action, &facts), expected, "{name}");
        }
    }
}
