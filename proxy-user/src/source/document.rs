//! YAML text to documents: trees of values with their lines. The only file
//! that knows YAML; it never knows what a document is about.
//!
//! JSON is YAML. Aliases and merge keys are resolved here, within a budget, so
//! that a small file cannot become a large tree.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_yaml::granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};

use super::node::{Entry, Node, Scalar, Value};

/// Largest file that is read, in bytes. A cluster of 100,000 endpoints prints as about half of it.
pub const FILE_LEN_MAX_BYTES: usize = 64 << 20;

/// What aliases may add to a file, in bytes of memory. Manifests use them for a few labels.
const ALIASES_MAX_BYTES: usize = 16 << 20;

/// Deepest nesting, aliases resolved. Istio's deepest field is about 12 levels down.
const DEPTH_MAX: usize = 128;

/// Why a text is not YAML, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Line, counted from 1; 0 when the whole text is meant.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

/// Reads the documents of a text one after the other, so that only one tree is
/// in memory at a time. Empty documents are left out.
///
/// # Errors
///
/// The first place at which the text is not UTF-8, not YAML or beyond a budget;
/// documents before it were handed to `take`.
pub fn for_each_document(bytes: &[u8], mut take: impl FnMut(Node)) -> Result<(), SyntaxError> {
    let refuse = |message: &str| SyntaxError {
        line: 0,
        message: message.to_owned(),
    };
    if bytes.len() > FILE_LEN_MAX_BYTES {
        return Err(refuse("larger than 64 MiB; split the file"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| SyntaxError {
        line: line_of(bytes, error.valid_up_to()),
        message: "not UTF-8; save the file in that encoding".to_owned(),
    })?;
    let text = without_separator_text(text);
    let mut reader = Reader::default();
    for event in Parser::new_from_str_with_options(&text, options()) {
        let (event, span) = event.map_err(|error| SyntaxError {
            line: to_line(error.marker().line()),
            message: format!("not YAML: {}", error.info()),
        })?;
        reader.take(event, &span)?;
        if let Some(document) = reader.document.take() {
            take(document);
        }
    }
    Ok(())
}

/// Reads foreign bytes as far as this module goes, and forgets the result:
/// the entry of fuzzers. Returns how many documents there were.
pub fn fuzz_entry(bytes: &[u8]) -> usize {
    let mut count = 0;
    match for_each_document(bytes, |_| count += 1) {
        Ok(()) => count,
        Err(_) => 0,
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.emit_comments = false;
    // Long label values as keys of flow mappings; beyond it, a key needs a `?`.
    options.simple_key_max_lookahead = 4096;
    options
}

fn line_of(bytes: &[u8], end: usize) -> u32 {
    let breaks = bytes
        .iter()
        .take(end)
        .filter(|byte| **byte == b'\n')
        .count();
    to_line(breaks + 1)
}

fn to_line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

/// Drops words after a document separator, as kubectl's reader of manifests
/// does (`--- reviews`); comments, JSON and quoted text are left to YAML.
fn without_separator_text(text: &str) -> std::borrow::Cow<'_, str> {
    let is_word_line = |line: &str| {
        line.strip_prefix("---").is_some_and(|rest| {
            let word = rest.trim();
            rest.starts_with([' ', '\t'])
                && word.starts_with(|c: char| c.is_alphanumeric())
                && !word.contains(':')
        })
    };
    if !text.lines().any(is_word_line) {
        return text.into();
    }
    let lines: Vec<&str> = text
        .lines()
        .map(|line| if is_word_line(line) { "---" } else { line })
        .collect();
    lines.join("\n").into()
}

/// Builds trees from the parser's events.
#[derive(Default)]
struct Reader {
    /// A document that is complete.
    document: Option<Node>,
    /// The collections that are open, from the outside in.
    open: Vec<Open>,
    nodes_by_anchor: HashMap<usize, Anchored>,
    /// Memory spent on aliases so far, in bytes.
    aliased_len_bytes: usize,
}

/// A value that an alias may repeat.
struct Anchored {
    node: Node,
    len_bytes: usize,
    depth: usize,
}

/// A collection whose end was not read yet.
struct Open {
    anchor: usize,
    line: u32,
    problem: Option<String>,
    /// Depth of the deepest value inside, this one included.
    depth: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping {
        entries: Entries,
        merged: Vec<Node>,
        key: Option<Key>,
    },
}

/// The entries of a mapping that is being read.
#[derive(Default)]
struct Entries {
    list: Vec<Entry>,
    /// Index into `list` by key; filled once `list` is too long to search.
    positions: HashMap<Arc<str>, usize>,
}

/// A key that waits for its value.
struct Key {
    text: Result<Arc<str>, String>,
    line: u32,
    is_merge: bool,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), SyntaxError> {
        let line = to_line(span.start.line());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = Node {
                    value: scalar_value(&text, style, tag.as_deref()),
                    line,
                };
                let is_plain = style == ScalarStyle::Plain;
                self.add(node, anchor, 1, is_plain)
            }
            Event::Alias(id) => self.add_alias(id, line),
            Event::SequenceStart(_, anchor, tag) => {
                self.begin(anchor, line, tag.as_deref(), Content::Sequence(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                let content = Content::Mapping {
                    entries: Entries::default(),
                    merged: Vec::new(),
                    key: None,
                };
                self.begin(anchor, line, tag.as_deref(), content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::DocumentEnd => {
                self.nodes_by_anchor.clear();
                Ok(())
            }
            // Stream and document starts and comments say nothing about values.
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::Anchor(..)
            | Event::UnresolvedAlias(_)
            | Event::Comment(..)
            | _ => Ok(()),
        }
    }

    fn begin(
        &mut self,
        anchor: usize,
        line: u32,
        tag: Option<&Tag>,
        content: Content,
    ) -> Result<(), SyntaxError> {
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(line));
        }
        let problem = tag
            .filter(|tag| !tag.is_yaml_core_schema())
            .map(unknown_tag);
        self.open.push(Open {
            anchor,
            line,
            problem,
            depth: 1,
            content,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match (open.problem, open.content) {
            (Some(problem), _) => Value::Invalid(problem),
            (None, Content::Sequence(items)) => Value::Sequence(items),
            (
                None,
                Content::Mapping {
                    entries, merged, ..
                },
            ) => match self.merge(entries.list, merged, open.line)? {
                Ok(entries) => Value::Mapping(entries),
                Err(problem) => Value::Invalid(problem),
            },
        };
        self.add(
            Node {
                value,
                line: open.line,
            },
            open.anchor,
            open.depth,
            false,
        )
    }

    /// Adds what `<<` names to what the mapping says itself, which wins; of
    /// several merged mappings the earlier wins. Source: yaml.org/type/merge.html.
    fn merge(
        &mut self,
        mut entries: Vec<Entry>,
        merged: Vec<Node>,
        line: u32,
    ) -> Result<Result<Vec<Entry>, String>, SyntaxError> {
        if merged.is_empty() {
            return Ok(Ok(entries));
        }
        let mut known: HashSet<Arc<str>> = entries.iter().map(|entry| entry.key.clone()).collect();
        for node in merged {
            let sources = match node.value {
                Value::Sequence(items) => items,
                Value::Mapping(_) | Value::Scalar(_) | Value::Invalid(_) => vec![node],
            };
            for source in sources {
                let Value::Mapping(additions) = source.value else {
                    return Ok(Err("expected mappings after the merge key <<".to_owned()));
                };
                for addition in additions {
                    if !known.insert(addition.key.clone()) {
                        continue;
                    }
                    self.spend(tree_len_bytes(&addition.value), line)?;
                    entries.push(addition);
                }
            }
        }
        Ok(Ok(entries))
    }

    fn add_alias(&mut self, id: usize, line: u32) -> Result<(), SyntaxError> {
        let Some(anchored) = self.nodes_by_anchor.get(&id) else {
            return Err(SyntaxError {
                line,
                message: "an alias inside the value that it names".to_owned(),
            });
        };
        // The size of one anchored value was charged before, so this copy is bounded too.
        let (node, len_bytes, depth) = (anchored.node.clone(), anchored.len_bytes, anchored.depth);
        self.spend(len_bytes, line)?;
        self.add(node, 0, depth, false)
    }

    fn spend(&mut self, len_bytes: usize, line: u32) -> Result<(), SyntaxError> {
        self.aliased_len_bytes = self.aliased_len_bytes.saturating_add(len_bytes);
        if self.aliased_len_bytes > ALIASES_MAX_BYTES {
            return Err(SyntaxError {
                line,
                message: "aliases expand to more than 16 MiB; write the values out".to_owned(),
            });
        }
        Ok(())
    }

    /// Puts a complete value where it belongs.
    fn add(
        &mut self,
        node: Node,
        anchor: usize,
        depth: usize,
        is_plain: bool,
    ) -> Result<(), SyntaxError> {
        if self.open.len() + depth > DEPTH_MAX {
            return Err(too_deep(node.line));
        }
        if anchor != 0 {
            let len_bytes = tree_len_bytes(&node);
            self.spend(len_bytes, node.line)?;
            self.nodes_by_anchor.insert(
                anchor,
                Anchored {
                    node: node.clone(),
                    len_bytes,
                    depth,
                },
            );
        }
        let Some(parent) = self.open.last_mut() else {
            if !node.is_null() {
                self.document = Some(node);
            }
            return Ok(());
        };
        parent.depth = parent.depth.max(depth + 1);
        match &mut parent.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping {
                entries,
                merged,
                key,
            } => match key.take() {
                None => *key = Some(to_key(&node, is_plain)),
                Some(key) if key.is_merge => merged.push(node),
                Some(key) => entries.push(key, node),
            },
        }
        Ok(())
    }
}

fn too_deep(line: u32) -> SyntaxError {
    SyntaxError {
        line,
        message: format!("nested deeper than {DEPTH_MAX} levels"),
    }
}

fn unknown_tag(tag: &Tag) -> String {
    format!("unknown tag {}; remove it", tag.original())
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let suffix = match tag {
        None if style == ScalarStyle::Plain => return Value::Scalar(Scalar::plain(text)),
        None => return Value::Scalar(Scalar::quoted(text)),
        Some(tag) => tag.core_suffix(),
    };
    match (suffix, tag) {
        (Some("str"), _) => Value::Scalar(Scalar::quoted(text)),
        (Some("int" | "float" | "bool" | "null"), _) => Value::Scalar(Scalar::plain(text)),
        (_, Some(tag)) => Value::Invalid(unknown_tag(tag)),
        (_, None) => Value::Scalar(Scalar::quoted(text)),
    }
}

fn to_key(node: &Node, is_plain: bool) -> Key {
    let text = match &node.value {
        Value::Scalar(scalar) => Ok(Arc::clone(&scalar.text)),
        Value::Sequence(_) | Value::Mapping(_) | Value::Invalid(_) => {
            Err(format!("expected text as a key, found {}", node.describe()))
        }
    };
    let is_merge = is_plain && text.as_deref() == Ok("<<");
    Key {
        text,
        line: node.line,
        is_merge,
    }
}

impl Entries {
    /// Adds a value under a key; a key that is there already makes its value invalid.
    fn push(&mut self, key: Key, mut node: Node) {
        node.line = key.line;
        let text = match key.text {
            Ok(text) => text,
            Err(problem) => {
                node.value = Value::Invalid(problem);
                "?".into()
            }
        };
        let Some(earlier) = self
            .find(&text)
            .and_then(|position| self.list.get_mut(position))
        else {
            self.list.push(Entry {
                key: text,
                value: node,
            });
            return;
        };
        let problem = format!(
            "the key {text:?} is written twice in one mapping, on lines {} and {}",
            earlier.value.line, key.line
        );
        earlier.value = Node {
            value: Value::Invalid(problem),
            line: key.line,
        };
    }

    fn find(&mut self, key: &str) -> Option<usize> {
        const SEARCHED_MAX: usize = 32;
        if self.list.len() <= SEARCHED_MAX {
            return self.list.iter().position(|entry| *entry.key == *key);
        }
        for (position, entry) in self.list.iter().enumerate().skip(self.positions.len()) {
            self.positions.insert(entry.key.clone(), position);
        }
        self.positions.get(key).copied()
    }
}

/// Memory of a tree, about, in bytes.
fn tree_len_bytes(node: &Node) -> usize {
    const NODE_LEN_BYTES: usize = 64;
    let content = match &node.value {
        Value::Scalar(scalar) => scalar.text.len(),
        Value::Sequence(items) => items.iter().map(tree_len_bytes).sum(),
        Value::Mapping(entries) => entries
            .iter()
            .map(|entry| entry.key.len() + tree_len_bytes(&entry.value))
            .sum(),
        Value::Invalid(problem) => problem.len(),
    };
    NODE_LEN_BYTES + content
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
