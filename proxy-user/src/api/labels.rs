//! Labels and annotations: many, small and mostly equal, hence kept compactly.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::Text;

/// One name and its value.
pub type Label = (Arc<str>, Arc<str>);

/// Names and values in order of name, no name twice. Cloning copies a pointer.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[Label]>);

impl Labels {
    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_shared(name).map(|value| &**value)
    }

    /// The value of `name`, to keep.
    #[must_use]
    pub fn get_shared(&self, name: &str) -> Option<&Arc<str>> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(name));
        at.ok()
            .and_then(|at| self.0.get(at))
            .map(|(_, value)| value)
    }

    /// Whether `name` has a value.
    #[must_use]
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether all of `part` are among these.
    #[must_use]
    pub fn contains_all(&self, part: &Self) -> bool {
        part.iter()
            .all(|(name, value)| self.get(name) == Some(value))
    }

    /// Names and values, in order of name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The list itself, for others to keep.
    #[must_use]
    pub fn shared(&self) -> &Arc<[Label]> {
        &self.0
    }

    /// These, and `other` where a name is in both.
    #[must_use]
    pub fn overlaid_by(&self, other: &Self) -> Self {
        self.0.iter().chain(&*other.0).cloned().collect()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Of two values of one name the later stays.
impl<N: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(N, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(labels: I) -> Self {
        let labels = labels.into_iter();
        let mut list: Vec<Label> = labels.map(|(n, v)| (n.into(), v.into())).collect();
        list.reverse();
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        list.dedup_by(|(later, _), (earlier, _)| later == earlier);
        Self(list.into())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LabelsVisitor)
    }
}

struct LabelsVisitor;

impl<'de> Visitor<'de> for LabelsVisitor {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of text to text")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
        let mut list: Vec<(Text, Text)> = Vec::new();
        while let Some(entry) = map.next_entry()? {
            list.push(entry);
        }
        Ok(list.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_value_of_a_name_stays_and_names_are_in_order() {
        let labels: Labels = [("b", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        let listed: Vec<_> = labels.iter().collect();
        assert_eq!(listed, [("a", "2"), ("b", "3")]);
        for (name, expected) in [("a", Some("2")), ("b", Some("3")), ("c", None), ("", None)] {
            assert_eq!(labels.get(name), expected, "{name}");
        }
        let over: Labels = [("a", "4"), ("c", "5")].into_iter().collect();
        let both = labels.overlaid_by(&over);
        let listed: Vec<_> = both.iter().collect();
        assert_eq!(listed, [("a", "4"), ("b", "3"), ("c", "5")]);
    }
}
