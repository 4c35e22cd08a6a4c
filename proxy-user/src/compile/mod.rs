//! Turns an [`ObjectSet`](crate::api::ObjectSet) into a snapshot and findings.
//!
//! Pure: no clock, no sockets, no randomness. Every reference by name is
//! resolved here, so the data planes never look anything up by name.

mod cluster;
mod host;
mod policy;
mod registry;
mod rules;
mod scope;
mod sidecar;
mod visibility;

use std::sync::Arc;

use crate::api::{Object, Resource};
use crate::finding::Origin;
use crate::snapshot::Provenance;

/// Where a value came from: `field` of `object`, a path as findings have it; empty
/// for the object as a whole.
pub(crate) fn provenance<S: Resource>(object: &Object<S>, field: &str) -> Provenance {
    Provenance {
        object: object.reference(),
        field: Arc::from(field),
        origin: object.source.origin(field),
    }
}

/// The place of `field` of `object`.
pub(crate) fn origin_of<S: Resource>(object: &Object<S>, field: &str) -> Origin {
    object.source.origin(field)
}
