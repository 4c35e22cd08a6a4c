//! Which objects are in force, given the texts of all files now and what was
//! in force before. Pure: no file is read here.
//!
//! Start at [`DirectoryState::apply`].

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use super::document::SyntaxError;
use super::object::{AnyObject, FileContent, ReadObject, read_file};
use crate::api::{Kind, ObjectKey, ObjectSet};
use crate::finding::{Finding, ObjectRef, Origin, Severity};

/// All files by their name in findings.
pub type Files = BTreeMap<Arc<str>, FileText>;

/// The text of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileText {
    /// Its bytes.
    Read(Vec<u8>),
    /// The same bytes as when they were last given to this state; not read again.
    Unchanged,
    /// It is there and could not be read; the text says why.
    Unreadable(String),
}

impl From<&str> for FileText {
    fn from(text: &str) -> Self {
        Self::Read(text.as_bytes().to_vec())
    }
}

/// A complete set and everything that is wrong with what it came from.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The objects in force.
    pub objects: ObjectSet,
    /// Findings, sorted.
    pub findings: Vec<Finding>,
    /// How many objects were left out because they do not concern traffic, by kind.
    pub skipped: BTreeMap<String, usize>,
}

/// What is remembered between two looks at a directory: the last text of each
/// file that parsed, and the last good version of each object.
#[derive(Debug, Default)]
pub struct DirectoryState {
    held_by_file: BTreeMap<Arc<str>, Held>,
    in_force: BTreeMap<(Kind, ObjectKey), AnyObject>,
}

/// One file as it was last read.
#[derive(Debug, Default)]
struct Held {
    /// Of the text that was looked at last, parsed or not.
    fingerprint: Option<Fingerprint>,
    /// The content when the file last parsed.
    content: FileContent,
    /// Why the present text has no content.
    problem: Option<Finding>,
}

/// Length and hash of a text.
type Fingerprint = (usize, u64);

impl DirectoryState {
    /// Nothing held, nothing in force.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at all files and says which objects are in force now.
    ///
    /// - A file that does not parse keeps the objects that it last held.
    /// - An object that is refused keeps its last good version; without one it is left out.
    /// - Of one object in two places, the first file in byte order (and the first
    ///   document in it) wins; the other gets an error.
    ///
    /// Files that did not change are not parsed again.
    pub fn apply(&mut self, files: &Files) -> Loaded {
        self.held_by_file.retain(|file, _| files.contains_key(file));
        for (file, text) in files {
            self.held_by_file
                .entry(file.clone())
                .or_default()
                .update(file, text);
        }

        let mut loaded = Loaded::default();
        let mut origins: BTreeMap<(Kind, &ObjectKey), &Origin> = BTreeMap::new();
        let mut in_force = BTreeMap::new();
        for held in self.held_by_file.values() {
            loaded.findings.extend(held.problem.clone());
            loaded.findings.extend_from_slice(&held.content.findings);
            for (kind, count) in &held.content.skipped {
                *loaded.skipped.entry(kind.clone()).or_default() += count;
            }
            for read in &held.content.objects {
                if let Some(first) = origins.get(&(read.kind, &read.key)) {
                    loaded.findings.push(already_defined(read, first));
                    continue;
                }
                origins.insert((read.kind, &read.key), &read.origin);
                loaded.findings.extend_from_slice(&read.findings);
                let identity = (read.kind, read.key.clone());
                let last_good = self.in_force.get(&identity);
                if read.object.is_none() && last_good.is_some() {
                    loaded.findings.push(last_good_stays(read));
                }
                if let Some(object) = read.object.as_ref().or(last_good) {
                    object.insert_into(&mut loaded.objects);
                    in_force.insert(identity, object.clone());
                }
            }
        }
        self.in_force = in_force;
        loaded.findings.sort();
        loaded
    }
}

impl Held {
    fn update(&mut self, file: &Arc<str>, text: &FileText) {
        let bytes = match text {
            FileText::Read(bytes) => bytes,
            FileText::Unchanged => return,
            FileText::Unreadable(reason) => {
                let message = format!("cannot read the file: {reason}");
                self.fingerprint = None;
                self.problem = Some(self.file_problem(file, 0, "unreadable", message));
                return;
            }
        };
        let fingerprint = Some(fingerprint(bytes));
        if self.fingerprint == fingerprint {
            return;
        }
        self.fingerprint = fingerprint;
        match read_file(file, bytes) {
            Ok(content) => {
                self.content = content;
                self.problem = None;
            }
            Err(SyntaxError { line, message }) => {
                self.problem = Some(self.file_problem(file, line, "syntax", message));
            }
        }
    }

    fn file_problem(
        &self,
        file: &Arc<str>,
        line: u32,
        code: &'static str,
        mut message: String,
    ) -> Finding {
        if !self.content.objects.is_empty() {
            message += "; the objects that it last held stay in force";
        }
        Finding::new(Severity::Error, code, message).with_origin(Origin {
            file: file.clone(),
            line,
        })
    }
}

fn fingerprint(bytes: &[u8]) -> Fingerprint {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    (bytes.len(), hasher.finish())
}

fn reference(read: &ReadObject) -> ObjectRef {
    ObjectRef::new(read.kind.as_str(), &read.key.namespace, &read.key.name)
}

fn already_defined(read: &ReadObject, first: &Origin) -> Finding {
    let message = format!("also defined at {first}, which is used; remove one of the two");
    Finding::new(Severity::Error, "defined-twice", message)
        .with_origin(read.origin.clone())
        .with_object(reference(read))
}

fn last_good_stays(read: &ReadObject) -> Finding {
    let message = "the last good version of this object stays in force until the errors are mended";
    Finding::new(Severity::Info, "last-good", message)
        .with_origin(read.origin.clone())
        .with_object(reference(read))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
