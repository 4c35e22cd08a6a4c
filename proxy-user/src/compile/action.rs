//! What a rule does other than forwarding plainly: rewrite, redirect, direct response.
//!
//! Source: Istio VirtualService `HTTPRewrite`, `HTTPRedirect`, `HTTPDirectResponse`, as
//! pilot/pkg/networking/core/route/route.go translates them.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

use crate::api::{HTTPDirectResponse, HTTPRedirect, HTTPRewrite, RedirectPortSelection};
use crate::snapshot::routes::{
    PathRewrite, RedirectAction, RedirectPath, RedirectPort, RouteAction,
};

use super::regex::{compile_search, translate_replacement};
use super::rule::{Place, Problems};

/// Which bytes of the path `rewrite.uri` replaces: that depends on what matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UriKind {
    /// A prefix matched, or there is no condition on the path.
    Prefix,
    /// The whole path matched: exact or regex.
    Whole,
}

/// The path rewrite of one rule whose matches are all of `kind`; `None` leaves the path.
pub(crate) fn compile_path_rewrite(
    rewrite: &HTTPRewrite,
    kind: UriKind,
    place: &Place,
    problems: &mut Problems,
) -> Option<PathRewrite> {
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        return match compile_search(&regex.pattern) {
            Ok(pattern) => Some(PathRewrite::Regex {
                pattern,
                replacement: translate_replacement(&regex.rewrite).into(),
            }),
            Err(bad) => {
                let place = place.field("rewrite.uriRegexRewrite.match");
                problems.error("regex", &place, format!("{bad}; the path is not rewritten"));
                None
            }
        };
    }
    if rewrite.uri.is_empty() {
        return None;
    }
    let text = Arc::from(rewrite.uri.as_str());
    Some(match kind {
        UriKind::Prefix => PathRewrite::Prefix(text),
        UriKind::Whole => PathRewrite::Full(text),
    })
}

/// `listener_port`: what the client dialled, for `FROM_REQUEST_PORT`.
pub(crate) fn compile_redirect(
    redirect: &HTTPRedirect,
    listener_port: u16,
    place: &Place,
    problems: &mut Problems,
) -> RouteAction {
    let place = place.field("redirect");
    let status = match redirect.redirect_code {
        0 | 301 => StatusCode::MOVED_PERMANENTLY,
        302 => StatusCode::FOUND,
        303 => StatusCode::SEE_OTHER,
        307 => StatusCode::TEMPORARY_REDIRECT,
        308 => StatusCode::PERMANENT_REDIRECT,
        other => {
            problems.error(
                "redirect-code",
                &place.field("redirectCode"),
                format!("{other} is no redirect that can be answered, use 301, 302, 303, 307 or 308; the rule answers 503"),
            );
            return RouteAction::NotHonoured(Arc::from("redirect.redirectCode"));
        }
    };
    let text = |value: &str| (!value.is_empty()).then(|| Arc::from(value));
    let path = match &redirect.prefix_rewrite {
        Some(prefix) => RedirectPath::Prefix(Arc::from(prefix.as_str())),
        None if redirect.uri.is_empty() => RedirectPath::Keep,
        None => RedirectPath::Full(Arc::from(redirect.uri.as_str())),
    };
    let explicit = redirect.port.and_then(|port| u16::try_from(port).ok());
    let port = match (explicit, redirect.derive_port) {
        (Some(port), _) => RedirectPort::Explicit(port),
        (None, Some(RedirectPortSelection::FromRequestPort)) => {
            RedirectPort::Explicit(listener_port)
        }
        (None, Some(RedirectPortSelection::FromProtocolDefault)) => RedirectPort::ProtocolDefault,
        (None, None) => RedirectPort::Keep,
    };
    RouteAction::Redirect(RedirectAction {
        status,
        scheme: text(&redirect.scheme),
        authority: text(&redirect.authority),
        port,
        path,
    })
}

/// Answers without an upstream.
pub(crate) fn compile_direct_response(
    response: &HTTPDirectResponse,
    place: &Place,
    problems: &mut Problems,
) -> RouteAction {
    let place = place.field("directResponse");
    let status = u16::try_from(response.status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok());
    let Some(status) = status else {
        problems.error(
            "direct-response",
            &place.field("status"),
            format!(
                "{} is no status code; the rule answers 503",
                response.status
            ),
        );
        return RouteAction::NotHonoured(Arc::from("directResponse.status"));
    };
    let body = response.body.as_ref();
    let string = body.and_then(|body| body.string.as_ref());
    let bytes = body.and_then(|body| body.bytes.as_ref());
    let body = match (string, bytes) {
        (Some(text), _) => Bytes::from(text.clone()),
        (None, None) => Bytes::new(),
        (None, Some(text)) => match decode_base64(text) {
            Some(bytes) => Bytes::from(bytes),
            None => {
                problems.error(
                    "direct-response",
                    &place.field("body.bytes"),
                    "this is no base64; the rule answers 503",
                );
                return RouteAction::NotHonoured(Arc::from("directResponse.body.bytes"));
            }
        },
    };
    RouteAction::DirectResponse { status, body }
}

/// Standard or URL-safe alphabet, padded or not, as protobuf's JSON form reads bytes.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if digits.len() % 4 == 1 || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut bits: u32 = 0;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        let [_, first, second, third] = bits.to_be_bytes();
        bytes.extend(&[first, second, third][..group.len() - 1]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{HTTPBody, RegexRewrite};

    fn rewrite(uri: &str, kind: UriKind) -> Option<PathRewrite> {
        let written = HTTPRewrite {
            uri: uri.to_owned(),
            ..HTTPRewrite::default()
        };
        let mut problems = Problems::default();
        compile_path_rewrite(&written, kind, &Place::for_test("http[0]"), &mut problems)
    }

    #[test]
    fn a081_a090_a091_what_matched_says_what_is_replaced() {
        for (uri, kind, expected) in [
            ("/b", UriKind::Prefix, "Some(Prefix(\"/b\"))"),
            ("/b", UriKind::Whole, "Some(Full(\"/b\"))"),
            ("", UriKind::Prefix, "None"), // an empty text is no rewrite
        ] {
            assert_eq!(format!("{:?}", rewrite(uri, kind)), expected, "{uri}");
        }
    }

    #[test]
    fn a092_a_regex_rewrite_replaces_all_matches_with_their_groups() {
        let written = HTTPRewrite {
            uri_regex_rewrite: Some(RegexRewrite {
                pattern: r"/(\w+)/(\w+)".into(),
                rewrite: r"/\2/\1".into(),
            }),
            ..HTTPRewrite::default()
        };
        let mut problems = Problems::default();
        let place = Place::for_test("http[0]");
        let found = compile_path_rewrite(&written, UriKind::Whole, &place, &mut problems);
        let Some(PathRewrite::Regex {
            pattern,
            replacement,
        }) = found
        else {
            panic!("expected a regex, found {found:?}");
        };
        let path = pattern.replace_all(b"/a/b/c/d", replacement.as_bytes());
        assert_eq!(&*path, b"/b/a/d/c");
    }

    #[test]
    fn a102_to_a108_redirects() {
        let base = || HTTPRedirect {
            uri: "/n".into(),
            ..HTTPRedirect::default()
        };
        for (written, status, port, path) in [
            (
                base(),
                301,
                RedirectPort::Keep,
                RedirectPath::Full("/n".into()),
            ),
            (
                HTTPRedirect {
                    redirect_code: 308,
                    port: Some(8443),
                    ..base()
                },
                308,
                RedirectPort::Explicit(8443),
                RedirectPath::Full("/n".into()),
            ),
            (
                HTTPRedirect {
                    uri: String::new(),
                    prefix_rewrite: Some("/p".into()),
                    derive_port: Some(RedirectPortSelection::FromRequestPort),
                    ..base()
                },
                301,
                RedirectPort::Explicit(8080),
                RedirectPath::Prefix("/p".into()),
            ),
            (
                HTTPRedirect {
                    uri: String::new(),
                    derive_port: Some(RedirectPortSelection::FromProtocolDefault),
                    ..base()
                },
                301,
                RedirectPort::ProtocolDefault,
                RedirectPath::Keep,
            ),
        ] {
            let mut problems = Problems::default();
            let place = Place::for_test("http[0]");
            let found = compile_redirect(&written, 8080, &place, &mut problems);
            let RouteAction::Redirect(found) = found else {
                panic!("expected a redirect, found {found:?}");
            };
            assert_eq!(
                (found.status.as_u16(), found.port, found.path),
                (status, port, path),
                "{written:?}"
            );
        }
    }

    #[test]
    fn a_redirect_that_envoy_would_refuse_answers_503_and_is_reported() {
        let written = HTTPRedirect {
            redirect_code: 304,
            ..HTTPRedirect::default()
        };
        let mut problems = Problems::default();
        let place = Place::for_test("http[0]");
        let found = compile_redirect(&written, 80, &place, &mut problems);
        assert!(matches!(found, RouteAction::NotHonoured(_)), "{found:?}");
        assert_eq!(problems.into_findings().len(), 1);
    }

    #[test]
    fn a110_direct_responses_have_text_or_bytes() {
        for (body, expected) in [
            (None, &b""[..]),
            (Some((Some("x"), None)), b"x"),
            (Some((None, Some("aGk="))), b"hi"),
            (Some((None, Some("_-8"))), b"\xff\xef"),
        ] {
            let written = HTTPDirectResponse {
                status: 503,
                body: body.map(|(string, bytes)| HTTPBody {
                    string: string.map(str::to_owned),
                    bytes: bytes.map(str::to_owned),
                }),
            };
            let mut problems = Problems::default();
            let place = Place::for_test("http[0]");
            let found = compile_direct_response(&written, &place, &mut problems);
            let RouteAction::DirectResponse { status, body } = found else {
                panic!("expected an answer, found {found:?}");
            };
            assert_eq!((status.as_u16(), &*body), (503, expected), "{written:?}");
        }
        for text in ["a", "a===", "a b="] {
            assert_eq!(decode_base64(text), None, "{text}");
        }
    }
}
