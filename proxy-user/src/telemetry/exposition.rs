//! Prometheus' text format, written sample by sample.
//!
//! Source: Prometheus, "Exposition formats", text format 0.0.4.

use std::fmt::{self, Write};

/// `Content-Type` of [`Exposition::finish`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's samples mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows, zero after a restart.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl MetricKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One scrape's text under construction.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a family; its samples must follow before the next one begins.
    /// `help`: one sentence.
    pub fn family(&mut self, name: &str, kind: MetricKind, help: &str) {
        self.text.push_str("# HELP ");
        self.text.push_str(name);
        self.text.push(' ');
        // The format escapes backslash and line feed in help texts, nothing else.
        push_escaped(&mut self.text, help, false);
        self.text.push_str("\n# TYPE ");
        self.text.push_str(name);
        self.text.push(' ');
        self.text.push_str(kind.as_str());
        self.text.push('\n');
    }

    /// One sample. `labels`: names and raw values in the order in which they shall stand.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Into<Number>) {
        self.sample_with(name, &LabelText::new(labels), None, value);
    }

    /// One sample whose labels were rendered before; `le`: the bound of a bucket.
    pub(super) fn sample_with(
        &mut self,
        name: &str,
        labels: &LabelText,
        le: Option<&str>,
        value: impl Into<Number>,
    ) {
        self.text.push_str(name);
        if !labels.0.is_empty() || le.is_some() {
            self.text.push('{');
            self.text.push_str(&labels.0);
            if let Some(le) = le {
                if !labels.0.is_empty() {
                    self.text.push(',');
                }
                self.text.push_str("le=\"");
                self.text.push_str(le);
                self.text.push('"');
            }
            self.text.push('}');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, " {}", value.into());
    }

    /// The whole text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

/// A sample's value; whole numbers keep all their digits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A count.
    Whole(u64),
    /// A measure.
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => write!(f, "{value}"),
            Self::Real(value) if value.is_nan() => f.write_str("NaN"),
            Self::Real(value) if value.is_infinite() => {
                f.write_str(if *value > 0.0 { "+Inf" } else { "-Inf" })
            }
            Self::Real(value) => write!(f, "{value}"),
        }
    }
}

/// Labels rendered once: `a="b",c="d"`, values escaped.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LabelText(String);

impl LabelText {
    /// Renders names and raw values.
    pub(super) fn new(labels: &[(&str, &str)]) -> Self {
        let mut text = String::with_capacity(labels.len() * 32);
        for (name, value) in labels {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
            text.push_str("=\"");
            push_escaped(&mut text, value, true);
            text.push('"');
        }
        Self(text)
    }
}

/// Escapes backslash and line feed, and quotes where the text stands in quotes.
fn push_escaped(out: &mut String, text: &str, is_quoted: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if is_quoted => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_the_format_says() {
        let mut out = Exposition::default();
        out.family("a_total", MetricKind::Counter, "Back\\slash and\nline.");
        out.sample("a_total", &[], 3);
        out.sample("a_total", &[("x", "a\"b\\c\nd"), ("y", "")], u64::MAX);
        out.family("b", MetricKind::Gauge, "B.");
        out.sample("b", &[("é", "ü")], 0.5);
        out.sample("b", &[], f64::INFINITY);
        out.sample("b", &[], f64::NAN);
        let expected = "# HELP a_total Back\\\\slash and\\nline.\n\
                        # TYPE a_total counter\n\
                        a_total 3\n\
                        a_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 18446744073709551615\n\
                        # HELP b B.\n\
                        # TYPE b gauge\n\
                        b{é=\"ü\"} 0.5\n\
                        b +Inf\n\
                        b NaN\n";
        assert_eq!(out.finish(), expected);
    }
}
