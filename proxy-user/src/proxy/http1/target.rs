//! Path and query of a request. Unlike a URI's, the query may hold whatever Envoy lets pass.

use std::rc::Rc;

use http::uri::PathAndQuery;

/// Path and query, printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    text: Rc<str>,
    path_len_bytes: usize,
}

impl Target {
    /// `text`: a path, perhaps with a query.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self {
            path_len_bytes: text.find('?').unwrap_or(text.len()),
            text: Rc::from(text),
        }
    }

    /// All of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the question mark.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(..self.path_len_bytes).unwrap_or_default()
    }

    /// What stands behind it.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_len_bytes + 1..)
    }

    /// The same for a URI (HTTP/2), in which some characters must be encoded.
    #[must_use]
    pub fn to_path_and_query(&self) -> PathAndQuery {
        if let Ok(target) = PathAndQuery::try_from(self.as_str()) {
            return target;
        }
        let mut encoded = String::with_capacity(self.text.len() + 8);
        for character in self.text.chars() {
            match character {
                '"' => encoded.push_str("%22"),
                '<' => encoded.push_str("%3C"),
                '>' => encoded.push_str("%3E"),
                '`' => encoded.push_str("%60"),
                other => encoded.push(other),
            }
        }
        PathAndQuery::try_from(encoded).unwrap_or(PathAndQuery::from_static("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_cut_at_its_first_question_mark() {
        for (text, path, query) in [
            ("/a", "/a", None),
            ("/a?", "/a", Some("")),
            ("/a?b?c", "/a", Some("b?c")),
            ("/?<\">`", "/", Some("<\">`")),
        ] {
            let target = Target::new(text);
            assert_eq!((target.path(), target.query()), (path, query), "{text}");
        }
    }

    #[test]
    fn what_a_uri_cannot_hold_is_encoded_for_http2() {
        for (text, expected) in [("/a?b=1", "/a?b=1"), ("/a?<\">`", "/a?%3C%22%3E%60")] {
            assert_eq!(Target::new(text).to_path_and_query(), expected);
        }
    }
}
