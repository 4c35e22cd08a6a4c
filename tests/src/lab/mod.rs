//! A Kubernetes node on one machine, made of namespaces and cgroups.
//!
//! In: pods, services and configuration as a test asks for them. Out: real
//! processes in real network namespaces and `kubepods` cgroups, the API objects
//! that describe them as YAML files, and the daemon. Nothing leaves the
//! namespaces that a lab made, and two labs never meet. Start at [`Lab`].

mod cgroup;
mod daemon;
mod dns;
mod mesh;
mod netns;
mod network;
mod node;
mod objects;
mod pod;
mod process;
mod record;
mod sockets;
mod spec;
mod wait;

pub use cgroup::{Driver, Qos, cgroup2_root};
pub use daemon::{Daemon, DaemonOptions, Placement, find_mizzen};
pub use dns::{Mood, NameServer};
pub use mesh::Mesh;
pub use netns::NetNs;
pub use node::{Lab, LabBuilder, NODE_NAME};
pub use pod::Pod;
pub use process::{Finished, Place, Process};
pub use record::{remove_lab, sweep_leftovers};
pub use sockets::{TcpEntry, TcpState, tcp_table};
pub use spec::{Attachment, Families, PodSpec, PortSpec, ServiceSpec};
pub use wait::{patience, wait_until};
