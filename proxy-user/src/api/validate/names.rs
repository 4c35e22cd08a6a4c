//! What names, addresses, labels and header texts may look like. Pure functions
//! of text, shared by the rules of all kinds.
//!
//! Source: pkg/config/validation/agent and pkg/config/labels in istio/istio.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::api::re2;

/// Longest label of a domain name (RFC 1123) and longest value of a Kubernetes label.
const LABEL_LEN_MAX: usize = 63;

/// Longest domain name (RFC 1035).
const DOMAIN_LEN_MAX: usize = 255;

/// Whether `text` is a DNS label: letters, digits and inner `-`, at most 63.
pub(super) fn is_dns_label(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_LEN_MAX
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// Why `text` is no domain name; a final dot is allowed, an all-numeric last label is not.
pub(super) fn find_domain_problem(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("expected a domain name, found nothing".to_owned());
    }
    if text.len() > DOMAIN_LEN_MAX {
        return Some(format!(
            "a domain name has at most {DOMAIN_LEN_MAX} characters"
        ));
    }
    let labels: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    if labels.len() > 1 && labels.last().is_some_and(|last| is_numeric(last)) {
        return Some(format!(
            "{text:?} is no domain name: its last label is a number"
        ));
    }
    labels
        .iter()
        .find(|label| !is_dns_label(label))
        .map(|label| format!("{text:?} is no domain name: {label:?} is no DNS label"))
}

fn is_numeric(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// As [`find_domain_problem`], and the first label may be `*` or begin with it.
pub(super) fn find_wildcard_domain_problem(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix('*') else {
        return find_domain_problem(text);
    };
    match rest.strip_prefix('.') {
        _ if rest.is_empty() => None,
        Some(domain) => find_domain_problem(domain),
        None => find_domain_problem(rest.strip_prefix('-').unwrap_or(rest)),
    }
    .map(|_| format!("{text:?} is no domain name; a wildcard stands first, as in *.example.com"))
}

/// Whether a wildcard covers only a part of a label, as `*foo.com`.
pub(super) fn is_partial_wildcard(text: &str) -> bool {
    text.strip_prefix('*')
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('.'))
}

/// Whether `text` is an IP address.
pub(super) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Whether `text` is an IP address or a network, as `10.0.0.0/8`.
pub(super) fn is_subnet(text: &str) -> bool {
    is_ip(text) || text.parse::<IpNet>().is_ok()
}

/// Why the path of a unix socket (after `unix://`) is none.
pub(super) fn find_unix_path_problem(path: &str) -> Option<&'static str> {
    match path {
        "" => Some("expected a path after unix://"),
        path if path.starts_with('@') => None, // abstract
        path if !path.starts_with('/') => Some("expected an absolute path after unix://"),
        path if path.ends_with('/') => Some("expected a file, found a directory after unix://"),
        _ => None,
    }
}

/// Why `key: value` is no label. Source: Kubernetes, labels and selectors.
pub(super) fn find_label_problem(key: &str, value: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_some_and(|prefix| find_domain_problem(prefix).is_some()) || !is_tag(name) {
        return Some(format!("{key:?} is no label key"));
    }
    (!value.is_empty() && !is_tag(value)).then(|| format!("{value:?} is no value of a label"))
}

fn is_tag(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_LEN_MAX
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// Whether `text` is a token, as the name of a header. Source: RFC 9110, 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Whether a header match is by a claim of the request's token, `@request.auth.claims...`.
pub(super) fn is_claim(name: &str) -> bool {
    name.starts_with("@request.auth.claims")
}

/// Whether `name` may stand in a header match.
pub(super) fn is_match_header_name(name: &str) -> bool {
    const PSEUDO: [&str; 5] = [":method", ":scheme", ":authority", ":path", ":status"];
    PSEUDO.contains(&name) || is_claim(name) || is_token(name)
}

/// Why `value` cannot be sent: control characters, or a `%` without its pair.
/// Source: Envoy, custom request and response headers.
pub(super) fn find_header_value_problem(value: &str) -> Option<&'static str> {
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Some("control characters are not allowed in a header");
    }
    let mut rest = value;
    while let Some(start) = rest.find('%') {
        let variable = &rest[start + 1..];
        // Inside brackets a variable may hold anything, as %START_TIME(%s)%; a length may
        // follow them, as %REQ(x):9%.
        let end = match (variable.find('('), variable.find('%')) {
            (Some(open), Some(percent)) if open < percent => {
                let close = variable.find(')').unwrap_or(variable.len());
                variable[close..].find('%').map(|percent| close + percent)
            }
            (_, percent) => percent,
        };
        let Some(end) = end else {
            return Some("a % without its pair; write %% for a per cent sign");
        };
        rest = &variable[end + 1..];
    }
    None
}

/// Why `regex` is no expression of RE2, or too long for Istio.
pub(super) fn find_regex_problem(regex: &str) -> Option<String> {
    const LEN_MAX: usize = 1024;
    if regex.is_empty() {
        return Some("expected a regular expression, found nothing".to_owned());
    }
    if regex.len() > LEN_MAX {
        return Some(format!("a regular expression has at most {LEN_MAX} bytes"));
    }
    re2::build(regex, str::to_owned)
        .err()
        .map(|problem| problem.to_string())
}

/// Whether two names overlap: equal, or one covers the other by a wildcard.
/// Source: pkg/config/host/name.go, `Matches`.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
        (Some(suffix), None) => b.ends_with(suffix),
        (None, Some(suffix)) => a.ends_with(suffix),
        (None, None) => a == b,
    }
}

/// Whether every name that `a` stands for is covered by `b`.
/// Source: pkg/config/host/name.go, `SubsetOf`.
pub(super) fn is_subset(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (Some(a), Some(b)) => a.ends_with(b),
        (None, Some(suffix)) => a.ends_with(suffix),
        (None, None) => a == b,
        (Some(_), None) => false,
    }
}

/// What Istio calls the protocols of ports.
pub(super) fn is_protocol(text: &str) -> bool {
    const PROTOCOLS: [&str; 13] = [
        "http",
        "http2",
        "https",
        "http_proxy",
        "grpc",
        "grpc-web",
        "tcp",
        "tls",
        "mongo",
        "redis",
        "mysql",
        "udp",
        "hbone",
    ];
    PROTOCOLS.contains(&text.to_ascii_lowercase().as_str())
}

/// Whether a protocol is read as HTTP once TLS, if any, is off.
pub(super) fn is_http(protocol: &str) -> bool {
    const HTTP: [&str; 5] = ["http", "http2", "http_proxy", "grpc", "grpc-web"];
    HTTP.contains(&protocol.to_ascii_lowercase().as_str())
}

/// Whether a protocol is TLS from the first byte.
pub(super) fn is_tls(protocol: &str) -> bool {
    ["https", "tls"].contains(&protocol.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_names_and_wildcards() {
        let long_label = "a".repeat(64);
        let long_name = ["abc"; 80].join(".");
        for (text, is_domain, is_wildcard_domain) in [
            ("reviews", true, true),
            ("a.example.com", true, true),
            ("a.example.com.", true, true), // final dot
            ("", false, false),
            ("*", false, true),
            ("*.example.com", false, true),
            ("*-x.example.com", false, true), // part of a label
            ("*x.com", false, true),
            ("a.*.com", false, false),
            ("a*.com", false, false),
            ("10.0.0.1", false, false), // an address is no name
            ("a..b", false, false),
            ("-a.com", false, false),
            ("a_b.com", false, false),
            (&long_label, false, false),
            (&long_name, false, false),
        ] {
            assert_eq!(find_domain_problem(text).is_none(), is_domain, "{text:?}");
            assert_eq!(
                find_wildcard_domain_problem(text).is_none(),
                is_wildcard_domain,
                "{text:?}"
            );
        }
    }

    #[test]
    fn names_overlap_and_cover_by_suffix() {
        for (a, b, overlaps, covers) in [
            ("a.com", "a.com", true, true),
            ("a.com", "b.com", false, false),
            ("a.com", "*.com", true, true),
            ("*.com", "a.com", true, false),
            ("*.a.com", "*.com", true, true),
            ("*.com", "*.a.com", true, false),
            ("foo.com", "*.foo.com", false, false), // a wildcard needs a label
            ("x", "*", true, true),
        ] {
            assert_eq!(overlap(a, b), overlaps, "{a} {b}");
            assert_eq!(is_subset(a, b), covers, "{a} {b}");
        }
    }

    #[test]
    fn header_values_have_balanced_percent_signs() {
        for (value, is_good) in [
            ("plain", true),
            ("100%%", true),
            ("%REQ(x-a)%", true),
            ("%START_TIME(%s)%", true), // a % inside brackets
            ("%REQ(x-a?x-b):9%", true), // a length after them
            ("a %DOWNSTREAM_REMOTE_ADDRESS% b", true),
            ("100%", false),
            ("%REQ(x-a)", false),
            ("a\nb", false),
        ] {
            assert_eq!(
                find_header_value_problem(value).is_none(),
                is_good,
                "{value:?}"
            );
        }
    }

    #[test]
    fn labels_and_paths_and_networks() {
        for (key, value, is_good) in [
            ("version", "v1", true),
            ("app.kubernetes.io/name", "a_b.c-d", true),
            ("version", "", true),
            ("", "v1", false),
            ("a b", "v1", false),
            ("version", "-v1", false),
            ("_/a", "v1", false),
        ] {
            assert_eq!(
                find_label_problem(key, value).is_none(),
                is_good,
                "{key:?}: {value:?}"
            );
        }
        for (path, is_good) in [
            ("/a", true),
            ("@a", true),
            ("", false),
            ("a", false),
            ("/a/", false),
        ] {
            assert_eq!(find_unix_path_problem(path).is_none(), is_good, "{path:?}");
        }
        for (subnet, is_good) in [
            ("10.0.0.0/8", true),
            ("10.0.0.1", true),
            ("2001:db8::/32", true),
            ("10.0.0.0/33", false),
            ("a", false),
        ] {
            assert_eq!(is_subnet(subnet), is_good, "{subnet:?}");
        }
    }
}
