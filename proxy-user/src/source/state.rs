//! Which objects are in force, given the texts of all files now and what was
//! in force before. Pure: no file is read here.
//!
//! Start at [`DirectoryState::apply`].

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use super::document::SyntaxError;
use super::object::{AnyObject, FileContent, Identity, ReadObject};
use super::parallel::read_files;
use super::share::Shared;
use crate::api::ObjectSet;
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

/// What is remembered between two looks at a directory: the last content of each
/// file that parsed, and the last good version of each object.
#[derive(Debug, Default)]
pub struct DirectoryState {
    held_by_file: BTreeMap<Arc<str>, Held>,
    in_force: ObjectSet,
    shared: Shared,
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

/// Objects that some file has or had and that may differ now, each with the first place
/// where it stands once that is known.
type Touched = HashMap<Identity, Option<Origin>>;

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
    /// Files that did not change are not parsed again, and an object that is written as
    /// before stays the same one.
    pub fn apply(&mut self, files: &Files) -> Loaded {
        let mut touched = Touched::new();
        self.held_by_file.retain(|file, held| {
            let is_there = files.contains_key(file);
            if !is_there {
                held.touch(&mut touched);
            }
            is_there
        });
        self.read_changed(files, &mut touched);
        if !touched.is_empty() {
            self.choose(touched);
        }
        self.shared.sweep();
        self.loaded()
    }

    fn read_changed(&mut self, files: &Files, touched: &mut Touched) {
        let mut changed = Vec::new();
        for (file, text) in files {
            let held = self.held_by_file.entry(file.clone()).or_default();
            if let Some(bytes) = held.update(file, text) {
                changed.push((file, bytes));
            }
        }
        for ((file, _), content) in changed.iter().zip(read_files(&changed, &self.shared)) {
            if let Some(held) = self.held_by_file.get_mut(*file) {
                held.take(file, content, touched);
            }
        }
    }

    /// Brings what is in force in line with the files, as far as `touched` goes.
    fn choose(&mut self, mut touched: Touched) {
        for (file, held) in &mut self.held_by_file {
            for read in &mut held.content.objects {
                match touched.get_mut(&read.identity) {
                    None => {}
                    Some(Some(first)) => read.shadowed_by = Some(Box::new(first.clone())),
                    Some(first) => {
                        *first = Some(read.origin(file));
                        read.shadowed_by = None;
                        read.put_into(&mut self.in_force);
                    }
                }
            }
        }
        for (identity, place) in touched {
            if place.is_none() {
                AnyObject::remove(&mut self.in_force, &identity);
            }
        }
    }

    fn loaded(&self) -> Loaded {
        let mut loaded = Loaded {
            objects: self.in_force.clone(),
            ..Loaded::default()
        };
        for (file, held) in &self.held_by_file {
            loaded.findings.extend(held.problem.clone());
            loaded.findings.extend_from_slice(&held.content.findings);
            for (kind, count) in &held.content.skipped {
                *loaded.skipped.entry(kind.clone()).or_default() += count;
            }
            for read in &held.content.objects {
                if let Some(first) = &read.shadowed_by {
                    loaded.findings.push(already_defined(read, file, first));
                    continue;
                }
                loaded.findings.extend_from_slice(&read.findings);
                if read.object.is_none() && AnyObject::is_in(&self.in_force, &read.identity) {
                    loaded.findings.push(last_good_stays(read, file));
                }
            }
        }
        loaded.findings.sort();
        loaded
    }
}

impl Held {
    /// Notes the text; its bytes if they must be read.
    fn update<'a>(&mut self, file: &Arc<str>, text: &'a FileText) -> Option<&'a [u8]> {
        let bytes = match text {
            FileText::Read(bytes) => bytes,
            FileText::Unchanged => return None,
            FileText::Unreadable(reason) => {
                let message = format!("cannot read the file: {reason}");
                self.fingerprint = None;
                self.problem = Some(self.file_problem(file, 0, "unreadable", message));
                return None;
            }
        };
        let fingerprint = Some(fingerprint(bytes));
        if self.fingerprint == fingerprint {
            return None;
        }
        self.fingerprint = fingerprint;
        Some(bytes)
    }

    fn take(
        &mut self,
        file: &Arc<str>,
        content: Result<FileContent, SyntaxError>,
        touched: &mut Touched,
    ) {
        match content {
            Ok(content) => {
                self.touch(touched);
                self.content = content;
                self.touch(touched);
                self.problem = None;
            }
            Err(SyntaxError { line, message }) => {
                self.problem = Some(self.file_problem(file, line, "syntax", message));
            }
        }
    }

    fn touch(&self, touched: &mut Touched) {
        let objects = self.content.objects.iter();
        touched.extend(objects.map(|read| (read.identity.clone(), None)));
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
    let Identity { kind, key } = &read.identity;
    ObjectRef::new(kind.as_str(), &key.namespace, &key.name)
}

fn already_defined(read: &ReadObject, file: &Arc<str>, first: &Origin) -> Finding {
    let message = format!("also defined at {first}, which is used; remove one of the two");
    Finding::new(Severity::Error, "defined-twice", message)
        .with_origin(read.origin(file))
        .with_object(reference(read))
}

fn last_good_stays(read: &ReadObject, file: &Arc<str>) -> Finding {
    let message = "the last good version of this object stays in force until the errors are mended";
    Finding::new(Severity::Info, "last-good", message)
        .with_origin(read.origin(file))
        .with_object(reference(read))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
