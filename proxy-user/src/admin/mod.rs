//! What the daemon shows to people and probes; read-only.
//!
//! Input: the snapshot and what [`node::Node`] knows of the running node; output:
//! JSON views over HTTP ([`server`], [`respond`]), which the CLI turns into tables.
//! Never touches a connection. Start at [`server::Servers::spawn`].

mod describe;
mod explain;
mod gateway_views;
pub mod node;
mod respond;
mod route_views;
pub mod server;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod view;
mod walk;

pub use explain::explain_query;
pub use node::Node;
pub use server::{ServerAddresses, Servers};
pub use walk::finding as finding_view;
