//! Forwarded bytes, one record each: workers, connections, protocols, upstreams.
//!
//! Reads the snapshot, never writes it; never knows Kubernetes objects or eBPF.
//! Start at [`upstream::Upstreams`] for what happens towards the endpoints.

mod context;
pub(crate) mod http;
pub(crate) mod policy;
mod stream;
pub mod upstream;

pub use context::{ArcRecorder, ConnectionFacts, PodContext, PodStats, WorkerLimits};
pub use stream::PrefixedStream;
