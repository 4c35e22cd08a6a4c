//! Matchers: compiled with the snapshot, so that a request allocates nothing.

use http::{HeaderMap, HeaderName};
use regex::bytes::Regex;

/// Istio `StringMatch`. Regex is compiled with implicit anchors and ASCII classes.
#[derive(Debug, Clone)]
pub enum StringMatcher {
    /// The whole text, byte by byte.
    Exact(Box<str>),
    /// The start of the text.
    Prefix(Box<str>),
    /// The whole text (RE2 full match).
    Regex(Box<Regex>),
    /// The whole text, ASCII case ignored.
    ExactIgnoreCase(Box<str>),
    /// The start of the text, ASCII case ignored.
    PrefixIgnoreCase(Box<str>),
}

impl StringMatcher {
    /// Whether `value` matches.
    #[must_use]
    pub fn is_match(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => value == text.as_bytes(),
            Self::Prefix(text) => value.starts_with(text.as_bytes()),
            Self::Regex(regex) => regex.is_match(value),
            Self::ExactIgnoreCase(text) => value.eq_ignore_ascii_case(text.as_bytes()),
            Self::PrefixIgnoreCase(text) => value
                .get(..text.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(text.as_bytes())),
        }
    }
}

/// What a request looks like to a matcher: received values, path normalised.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Path without query and fragment, normalised.
    pub path: &'a str,
    /// Query without `?`, raw.
    pub query: Option<&'a str>,
    /// Method, as sent.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host or `:authority` as received, any port included.
    pub authority: &'a str,
    /// Received headers; the well-known single-value ones joined already.
    pub headers: &'a HeaderMap,
}

/// One element of `http[].match`: all conditions must hold.
#[derive(Debug, Clone, Default)]
pub struct HttpMatch {
    /// `match[].name`.
    pub name: Option<std::sync::Arc<str>>,
    /// Absent means every path.
    pub uri: Option<StringMatcher>,
    /// Request scheme.
    pub scheme: Option<StringMatcher>,
    /// Request method.
    pub method: Option<StringMatcher>,
    /// Host value as received.
    pub authority: Option<StringMatcher>,
    /// All must hold.
    pub headers: Vec<HeaderMatcher>,
    /// Entries of `headers` and `withoutHeaders` that name a pseudo header; all must hold.
    pub pseudo_headers: Vec<PseudoMatcher>,
    /// All must hold.
    pub query_params: Vec<QueryMatcher>,
    /// Where the element stands.
    pub provenance: Option<super::Provenance>,
}

/// Why an element did not match: the name of its first failing condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// `uri`.
    Uri,
    /// `scheme`.
    Scheme,
    /// `method`.
    Method,
    /// `authority`.
    Authority,
    /// This header.
    Header(HeaderName),
    /// This pseudo header.
    PseudoHeader(PseudoHeader),
    /// This query parameter.
    QueryParam(Box<str>),
}

impl HttpMatch {
    /// `Ok` when the request fulfils every condition, else the first that fails.
    ///
    /// # Errors
    /// The first condition that the request does not fulfil.
    pub fn check(&self, request: &RequestFacts<'_>) -> Result<(), Mismatch> {
        let holds = |matcher: &Option<StringMatcher>, value: &str| {
            matcher
                .as_ref()
                .is_none_or(|matcher| matcher.is_match(value.as_bytes()))
        };
        if !holds(&self.uri, request.path) {
            return Err(Mismatch::Uri);
        }
        if !holds(&self.scheme, request.scheme) {
            return Err(Mismatch::Scheme);
        }
        if !holds(&self.method, request.method) {
            return Err(Mismatch::Method);
        }
        if !holds(&self.authority, request.authority) {
            return Err(Mismatch::Authority);
        }
        if let Some(failing) = self
            .headers
            .iter()
            .find(|header| !header.is_match(request.headers))
        {
            return Err(Mismatch::Header(failing.name.clone()));
        }
        if let Some(failing) = self
            .pseudo_headers
            .iter()
            .find(|header| !header.is_match(request))
        {
            return Err(Mismatch::PseudoHeader(failing.name));
        }
        if let Some(failing) = self
            .query_params
            .iter()
            .find(|param| !param.is_match(request.query))
        {
            return Err(Mismatch::QueryParam(failing.name.clone()));
        }
        Ok(())
    }

    /// No condition that a request could fail.
    #[must_use]
    pub fn is_catch_all(&self) -> bool {
        let any_path = match &self.uri {
            None => true,
            Some(StringMatcher::Prefix(text) | StringMatcher::PrefixIgnoreCase(text)) => {
                text.is_empty() || &**text == "/"
            }
            Some(StringMatcher::Regex(regex)) => regex.as_str() == anchored(".*"),
            Some(StringMatcher::Exact(_) | StringMatcher::ExactIgnoreCase(_)) => false,
        };
        any_path
            && self.scheme.is_none()
            && self.method.is_none()
            && self.authority.is_none()
            && self.headers.is_empty()
            && self.pseudo_headers.is_empty()
            && self.query_params.is_empty()
    }
}

/// The anchored form in which every regex is compiled.
#[must_use]
pub fn anchored(pattern: &str) -> String {
    format!(r"\A(?:{pattern})\z")
}

/// One entry of `headers` or `withoutHeaders`.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    /// Case-insensitive by type.
    pub name: HeaderName,
    /// `None` asks for presence.
    pub value: Option<StringMatcher>,
    /// An entry of `withoutHeaders`: no line may match.
    pub is_negated: bool,
}

impl HeaderMatcher {
    /// Envoy: a header sent several times matches if any of its lines does; for
    /// `withoutHeaders` an absent header counts as the empty string.
    #[must_use]
    pub fn is_match(&self, headers: &HeaderMap) -> bool {
        let Some(matcher) = &self.value else {
            return headers.contains_key(&self.name) != self.is_negated;
        };
        let mut lines = headers.get_all(&self.name).iter().peekable();
        if self.is_negated {
            if lines.peek().is_none() {
                return !matcher.is_match(b"");
            }
            return !lines.any(|line| matcher.is_match(line.as_bytes()));
        }
        lines.any(|line| matcher.is_match(line.as_bytes()))
    }
}

/// A pseudo header that `headers` and `withoutHeaders` may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PseudoHeader {
    /// `:method`.
    Method,
    /// `:scheme`.
    Scheme,
    /// `:authority`, also written `host`.
    Authority,
    /// `:path`, with its query.
    Path,
}

impl PseudoHeader {
    /// The pseudo header of this name; `:status` is a response's and never there.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            ":method" => Some(Self::Method),
            ":scheme" => Some(Self::Scheme),
            ":path" => Some(Self::Path),
            _ if name.eq_ignore_ascii_case("host") || name == ":authority" => Some(Self::Authority),
            _ => None,
        }
    }

    /// The name, with its colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
            Self::Path => ":path",
        }
    }
}

/// An entry of `headers` or `withoutHeaders` that names a pseudo header.
#[derive(Debug, Clone)]
pub struct PseudoMatcher {
    /// Which.
    pub name: PseudoHeader,
    /// `None` asks for presence: every request has all of them.
    pub value: Option<StringMatcher>,
    /// An entry of `withoutHeaders`.
    pub is_negated: bool,
}

impl PseudoMatcher {
    /// Whether the request fulfils it.
    #[must_use]
    pub fn is_match(&self, request: &RequestFacts<'_>) -> bool {
        let Some(matcher) = &self.value else {
            return !self.is_negated;
        };
        let is_match = |value: &str| matcher.is_match(value.as_bytes());
        let found = match (self.name, request.query) {
            (PseudoHeader::Method, _) => is_match(request.method),
            (PseudoHeader::Scheme, _) => is_match(request.scheme),
            (PseudoHeader::Authority, _) => is_match(request.authority),
            (PseudoHeader::Path, None) => is_match(request.path),
            // The one matcher that needs both parts of the target in one piece.
            (PseudoHeader::Path, Some(query)) => is_match(&format!("{}?{query}", request.path)),
        };
        found != self.is_negated
    }
}

/// One entry of `queryParams`: the first value of that name, raw.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    /// Case-sensitive, not decoded.
    pub name: Box<str>,
    /// `None` asks for presence.
    pub value: Option<StringMatcher>,
}

impl QueryMatcher {
    /// Whether the query's first parameter of this name matches.
    #[must_use]
    pub fn is_match(&self, query: Option<&str>) -> bool {
        let Some(value) = query.and_then(|query| first_param(query, &self.name)) else {
            return false;
        };
        self.value
            .as_ref()
            .is_none_or(|matcher| matcher.is_match(value.as_bytes()))
    }
}

/// First value of `name` in a raw query; `?a` has the empty value.
#[must_use]
pub fn first_param<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(pattern: &str) -> StringMatcher {
        let regex = regex::bytes::RegexBuilder::new(&anchored(pattern))
            .unicode(false)
            .build();
        StringMatcher::Regex(Box::new(regex.expect("a literal pattern")))
    }

    #[test]
    fn strings_match_as_istio_says() {
        for (matcher, value, expected) in [
            (StringMatcher::Exact("a".into()), "A", false), // case-sensitive
            (StringMatcher::Prefix("/foo".into()), "/foobar", true), // bytes, not segments
            (StringMatcher::Prefix("".into()), "x", true),  // an empty prefix is everything
            (regex("/v[0-9]"), "/v1/x", false),             // full match
            (regex("/v[0-9]"), "/v1", true),
            (
                StringMatcher::PrefixIgnoreCase("/Foo".into()),
                "/fOO/x",
                true,
            ),
            (StringMatcher::PrefixIgnoreCase("/Foo".into()), "/f", false), // shorter than the prefix
        ] {
            assert_eq!(
                matcher.is_match(value.as_bytes()),
                expected,
                "{matcher:?} on {value}"
            );
        }
    }

    #[test]
    fn headers_match_line_by_line_and_negation_reads_absence_as_empty() {
        let name = HeaderName::from_static("x");
        let exact = |text: &str| Some(StringMatcher::Exact(text.into()));
        let two: HeaderMap = [
            (name.clone(), "a".parse().expect("value")),
            (name.clone(), "b".parse().expect("value")),
        ]
        .into_iter()
        .collect();
        let none = HeaderMap::new();
        for (value, is_negated, headers, expected) in [
            (exact("b"), false, &two, true),    // any line
            (exact("a,b"), false, &two, false), // lines are not joined
            (None, false, &two, true),          // presence
            (None, false, &none, false),
            (exact("a"), true, &two, false), // no line may match
            (exact("a"), true, &none, true), // absent satisfies the negation
            (None, true, &none, true),       // must be absent
            (None, true, &two, false),
            (Some(regex(".*")), true, &none, false), // the empty text matches .*
        ] {
            let matcher = HeaderMatcher {
                name: name.clone(),
                value,
                is_negated,
            };
            assert_eq!(matcher.is_match(headers), expected, "{matcher:?}");
        }
    }

    #[test]
    fn the_first_query_value_decides_and_is_compared_raw() {
        for (query, expected) in [
            ("k=v&k=w", true),
            ("k=w&k=v", false),
            ("K=v", false),
            ("k=%76", false),
            ("k", false),
            ("", false),
        ] {
            let matcher = QueryMatcher {
                name: "k".into(),
                value: Some(StringMatcher::Exact("v".into())),
            };
            assert_eq!(matcher.is_match(Some(query)), expected, "{query}");
        }
        let empty = QueryMatcher {
            name: "a".into(),
            value: Some(StringMatcher::Exact("".into())),
        };
        assert!(empty.is_match(Some("a")) && empty.is_match(Some("a=")) && !empty.is_match(None));
    }
}
