//! Turns an [`ObjectSet`](crate::api::ObjectSet) into a snapshot and findings.
//!
//! Pure: no clock, no sockets, no randomness. Every reference by name is
//! resolved here, so the data planes never look anything up by name.

mod action;
mod cluster;
mod header_ops;
mod host;
mod http_policy;
mod matcher;
mod regex;
mod registry;
mod rule;
mod scope;
mod sidecar;
mod template;
mod visibility;
