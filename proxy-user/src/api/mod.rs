//! Objects exactly as the user wrote them: one file per kind, the user's field
//! names letter by letter, no meaning and no I/O.
//!
//! Start at [`ObjectSet`], the complete set that `source` hands over. Types
//! follow Istio's API definitions (networking/v1alpha3) and the Kubernetes API.

mod destination_rule;
mod envoy_filter;
mod gateway;
mod grpc;
pub mod honoured;
mod kubernetes;
mod labels;
mod meta;
pub mod re2;
mod scalar;
#[cfg(test)]
pub(crate) mod schema;
mod security;
mod service_entry;
mod set;
mod sidecar;
mod source_map;
mod text;
pub mod validate;
mod virtual_service;
mod workload;

pub use destination_rule::*;
pub use envoy_filter::*;
pub use gateway::*;
pub use grpc::grpc_status_number;
pub use kubernetes::*;
pub use labels::*;
pub use meta::*;
pub use scalar::*;
pub use security::*;
pub use service_entry::*;
pub use set::*;
pub use sidecar::*;
pub use source_map::*;
pub use text::*;
pub use virtual_service::*;
pub use workload::*;
