//! The complete set of objects that `source` hands over and `compile` reads.

use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::{
    AuthorizationPolicy, ConfigMap, DestinationRule, EndpointSlice, EnvoyFilter, Gateway,
    Namespace, Node, Object, ObjectKey, PeerAuthentication, Pod, RequestAuthentication, Resource,
    Secret, Service, ServiceEntry, Sidecar, VirtualService, WorkloadEntry, WorkloadGroup,
};

/// All objects of one kind, ordered by namespace, then name. Cloning copies a pointer; a
/// copy that is changed becomes one of its own.
#[derive(Debug, Clone)]
pub struct Objects<S: Resource>(Arc<BTreeMap<ObjectKey, Arc<Object<S>>>>);

impl<S: Resource> Objects<S> {
    /// Whether this is a copy of `other`, or the other way round, and neither was changed.
    #[must_use]
    pub fn is_same_copy(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<S: Resource> Default for Objects<S> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<S: Resource> Deref for Objects<S> {
    type Target = BTreeMap<ObjectKey, Arc<Object<S>>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<S: Resource> DerefMut for Objects<S> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl<'a, S: Resource> IntoIterator for &'a Objects<S> {
    type Item = (&'a ObjectKey, &'a Arc<Object<S>>);
    type IntoIter = btree_map::Iter<'a, ObjectKey, Arc<Object<S>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Every object that is in force, kind by kind. Cloning copies pointers.
#[derive(Debug, Clone, Default)]
#[expect(
    missing_docs,
    reason = "each field holds the objects of the kind of its name"
)]
pub struct ObjectSet {
    pub virtual_services: Objects<VirtualService>,
    pub destination_rules: Objects<DestinationRule>,
    pub service_entries: Objects<ServiceEntry>,
    pub workload_entries: Objects<WorkloadEntry>,
    pub workload_groups: Objects<WorkloadGroup>,
    pub gateways: Objects<Gateway>,
    pub sidecars: Objects<Sidecar>,
    pub envoy_filters: Objects<EnvoyFilter>,
    pub authorization_policies: Objects<AuthorizationPolicy>,
    pub peer_authentications: Objects<PeerAuthentication>,
    pub request_authentications: Objects<RequestAuthentication>,
    pub services: Objects<Service>,
    pub endpoint_slices: Objects<EndpointSlice>,
    pub pods: Objects<Pod>,
    pub namespaces: Objects<Namespace>,
    pub nodes: Objects<Node>,
    pub secrets: Objects<Secret>,
    pub config_maps: Objects<ConfigMap>,
}

impl ObjectSet {
    /// How many objects there are, of all kinds.
    pub fn len(&self) -> usize {
        self.virtual_services.len()
            + self.destination_rules.len()
            + self.service_entries.len()
            + self.workload_entries.len()
            + self.workload_groups.len()
            + self.gateways.len()
            + self.sidecars.len()
            + self.envoy_filters.len()
            + self.authorization_policies.len()
            + self.peer_authentications.len()
            + self.request_authentications.len()
            + self.services.len()
            + self.endpoint_slices.len()
            + self.pods.len()
            + self.namespaces.len()
            + self.nodes.len()
            + self.secrets.len()
            + self.config_maps.len()
    }

    /// How many objects each namespace has, Pods apart, which users do not make.
    pub fn count_by_namespace(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        self.for_each_tenant_key(|key| *counts.entry(key.namespace.as_str()).or_default() += 1);
        counts
    }

    /// Whether the namespace has any object, Pods apart.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        let mut found = false;
        self.for_each_tenant_key(|key| found |= key.namespace == namespace);
        found
    }

    /// Whether there is no object at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The objects of one kind in the order in which conflicts are decided: oldest
/// first, then by name, then by namespace. Without a timestamp an object is the
/// oldest. Source: Istio, `sortConfigByCreationTime` in pilot/pkg/model/config.go.
pub fn in_creation_order<S: Resource>(objects: &Objects<S>) -> Vec<&Arc<Object<S>>> {
    let mut ordered: Vec<_> = objects.values().collect();
    ordered.sort_by(|a, b| by_creation(a, b));
    ordered
}

/// The order of [`in_creation_order`].
pub fn by_creation<S: Resource>(a: &Object<S>, b: &Object<S>) -> Ordering {
    let (a, b) = (&a.meta, &b.meta);
    (a.creation_timestamp, &a.name, &a.namespace).cmp(&(
        b.creation_timestamp,
        &b.name,
        &b.namespace,
    ))
}

/// A kind and its place in an [`ObjectSet`], for code that treats all kinds alike.
pub trait InSet: Resource {
    /// The objects of this kind.
    fn objects(set: &ObjectSet) -> &Objects<Self>;

    /// The objects of this kind, to be changed.
    fn objects_mut(set: &mut ObjectSet) -> &mut Objects<Self>;
}

/// Kinds whose objects the users of a namespace make.
macro_rules! tenant_kinds {
    ($($field:ident,)*) => {
        impl ObjectSet {
            fn for_each_tenant_key<'a>(&'a self, mut visit: impl FnMut(&'a ObjectKey)) {
                $(self.$field.keys().for_each(&mut visit);)*
            }

            /// Puts the objects of `namespace` of `from` in place of those here, Pods apart.
            pub fn replace_namespace(&mut self, namespace: &str, from: &Self) {
                $(replace(&mut self.$field, namespace, &from.$field);)*
            }
        }
    };
}

tenant_kinds! {
    virtual_services,
    destination_rules,
    service_entries,
    workload_entries,
    workload_groups,
    gateways,
    sidecars,
    envoy_filters,
    authorization_policies,
    peer_authentications,
    request_authentications,
    services,
    endpoint_slices,
    secrets,
    config_maps,
}

fn replace<S: Resource>(objects: &mut Objects<S>, namespace: &str, from: &Objects<S>) {
    objects.retain(|key, _| key.namespace != *namespace);
    let of_namespace = from.iter().filter(|(key, _)| key.namespace == *namespace);
    objects.extend(of_namespace.map(|(key, object)| (key.clone(), Arc::clone(object))));
}

/// Says where each kind lives.
macro_rules! in_set {
    ($($kind:ty: $field:ident,)*) => {$(
        impl InSet for $kind {
            fn objects(set: &ObjectSet) -> &Objects<Self> {
                &set.$field
            }

            fn objects_mut(set: &mut ObjectSet) -> &mut Objects<Self> {
                &mut set.$field
            }
        }
    )*};
}

in_set! {
    VirtualService: virtual_services,
    DestinationRule: destination_rules,
    ServiceEntry: service_entries,
    WorkloadEntry: workload_entries,
    WorkloadGroup: workload_groups,
    Gateway: gateways,
    Sidecar: sidecars,
    EnvoyFilter: envoy_filters,
    AuthorizationPolicy: authorization_policies,
    PeerAuthentication: peer_authentications,
    RequestAuthentication: request_authentications,
    Service: services,
    EndpointSlice: endpoint_slices,
    Pod: pods,
    Namespace: namespaces,
    Node: nodes,
    Secret: secrets,
    ConfigMap: config_maps,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ObjectMeta, SourceMap, Timestamp};

    #[test]
    fn the_oldest_object_is_first_and_one_without_a_time_is_older_still() {
        let mut objects: Objects<Sidecar> = Objects::default();
        for (namespace, name, seconds) in [
            ("b", "x", Some(5)),
            ("a", "x", Some(5)),
            ("a", "y", None),
            ("c", "w", Some(9)),
        ] {
            let meta = ObjectMeta {
                name: name.into(),
                namespace: namespace.into(),
                creation_timestamp: seconds.map(Timestamp),
                ..ObjectMeta::default()
            };
            let object = Object {
                meta,
                spec: Sidecar::default(),
                status: Default::default(),
                source: SourceMap::default(),
            };
            objects.insert(object.key(), Arc::new(object));
        }
        let order: Vec<String> = in_creation_order(&objects)
            .iter()
            .map(|object| object.key().to_string())
            .collect();
        assert_eq!(order, ["a/y", "a/x", "b/x", "c/w"]);
    }
}
