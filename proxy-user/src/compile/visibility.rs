//! `exportTo`: in which namespaces an object exists.
//!
//! Source: Istio, pkg/config/visibility/visibility.go and the indexes of
//! pilot/pkg/model/push_context.go.

use std::collections::BTreeSet;
use std::sync::Arc;

/// A parsed `exportTo` list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExportTo {
    /// `*` is in the list: every namespace.
    Public,
    /// These namespaces; empty (`~`) is nobody. `.` is the object's own, by name.
    Namespaces(BTreeSet<Arc<str>>),
}

impl ExportTo {
    /// Reads `list` as an object of `namespace` wrote it; `mesh_default` stands in for an empty one.
    pub(crate) fn parse<'a, I>(list: I, namespace: &str, mesh_default: &[String]) -> Self
    where
        I: IntoIterator<Item = &'a str>,
    {
        let mut items: Vec<&str> = list.into_iter().map(str::trim).collect();
        items.retain(|item| !item.is_empty());
        if items.is_empty() {
            items = mesh_default.iter().map(String::as_str).collect();
        }
        // The order of the tests is Istio's: `*` wins over `~`.
        if items.contains(&"*") {
            return Self::Public;
        }
        if items.contains(&"~") {
            return Self::Namespaces(BTreeSet::new());
        }
        let own = |item: &str| Arc::from(if item == "." { namespace } else { item });
        Self::Namespaces(items.into_iter().map(own).collect())
    }

    /// Only the object's own namespace.
    pub(crate) fn private(namespace: &str) -> Self {
        Self::Namespaces(BTreeSet::from([Arc::from(namespace)]))
    }

    /// Every namespace sees it.
    pub(crate) fn is_public(&self) -> bool {
        matches!(self, Self::Public)
    }

    /// Whether clients in `namespace` see it. The empty namespace, that of the
    /// client all scopes share, sees what is public.
    pub(crate) fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Namespaces(names) => names.contains(namespace),
        }
    }

    /// Whether everybody who sees `other` sees this too.
    pub(crate) fn is_superset_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Public, _) => true,
            (Self::Namespaces(_), Self::Public) => false,
            (Self::Namespaces(own), Self::Namespaces(theirs)) => own.is_superset(theirs),
        }
    }

    /// In which bucket a VirtualService of `own` namespace stands for clients in
    /// `client`; the lowest is considered first, `None` is invisible.
    ///
    /// 0: exported to its own namespace, which is the client's; 1: exported to
    /// the client's by name; 2: public.
    pub(crate) fn bucket(&self, own: &str, client: &str) -> Option<u8> {
        match self {
            Self::Public => Some(2),
            Self::Namespaces(names) if names.contains(client) => Some(u8::from(own != client)),
            Self::Namespaces(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_to_says_who_sees_an_object_of_ns1() {
        let everybody = ["*".to_owned()];
        // (list, seen in ns1, seen in ns2, bucket in ns1, bucket in ns2)
        for (list, ns1, ns2, own, other) in [
            (&["*"][..], true, true, Some(2), Some(2)),
            (&["."], true, false, Some(0), None), // A006
            (&["ns2"], false, true, None, Some(1)),
            (&[".", "ns2"], true, true, Some(0), Some(1)),
            (&["ns1"], true, false, Some(0), None), // the own name is `.`
            (&["~"], false, false, None, None),
            (&["~", "ns2"], false, false, None, None),
            (&["*", "~"], true, true, Some(2), Some(2)), // `*` is tested first
            (&[], true, true, Some(2), Some(2)),         // the mesh's default
        ] {
            let export = ExportTo::parse(list.iter().copied(), "ns1", &everybody);
            let seen = (export.includes("ns1"), export.includes("ns2"));
            assert_eq!(seen, (ns1, ns2), "{list:?}");
            let buckets = (export.bucket("ns1", "ns1"), export.bucket("ns1", "ns2"));
            assert_eq!(buckets, (own, other), "{list:?}");
        }
    }

    #[test]
    fn an_empty_list_is_what_the_mesh_says() {
        let own = [".".to_owned()];
        let export = ExportTo::parse([], "ns1", &own);
        assert_eq!(export, ExportTo::private("ns1"));
        assert!(!export.includes("")); // the shared client sees public things only
    }
}
