//! eBPF maps that match the snapshot, and programs that read them.
//!
//! Input: [`KernelView`] from the compiler, pods and listeners from the daemon. Output: pinned maps
//! and links, original destinations for the proxy's accept, flow records. It never touches a
//! connection itself. Start at [`KernelMaps`]; [`Kernel`] is the real one, [`FakeKernel`] lives in
//! memory.
//!
//! The order of a start: [`Kernel::open`], [`KernelMaps::register_daemon`], [`KernelMaps::sync`],
//! then [`KernelMaps::attach`]; pods and their listeners follow. While it runs the daemon calls
//! [`KernelMaps::renew`] every few seconds, [`KernelMaps::live_flows`] every 5 s and
//! [`KernelMaps::check_links`] every 10 s.

mod attach;
mod btf;
mod events;
mod fake;
mod ids;
mod live;
mod load;
mod log;
mod maps;
mod original_dst;
mod pin;
mod pods;
mod real;
mod slots;
mod sync;
mod sys;
mod workers;

use std::{
    collections::HashMap, fmt, io, net::IpAddr, os::fd::BorrowedFd, path::PathBuf, sync::Arc,
    time::Duration,
};

use proxy_common::{addr::Family, flow::LiveFlow, pod::PodId, reason::Reason};

pub use attach::LinkCheck;
pub use events::{Flow, FlowEvents, FlowKind, FlowPath};
pub use fake::FakeKernel;
pub use load::is_object_embedded;
pub use log::KernelLog;
pub use pin::{cleanup, is_in_use};
pub use real::Kernel;
pub use sync::{Names, SyncProblem, SyncReport};

use crate::{
    net::{Heartbeat, NetnsCookie, OriginalDstSource},
    settings::OnProxyDown,
    snapshot::{Exclusions, KernelView},
};

/// What the daemon asks of the kernel. Every call is synchronous and short (map writes), so it
/// belongs on the daemon's control thread, never on a worker.
pub trait KernelMaps: Send + Sync {
    /// Makes the maps match `view`: writes what differs, in an order in which every reference
    /// resolves at all times. The same view twice writes nothing. What did not fit stands in the
    /// report; everything else applies.
    fn sync(&self, view: &KernelView) -> SyncReport;

    /// Makes the endpoint lists of `changed`, indices of `view.clusters`, match `view`, the same
    /// view as the last one but for them. What that changes beside the lists (a cluster that
    /// fits no longer, or fits again) makes it a whole [`Self::sync`]. `None`: nothing else was
    /// touched, and the last report holds.
    fn sync_endpoints(&self, view: &KernelView, changed: &[usize]) -> Option<SyncReport>;

    /// Names a pod, or changes what is known about it. Its scope should be in the last view;
    /// until it is, its connections pass.
    ///
    /// # Errors
    /// A full map: the pod is not captured then.
    fn upsert_pod(&self, pod: &PodEntry) -> Result<(), KernelError>;

    /// Forgets a pod and its exclusions. An unknown pod is no error.
    ///
    /// # Errors
    /// What the kernel answers.
    fn remove_pod(&self, pod: PodId) -> Result<(), KernelError>;

    /// Gives connect the pod's listening socket of one family, replacing an earlier one. The kernel
    /// drops the entry by itself when the socket closes.
    ///
    /// # Errors
    /// A full map, or a socket that does not listen on TCP.
    fn set_listener(
        &self,
        pod: PodId,
        family: Family,
        socket: BorrowedFd<'_>,
    ) -> Result<(), KernelError>;

    /// Takes a listening socket away, as a watchdog does with a hung worker's. An absent one is no
    /// error.
    ///
    /// # Errors
    /// What the kernel answers.
    fn remove_listener(&self, pod: PodId, family: Family) -> Result<(), KernelError>;

    /// Exempts a daemon from capture by its cgroup's inode; before its first upstream socket. With more than four the one that registered first is forgotten.
    ///
    /// # Errors
    /// What the kernel answers.
    fn register_daemon(&self, cgroup_id: u64) -> Result<(), KernelError>;

    /// The opposite, for a daemon that has gone. An unknown one is no error.
    ///
    /// # Errors
    /// What the kernel answers.
    fn unregister_daemon(&self, cgroup_id: u64) -> Result<(), KernelError>;

    /// Whether an earlier daemon's maps of another layout are in force until [`Self::attach`].
    /// What they know of pods is not adopted, so that pods should be named first.
    ///
    /// # Errors
    /// Pins that cannot be read.
    fn has_other_layout(&self) -> Result<bool, KernelError>;

    /// Attaches the programs, or swaps them in the pinned links of an earlier daemon; then drops
    /// what another layout left. Call it once the maps are filled.
    ///
    /// # Errors
    /// The program and the cgroup that it could not be attached to.
    fn attach(&self) -> Result<(), KernelError>;

    /// Says that the maps are true now. Without it they are stale after the configured time.
    ///
    /// # Errors
    /// What the kernel answers.
    fn renew(&self) -> Result<(), KernelError>;

    /// A handle by which one worker tells that it runs; one memory write a beat.
    ///
    /// # Errors
    /// A worker index beyond the map.
    fn heartbeat(&self, worker: u32) -> Result<Box<dyn Heartbeat>, KernelError>;

    /// Age of a worker's last beat; `None` for one without a handle.
    fn heartbeat_age(&self, worker: u32) -> Option<Duration>;

    /// Original destinations for accept.
    fn original_dsts(&self) -> Arc<dyn OriginalDstSource>;

    /// Removes original destinations that nobody accepted for 60 s, and returns how many. From 10 s
    /// after the start on it also removes pods of an earlier daemon that this one has not named.
    ///
    /// # Errors
    /// What the kernel answers.
    fn sweep_original_dsts(&self) -> Result<usize, KernelError>;

    /// Compares each link's cgroup with the directory and attaches again where it was removed and
    /// made anew: such a link does nothing, without an error.
    ///
    /// # Errors
    /// As [`KernelMaps::attach`].
    fn check_links(&self) -> Result<LinkCheck, KernelError>;

    /// What connect did and why, since the maps were made.
    ///
    /// # Errors
    /// What the kernel answers.
    fn reasons(&self) -> Result<Vec<(Reason, u64)>, KernelError>;

    /// Open connections of the kernel path and passed ones of known services, with their bytes so
    /// far. Repairs the live counts that least-request reads.
    ///
    /// # Errors
    /// What the kernel answers.
    fn live_flows(&self) -> Result<Vec<LiveFlow>, KernelError>;

    /// How full the maps are.
    fn fills(&self) -> Vec<MapFill>;

    /// The names behind the ids in flows, as of the last sync.
    fn names(&self) -> Arc<Names>;

    /// Flow records; there is one reader, so the second call returns `None`.
    fn take_flow_events(&self) -> Option<FlowEvents>;

    /// Log lines of the programs; there is one reader as well.
    fn take_log(&self) -> Option<KernelLog>;
}

/// Fill level of one map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapFill {
    /// Its name.
    pub name: &'static str,
    /// Entries in it.
    pub entries: usize,
    /// Entries that fit.
    pub entries_max: u32,
}

/// A pod as the daemon knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEntry {
    /// Namespace cookie, or cgroup id for host-network and not yet ready pods.
    pub id: PodId,
    /// Cookie of the namespace that its listener is in.
    pub netns: NetnsCookie,
    /// [`crate::snapshot::kernel_view::KernelScope::key`] of its scope.
    pub scope: Arc<str>,
    /// Index of its home worker.
    pub worker: u32,
    /// False: meshed, but without a namespace yet.
    pub is_ready: bool,
    /// `status.podIPs`; the first two of each family count.
    pub addresses: Vec<IpAddr>,
    /// Port of the listener on 127.0.0.1.
    pub listener_v4: Option<u16>,
    /// Port of the listener on ::1.
    pub listener_v6: Option<u16>,
    /// IPv4 has a default route, or a route by a gateway.
    pub has_way_out_v4: bool,
    /// The same for IPv6.
    pub has_way_out_v6: bool,
    /// What its connections get when the proxy is down.
    pub on_proxy_down: OnProxyDown,
    /// Istio's traffic annotations.
    pub exclusions: Exclusions,
}

/// How [`Kernel::open`] shall do it.
#[derive(Debug, Clone)]
pub struct KernelOptions {
    /// The pods' cgroup root, in a cgroup2 file system.
    pub cgroup: PathBuf,
    /// Directory for pins, on bpffs.
    pub pins: PathBuf,
    /// After this without a renewal, addresses that Kubernetes routes pass (`kernelPathStaleAfter`).
    pub stale_after: Duration,
    /// A heartbeat older than this means a hung worker.
    pub heartbeat_max: Duration,
    /// Refuse connections of pods that are meshed but not ready.
    pub is_strict: bool,
    /// Cookie of the host's namespace, which is the daemon's own.
    pub host_netns: NetnsCookie,
    /// Ports of the node's own services, to which no rule leads a host-network pod; eight count.
    pub guarded_ports: Vec<u16>,
}

/// What went wrong between this process and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// See [`is_object_embedded`].
    #[error("this mizzen was built without its eBPF object; run `cargo xtask build`")]
    NoObject,
    /// The object as a whole, with causes.
    #[error(
        "cannot load the eBPF object: {0} (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and Linux 5.14)"
    )]
    Load(String),
    /// One program; the log is the verifier's.
    #[error("the kernel refuses eBPF program {program}: {log}")]
    Verifier {
        /// Its function name.
        program: &'static str,
        /// What the verifier says.
        log: String,
    },
    /// The object lacks a program.
    #[error("the eBPF object has no program {0}; run `cargo xtask build` again")]
    NoProgram(&'static str),
    /// The object lacks a map.
    #[error("the eBPF object has no map {0}; run `cargo xtask build` again")]
    NoMap(&'static str),
    /// A map of another shape.
    #[error(
        "eBPF map {name} has another shape than this mizzen expects: {error}; run `mizzen cleanup`"
    )]
    MapType {
        /// Its name.
        name: &'static str,
        /// What differs.
        error: String,
    },
    /// One map operation.
    #[error("cannot {action} eBPF map {name}: {error}")]
    Map {
        /// Verb.
        action: &'static str,
        /// Map.
        name: &'static str,
        /// Cause.
        error: String,
    },
    /// Attaching one program.
    #[error(
        "cannot attach {program} to cgroup {cgroup}: {error} (needs CAP_BPF and CAP_NET_ADMIN)"
    )]
    Attach {
        /// Its function name.
        program: &'static str,
        /// Directory.
        cgroup: PathBuf,
        /// Cause.
        error: String,
    },
    /// Files: pins, cgroup, bpffs.
    #[error("cannot {action} {path}: {error}")]
    File {
        /// Verb.
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Cause.
        error: io::Error,
    },
    /// A worker index that the heartbeat map has no room for.
    #[error("no room for the heartbeat of worker {0}: at most 512 workers")]
    TooManyWorkers(u32),
}

impl KernelError {
    fn map(action: &'static str, name: &'static str, error: impl fmt::Display) -> Self {
        Self::Map {
            action,
            name,
            error: error.to_string(),
        }
    }

    fn file(action: &'static str, path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self::File {
            action,
            path: path.into(),
            error,
        }
    }
}

/// Home workers of listeners, by namespace cookie, family and port, for the sweep.
type Listeners = HashMap<(u64, Family, u16), u32>;

#[cfg(test)]
mod tests;
