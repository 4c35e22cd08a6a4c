//! Host names: short-name expansion, wildcards and which name is the more specific.
//!
//! Pure text. Source: Istio pkg/config/host/name.go and pilot/pkg/model/config.go.

use std::cmp::Ordering;
use std::net::IpAddr;

use super::matcher::MESH;

/// The full name of a short one, as VirtualService hosts, VirtualService destinations and
/// DestinationRule hosts are read: a name without any dot is a service in the namespace of
/// the object; `*`, addresses and whatever holds a dot stay as they are.
pub(crate) fn expand(name: &str, namespace: &str, domain: &str) -> String {
    let is_full =
        name.is_empty() || name == "*" || name.contains('.') || name.parse::<IpAddr>().is_ok();
    if is_full {
        return name.to_owned();
    }
    format!("{name}.{namespace}.svc.{domain}")
}

/// Whether `name`, once expanded, may cover `host`, a full name in lower case: `false` is
/// certain. For the many that do not, so that they need not be expanded.
pub(crate) fn may_cover(name: &str, host: &str) -> bool {
    let start = host.get(..name.len());
    is_wildcarded(name) || start.is_some_and(|start| start.eq_ignore_ascii_case(name))
}

/// A Gateway's name as `namespace/name`. Source: Istio, `resolveGatewayName` in
/// pilot/pkg/model/push_context.go.
pub(crate) fn gateway_name(name: &str, own_namespace: &str) -> String {
    if name == MESH {
        return name.to_owned();
    }
    match (name.split_once('/'), name.split_once('.')) {
        (Some((".", rest)), _) => format!("{own_namespace}/{rest}"),
        (Some(_), _) => name.to_owned(),
        // The old form `name.namespace.svc.domain`.
        (None, Some((first, rest))) => {
            let namespace = rest.split('.').next().unwrap_or(rest);
            format!("{namespace}/{first}")
        }
        (None, None) => format!("{own_namespace}/{name}"),
    }
}

/// Whether the name stands for several: its first byte is `*`.
pub(crate) fn is_wildcarded(name: &str) -> bool {
    name.starts_with('*')
}

/// The part that names below a wildcard end in: `.foo.com` for `*.foo.com`.
fn suffix(name: &str) -> Option<&str> {
    name.strip_prefix('*')
}

/// Whether some name is covered by both: Istio's `Name.Matches`.
pub(crate) fn overlaps(a: &str, b: &str) -> bool {
    match (suffix(a), suffix(b)) {
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
        (Some(a), None) => b.ends_with(a),
        (None, Some(b)) => a.ends_with(b),
        (None, None) => a == b,
    }
}

/// Whether every name that `a` covers is covered by `b`: Istio's `Name.SubsetOf`.
pub(crate) fn is_subset_of(a: &str, b: &str) -> bool {
    match (suffix(a), suffix(b)) {
        (None, None) => a == b,
        (None, Some(b)) => a.ends_with(b),
        (Some(a), Some(b)) => a.ends_with(b),
        (Some(_), None) => false,
    }
}

/// The more specific name first: exact before wildcard, longer before shorter, then by letter.
pub(crate) fn by_specificity(a: &str, b: &str) -> Ordering {
    is_wildcarded(a)
        .cmp(&is_wildcarded(b))
        .then_with(|| b.len().cmp(&a.len()))
        .then_with(|| a.cmp(b))
}

/// The wildcards that may cover `name`, longest first: of `a.b.c` these are `*.b.c`, `*.c`
/// and `*`. Only forms with a dot after the star are given, then the bare star.
pub(crate) fn covering_wildcards(name: &str) -> impl Iterator<Item = String> + '_ {
    let below = suffix(name).unwrap_or(name);
    let from = usize::from(!is_wildcarded(name));
    below
        .char_indices()
        .filter(move |(at, letter)| *letter == '.' && *at >= from)
        .map(move |(at, _)| format!("*{}", &below[at..]))
        .chain(std::iter::once("*".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a001_a002_a003_only_names_without_a_dot_are_expanded_in_the_objects_namespace() {
        for (name, expected) in [
            ("reviews", "reviews.ns1.svc.cluster.local"),
            ("reviews.ns2", "reviews.ns2"),
            ("reviews.ns2.svc", "reviews.ns2.svc"),
            ("a.com", "a.com"),
            ("*.foo", "*.foo"),
            ("*", "*"),
            ("", ""),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
        ] {
            assert_eq!(expand(name, "ns1", "cluster.local"), expected, "{name}");
        }
    }

    #[test]
    fn a_name_that_may_not_cover_a_host_never_does() {
        let host = "reviews.ns1.svc.cluster.local";
        for (name, may) in [
            ("reviews", true),
            ("Reviews", true), // names are compared in lower case
            ("rev", true),     // known when it is expanded
            ("reviews.ns1.svc.cluster.local", true),
            ("reviews.ns1.svc.cluster.local.", false),
            ("*", true),
            ("*.ns1.svc.cluster.local", true),
            ("ratings", false),
            ("reviewsé", false),
        ] {
            assert_eq!(may_cover(name, host), may, "{name}");
            let full = expand(name, "ns1", "cluster.local").to_ascii_lowercase();
            assert!(may || !is_subset_of(host, &full), "{name}");
        }
    }

    #[test]
    fn a004_wildcards_overlap_and_contain_by_their_suffix() {
        for (a, b, overlap, subset) in [
            ("foo.com", "*.foo.com", false, false), // the bare domain is not below itself
            ("a.foo.com", "*.foo.com", true, true),
            ("*.foo.com", "a.foo.com", true, false),
            ("*.a.foo.com", "*.foo.com", true, true),
            ("*.foo.com", "*.a.foo.com", true, false),
            ("*", "*.com", true, false),
            ("*.com", "*", true, true),
            ("a.com", "a.com", true, true),
            ("a.com", "b.com", false, false),
            ("q-x.com", "*-x.com", true, true),
        ] {
            assert_eq!(overlaps(a, b), overlap, "{a} overlaps {b}");
            assert_eq!(is_subset_of(a, b), subset, "{a} within {b}");
        }
    }

    #[test]
    fn a010_exact_names_come_first_then_longer_ones() {
        let mut names = vec!["*", "*.com", "x.a.com", "*.a.com", "b.com", "a.com"];
        names.sort_by(|a, b| by_specificity(a, b));
        let expected = ["x.a.com", "a.com", "b.com", "*.a.com", "*.com", "*"];
        assert_eq!(names, expected);
    }

    #[test]
    fn every_dotted_wildcard_above_a_name_is_listed_longest_first() {
        for (name, expected) in [
            ("a.b.c", vec!["*.b.c", "*.c", "*"]),
            ("a", vec!["*"]),
            ("*.b.c", vec!["*.b.c", "*.c", "*"]),
        ] {
            let found: Vec<String> = covering_wildcards(name).collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn gateways_are_named_by_namespace_and_name() {
        for (written, expected) in [
            ("mesh", "mesh"),
            ("gw", "ns1/gw"),
            ("other/gw", "other/gw"),
            ("./gw", "ns1/gw"),
            ("gw.other.svc.cluster.local", "other/gw"),
            ("gw.other", "other/gw"),
        ] {
            assert_eq!(gateway_name(written, "ns1"), expected, "{written}");
        }
    }
}
