//! Path rewrites of forwarding routes (VirtualService `HTTPRewrite`, Envoy
//! `RouteAction.prefix_rewrite` and `regex_rewrite`).

use std::borrow::Cow;

use crate::snapshot::matchers::{HttpMatch, StringMatcher};
use crate::snapshot::routes::PathRewrite;

/// How many bytes of the path the matched prefix takes; a route without uri match
/// stands for the prefix `/`.
pub(crate) fn matched_len_bytes(hit: Option<&HttpMatch>, path: &str) -> usize {
    match hit.and_then(|hit| hit.uri.as_ref()) {
        Some(StringMatcher::Prefix(text) | StringMatcher::PrefixIgnoreCase(text)) => text.len(),
        Some(
            StringMatcher::Exact(_) | StringMatcher::ExactIgnoreCase(_) | StringMatcher::Regex(_),
        ) => path.len(),
        None => 1,
    }
}

/// The new path, or `None` when it stays (a regex that gives nothing).
///
/// A regex that does not match still counts as a rewrite: the same path comes back.
pub(crate) fn rewrite_path<'a>(
    rewrite: &'a PathRewrite,
    matched_len_bytes: usize,
    path: &'a str,
) -> Option<Cow<'a, str>> {
    match rewrite {
        PathRewrite::Full(text) => Some(Cow::Borrowed(text)),
        PathRewrite::Prefix(text) => {
            let rest = path.get(matched_len_bytes..).unwrap_or("");
            Some(Cow::Owned(format!("{text}{rest}")))
        }
        PathRewrite::Regex {
            pattern,
            replacement,
        } => {
            let replaced = pattern.replace_all(path.as_bytes(), replacement.as_bytes());
            let replaced = match replaced {
                Cow::Borrowed(_) => Cow::Borrowed(path),
                // A replacement that cuts a character in two leaves the path as it was.
                Cow::Owned(bytes) => {
                    String::from_utf8(bytes).map_or(Cow::Borrowed(path), Cow::Owned)
                }
            };
            (!replaced.is_empty()).then_some(replaced)
        }
    }
}

/// Path and query again; characters that may not stand in a target are encoded.
pub(crate) fn with_query(path: &str, query: Option<&str>) -> String {
    let mut out = String::with_capacity(path.len() + query.map_or(0, |query| query.len() + 1));
    for byte in path.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'#' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Option<HttpMatch> {
        Some(HttpMatch {
            uri: Some(StringMatcher::Prefix(text.into())),
            ..HttpMatch::default()
        })
    }

    /// Checklist ids A081 to A089: the table of prefix rewrites.
    #[test]
    fn a081_a089_exactly_the_matched_prefix_is_replaced() {
        for (matched, text, path, expected) in [
            (prefix("/foo"), "/bar", "/foo/x", "/bar/x"),
            (prefix("/foo"), "/bar", "/foobaz", "/barbaz"),
            (prefix("/foo"), "/", "/foo/bar", "//bar"),
            (prefix("/foo"), "/", "/foo", "/"),
            (prefix("/foo/"), "/", "/foo/bar", "/bar"),
            (prefix("/foo/"), "/bar", "/foo/x", "/barx"),
            (None, "/bar", "/x", "/barx"),
            (None, "/bar/", "/x", "/bar/x"),
            (prefix(""), "/bar", "/x", "/bar/x"),
        ] {
            let len = matched_len_bytes(matched.as_ref(), path);
            let rewrite = PathRewrite::Prefix(text.into());
            let found = rewrite_path(&rewrite, len, path);
            assert_eq!(found.as_deref(), Some(expected), "{text} {path}");
        }
        // The same bytes in another case.
        let matched = HttpMatch {
            uri: Some(StringMatcher::PrefixIgnoreCase("/Foo".into())),
            ..HttpMatch::default()
        };
        let len = matched_len_bytes(Some(&matched), "/fOO/x");
        let rewrite = PathRewrite::Prefix("/bar".into());
        assert_eq!(
            rewrite_path(&rewrite, len, "/fOO/x").as_deref(),
            Some("/bar/x")
        );
    }

    /// Checklist ids A090 and A091.
    #[test]
    fn a090_a091_exact_and_regex_matches_replace_the_whole_path() {
        for (rewrite, path, query, expected) in [
            ("/b", "/a", Some("q=1"), "/b?q=1"),
            ("/y", "/x/1/2", None, "/y"),
            ("/q?z=1", "/a", Some("b=2"), "/q?z=1?b=2"), // a `?` is just inserted
            ("/a b#", "/a", None, "/a%20b%23"),
        ] {
            let full = PathRewrite::Full(rewrite.into());
            let found = rewrite_path(&full, path.len(), path).expect("a path");
            assert_eq!(with_query(&found, query), expected);
        }
    }

    /// Checklist id A092 and the corners of `uriRegexRewrite`.
    #[test]
    fn a092_all_matches_of_a_regex_are_replaced() {
        for (pattern, replacement, path, expected) in [
            (r"/(\w+)/(\w+)", "/${2}/${1}", "/a/b", Some("/b/a")),
            ("a", "b", "/aXa", Some("/bXb")), // all, not only the first
            ("x", "y", "/a", Some("/a")),     // no match: a rewrite that changes nothing
            (".*", "", "/a", None),           // an empty result leaves the path
            ("(/a)", "${0}${1}", "/a", Some("/a/a")),
        ] {
            let rewrite = PathRewrite::Regex {
                pattern: regex::bytes::RegexBuilder::new(pattern)
                    .unicode(false)
                    .build()
                    .expect("a pattern"),
                replacement: replacement.into(),
            };
            assert_eq!(
                rewrite_path(&rewrite, 1, path).as_deref(),
                expected,
                "{pattern}"
            );
        }
    }
}
