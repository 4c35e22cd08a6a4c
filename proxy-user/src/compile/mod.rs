//! Turns an [`ObjectSet`](crate::api::ObjectSet) into a snapshot and findings.
//!
//! Pure: no clock, no sockets, no randomness. Every reference by name is
//! resolved here, so the data planes never look anything up by name.

mod action;
mod cluster;
mod delegate;
mod header_ops;
mod host;
mod http_policy;
mod kernel_view;
mod l4_route;
mod matcher;
mod path_plan;
mod regex;
mod registry;
mod route;
mod rule;
mod rule_reader;
mod scope;
mod sidecar;
mod template;
mod virtual_service;
mod visibility;
