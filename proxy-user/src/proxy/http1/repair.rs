//! Heads that Envoy accepts and a strict parser does not: folded lines and stray CRs.

/// The same head with folded lines joined by one blank and CRs inside of values gone;
/// `None` if it has neither. `head`: from the request line on, perhaps cut.
pub(super) fn repair(head: &[u8]) -> Option<Vec<u8>> {
    let mut lines = head.split_inclusive(|byte| *byte == b'\n');
    let mut out = Vec::with_capacity(head.len());
    out.extend_from_slice(lines.next()?);
    let (mut is_changed, mut is_first) = (false, true);
    for line in lines {
        let is_folded = !is_first && matches!(line.first(), Some(b' ' | b'\t'));
        is_first = false;
        if is_folded {
            is_changed = true;
            trim_end(&mut out);
            out.push(b' ');
            let blanks = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
            let rest = line.get(blanks.count()..).unwrap_or_default();
            is_changed |= push_without_crs(&mut out, rest);
        } else {
            let colon = line
                .iter()
                .position(|byte| *byte == b':')
                .unwrap_or(line.len());
            let (name, value) = line.split_at(colon);
            out.extend_from_slice(name);
            is_changed |= push_without_crs(&mut out, value);
        }
    }
    is_changed.then_some(out)
}

fn trim_end(out: &mut Vec<u8>) {
    while matches!(out.last(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        out.pop();
    }
}

/// Keeps the CR of a line end, and one that may become it.
fn push_without_crs(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let end = match text {
        [.., b'\r', b'\n'] => 2,
        [.., b'\n' | b'\r'] => 1,
        _ => 0,
    };
    let (inner, end) = text.split_at(text.len() - end);
    let before = out.len();
    out.extend(inner.iter().filter(|byte| **byte != b'\r'));
    let is_changed = out.len() - before != inner.len();
    out.extend_from_slice(end);
    is_changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_are_joined_and_stray_crs_go() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\na: b\r\n\r\n", None),
            (
                "GET / HTTP/1.1\r\na: b\r\n  c\r\n\r\n",
                Some("GET / HTTP/1.1\r\na: b c\r\n\r\n"),
            ),
            (
                "GET / HTTP/1.1\na: b \n\tc\n\n",
                Some("GET / HTTP/1.1\na: b c\n\n"),
            ),
            (
                "GET / HTTP/1.1\r\na: b\rc\r\n\r\n",
                Some("GET / HTTP/1.1\r\na: bc\r\n\r\n"),
            ),
            ("GET / HTTP/1.1\r\na: b\r", None), // the line end may be on its way
            ("GET / HTTP/1.1\r\n a: b\r\n\r\n", None), // nothing to fold it to
            ("GET /\r HTTP/1.1\r\na: b\r\n\r\n", None), // the request line is not repaired
            ("GET / HTTP/1.1\r\na\rb: c\r\n\r\n", None), // nor is a name
        ] {
            let repaired = repair(head.as_bytes());
            let repaired = repaired.as_deref().map(String::from_utf8_lossy);
            assert_eq!(repaired.as_deref(), expected, "{head:?}");
        }
    }
}
