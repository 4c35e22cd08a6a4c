//! RE2 expressions, as Istio's users write them, for the `regex` crate: one
//! judgement of what is an expression, for validation and for compile.
//!
//! RE2's classes `\d \w \s \b` are ASCII, so expressions are compiled over bytes with
//! Unicode off. What RE2 takes as text and the `regex` crate as syntax is escaped.
//! Source: <https://github.com/google/re2/wiki/Syntax>.

use regex::bytes::{Regex, RegexBuilder};

/// Bytes one compiled expression may take: a thousand-letter expression needs far less,
/// nested repetitions that would need more are refused.
const SIZE_MAX_BYTES: usize = 1 << 20;

/// Why an expression is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRegex {
    /// It does not parse.
    #[error("{pattern:?} is no RE2 expression: {cause}")]
    Syntax {
        /// As written.
        pattern: String,
        /// The last line of the parser's report.
        cause: String,
    },
    /// It compiles to too much.
    #[error("{0:?} is too large an expression, write it with fewer repetitions")]
    TooLarge(String),
}

/// Compiles an expression; `wrap` is applied to its translated text, for anchors.
///
/// # Errors
///
/// When it is no expression of RE2, or takes too much memory.
pub fn build(pattern: &str, wrap: impl Fn(&str) -> String) -> Result<Regex, BadRegex> {
    let translated = translate(pattern);
    // Checked by itself first: an unbalanced `)` must not close the anchors' group.
    let alone = compile(&translated, pattern, false);
    match alone {
        Ok(_) => compile(&wrap(&translated), pattern, false),
        // Unicode classes such as `\pL` exist only with Unicode on.
        Err(BadRegex::Syntax { .. }) => {
            compile(&translated, pattern, true)?;
            compile(&wrap(&translated), pattern, true)
        }
        Err(too_large @ BadRegex::TooLarge(_)) => Err(too_large),
    }
}

/// About what the compiled expression takes, bytes: the least power of two of kibibytes that
/// it compiles within. What is no expression takes nothing.
pub fn weight(pattern: &str) -> u64 {
    let text = translate(pattern);
    let mut limit = 8 << 10;
    while limit < SIZE_MAX_BYTES {
        // With Unicode on, as an expression may need it, the size is an upper bound.
        match compile_within(&text, pattern, true, limit) {
            Ok(_) => return limit as u64,
            Err(BadRegex::TooLarge(_)) => limit *= 4,
            Err(BadRegex::Syntax { .. }) => return 0,
        }
    }
    SIZE_MAX_BYTES as u64
}

fn compile(text: &str, pattern: &str, unicode: bool) -> Result<Regex, BadRegex> {
    compile_within(text, pattern, unicode, SIZE_MAX_BYTES)
}

fn compile_within(
    text: &str,
    pattern: &str,
    unicode: bool,
    size_max_bytes: usize,
) -> Result<Regex, BadRegex> {
    RegexBuilder::new(text)
        .unicode(unicode)
        .octal(true)
        .size_limit(size_max_bytes)
        .dfa_size_limit(SIZE_MAX_BYTES)
        .build()
        .map_err(|error| {
            if matches!(error, regex::Error::CompiledTooBig(_)) {
                return BadRegex::TooLarge(pattern.to_owned());
            }
            BadRegex::Syntax {
                pattern: pattern.to_owned(),
                cause: last_line(&error.to_string()),
            }
        })
}

fn last_line(report: &str) -> String {
    let line = report.lines().last().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// Rewrites what the two syntaxes read differently.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    let mut is_in_class = false;
    while let Some(letter) = rest.chars().next() {
        let after = &rest[letter.len_utf8()..];
        rest = match letter {
            '\\' => translate_escape(after, &mut out),
            '[' if !is_in_class => {
                is_in_class = true;
                open_class(after, &mut out)
            }
            '[' if after.starts_with(':') => copy_posix_class(rest, &mut out),
            ']' if is_in_class => {
                is_in_class = false;
                out.push(']');
                after
            }
            // Nested classes and set operations do not exist in RE2.
            '[' | '&' | '~' if is_in_class => {
                out.push('\\');
                out.push(letter);
                after
            }
            '-' if is_in_class && after.starts_with('-') => {
                out.push_str(r"\-");
                after
            }
            '{' if !is_in_class && !is_repetition(after) => {
                out.push_str(r"\{");
                after
            }
            _ => {
                out.push(letter);
                after
            }
        };
    }
    out
}

/// Behind a backslash: `\Q..\E` is text, an escaped sign is that sign.
fn translate_escape<'a>(after: &'a str, out: &mut String) -> &'a str {
    let Some(letter) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    let rest = &after[letter.len_utf8()..];
    if letter == 'Q' {
        let (text, rest) = rest.split_once(r"\E").unwrap_or((rest, ""));
        out.push_str(&regex::escape(text));
        return rest;
    }
    if letter.is_ascii_alphanumeric() || !letter.is_ascii() {
        out.push('\\');
        out.push(letter);
        return rest;
    }
    // `\<` and `\>` are word boundaries to the regex crate, `\_` is an error there.
    if matches!(letter, '<' | '>' | '_' | ' ') {
        out.push(letter);
    } else {
        out.push('\\');
        out.push(letter);
    }
    rest
}

/// Behind `[`: a negation and a bracket in first place are part of the opening.
fn open_class<'a>(after: &'a str, out: &mut String) -> &'a str {
    out.push('[');
    let mut rest = after;
    if let Some(behind) = rest.strip_prefix('^') {
        out.push('^');
        rest = behind;
    }
    if let Some(behind) = rest.strip_prefix(']') {
        out.push_str(r"\]");
        rest = behind;
    }
    rest
}

/// `[:alpha:]` as it is.
fn copy_posix_class<'a>(from: &'a str, out: &mut String) -> &'a str {
    let len = from.find(":]").map_or(1, |at| at + 2);
    let (class, rest) = from.split_at(len);
    if len == 1 {
        out.push('\\');
    }
    out.push_str(class);
    rest
}

/// Whether `{` begins `{n}`, `{n,}` or `{n,m}`; RE2 reads anything else as text.
fn is_repetition(after: &str) -> bool {
    let Some((inside, _)) = after.split_once('}') else {
        return false;
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match inside.split_once(',') {
        Some((min, max)) => is_number(min) && (max.is_empty() || is_number(max)),
        None => is_number(inside),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_expression_is_refused_and_never_compiled_into_something_else() {
        for pattern in ["(", "a)(b", "*", "[a", r"\", "(?=a)"] {
            let found = build(pattern, str::to_owned);
            assert!(
                matches!(found, Err(BadRegex::Syntax { .. })),
                "{pattern}: {found:?}"
            );
        }
        let huge = "((a{1000}){1000})";
        assert_eq!(
            build(huge, str::to_owned).err(),
            Some(BadRegex::TooLarge(huge.to_owned()))
        );
    }
}
