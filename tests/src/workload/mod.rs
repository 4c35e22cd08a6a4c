//! What runs inside the lab's pods. None of it knows anything of Mizzen.
//!
//! Servers answer who they are and whom they see; clients print what they
//! observed as JSON, and never judge it: that is the test's part.

pub mod enter;
pub mod http_client;
pub mod http_server;
pub mod load;
pub mod outcome;
pub mod tcp_client;
pub mod tcp_server;
