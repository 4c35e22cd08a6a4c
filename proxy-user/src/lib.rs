//! Mizzen's userspace: one road from YAML to sockets.
//!
//! `source` hands typed objects ([`api`]) to [`compile`], which makes an
//! immutable [`snapshot`]; [`kernel`] mirrors it into eBPF maps and [`proxy`]
//! forwards by it; both report to [`telemetry`]. [`daemon`] wires the stages.
//! Start reading at `daemon::run`.

#![cfg_attr(
    test,
    allow(
        clippy::wildcard_enum_match_arm,
        reason = "a test looks at the variants that it is about"
    )
)]

pub mod admin;
pub mod api;
pub mod cli;
pub mod compile;
pub mod control;
pub mod daemon;
pub mod dns;
#[cfg(test)]
mod field_table;
pub mod finding;
pub mod kernel;
pub mod net;
pub mod node;
pub mod proxy;
pub mod settings;
pub mod snapshot;
pub mod source;
pub mod telemetry;
