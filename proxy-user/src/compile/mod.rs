//! Turns an [`ObjectSet`](crate::api::ObjectSet) into a snapshot and findings.
//!
//! Pure: no clock, no sockets, no randomness. Every reference by name is
//! resolved here, so the data planes never look anything up by name.

mod cluster;
mod registry;
mod scope;
mod sidecar;
mod visibility;
