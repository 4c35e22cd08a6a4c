//! Keeps one copy of what many objects have in common: labels, names of namespaces and
//! nodes, the shape of a document. Start at [`Shared::share`].

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::{FieldLines, Labels, Object, Resource, Text};

/// The copies, for all threads that read.
#[derive(Debug, Default)]
pub struct Shared(
    /// Guards the tables; held while one object is looked through.
    Mutex<Tables>,
);

#[derive(Debug, Default)]
struct Tables {
    texts: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    paths: HashSet<Arc<[Box<str>]>>,
    fields: HashSet<Arc<FieldLines>>,
}

impl Shared {
    /// Replaces parts of `object` by equal ones that other objects have.
    pub fn share<S: Resource>(&self, object: &mut Object<S>) {
        // Whatever a panic left behind is a set of good copies.
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let meta = &mut object.meta;
        tables.text(&mut meta.namespace);
        tables.labels(&mut meta.labels);
        tables.labels(&mut meta.annotations);
        for owner in &mut meta.owner_references {
            tables.text(&mut owner.kind);
            tables.text(&mut owner.name);
        }
        S::for_each_text(&mut object.spec, &mut object.status, &mut |text| {
            tables.text(text);
        });
        tables.fields(object.source.fields_mut());
    }

    /// Forgets what no object has any more.
    pub fn sweep(&mut self) {
        let Tables {
            texts,
            labels,
            paths,
            fields,
        } = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        // What holds others goes first.
        labels.retain(|labels| Arc::strong_count(labels.shared()) > 1);
        texts.retain(|text| Arc::strong_count(text) > 1);
        fields.retain(|fields| Arc::strong_count(fields) > 1);
        paths.retain(|paths| Arc::strong_count(paths) > 1);
    }
}

impl Tables {
    fn text(&mut self, text: &mut Text) {
        if text.is_empty() {
            *text = Text::default(); // has no memory of its own
            return;
        }
        match self.texts.get(text.as_str()) {
            Some(known) => *text = known.into(),
            None => {
                self.texts.insert(Arc::clone(text.shared()));
            }
        }
    }

    fn labels(&mut self, labels: &mut Labels) {
        if labels.is_empty() {
            return;
        }
        if let Some(known) = self.labels.get(labels) {
            *labels = known.clone();
            return;
        }
        let pairs = labels.shared().iter().cloned();
        let shared = pairs.map(|(mut name, mut value)| {
            keep_one(&mut self.texts, &mut name);
            keep_one(&mut self.texts, &mut value);
            (name, value)
        });
        *labels = shared.collect();
        self.labels.insert(labels.clone());
    }

    fn fields(&mut self, fields: &mut Arc<FieldLines>) {
        if let Some(known) = self.fields.get(fields) {
            *fields = Arc::clone(known);
            return;
        }
        if let Some(fields) = Arc::get_mut(fields) {
            keep_one(&mut self.paths, fields.paths_mut());
        }
        self.fields.insert(Arc::clone(fields));
    }
}

/// Puts the copy that `known` has in place of `value`, which is added if there is none.
fn keep_one<T: ?Sized>(known: &mut HashSet<Arc<T>>, value: &mut Arc<T>)
where
    Arc<T>: Eq + Hash,
{
    match known.get(value) {
        Some(copy) => *value = Arc::clone(copy),
        None => {
            known.insert(Arc::clone(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Namespace, ObjectMeta, SourceMap};

    fn namespace(name: &str, line: u32) -> Object<Namespace> {
        let meta = ObjectMeta {
            name: name.into(),
            labels: [("team", "a")].into_iter().collect(),
            ..ObjectMeta::default()
        };
        let lines = vec![("metadata.labels".into(), line + 3)];
        Object {
            meta,
            spec: Namespace::default(),
            status: Default::default(),
            source: SourceMap::new("a.yaml".into(), line, lines),
        }
    }

    #[test]
    fn objects_written_alike_share_labels_and_lines_until_they_are_gone() {
        let mut shared = Shared::default();
        let (mut first, mut second) = (namespace("x", 1), namespace("y", 9));
        shared.share(&mut first);
        shared.share(&mut second);
        assert!(Arc::ptr_eq(
            first.meta.labels.shared(),
            second.meta.labels.shared()
        ));
        assert!(Arc::ptr_eq(
            first.source.fields_mut(),
            second.source.fields_mut()
        ));
        assert_eq!(second.source.origin("metadata.labels").line, 12);

        drop((first, second));
        shared.sweep();
        let tables = shared.0.get_mut().expect("no panic");
        assert!(tables.labels.is_empty() && tables.texts.is_empty());
        assert!(tables.fields.is_empty() && tables.paths.is_empty());
    }
}
