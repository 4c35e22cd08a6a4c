//! The real [`KernelMaps`]: one lock around everything that writes, held for map writes only.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use aya::maps::{HashMap, MapData, SockHash};
use proxy_common::{
    addr::{Family, PortBe},
    flow::LiveFlow,
    map,
    pod::{ListenerKey, NodeState, PodId},
    reason::Reason,
    socket::{OriginalDstKey, OriginalDstValue},
};

use super::{
    FlowEvents, KernelError, KernelLog, KernelMaps, KernelOptions, LinkCheck, MapFill, Names,
    PodEntry, SyncReport,
    attach::Links,
    live::{read_live_flows, repair_live_counts},
    load::{self, Loaded, Maps},
    maps::{self, removed},
    original_dst::{KernelOriginalDsts, Sweeper, repair_connecting},
    pin::PinDirs,
    pods::Pods,
    sync::{EntryKey, Planner},
    workers::{HeartbeatPage, MappedHeartbeat},
};
use crate::{
    net::{Heartbeat, OriginalDstSource, monotonic_ns},
    snapshot::KernelView,
};

/// Programs and maps in the running kernel.
pub struct Kernel {
    state: Mutex<State>,
    /// Keeps `mizzen cleanup` off the pins.
    _hold: File,
    names: Arc<ArcSwap<Names>>,
    heartbeats: Arc<HeartbeatPage>,
    original_dsts: Arc<KernelOriginalDsts>,
}

/// Guarded by [`Kernel::state`]: everything that map writes go through.
struct State {
    loaded: Loaded,
    planner: Planner,
    pods: Pods,
    links: Links,
    pins: PinDirs,
    node: NodeState,
    opened: Instant,
    has_swept_pods: bool,
    sweeper: Sweeper,
}

/// By then a daemon has named every pod that is still there.
const STRANGERS_AFTER: Duration = Duration::from_secs(10);

impl Kernel {
    /// Loads the programs and opens the maps, those of an earlier daemon with the same layout
    /// included. Attaches nothing yet.
    ///
    /// # Errors
    /// No object in this binary, missing rights, the verifier's refusal with its log, bpffs.
    pub fn open(options: &KernelOptions) -> Result<Self, KernelError> {
        let attach_level = cgroup_level(&options.cgroup)?;
        let pins = PinDirs::new(&options.pins);
        if !load::is_object_embedded() {
            return Err(KernelError::NoObject);
        }
        pins.make()?;
        let hold = pins.hold()?;
        let loaded = load::load(&pins.maps)?;
        pins.protect_maps()?;
        let planner = Planner::new(maps::read_tables(&loaded.maps)?);
        let original_dsts = KernelOriginalDsts::new(&loaded.maps.original_dsts)?;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let node = NodeState {
            renewed_ns: 0,
            stale_after_ns: nanos(options.stale_after),
            heartbeat_max_ns: nanos(options.heartbeat_max),
            flags: if options.is_strict {
                NodeState::STRICT
            } else {
                0
            },
            attach_level,
            host_netns: options.host_netns.0,
            guarded_ports: guarded_ports(&options.guarded_ports),
        };
        Ok(Self {
            _hold: hold,
            names: Arc::new(ArcSwap::from_pointee(Names::default())),
            heartbeats: Arc::new(HeartbeatPage::map(&loaded.maps.workers)?),
            original_dsts: Arc::new(original_dsts),
            state: Mutex::new(State {
                links: Links::new(&options.cgroup, pins.clone()),
                planner,
                pods: Pods::default(),
                loaded,
                pins,
                node,
                opened: Instant::now(),
                has_swept_pods: false,
                sweeper: Sweeper::default(),
            }),
        })
    }

    #[cfg(test)]
    pub(super) fn live_count(&self, live_id: u32) -> u64 {
        let state = self.state();
        state
            .loaded
            .maps
            .live_counts
            .get(&live_id, 0)
            .unwrap_or(u64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while writing maps leaves nothing that the next sync would not mend.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn maps(&mut self) -> &mut Maps {
        &mut self.loaded.maps
    }

    fn write_node(&mut self) -> Result<(), KernelError> {
        // Those of an earlier daemon count until they are named again or removed.
        let has_host_pods = self.maps().host_pods.keys().next().is_some();
        let node = NodeState {
            renewed_ns: monotonic_ns(),
            flags: self.node.flags
                | if has_host_pods {
                    NodeState::HOST_PODS
                } else {
                    0
                },
            ..self.node
        };
        self.maps()
            .node_state
            .set(0, node, 0)
            .map_err(|error| KernelError::map("write", map::NODE_STATE, error))
    }
}

impl KernelMaps for Kernel {
    fn sync(&self, view: &KernelView) -> SyncReport {
        let now = Instant::now();
        let mut state = self.state();
        let State {
            loaded,
            planner,
            pods,
            ..
        } = &mut *state;
        let scopes_in_use = pods.scopes_in_use(&loaded.maps);
        let live_count = |id: u32| loaded.maps.live_counts.get(&id, 0).unwrap_or(u64::MAX);
        let plan = planner.plan(view, &scopes_in_use, &live_count, now);
        let names = plan.names.clone();
        let report = maps::execute(&mut loaded.maps, planner, plan, now);
        self.names.store(Arc::new(names));
        report
    }

    fn sync_endpoints(&self, view: &KernelView, changed: &[usize]) -> Option<SyncReport> {
        let now = Instant::now();
        let mut state = self.state();
        let State {
            loaded, planner, ..
        } = &mut *state;
        let live_count = |id: u32| loaded.maps.live_counts.get(&id, 0).unwrap_or(u64::MAX);
        let clusters = changed.iter().filter_map(|index| view.clusters.get(*index));
        let plan = planner.plan_endpoints(clusters, &live_count, now);
        let report = plan.map(|plan| maps::execute(&mut loaded.maps, planner, plan, now));
        drop(state);
        match report {
            Some(report) if report.problems.is_empty() => None,
            Some(_) | None => Some(self.sync(view)),
        }
    }

    fn upsert_pod(&self, pod: &PodEntry) -> Result<(), KernelError> {
        let mut state = self.state();
        let State {
            loaded,
            planner,
            pods,
            ..
        } = &mut *state;
        let scope = planner.scope_id(&pod.scope);
        pods.upsert(&mut loaded.maps, pod, scope)?;
        if pod.id.space == PodId::CGROUP {
            state.write_node()?;
        }
        Ok(())
    }

    fn remove_pod(&self, pod: PodId) -> Result<(), KernelError> {
        let mut state = self.state();
        let State { loaded, pods, .. } = &mut *state;
        pods.remove(&mut loaded.maps, pod)?;
        for family in [Family::V4, Family::V6] {
            removed(loaded.maps.listeners.remove(&ListenerKey::new(pod, family)))
                .map_err(|error| KernelError::map("remove from", map::LISTENERS, error))?;
        }
        Ok(())
    }

    fn set_listener(
        &self,
        pod: PodId,
        family: Family,
        socket: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        let mut state = self.state();
        let listeners: &mut SockHash<MapData, ListenerKey> = &mut state.maps().listeners;
        listeners
            .insert(ListenerKey::new(pod, family), socket.as_raw_fd(), 0)
            .map_err(|error| {
                KernelError::map("insert into", map::LISTENERS, load::with_causes(&error))
            })
    }

    fn remove_listener(&self, pod: PodId, family: Family) -> Result<(), KernelError> {
        removed(
            self.state()
                .maps()
                .listeners
                .remove(&ListenerKey::new(pod, family)),
        )
        .map_err(|error| KernelError::map("remove from", map::LISTENERS, error))
    }

    fn register_daemon(&self, cgroup_id: u64) -> Result<(), KernelError> {
        let failed = |error| KernelError::map("write", map::DAEMONS, error);
        let mut state = self.state();
        let daemons = &mut state.maps().daemons;
        // The value is the time, so that daemons which were killed make room for later ones.
        let others: Vec<(u64, u32)> = daemons
            .iter()
            .filter_map(Result::ok)
            .filter(|(id, _)| *id != cgroup_id)
            .collect();
        if others.len() >= map::DAEMONS_MAX as usize
            && let Some((oldest, _)) = others.iter().min_by_key(|(_, seconds)| *seconds)
        {
            removed(daemons.remove(oldest)).map_err(failed)?;
        }
        let seconds = u32::try_from(monotonic_ns() / 1_000_000_000).unwrap_or(u32::MAX);
        daemons.insert(cgroup_id, seconds, 0).map_err(failed)
    }

    fn unregister_daemon(&self, cgroup_id: u64) -> Result<(), KernelError> {
        removed(self.state().maps().daemons.remove(&cgroup_id))
            .map_err(|error| KernelError::map("remove from", map::DAEMONS, error))
    }

    fn has_other_layout(&self) -> Result<bool, KernelError> {
        Ok(!self.state().pins.other_layouts()?.is_empty())
    }

    fn attach(&self) -> Result<(), KernelError> {
        let mut state = self.state();
        state.write_node()?;
        let State {
            loaded,
            links,
            pins,
            ..
        } = &mut *state;
        links.attach(&mut loaded.ebpf)?;
        pins.drop_other_layouts()
    }

    fn renew(&self) -> Result<(), KernelError> {
        self.state().write_node()
    }

    fn heartbeat(&self, worker: u32) -> Result<Box<dyn Heartbeat>, KernelError> {
        Ok(Box::new(MappedHeartbeat::new(
            Arc::clone(&self.heartbeats),
            worker,
        )?))
    }

    fn heartbeat_age(&self, worker: u32) -> Option<Duration> {
        self.heartbeats.age(worker)
    }

    fn original_dsts(&self) -> Arc<dyn OriginalDstSource> {
        Arc::<KernelOriginalDsts>::clone(&self.original_dsts)
    }

    fn sweep_original_dsts(&self) -> Result<usize, KernelError> {
        let mut state = self.state();
        let bare =
            aya::maps::Map::HashMap(open_again(&state.maps().original_dsts, map::ORIGINAL_DSTS)?);
        let mut map: HashMap<MapData, OriginalDstKey, OriginalDstValue> = bare
            .try_into()
            .map_err(|error| KernelError::map("open", map::ORIGINAL_DSTS, error))?;
        let listeners = state.pods.listeners();
        let state = &mut *state;
        let silent_after = Duration::from_nanos(state.node.heartbeat_max_ns);
        let runs = |worker| {
            let age = self.heartbeats.age(worker);
            age.is_some_and(|age| age < silent_after)
        };
        let (count, entries) = state.sweeper.sweep(&mut map, &listeners, runs)?;
        repair_connecting(&mut state.loaded.maps.connecting, &entries)?;
        if !state.has_swept_pods && state.opened.elapsed() > STRANGERS_AFTER {
            let State { loaded, pods, .. } = &mut *state;
            let strangers = pods.remove_strangers(&mut loaded.maps)?;
            state.has_swept_pods = true;
            if strangers > 0 {
                tracing::info!(pods = strangers, "forgot pods of an earlier daemon");
            }
        }
        Ok(count)
    }

    fn check_links(&self) -> Result<LinkCheck, KernelError> {
        let mut state = self.state();
        let State { loaded, links, .. } = &mut *state;
        links.check(&mut loaded.ebpf)
    }

    fn reasons(&self) -> Result<Vec<(Reason, u64)>, KernelError> {
        let state = self.state();
        Reason::ALL
            .iter()
            .map(|reason| {
                let per_cpu = state.loaded.maps.reasons.get(&u32::from(*reason as u8), 0);
                let per_cpu =
                    per_cpu.map_err(|error| KernelError::map("read", map::REASONS, error))?;
                Ok((*reason, per_cpu.iter().sum()))
            })
            .collect()
    }

    fn live_flows(&self) -> Result<Vec<LiveFlow>, KernelError> {
        let mut state = self.state();
        let flows = read_live_flows(&mut state.loaded)?;
        let State {
            loaded, planner, ..
        } = &mut *state;
        repair_live_counts(&mut loaded.maps, planner, &flows)?;
        Ok(flows)
    }

    fn fills(&self) -> Vec<MapFill> {
        let state = self.state();
        let tables = state.planner.present();
        let (pods, host_pods, exclusions) = state.pods.counts();
        let is_cidr = |key: &&EntryKey| matches!(key, EntryKey::Cidr(..));
        let cidrs = tables.services.keys().filter(is_cidr).count();
        let slots = tables.endpoints.values().flatten().map(Vec::len).sum();
        let maps = &state.loaded.maps;
        [
            (map::PODS, pods, map::PODS_MAX),
            (map::HOST_PODS, host_pods, map::HOST_PODS_MAX),
            (map::EXCLUSIONS, exclusions, map::EXCLUSIONS_MAX),
            (
                map::DAEMONS,
                maps.daemons.keys().flatten().count(),
                map::DAEMONS_MAX,
            ),
            (
                map::LISTENERS,
                maps.listeners.keys().flatten().count(),
                map::LISTENERS_MAX,
            ),
            (
                map::SERVICES,
                tables.services.len() - cidrs,
                map::SERVICES_MAX,
            ),
            (map::SERVICE_CIDRS, cidrs, map::SERVICE_CIDRS_MAX),
            (map::OVERRIDES, tables.overrides.len(), map::OVERRIDES_MAX),
            (map::SCOPES, tables.scopes.len(), map::SCOPES_MAX),
            (map::CLUSTERS, tables.clusters.len(), map::CLUSTERS_MAX),
            (map::ENDPOINTS, slots, map::ENDPOINTS_MAX),
            (map::SPLITS, tables.splits.len(), map::SPLITS_MAX),
            (
                map::LIVE_COUNTS,
                state.planner.live_ids().count(),
                map::LIVE_COUNTS_MAX,
            ),
        ]
        .map(|(name, entries, entries_max)| MapFill {
            name,
            entries,
            entries_max,
        })
        .to_vec()
    }

    fn names(&self) -> Arc<Names> {
        self.names.load_full()
    }

    fn take_flow_events(&self) -> Option<FlowEvents> {
        let ring = self.state().maps().flow_events.take()?;
        Some(FlowEvents::new(ring, Arc::clone(&self.names)))
    }

    fn take_log(&self) -> Option<KernelLog> {
        self.state().loaded.log.take()
    }
}

fn guarded_ports(ports: &[u16]) -> [PortBe; NodeState::GUARDED_PORTS_MAX] {
    let mut guarded = [PortBe(0); NodeState::GUARDED_PORTS_MAX];
    for (place, port) in guarded.iter_mut().zip(ports) {
        *place = PortBe::from_host(*port);
    }
    guarded
}

/// Another handle on the same map.
fn open_again(map: &MapData, name: &'static str) -> Result<MapData, KernelError> {
    let failed = |error: &dyn std::fmt::Display| KernelError::map("open", name, error);
    let fd = map
        .fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| failed(&error))?;
    MapData::from_fd(fd).map_err(|error| failed(&error))
}

/// Level of a cgroup below its hierarchy's root, as the kernel counts it.
fn cgroup_level(cgroup: &Path) -> Result<u32, KernelError> {
    let failed = |error| KernelError::file("find the cgroup2 mount of", cgroup, error);
    let cgroup = cgroup.canonicalize().map_err(failed)?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(failed)?;
    let roots = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    let below = roots
        .filter_map(|root| {
            cgroup
                .strip_prefix(root)
                .ok()
                .map(|rest| rest.components().count())
        })
        .min();
    let level =
        below.ok_or_else(|| failed(std::io::Error::other("it is not in a cgroup2 file system")))?;
    u32::try_from(level).map_err(|error| failed(std::io::Error::other(error)))
}
