//! HTTP between one client connection and the upstreams: our side in `serve`, their
//! side in `forward`, what is refused in `strict`.
//!
//! Bytes in, one decision per request from the snapshot, bytes out, one record per
//! request. Never opens a socket itself: `upstream` does. Start at `serve::serve`.

pub(crate) mod client_io;
pub(crate) mod headers;
pub(crate) mod local_reply;
pub(crate) mod normalize;
pub(crate) mod request_body;
pub(crate) mod strict;
