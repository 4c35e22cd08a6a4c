//! Forwarded bytes, one record each: workers, connections, protocols, upstreams.
//!
//! Reads the snapshot, never writes it; never knows Kubernetes objects or eBPF.
//! Start at [`Worker::spawn`] for the threads, at `connection::serve` for the life
//! of a connection, at [`upstream::Upstreams`] for what happens towards endpoints.

mod connection;
mod context;
pub mod http;
mod http1;
mod live;
mod pod;
pub(crate) mod policy;
mod relay;
pub mod sniff;
mod stream;
mod tcp;
pub mod tls;
pub mod upstream;
mod worker;

#[cfg(test)]
mod tests;

pub use context::{ArcRecorder, ConnectionFacts, PodContext, PodStats, WorkerLimits};
pub use http1::target::Target;
pub use live::{ConnectionView, PodStatus, WorkerStatus};
pub use pod::PodHandle;
pub use stream::PrefixedStream;
pub use worker::{SendError, Worker, WorkerCommand, WorkerConfig, WorkerHandle};
