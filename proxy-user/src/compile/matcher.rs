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

/// Whether the element can match a client that dials `port`, requests apart. At a gateway the
/// client is the gateway's workload, and `port` the server's.
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
        let own = client.gateway_name();
        return element.gateways.iter().any(|gateway| gateway == own);
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
            Err(_) if name.starts_with("@request.auth.claims") => self.refuse(
                "claim-match",
                &field,
                "tokens are not checked, so that no claim is known",
            ),
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
#[path = "matcher_tests.rs"]
mod tests;
