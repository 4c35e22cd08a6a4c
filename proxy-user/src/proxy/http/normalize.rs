//! Path normalisation: a received request target in, what is matched and forwarded out.
//!
//! Istio's default `pathNormalization` on Envoy: unreserved escapes are decoded,
//! `\` becomes `/`, then dot segments are removed; slashes are never merged and the
//! query is never touched (Istio MeshConfig `ProxyPathNormalization.DEFAULT`,
//! RFC 3986 section 6.2.2). Start at [`normalize`].

use std::borrow::Cow;

/// Why a target cannot be normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathRefusal {
    /// `%00`: 400 without body.
    NormalizationFailed,
    /// `*`: 404.
    AbsolutePathRejected,
}

/// The path and query that the request is matched by and forwarded with.
///
/// `target`: path and query as received, perhaps with a fragment. Borrowed when
/// nothing changes, which is the common case.
///
/// # Errors
/// [`PathRefusal`] for what must be refused.
pub(crate) fn normalize(target: &str) -> Result<Cow<'_, str>, PathRefusal> {
    if target == "*" {
        return Err(PathRefusal::AbsolutePathRejected);
    }
    let target = target.split_once('#').map_or(target, |(kept, _)| kept);
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    if is_normal(path.as_bytes()) {
        return Ok(Cow::Borrowed(target));
    }
    let decoded = decode(path)?;
    let mut out = without_dot_segments(&decoded);
    out.push_str(query);
    Ok(Cow::Owned(out))
}

/// No byte and no dot segment that normalisation could change.
fn is_normal(path: &[u8]) -> bool {
    let mut at_segment_start = false;
    for (index, &byte) in path.iter().enumerate() {
        match byte {
            b'%' | b'\\' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'}' | b'|' => return false,
            b'.' if at_segment_start && is_dot_segment(&path[index..]) => return false,
            _ => {}
        }
        at_segment_start = byte == b'/';
    }
    true
}

/// `rest` starts with `.` or `..` followed by a slash or the end.
fn is_dot_segment(rest: &[u8]) -> bool {
    let segment = rest.split(|byte| *byte == b'/').next().unwrap_or(rest);
    segment == b"." || segment == b".."
}

/// Decodes unreserved escapes, turns `\` into `/`, encodes what may not stand in a path.
fn decode(path: &str) -> Result<String, PathRefusal> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(character) = rest.chars().next() {
        let mut used = character.len_utf8();
        match character {
            '%' => match escape(rest.as_bytes()) {
                Some(0) => return Err(PathRefusal::NormalizationFailed),
                Some(byte) if is_unreserved(byte) => {
                    out.push(char::from(byte));
                    used = 3;
                }
                Some(_) => {
                    out.push_str(&rest[..3]);
                    used = 3;
                }
                None => out.push('%'),
            },
            '\\' => out.push('/'),
            '"' => out.push_str("%22"),
            '<' => out.push_str("%3C"),
            '>' => out.push_str("%3E"),
            '^' => out.push_str("%5E"),
            '`' => out.push_str("%60"),
            '{' => out.push_str("%7B"),
            '|' => out.push_str("%7C"),
            '}' => out.push_str("%7D"),
            other => out.push(other),
        }
        rest = &rest[used..];
    }
    Ok(out)
}

/// The byte of a well-formed `%XX` at the start of `text`.
fn escape(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| {
        let digit = char::from(*text.get(at)?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    Some(digit(1)? * 16 + digit(2)?)
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 section 5.2.4; empty segments count as segments.
fn without_dot_segments(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let Some(inner) = path.strip_prefix('/') else {
        return path.to_owned();
    };
    let mut segments = inner.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            _ => {
                out.push('/');
                out.push_str(segment);
                continue;
            }
        }
        if is_last {
            out.push('/');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checklist id A073: every row of the normalisation table.
    #[test]
    fn a073_paths_become_what_istio_matches_and_forwards() {
        for (received, expected) in [
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/a/%2e%2e/b", "/b"),    // decode first, then dot segments
            ("/a%2e%2e/b", "/a../b"), // not a segment of its own
            ("//b", "//b"),           // slashes are not merged
            ("/a/..//b", "//b"),
            ("/%62%7E%2D", "/b~-"), // unreserved
            ("/%2F", "/%2F"),
            ("/%2f", "/%2f"), // the case of hex digits stays
            ("/%5C%20%25%3F%3A%C3%A9", "/%5C%20%25%3F%3A%C3%A9"),
            ("/%zz%", "/%zz%"), // bad escapes stay
            ("/a/..%2fb", "/a/..%2fb"),
            ("/a\\..\\b", "/b"), // `\` becomes `/` before dot segments
            ("/\"<>^`{}|", "/%22%3C%3E%5E%60%7B%7D%7C"),
            ("/a?b#frag", "/a?b"),
            ("/a#frag", "/a"),
            ("/a?x=/../%62\\", "/a?x=/../%62\\"), // the query is never touched
            ("/a/../b?c=..", "/b?c=.."),
            ("/.hidden/..x", "/.hidden/..x"),
            ("/", "/"),
            ("/%", "/%"),
        ] {
            assert_eq!(normalize(received).as_deref(), Ok(expected), "{received}");
        }
    }

    #[test]
    fn what_cannot_be_normalised_is_refused() {
        for (received, expected) in [
            ("/%00", PathRefusal::NormalizationFailed),
            ("/a/%00/b?c", PathRefusal::NormalizationFailed),
            ("*", PathRefusal::AbsolutePathRejected),
        ] {
            assert_eq!(normalize(received), Err(expected), "{received}");
        }
        // An escaped NUL in the query is the application's matter.
        assert!(normalize("/?%00").is_ok());
    }

    #[test]
    fn an_ordinary_path_is_borrowed() {
        for path in ["/productpage?u=normal", "/a.b/c..d/...", "/"] {
            assert!(matches!(normalize(path), Ok(Cow::Borrowed(_))), "{path}");
        }
    }
}
