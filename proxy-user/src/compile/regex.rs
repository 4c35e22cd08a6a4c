//! RE2 expressions, compiled for matching and replacing.
//!
//! What is an expression, and in which form the `regex` crate takes it, says [`re2`].

use regex::bytes::Regex;

use crate::api::re2;
use crate::snapshot::matchers::anchored;

pub(crate) use crate::api::re2::BadRegex;

/// An expression that must match the whole text.
pub(crate) fn compile_anchored(pattern: &str) -> Result<Regex, BadRegex> {
    // `anchored(".*")` stays as it is, so that a catch-all is still recognised.
    re2::build(pattern, anchored)
}

/// An expression that is searched for.
pub(crate) fn compile_search(pattern: &str) -> Result<Regex, BadRegex> {
    re2::build(pattern, str::to_owned)
}

/// RE2's replacement text (`\1`, `\0`, `\\`) in the `regex` crate's form.
pub(crate) fn translate_replacement(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '$' => out.push_str("$$"),
            '\\' => match letters.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a058_expressions_match_whole_texts_as_re2_does() {
        for (pattern, text, expected) in [
            ("/v[0-9]", "/v1", true),
            ("/v[0-9]", "/v1/x", false), // the whole text, not a part
            ("a|b", "ab", false),        // the anchors hold for both alternatives
            (r"\d", "\u{0665}", false),  // an Arabic digit is none to RE2
            (r"\w+", "é", false),
            ("é+", "éé", true),
            (r"\pL", "é", true),      // a Unicode class
            ("/a{b}", "/a{b}", true), // no repetition, so text
            ("{", "{", true),
            ("a{2}", "aa", true),
            ("a{2,3}", "aaa", true),
            ("[[]", "[", true), // no nested class
            ("[]a]", "]", true),
            ("[^]]", "a", true),
            ("[[:digit:]x]", "7", true),
            ("[a&&b]", "&", true), // no set operation
            (r"\Qa.b\E.", "a.bc", true),
            (r"\Qa.b\E.", "axbc", false),
            (r"\/x\-y\_z\<", "/x-y_z<", true),
            ("(?i)abc", "ABC", true),
            (".*", "", true),
        ] {
            let regex = compile_anchored(pattern).expect(pattern);
            assert_eq!(
                regex.is_match(text.as_bytes()),
                expected,
                "{pattern} on {text}"
            );
        }
    }

    #[test]
    fn a092_replacements_keep_their_groups_and_nothing_else_is_special() {
        for (text, expected) in [
            (r"/\2/\1", "/${2}/${1}"),
            (r"\0", "${0}"),
            ("$1", "$$1"),
            (r"a\\b", r"a\b"),
            (r"\10", "${1}0"),
        ] {
            assert_eq!(translate_replacement(text), expected, "{text}");
        }
    }
}
