use std::collections::BTreeMap;

use http::HeaderMap;

use super::*;
use crate::api::Labels;
use crate::snapshot::matchers::RequestFacts;

fn map(entries: &[(&str, StringMatch)]) -> BTreeMap<String, StringMatch> {
    let owned = |(name, value): &(&str, StringMatch)| ((*name).to_owned(), value.clone());
    entries.iter().map(owned).collect()
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn prefix(text: &str) -> StringMatch {
    StringMatch::Prefix(text.into())
}

fn regex(text: &str) -> StringMatch {
    StringMatch::Regex(text.into())
}

fn uri(value: StringMatch) -> HTTPMatchRequest {
    HTTPMatchRequest {
        uri: Some(value),
        ..HTTPMatchRequest::default()
    }
}

fn compile(element: &HTTPMatchRequest) -> Option<HttpMatch> {
    compile_match(
        element,
        &Place::for_test("http[0].match[0]"),
        &mut Problems::default(),
    )
}

fn is_match(element: &HTTPMatchRequest, target: &str, headers: &[(&str, &str)]) -> bool {
    let compiled = compile(element).expect("a valid element");
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a header name");
        map.append(name, value.parse().expect("a header value"));
    }
    let facts = RequestFacts {
        path,
        query,
        method: "GET",
        scheme: "http",
        authority: "a.ns1:80",
        headers: &map,
    };
    compiled.check(&facts).is_ok()
}

#[test]
fn a056_to_a059_paths() {
    let ignoring_case = |value| HTTPMatchRequest {
        ignore_uri_case: true,
        ..uri(value)
    };
    for (element, target, expected) in [
        (uri(prefix("/foo")), "/foobar", true), // A056
        (uri(exact("/foo")), "/foo?x=1", true), // A057
        (uri(exact("/foo")), "/foo/", false),
        (uri(regex("/v[0-9]")), "/v1/x", false), // A058
        (uri(regex("/v[0-9]")), "/v1", true),
        (ignoring_case(prefix("/Foo")), "/fOO/x", true), // A059
        (ignoring_case(exact("/Foo")), "/foo", true),
        (ignoring_case(regex("/Foo")), "/foo", false),
        (uri(prefix("")), "/x", true), // an empty prefix is everything
        (uri(StringMatch::Present), "/x", true),
    ] {
        assert_eq!(
            is_match(&element, target, &[]),
            expected,
            "{element:?} {target}"
        );
    }
}

#[test]
fn a061_to_a068_headers_query_and_authority() {
    let header = |value| HTTPMatchRequest {
        headers: map(&[("x", value)]),
        ..HTTPMatchRequest::default()
    };
    let without = |value| HTTPMatchRequest {
        without_headers: map(&[("x", value)]),
        ..HTTPMatchRequest::default()
    };
    let query = |value| HTTPMatchRequest {
        query_params: map(&[("k", value)]),
        ..HTTPMatchRequest::default()
    };
    let authority = |value| HTTPMatchRequest {
        authority: Some(value),
        ..HTTPMatchRequest::default()
    };
    let method = |value| HTTPMatchRequest {
        method: Some(value),
        ..HTTPMatchRequest::default()
    };
    let both = HTTPMatchRequest {
        uri: Some(prefix("/a")),
        ..header(exact("a"))
    };
    let two = [("x", "a"), ("x", "b")];
    for (element, target, headers, expected) in [
        (header(exact("a")), "/", &[("X", "a")][..], true), // A061
        (header(exact("a")), "/", &[("X", "A")], false),
        (header(exact("b")), "/", &two, true), // A062
        (header(exact("a,b")), "/", &two, false),
        (header(StringMatch::Present), "/", &[("x", "")], true), // A063
        (header(StringMatch::Present), "/", &[], false),
        (without(exact("a")), "/", &[], true), // A064
        (without(exact("a")), "/", &[("x", "b")], true),
        (without(exact("a")), "/", &[("x", "a")], false),
        (without(exact("a")), "/", &two, false),
        (without(StringMatch::Present), "/", &[("x", "")], false), // A065
        (without(regex("*")), "/", &[("x", "")], false),
        (without(regex("*")), "/", &[], true),
        (query(exact("v")), "/?k=v&k=w", &[], true), // A066
        (query(exact("v")), "/?k=w&k=v", &[], false),
        (authority(exact("a.ns1")), "/", &[], false), // A067: the port is part of it
        (authority(exact("a.ns1:80")), "/", &[], true),
        (method(exact("get")), "/", &[], false), // A068
        (method(StringMatch::Present), "/", &[], true),
        (both.clone(), "/a", &[("x", "a")], true), // A060: both conditions
        (both.clone(), "/a", &[], false),
        (both, "/b", &[("x", "a")], false),
    ] {
        let found = is_match(&element, target, headers);
        assert_eq!(found, expected, "{element:?} {target} {headers:?}");
    }
}

#[test]
fn pseudo_headers_can_be_named_among_the_headers() {
    let header = |name, value| HTTPMatchRequest {
        headers: map(&[(name, value)]),
        ..HTTPMatchRequest::default()
    };
    for (element, target, expected) in [
        (header(":method", exact("GET")), "/", true),
        (header(":path", prefix("/a?b")), "/a?b=c", true), // with its query
        (header(":path", exact("/a")), "/a?b=c", false),
        (header(":authority", exact("a.ns1:80")), "/", true),
        (header("host", exact("a.ns1:80")), "/", true),
        (header(":scheme", exact("https")), "/", false),
    ] {
        assert_eq!(is_match(&element, target, &[]), expected, "{element:?}");
    }
}

#[test]
fn a069_a070_a072_static_conditions() {
    let labels = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Labels>();
    let client = ClientView {
        namespace: "ns1".into(),
        labels: labels(&[("app", "a")]),
        ..ClientView::default()
    };
    let base = HTTPMatchRequest::default;
    for (element, expected) in [
        (base(), true),
        (HTTPMatchRequest { port: 80, ..base() }, true),
        (
            HTTPMatchRequest {
                port: 8080,
                ..base()
            },
            false,
        ), // A069
        (
            HTTPMatchRequest {
                source_labels: labels(&[("app", "a")]),
                ..base()
            },
            true,
        ),
        (
            HTTPMatchRequest {
                source_labels: labels(&[("app", "z")]),
                ..base()
            },
            false,
        ),
        (
            // A070: with gateways, labels are not asked.
            HTTPMatchRequest {
                gateways: vec!["mesh".into()],
                source_labels: labels(&[("app", "z")]),
                ..base()
            },
            true,
        ),
        (
            HTTPMatchRequest {
                gateways: vec!["ns1/gw".into()],
                ..base()
            },
            false,
        ),
        (
            HTTPMatchRequest {
                source_namespace: "ns2".into(),
                ..base()
            },
            false,
        ), // A072
        (
            HTTPMatchRequest {
                source_namespace: "ns1".into(),
                ..base()
            },
            true,
        ),
    ] {
        assert_eq!(
            applies_statically(&element, &client, 80),
            expected,
            "{element:?}"
        );
    }
}

#[test]
fn a074_catch_all_is_recognised_after_compilation() {
    for (element, expected) in [
        (HTTPMatchRequest::default(), true),
        (uri(prefix("/")), true),
        (uri(regex(".*")), true),
        (uri(regex("/.*")), false),
        (uri(exact("/")), false),
        (
            HTTPMatchRequest {
                method: Some(StringMatch::Present),
                ..HTTPMatchRequest::default()
            },
            false,
        ),
    ] {
        let compiled = compile(&element).expect("a valid element");
        assert_eq!(compiled.is_catch_all(), expected, "{element:?}");
    }
}

#[test]
fn an_element_with_a_bad_condition_is_dropped_whole() {
    let mut problems = Problems::default();
    let element = HTTPMatchRequest {
        headers: map(&[("x", regex("("))]),
        ..uri(prefix("/a"))
    };
    let place = Place::for_test("http[0].match[0]");
    assert!(compile_match(&element, &place, &mut problems).is_none());
    let findings = problems.into_findings();
    assert_eq!(
        findings[0].field.as_deref(),
        Some("http[0].match[0].headers.x")
    );
}
