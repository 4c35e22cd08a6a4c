//! HTTP between one client connection and the upstreams: our side in `serve`, their
//! side in `forward`, what is refused in `strict`.
//!
//! Bytes in, one decision per request from the snapshot, bytes out, one record per
//! request. Never opens a socket itself: `upstream` does. Start at `serve::serve`.

mod action;
mod attempts;
mod call;
mod exchange;
mod forward;
mod fuzz;
mod grpc_messages;
mod hash_key;
pub(crate) mod headers;
pub(crate) mod local_reply;
mod mirror_body;
mod normalize;
mod reply;
mod request_body;
mod response_body;
mod route;
mod serve;
mod server;
mod shadow;
mod strict;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_policy;
#[cfg(test)]
mod tests_wire;
mod upgrade;

pub use fuzz::fuzz_entry;
pub(crate) use normalize::{PathRefusal, normalize};
pub(crate) use serve::serve;
