//! HTTP/1.1 on the wire, both sides: heads, bodies, and who may read what.
//!
//! Bytes in, heads and body pieces out, and the same the other way round. Parsing and
//! serialising are pure (`head`, `length`, `chunked`, `body`, `write`); `wire`, `server` and
//! `client` move the bytes. Never decides what a request means: `http` does. Start at
//! [`head::take_request`] for what is accepted, at [`client::Client`] for a round trip.

pub(crate) mod body;
mod chunked;
pub(crate) mod client;
mod date;
mod fuzz;
pub(crate) mod head;
mod length;
mod repair;
pub(crate) mod server;
pub(crate) mod target;
pub(crate) mod wire;
pub(crate) mod write;

pub(crate) use fuzz::read_all;
