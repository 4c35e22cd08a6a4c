//! [`KernelMaps`] in memory, for tests of everything around it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proxy_common::{addr::Family, flow::LiveFlow, pod::PodId, reason::Reason};

use super::{
    FlowEvents, KernelError, KernelLog, KernelMaps, LinkCheck, MapFill, Names, PodEntry, SyncReport,
};
use crate::{
    net::{Accepted, CapturedDst, Heartbeat, OriginalDst, OriginalDstSource},
    snapshot::KernelView,
};

/// Remembers what it was told.
#[derive(Default)]
pub struct FakeKernel {
    state: Mutex<State>,
    original_dsts: Arc<FakeOriginalDsts>,
}

/// Guarded by [`FakeKernel::state`].
#[derive(Default)]
struct State {
    view: Option<KernelView>,
    pods: HashMap<PodId, PodEntry>,
    listeners: HashMap<(PodId, Family), RawFd>,
    daemons: BTreeSet<u64>,
    beats: BTreeMap<u32, Arc<AtomicU64>>,
    is_attached: bool,
}

impl FakeKernel {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view of the last sync.
    #[must_use]
    pub fn view(&self) -> Option<KernelView> {
        self.state().view.clone()
    }

    /// What is known about a pod.
    #[must_use]
    pub fn pod(&self, id: PodId) -> Option<PodEntry> {
        self.state().pods.get(&id).cloned()
    }

    /// Number of pods.
    #[must_use]
    pub fn pod_count(&self) -> usize {
        self.state().pods.len()
    }

    /// Whether a pod has a listener of this family.
    #[must_use]
    pub fn has_listener(&self, pod: PodId, family: Family) -> bool {
        self.state().listeners.contains_key(&(pod, family))
    }

    /// Whether [`KernelMaps::attach`] was called.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.state().is_attached
    }

    /// Beats of one worker so far.
    #[must_use]
    pub fn beats(&self, worker: u32) -> u64 {
        self.state()
            .beats
            .get(&worker)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Puts an original destination where accept finds it, as sockops does.
    pub fn insert_original_dst(&self, pod: PodId, client: SocketAddr, dst: OriginalDst) {
        self.original_dsts.entries().insert((pod, client), dst);
    }
}

impl KernelMaps for FakeKernel {
    fn sync(&self, view: &KernelView) -> SyncReport {
        self.state().view = Some(view.clone());
        SyncReport::default()
    }

    fn sync_endpoints(&self, view: &KernelView, _: &[usize]) -> Option<SyncReport> {
        Some(self.sync(view))
    }

    fn upsert_pod(&self, pod: &PodEntry) -> Result<(), KernelError> {
        self.state().pods.insert(pod.id, pod.clone());
        Ok(())
    }

    fn remove_pod(&self, pod: PodId) -> Result<(), KernelError> {
        let mut state = self.state();
        state.pods.remove(&pod);
        state.listeners.retain(|(of, _), _| *of != pod);
        Ok(())
    }

    fn set_listener(
        &self,
        pod: PodId,
        family: Family,
        socket: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        self.state()
            .listeners
            .insert((pod, family), socket.as_raw_fd());
        Ok(())
    }

    fn remove_listener(&self, pod: PodId, family: Family) -> Result<(), KernelError> {
        self.state().listeners.remove(&(pod, family));
        Ok(())
    }

    fn register_daemon(&self, cgroup_id: u64) -> Result<(), KernelError> {
        self.state().daemons.insert(cgroup_id);
        Ok(())
    }

    fn unregister_daemon(&self, cgroup_id: u64) -> Result<(), KernelError> {
        self.state().daemons.remove(&cgroup_id);
        Ok(())
    }

    fn has_other_layout(&self) -> Result<bool, KernelError> {
        Ok(false)
    }

    fn attach(&self) -> Result<(), KernelError> {
        self.state().is_attached = true;
        Ok(())
    }

    fn renew(&self) -> Result<(), KernelError> {
        Ok(())
    }

    fn heartbeat(&self, worker: u32) -> Result<Box<dyn Heartbeat>, KernelError> {
        let beats = Arc::clone(self.state().beats.entry(worker).or_default());
        Ok(Box::new(FakeHeartbeat(beats)))
    }

    fn heartbeat_age(&self, worker: u32) -> Option<Duration> {
        self.state().beats.get(&worker).map(|_| Duration::ZERO)
    }

    fn original_dsts(&self) -> Arc<dyn OriginalDstSource> {
        Arc::<FakeOriginalDsts>::clone(&self.original_dsts)
    }

    fn sweep_original_dsts(&self) -> Result<usize, KernelError> {
        Ok(0)
    }

    fn check_links(&self) -> Result<LinkCheck, KernelError> {
        Ok(LinkCheck::Attached)
    }

    fn reasons(&self) -> Result<Vec<(Reason, u64)>, KernelError> {
        Ok(Vec::new())
    }

    fn live_flows(&self) -> Result<Vec<LiveFlow>, KernelError> {
        Ok(Vec::new())
    }

    fn fills(&self) -> Vec<MapFill> {
        Vec::new()
    }

    fn names(&self) -> Arc<Names> {
        Arc::new(Names::default())
    }

    fn take_flow_events(&self) -> Option<FlowEvents> {
        None
    }

    fn take_log(&self) -> Option<KernelLog> {
        None
    }
}

struct FakeHeartbeat(Arc<AtomicU64>);

impl Heartbeat for FakeHeartbeat {
    fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct FakeOriginalDsts(Mutex<HashMap<(PodId, SocketAddr), OriginalDst>>);

impl FakeOriginalDsts {
    fn entries(&self) -> MutexGuard<'_, HashMap<(PodId, SocketAddr), OriginalDst>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OriginalDstSource for FakeOriginalDsts {
    fn take(&self, accepted: &Accepted) -> Option<CapturedDst> {
        self.entries()
            .remove(&(accepted.pod, accepted.client))
            .map(|dst| CapturedDst { dst })
    }
}
