//! Conditions: which match elements concern a client at all, and what requests fulfil them.
//!
//! Source: Istio pilot/pkg/networking/core/route/route.go (`TranslateRouteMatch`,
//! `sourceMatchHTTP`).

use http::HeaderName;

use crate::api::{HTTPMatchRequest, StringMatch};
use crate::snapshot::matchers::{
    HeaderMatcher, HttpMatch, PseudoHeader, PseudoMatcher, QueryMatcher, StringMatcher,
};

use super::action::UriKind;
use super::regex::{BadRegex, compile_anchored};
use super::rule::{Place, Problems};
use super::scope::ClientView;

/// The reserved gateway name of clients in the mesh.
pub(crate) const MESH: &str = "mesh";

/// Whether the element can match a mesh client that dials `port`, requests apart.
///
/// Where `gateways` is set, labels and namespace of the client are not asked: Istio's
/// behaviour for HTTP (not for TLS and TCP).
pub(crate) fn applies_statically(
    element: &HTTPMatchRequest,
    client: &ClientView,
    port: u16,
) -> bool {
    if element.port != 0 && element.port != u32::from(port) {
        return false;
    }
    if !element.gateways.is_empty() {
        return element.gateways.iter().any(|gateway| gateway == MESH);
    }
    client.has_labels(&element.source_labels)
        && (element.source_namespace.is_empty() || *element.source_namespace == *client.namespace)
}

/// Whether two clients may get different answers from [`applies_statically`].
pub(crate) fn depends_on_client(element: &HTTPMatchRequest) -> bool {
    element.gateways.is_empty()
        && !(element.source_labels.is_empty() && element.source_namespace.is_empty())
}

/// What `rewrite.uri` replaces where this element matched.
pub(crate) fn uri_kind(element: &HTTPMatchRequest) -> UriKind {
    match &element.uri {
        None | Some(StringMatch::Present | StringMatch::Prefix(_)) => UriKind::Prefix,
        Some(StringMatch::Exact(_) | StringMatch::Regex(_)) => UriKind::Whole,
    }
}

/// A matcher, or `None` for `{}`, which asks for presence alone.
pub(crate) fn compile_string(
    written: &StringMatch,
    ignore_case: bool,
) -> Result<Option<StringMatcher>, BadRegex> {
    Ok(Some(match written {
        StringMatch::Present => return Ok(None),
        StringMatch::Exact(text) if ignore_case => {
            StringMatcher::ExactIgnoreCase(text.as_str().into())
        }
        StringMatch::Exact(text) => StringMatcher::Exact(text.as_str().into()),
        StringMatch::Prefix(text) if ignore_case => {
            StringMatcher::PrefixIgnoreCase(text.as_str().into())
        }
        StringMatch::Prefix(text) => StringMatcher::Prefix(text.as_str().into()),
        // `ignoreUriCase` does not concern expressions.
        StringMatch::Regex(pattern) => StringMatcher::Regex(Box::new(compile_anchored(pattern)?)),
    }))
}

/// Compiles one element of `match`; `None` when it cannot be compiled, which is reported. A
/// condition is never left out by itself: its element would then match too much.
pub(crate) fn compile_match(
    element: &HTTPMatchRequest,
    place: &Place,
    problems: &mut Problems,
) -> Option<HttpMatch> {
    let mut compiler = ElementCompiler {
        place,
        problems,
        is_valid: true,
        compiled: HttpMatch {
            name: (!element.name.is_empty()).then(|| element.name.as_str().into()),
            provenance: Some(place.provenance()),
            ..HttpMatch::default()
        },
    };
    compiler.compiled.uri = compiler.value(element.uri.as_ref(), "uri", element.ignore_uri_case);
    compiler.compiled.scheme = compiler.pseudo_value(element.scheme.as_ref(), "scheme");
    compiler.compiled.method = compiler.pseudo_value(element.method.as_ref(), "method");
    compiler.compiled.authority = compiler.pseudo_value(element.authority.as_ref(), "authority");
    for (name, value) in &element.headers {
        compiler.header(name, value, false);
    }
    for (name, value) in &element.without_headers {
        compiler.header(name, value, true);
    }
    for (name, value) in &element.query_params {
        let value = compiler.value(Some(value), &format!("queryParams.{name}"), false);
        compiler.compiled.query_params.push(QueryMatcher {
            name: name.as_str().into(),
            value,
        });
    }
    compiler.is_valid.then_some(compiler.compiled)
}

/// One element under way.
struct ElementCompiler<'a> {
    place: &'a Place,
    problems: &'a mut Problems,
    is_valid: bool,
    compiled: HttpMatch,
}

impl ElementCompiler<'_> {
    fn value(
        &mut self,
        written: Option<&StringMatch>,
        field: &str,
        ignore_case: bool,
    ) -> Option<StringMatcher> {
        match compile_string(written?, ignore_case) {
            Ok(matcher) => matcher,
            Err(bad) => {
                self.refuse("regex", field, &bad.to_string());
                None
            }
        }
    }

    /// `{}` asks whether the value is there: it always is, yet it is a condition.
    fn pseudo_value(
        &mut self,
        written: Option<&StringMatch>,
        field: &str,
    ) -> Option<StringMatcher> {
        match written? {
            StringMatch::Present => Some(StringMatcher::Prefix("".into())),
            StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Regex(_) => {
                self.value(written, field, false)
            }
        }
    }

    fn header(&mut self, name: &str, written: &StringMatch, is_negated: bool) {
        let list = if is_negated {
            "withoutHeaders"
        } else {
            "headers"
        };
        let field = format!("{list}.{name}");
        // `regex: "*"`, which is no expression, asks for absence in `withoutHeaders`.
        let is_star = matches!(written, StringMatch::Regex(pattern) if pattern == "*");
        let value = if is_negated && is_star {
            None
        } else {
            self.value(Some(written), &field, false)
        };
        if let Some(name) = PseudoHeader::parse(name) {
            self.compiled.pseudo_headers.push(PseudoMatcher {
                name,
                value,
                is_negated,
            });
            return;
        }
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => self.compiled.headers.push(HeaderMatcher {
                name,
                value,
                is_negated,
            }),
            Err(_) if name.starts_with("@request.auth.claims") => {
                self.refuse("claim-match", &field, "claims are matched at gateways only")
            }
            Err(_) => self.refuse("header-name", &field, "this is no header name"),
        }
    }

    fn refuse(&mut self, code: &'static str, field: &str, cause: &str) {
        self.is_valid = false;
        let place = self.place.field(field);
        self.problems
            .error(code, &place, format!("{cause}; this match never applies"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::HeaderMap;

    use super::*;
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
        let labels = |pairs: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect::<BTreeMap<_, _>>()
        };
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
}
