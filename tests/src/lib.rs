//! Mizzen's lab and what runs in it: pods on one machine, workloads, the demo.
//!
//! Start at [`lab::Lab`]: it builds a node out of namespaces and cgroups, runs
//! pods and the daemon on it, and removes everything when it is dropped.
//! [`workload`] is what runs inside the pods, [`harness`] runs a file of
//! end-to-end checks on one shared lab, mostly [`fixture::Fixture`].

pub mod bench;
pub mod demo;
pub mod evaluator;
pub mod fixture;
pub mod harness;
pub mod lab;
pub mod prove;
pub mod statistics;
pub mod workload;
