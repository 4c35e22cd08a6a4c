//! Delegates: the rules of one VirtualService in place of a rule of another.
//!
//! Source: Istio pilot/pkg/model/virtualservice.go (`mergeHTTPRoutes`).

use std::collections::BTreeMap;

use crate::api::{HTTPMatchRequest, StringMatch};

use super::virtual_service::{HttpRule, MatchElement};

/// `leaf` below `root`, or `None` where their conditions exclude each other: as soon as one
/// of the leaf's elements is in conflict with every element of the root, the whole rule goes.
pub(crate) fn merge_rule(root: &HttpRule, leaf: &HttpRule) -> Option<HttpRule> {
    let matches = merge_matches(&root.matches, &leaf.matches)?;
    let mut spec = leaf.spec.clone();
    let own = &root.spec;
    spec.name = join_names(&own.name, &spec.name);
    spec.rewrite = spec.rewrite.or_else(|| own.rewrite.clone());
    spec.direct_response = spec.direct_response.or_else(|| own.direct_response.clone());
    spec.timeout = spec.timeout.or(own.timeout);
    spec.retries = spec.retries.or_else(|| own.retries.clone());
    spec.fault = spec.fault.or_else(|| own.fault.clone());
    spec.mirror = spec.mirror.or_else(|| own.mirror.clone());
    spec.mirror_percent = spec.mirror_percent.or(own.mirror_percent);
    spec.mirror_percentage = spec.mirror_percentage.or(own.mirror_percentage);
    if spec.mirrors.is_empty() {
        spec.mirrors.clone_from(&own.mirrors);
    }
    spec.cors_policy = spec.cors_policy.or_else(|| own.cors_policy.clone());
    spec.headers = spec.headers.or_else(|| own.headers.clone());
    Some(HttpRule {
        spec,
        matches,
        place: leaf.place.clone(),
    })
}

fn join_names(root: &str, leaf: &str) -> String {
    match (root.is_empty(), leaf.is_empty()) {
        (false, false) => format!("{root}-{leaf}"),
        (_, true) => root.to_owned(),
        (true, false) => leaf.to_owned(),
    }
}

fn merge_matches(root: &[MatchElement], leaf: &[MatchElement]) -> Option<Vec<MatchElement>> {
    if root.is_empty() {
        return Some(leaf.to_vec());
    }
    if leaf.is_empty() {
        return Some(root.to_vec());
    }
    let mut merged = Vec::new();
    for below in leaf {
        let before = merged.len();
        merged.extend(
            root.iter()
                .filter(|above| !is_in_conflict(&above.spec, &below.spec))
                .map(|above| MatchElement {
                    spec: merge_element(&above.spec, &below.spec),
                    place: below.place.clone(),
                }),
        );
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

fn merge_element(root: &HTTPMatchRequest, leaf: &HTTPMatchRequest) -> HTTPMatchRequest {
    let text = |leaf: &String, root: &String| if leaf.is_empty() { root } else { leaf }.clone();
    HTTPMatchRequest {
        name: join_names(&root.name, &leaf.name),
        uri: leaf.uri.clone().or_else(|| root.uri.clone()),
        scheme: leaf.scheme.clone().or_else(|| root.scheme.clone()),
        method: leaf.method.clone().or_else(|| root.method.clone()),
        authority: leaf.authority.clone().or_else(|| root.authority.clone()),
        headers: unite(&root.headers, &leaf.headers),
        port: if leaf.port == 0 { root.port } else { leaf.port },
        source_labels: root.source_labels.overlaid_by(&leaf.source_labels),
        gateways: if leaf.gateways.is_empty() {
            root.gateways.clone()
        } else {
            leaf.gateways.clone()
        },
        query_params: unite(&root.query_params, &leaf.query_params),
        ignore_uri_case: leaf.ignore_uri_case,
        without_headers: unite(&root.without_headers, &leaf.without_headers),
        source_namespace: text(&leaf.source_namespace, &root.source_namespace),
        stat_prefix: text(&leaf.stat_prefix, &root.stat_prefix),
    }
}

/// Both maps; the leaf's value wins.
fn unite<V: Clone>(root: &BTreeMap<String, V>, leaf: &BTreeMap<String, V>) -> BTreeMap<String, V> {
    let mut united = root.clone();
    united.extend(leaf.iter().map(|(key, value)| (key.clone(), value.clone())));
    united
}

fn is_in_conflict(root: &HTTPMatchRequest, leaf: &HTTPMatchRequest) -> bool {
    let texts = |root: &Option<StringMatch>, leaf: &Option<StringMatch>| match (root, leaf) {
        (Some(root), Some(leaf)) => are_in_conflict(root, leaf),
        (None, _) | (_, None) => false,
    };
    let maps = |root: &BTreeMap<String, StringMatch>, leaf: &BTreeMap<String, StringMatch>| {
        root.iter().any(|(key, value)| {
            leaf.get(key)
                .is_some_and(|leaf| are_in_conflict(value, leaf))
        })
    };
    let labels = root.source_labels.iter().any(|(key, value)| {
        let below = leaf.source_labels.get(key);
        below.is_some_and(|below| below != value)
    });
    let gateways = !root.gateways.is_empty()
        && leaf
            .gateways
            .iter()
            .any(|name| !root.gateways.contains(name));
    // A leaf without a namespace is in conflict too: Istio compares the two texts.
    let namespace =
        !root.source_namespace.is_empty() && root.source_namespace != leaf.source_namespace;
    texts(&root.uri, &leaf.uri)
        || texts(&root.scheme, &leaf.scheme)
        || texts(&root.method, &leaf.method)
        || texts(&root.authority, &leaf.authority)
        || maps(&root.headers, &leaf.headers)
        || maps(&root.without_headers, &leaf.without_headers)
        || maps(&root.query_params, &leaf.query_params)
        || root.ignore_uri_case != leaf.ignore_uri_case
        || (root.port != 0 && leaf.port != 0 && root.port != leaf.port)
        || labels
        || namespace
        || gateways
}

fn are_in_conflict(root: &StringMatch, leaf: &StringMatch) -> bool {
    match (root, leaf) {
        (StringMatch::Present, _) | (_, StringMatch::Present) => false,
        (StringMatch::Regex(_), _) | (_, StringMatch::Regex(_)) => true,
        (StringMatch::Exact(root), StringMatch::Exact(leaf)) => root != leaf,
        (StringMatch::Exact(_), StringMatch::Prefix(_)) => true,
        (StringMatch::Prefix(root), StringMatch::Exact(leaf) | StringMatch::Prefix(leaf)) => {
            !leaf.starts_with(root.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::HTTPRoute;
    use crate::compile::rule::Place;

    fn exact(text: &str) -> Option<StringMatch> {
        Some(StringMatch::Exact(text.into()))
    }

    fn prefix(text: &str) -> Option<StringMatch> {
        Some(StringMatch::Prefix(text.into()))
    }

    fn uri(value: Option<StringMatch>) -> HTTPMatchRequest {
        HTTPMatchRequest {
            uri: value,
            ..HTTPMatchRequest::default()
        }
    }

    fn rule(matches: Vec<HTTPMatchRequest>, spec: HTTPRoute) -> HttpRule {
        let place = Place::for_test("http[0]");
        HttpRule {
            spec,
            matches: matches
                .into_iter()
                .map(|spec| MatchElement {
                    spec,
                    place: place.clone(),
                })
                .collect(),
            place,
        }
    }

    #[test]
    fn a147_a150_conditions_of_root_and_delegate() {
        let header = |value: StringMatch| HTTPMatchRequest {
            headers: BTreeMap::from([("x".to_owned(), value)]),
            ..HTTPMatchRequest::default()
        };
        let regex = StringMatch::Regex("a.*".into());
        let ignoring_case = HTTPMatchRequest {
            ignore_uri_case: true,
            ..HTTPMatchRequest::default()
        };
        let namespace = |name: &str| HTTPMatchRequest {
            source_namespace: name.into(),
            ..HTTPMatchRequest::default()
        };
        let gateways = |names: &[&str]| HTTPMatchRequest {
            gateways: names.iter().map(|name| (*name).to_owned()).collect(),
            ..HTTPMatchRequest::default()
        };
        for (root, leaf, expected) in [
            (uri(prefix("/a")), uri(prefix("/a/x")), false), // A147
            (uri(prefix("/a")), uri(prefix("/b")), true),
            (uri(prefix("/a")), uri(exact("/a/x")), false),
            (uri(exact("/a")), uri(exact("/a")), false),
            (uri(exact("/a")), uri(prefix("/a")), true),
            (uri(None), uri(prefix("/b")), false),
            (
                header(regex.clone()),
                header(StringMatch::Exact("a".into())),
                true,
            ), // A150
            (header(regex.clone()), HTTPMatchRequest::default(), false),
            (HTTPMatchRequest::default(), ignoring_case, true),
            (namespace("ns1"), namespace("ns1"), false),
            (namespace("ns1"), namespace(""), true), // an unset leaf too
            (namespace(""), namespace("ns1"), false),
            (gateways(&["mesh", "gw"]), gateways(&["mesh"]), false),
            (gateways(&["gw"]), gateways(&["mesh"]), true),
            (gateways(&["gw"]), gateways(&[]), false),
        ] {
            assert_eq!(is_in_conflict(&root, &leaf), expected, "{root:?} {leaf:?}");
        }
    }

    #[test]
    fn a_leaf_element_in_conflict_with_every_root_element_drops_the_whole_rule() {
        let root = rule(vec![uri(prefix("/a"))], HTTPRoute::default());
        let leaf = rule(
            vec![uri(prefix("/a/x")), uri(prefix("/b"))],
            HTTPRoute::default(),
        );
        assert!(merge_rule(&root, &leaf).is_none());
    }

    #[test]
    fn a149_fields_come_from_the_delegate_else_from_the_root() {
        let timeout = |text: &str| Some(text.parse().expect("a duration"));
        let spec = |name: &str, value: Option<crate::api::Duration>| HTTPRoute {
            name: name.into(),
            timeout: value,
            ..HTTPRoute::default()
        };
        let root = rule(vec![uri(prefix("/a"))], spec("r", timeout("5s")));
        for (leaf, expected, name) in [
            (spec("d", timeout("1s")), timeout("1s"), "r-d"),
            (spec("", None), timeout("5s"), "r"),
        ] {
            let merged = merge_rule(&root, &rule(vec![], leaf)).expect("no conflict");
            assert_eq!(merged.spec.timeout, expected);
            assert_eq!(merged.spec.name, name);
            assert_eq!(merged.matches[0].spec.uri, prefix("/a")); // the root's condition stays
        }
    }
}
