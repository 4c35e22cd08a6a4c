//! Where the fields of an object were written, kept compactly: objects of one shape
//! share one list of paths, and those written alike share one list of lines too.

use std::fmt;
use std::sync::Arc;

use crate::finding::Origin;

/// The line of every field of one object. Cheap to clone.
///
/// Paths are those of findings: relative to `spec` (or to the document where a
/// kind has no spec), list entries by index, as `http[0].match[1].uri`; other
/// parts of the document by their full path, as `metadata.name`. A leading
/// `spec.` is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceMap {
    file: Arc<str>,
    line: u32,
    len_bytes: u32,
    fields: Arc<FieldLines>,
}

/// Paths of fields and their lines, counted from where the object begins, so that
/// objects written alike have equal ones.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldLines {
    /// In byte order.
    paths: Arc<[Box<str>]>,
    /// As many as paths. Wraps around for what stands before the object: aliases do.
    offsets: Box<[u32]>,
}

impl FieldLines {
    /// The list of paths, to be replaced by an equal one that others have too.
    pub fn paths_mut(&mut self) -> &mut Arc<[Box<str>]> {
        &mut self.paths
    }
}

impl fmt::Debug for FieldLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.paths.iter().zip(&self.offsets);
        f.debug_map().entries(lines).finish()
    }
}

impl Default for SourceMap {
    fn default() -> Self {
        Self {
            file: Arc::from(""),
            line: 0,
            len_bytes: 0,
            fields: Arc::default(),
        }
    }
}

impl SourceMap {
    /// `line`: where the object begins; `lines_by_path`: each field's line, in any order.
    pub fn new(file: Arc<str>, line: u32, mut lines_by_path: Vec<(Box<str>, u32)>) -> Self {
        lines_by_path.sort_unstable();
        lines_by_path.dedup_by(|later, earlier| later.0 == earlier.0);
        let offsets = lines_by_path.iter().map(|(_, at)| at.wrapping_sub(line));
        let offsets = offsets.collect();
        let paths = lines_by_path.into_iter().map(|(path, _)| path).collect();
        Self {
            file,
            line,
            len_bytes: 0,
            fields: Arc::new(FieldLines { paths, offsets }),
        }
    }

    /// Notes how long the object's texts are together, bytes.
    #[must_use]
    pub fn with_len(self, len_bytes: usize) -> Self {
        Self {
            len_bytes: u32::try_from(len_bytes).unwrap_or(u32::MAX),
            ..self
        }
    }

    /// How long the object's keys and values are together, aliases written out, bytes.
    pub fn len_bytes(&self) -> u32 {
        self.len_bytes
    }

    /// The place of `field`, or of its nearest ancestor that was written, or of the object.
    pub fn origin(&self, field: &str) -> Origin {
        let mut path = field.strip_prefix("spec.").unwrap_or(field);
        let line = loop {
            if path.is_empty() {
                break self.line;
            }
            if let Some(line) = self.find_line(path) {
                break line;
            }
            path = parent_path(path);
        };
        Origin {
            file: self.file.clone(),
            line,
        }
    }

    /// Paths that were written, in byte order, with their lines.
    pub fn paths(&self) -> impl Iterator<Item = (&str, u32)> {
        let FieldLines { paths, offsets } = &*self.fields;
        let offsets = offsets.iter();
        (paths.iter().map(|path| &**path)).zip(offsets.map(|offset| self.line_at(*offset)))
    }

    /// What may be replaced by an equal one that others have too.
    pub fn fields_mut(&mut self) -> &mut Arc<FieldLines> {
        &mut self.fields
    }

    fn find_line(&self, path: &str) -> Option<u32> {
        let FieldLines { paths, offsets } = &*self.fields;
        let at = paths.binary_search_by(|known| (**known).cmp(path)).ok()?;
        offsets.get(at).map(|offset| self.line_at(*offset))
    }

    fn line_at(&self, offset: u32) -> u32 {
        self.line.wrapping_add(offset)
    }
}

/// `http[0].match[1]` to `http[0].match`, then `http[0]`, `http` and `""`.
fn parent_path(path: &str) -> &str {
    let cut = path.rfind(['.', '[']).unwrap_or(0);
    &path[..cut]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_was_not_written_has_the_line_of_its_nearest_ancestor() {
        let map = SourceMap::new(
            "a.yaml".into(),
            3,
            vec![
                ("http".into(), 10),
                ("http[0]".into(), 11),
                ("http[0].match[1].uri".into(), 15),
                ("http[0].route".into(), 2), // an alias may stand before the object
            ],
        );
        for (field, line) in [
            ("http[0].match[1].uri", 15),
            ("spec.http[0].match[1].uri", 15), // both spellings of a path
            ("http[0].match[1].uri.prefix", 15),
            ("http[0].timeout", 11),
            ("http[0].route[0]", 2),
            ("http[7]", 10),
            ("tcp[0]", 3), // nothing of it written: the object
            ("", 3),
        ] {
            assert_eq!(map.origin(field).line, line, "{field}");
        }
    }
}
