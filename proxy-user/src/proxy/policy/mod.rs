//! What VirtualService rules do to one request, as plain functions of compiled values.
//!
//! No sockets, no clock and no randomness in here: callers hand in tickets and times.

pub(crate) mod cors;
pub(crate) mod fault;
pub(crate) mod header_ops;
pub(crate) mod mirror;
pub(crate) mod redirect;
pub(crate) mod retry;
pub(crate) mod rewrite;
pub(crate) mod timeout;
