//! Known pods to found pods: follows the cgroup tree and each pod's namespace.
//!
//! Input: the pods that the configuration lists for this node. Output: events that
//! say which were found, with an open namespace, and which are gone. A namespace counts
//! as the pod's only if it is not the host's, one of its interfaces holds an address of
//! `status.podIPs`, and the process still belongs to the pod after its namespace was
//! opened: taking any process would pick nested namespaces and give traffic a wrong identity.
//! A host-network pod is found once one of its processes is in the host's namespace.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::cgroup::{self, PodCgroup};
use super::netns::{self, NetNamespace};
use super::way_out::{PodNetlink, WayOut};
use crate::net::PodUid;

/// Between two scans while a pod is awaited and the tree changed lately.
const SCAN_FAST: Duration = Duration::from_millis(100);
/// Between two scans otherwise: a pod that is gone is noticed within it.
const SCAN_SLOW: Duration = Duration::from_secs(1);
/// How long after a change scans stay fast: a namespace is ready some time after its cgroup.
const FAST_AFTER_CHANGE: Duration = Duration::from_secs(10);

/// A pod that the configuration lists for this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPod {
    /// `metadata.uid`.
    pub uid: PodUid,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// `kubernetes.io/config.hash` of a static pod, whose cgroup is named by it.
    pub config_hash: Option<Arc<str>>,
    /// It has no namespace of its own.
    pub is_host_network: bool,
}

/// A pod with its open namespace.
#[derive(Debug, Clone)]
pub struct FoundPod {
    /// Which one.
    pub uid: PodUid,
    /// Its namespace; dropped with the last copy.
    pub namespace: Arc<NetNamespace>,
    /// Addresses of its interfaces, loopback left out.
    pub addresses: Vec<IpAddr>,
    /// Families in which it can leave.
    pub way_out: WayOut,
}

/// What happened to a pod.
#[derive(Debug, Clone)]
pub enum NodeEvent {
    /// Its cgroup is there; its namespace perhaps not yet.
    Cgroup {
        /// Which one.
        uid: PodUid,
        /// Id of the pod-level cgroup.
        id: u64,
    },
    /// Its namespace is open.
    Found(FoundPod),
    /// Its routes changed.
    WayOut {
        /// Which one.
        uid: PodUid,
        /// Now.
        way_out: WayOut,
    },
    /// Its cgroup emptied, or the configuration lists it no more.
    Gone(PodUid),
}

/// Where pods are.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The pods' cgroup root, such as `kubepods`.
    pub pods_root: PathBuf,
}

/// Starts the watch on a thread of its own; it ends when `events` is closed.
///
/// # Errors
/// The thread or its runtime cannot be made.
pub fn spawn(
    config: NodeConfig,
    wanted: watch::Receiver<Arc<Vec<WantedPod>>>,
    events: mpsc::Sender<NodeEvent>,
) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("node".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                let watch = match PodWatch::new(config, events) {
                    Ok(watch) => watch,
                    Err(error) => {
                        tracing::error!(%error, "cannot watch this node's pods");
                        return;
                    }
                };
                watch.run(wanted).await;
            });
        })
}

struct PodWatch {
    config: NodeConfig,
    events: mpsc::Sender<NodeEvent>,
    home_inode: u64,
    known: HashMap<PodUid, KnownPod>,
    way_out_changes: mpsc::Sender<(PodUid, WayOut)>,
    way_out_receiver: mpsc::Receiver<(PodUid, WayOut)>,
}

/// What is known of a wanted pod whose cgroup exists.
struct KnownPod {
    cgroup: PodCgroup,
    found: Option<FoundNamespace>,
}

struct FoundNamespace {
    inode: u64,
    /// A process inside; readable once it ended.
    process: OwnedFd,
    route_task: JoinHandle<()>,
}

impl Drop for FoundNamespace {
    fn drop(&mut self) {
        self.route_task.abort();
    }
}

/// Nobody listens to events any more.
struct Closed;

impl PodWatch {
    fn new(config: NodeConfig, events: mpsc::Sender<NodeEvent>) -> io::Result<Self> {
        // Route changes of all pods: each task holds at most one undelivered message.
        let (way_out_changes, way_out_receiver) = mpsc::channel(64);
        Ok(Self {
            config,
            events,
            home_inode: netns::home_inode()?,
            known: HashMap::new(),
            way_out_changes,
            way_out_receiver,
        })
    }

    async fn run(mut self, mut wanted: watch::Receiver<Arc<Vec<WantedPod>>>) {
        let (pings, mut changed) = mpsc::channel(1);
        let _watcher = self.watch_tree(pings);
        let mut fast_until = Instant::now() + FAST_AFTER_CHANGE;
        loop {
            let pods = Arc::clone(&wanted.borrow_and_update());
            let Ok(()) = self.tick(&pods).await else {
                return;
            };
            let is_waiting = pods.iter().any(|pod| self.is_awaited(pod));
            let pause = if is_waiting && Instant::now() < fast_until {
                SCAN_FAST
            } else {
                SCAN_SLOW
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Some(()) = changed.recv() => fast_until = Instant::now() + FAST_AFTER_CHANGE,
                result = wanted.changed() => {
                    if result.is_err() {
                        return;
                    }
                    fast_until = Instant::now() + FAST_AFTER_CHANGE;
                }
                Some((uid, way_out)) = self.way_out_receiver.recv() => {
                    let Ok(()) = self.send(NodeEvent::WayOut { uid, way_out }).await else { return };
                }
                () = self.events.closed() => return,
            }
        }
    }

    /// inotify on the cgroup tree. Without it scans still find everything, only later.
    fn watch_tree(&self, pings: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // A scan opens and reads files itself, which must not ask for another scan.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // Full means that a scan is due already.
                let _ = pings.try_send(());
            }
        });
        let result = watcher.and_then(|mut watcher| {
            watcher.watch(&self.config.pods_root, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        result
            .inspect_err(|error| tracing::warn!(%error, "cannot watch the cgroup tree, scanning every second"))
            .ok()
    }

    fn is_awaited(&self, pod: &WantedPod) -> bool {
        self.known
            .get(&pod.uid)
            .is_none_or(|known| known.found.is_none())
    }

    async fn send(&self, event: NodeEvent) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }

    async fn tick(&mut self, wanted: &[WantedPod]) -> Result<(), Closed> {
        let cgroups = cgroup::scan(&self.config.pods_root);
        self.forget_unwanted(wanted).await?;
        for pod in wanted {
            let name = pod
                .config_hash
                .as_deref()
                .filter(|hash| cgroups.contains_key(*hash));
            let cgroup = cgroups.get(name.unwrap_or(&pod.uid.0));
            self.look_at(pod, cgroup).await?;
        }
        Ok(())
    }

    async fn forget_unwanted(&mut self, wanted: &[WantedPod]) -> Result<(), Closed> {
        let uids: HashSet<&PodUid> = wanted.iter().map(|pod| &pod.uid).collect();
        let gone: Vec<PodUid> = self
            .known
            .keys()
            .filter(|uid| !uids.contains(uid))
            .cloned()
            .collect();
        for uid in gone {
            self.forget(&uid).await?;
        }
        Ok(())
    }

    async fn forget(&mut self, uid: &PodUid) -> Result<(), Closed> {
        if self.known.remove(uid).is_some() {
            self.send(NodeEvent::Gone(uid.clone())).await?;
        }
        Ok(())
    }

    /// One pod, once per scan: gone, new, or the same as before.
    async fn look_at(&mut self, pod: &WantedPod, cgroup: Option<&PodCgroup>) -> Result<(), Closed> {
        let Some(cgroup) = cgroup.filter(|cgroup| cgroup::is_populated(&cgroup.path)) else {
            return self.forget(&pod.uid).await;
        };
        let is_same = self
            .known
            .get(&pod.uid)
            .is_some_and(|known| known.cgroup.id == cgroup.id);
        if !is_same {
            self.forget(&pod.uid).await?;
            self.known.insert(
                pod.uid.clone(),
                KnownPod {
                    cgroup: cgroup.clone(),
                    found: None,
                },
            );
            self.send(NodeEvent::Cgroup {
                uid: pod.uid.clone(),
                id: cgroup.id,
            })
            .await?;
        }
        if self.is_still_inside(pod) {
            return Ok(());
        }
        if self
            .known
            .get(&pod.uid)
            .is_some_and(|known| known.found.is_some())
        {
            // Its namespace is left by all processes: a new sandbox may have another.
            self.forget(&pod.uid).await?;
            self.known.insert(
                pod.uid.clone(),
                KnownPod {
                    cgroup: cgroup.clone(),
                    found: None,
                },
            );
            self.send(NodeEvent::Cgroup {
                uid: pod.uid.clone(),
                id: cgroup.id,
            })
            .await?;
        }
        self.find_namespace(pod, cgroup).await
    }

    /// Whether some process of the pod is still in the namespace that was found.
    fn is_still_inside(&mut self, pod: &WantedPod) -> bool {
        let Some(known) = self.known.get_mut(&pod.uid) else {
            return false;
        };
        let Some(found) = &mut known.found else {
            return false;
        };
        if !has_ended(&found.process) {
            return true;
        }
        let inode = found.inode;
        let successor = cgroup::processes(&known.cgroup.path)
            .into_iter()
            .find_map(|pid| {
                let process = open_process(pid)?;
                let namespace = NetNamespace::of_process(pid).ok()?;
                (namespace.inode == inode).then_some(process)
            });
        let Some(process) = successor else {
            return false;
        };
        found.process = process;
        true
    }

    async fn find_namespace(&mut self, pod: &WantedPod, cgroup: &PodCgroup) -> Result<(), Closed> {
        let mut refused = HashSet::new();
        for pid in cgroup::processes(&cgroup.path) {
            let Some((process, namespace)) = namespace_of(pid) else {
                continue;
            };
            let is_hosts = namespace.inode == self.home_inode;
            if is_hosts != pod.is_host_network || refused.contains(&namespace.inode) {
                continue;
            }
            // The number may have become another process's before it was opened.
            if !cgroup::holds_process(&cgroup.path, pid) || has_ended(&process) {
                continue;
            }
            refused.insert(namespace.inode);
            let Some((netlink, addresses)) = pod_addresses(&namespace, pod).await else {
                continue;
            };
            return self
                .adopt(pod, process, namespace, netlink, addresses)
                .await;
        }
        Ok(())
    }

    async fn adopt(
        &mut self,
        pod: &WantedPod,
        process: OwnedFd,
        namespace: NetNamespace,
        mut netlink: PodNetlink,
        addresses: Vec<IpAddr>,
    ) -> Result<(), Closed> {
        let way_out = netlink
            .way_out()
            .await
            .unwrap_or(WayOut { v4: true, v6: true });
        let route_task = tokio::spawn(follow_routes(
            pod.uid.clone(),
            netlink,
            way_out,
            self.way_out_changes.clone(),
        ));
        let inode = namespace.inode;
        if let Some(known) = self.known.get_mut(&pod.uid) {
            known.found = Some(FoundNamespace {
                inode,
                process,
                route_task,
            });
        }
        let found = FoundPod {
            uid: pod.uid.clone(),
            namespace: Arc::new(namespace),
            addresses,
            way_out,
        };
        self.send(NodeEvent::Found(found)).await
    }
}

/// The namespace's addresses, if one of them is the pod's. The host's needs no such proof.
async fn pod_addresses(
    namespace: &NetNamespace,
    pod: &WantedPod,
) -> Option<(PodNetlink, Vec<IpAddr>)> {
    let mut netlink = PodNetlink::open(namespace)
        .inspect_err(
            |error| tracing::debug!(pod = %pod.uid, %error, "cannot open netlink in the namespace"),
        )
        .ok()?;
    let addresses = netlink.addresses().await.ok()?;
    let is_pods = pod.is_host_network || addresses.iter().any(|address| pod.ips.contains(address));
    let outside = addresses
        .into_iter()
        .filter(|address| !address.is_loopback())
        .collect();
    is_pods.then_some((netlink, outside))
}

async fn follow_routes(
    uid: PodUid,
    mut netlink: PodNetlink,
    mut last: WayOut,
    changes: mpsc::Sender<(PodUid, WayOut)>,
) {
    while netlink.changed().await.is_some() {
        let now = loop {
            match netlink.way_out().await {
                Ok(now) => break now,
                // Routes that change while they are read.
                Err(error) => tracing::debug!(pod = %uid, %error, "cannot read the pod's routes"),
            }
            tokio::time::sleep(SCAN_SLOW).await;
        };
        if now != last {
            last = now;
            let Ok(()) = changes.send((uid.clone(), now)).await else {
                return;
            };
        }
    }
}

/// A process and its namespace, both held open.
fn namespace_of(pid: u32) -> Option<(OwnedFd, NetNamespace)> {
    let process = open_process(pid)?;
    let namespace = NetNamespace::of_process(pid).ok()?;
    Some((process, namespace))
}

fn open_process(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// A pidfd becomes readable when its process ends (pidfd_open(2)).
fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    poll(
        &mut fds,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )
    .is_ok_and(|ready| ready > 0)
}
