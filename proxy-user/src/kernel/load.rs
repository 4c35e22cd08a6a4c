//! The embedded object into the kernel: maps from their pins or new, programs through the verifier.

use std::path::Path;

use aya::{
    Btf, Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, RingBuf, SkStorage, SockHash},
    programs::{CgroupSockAddr, Iter, SockOps},
};
use proxy_common::{
    cluster::{ClusterValue, EndpointValue, SplitValue},
    map::{self, LIVE_ITERATOR, OFFSETS, PINNED, PROGRAMS},
    pod::{ExclusionKey, ListenerKey, NodeState, PodId, PodValue},
    service::{CidrKey, OverrideKey, OverrideValue, ScopeValue, ServiceKey, ServiceValue},
    socket::{OriginalDstKey, OriginalDstValue, SocketState},
};

use super::{KernelError, KernelLog, btf};

/// What `cargo xtask build` made, or nothing.
pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mizzen-ebpf"));

/// Whether this binary carries its eBPF object.
#[must_use]
pub fn is_object_embedded() -> bool {
    !OBJECT.is_empty()
}

/// The loaded object and its maps by type.
pub(super) struct Loaded {
    /// Programs; the maps have moved to `maps`.
    pub(super) ebpf: Ebpf,
    /// All pinned maps.
    pub(super) maps: Maps,
    /// Their log, until somebody reads it.
    pub(super) log: Option<KernelLog>,
}

/// Every map of `proxy_common::map`, typed.
pub(super) struct Maps {
    pub(super) pods: HashMap<MapData, u64, PodValue>,
    pub(super) host_pods: HashMap<MapData, u64, PodValue>,
    pub(super) exclusions: LpmTrie<MapData, ExclusionKey, u32>,
    pub(super) daemons: HashMap<MapData, u64, u32>,
    pub(super) listeners: SockHash<MapData, ListenerKey>,
    pub(super) workers: MapData,
    pub(super) node_state: Array<MapData, NodeState>,
    pub(super) services: HashMap<MapData, ServiceKey, ServiceValue>,
    pub(super) cidrs: LpmTrie<MapData, CidrKey, ServiceValue>,
    pub(super) overrides: HashMap<MapData, OverrideKey, OverrideValue>,
    pub(super) scopes: HashMap<MapData, u32, ScopeValue>,
    pub(super) clusters: HashMap<MapData, u32, ClusterValue>,
    pub(super) endpoints: Array<MapData, EndpointValue>,
    pub(super) splits: HashMap<MapData, u32, SplitValue>,
    pub(super) live_counts: Array<MapData, u64>,
    pub(super) sk_storage: MapData,
    pub(super) original_dsts: MapData,
    pub(super) connecting: HashMap<MapData, PodId, u64>,
    pub(super) flow_events: Option<RingBuf<MapData>>,
    pub(super) reasons: PerCpuArray<MapData, u64>,
}

/// Loads the embedded object; maps that are pinned in `maps_dir` are adopted, others made and
/// pinned there.
pub(super) fn load(maps_dir: &Path) -> Result<Loaded, KernelError> {
    if !is_object_embedded() {
        return Err(KernelError::NoObject);
    }
    let kernel_types = Btf::from_sys_fs().map_err(|error| KernelError::Load(error.to_string()))?;
    let offsets = btf::kernel_offsets();
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&kernel_types))
        .override_global(OFFSETS, &offsets, true);
    for name in PINNED {
        loader.map_pin_path(name, maps_dir.join(name));
    }
    let mut ebpf = loader
        .load(OBJECT)
        .map_err(|error| KernelError::Load(with_causes(&error)))?;
    load_programs(&mut ebpf, &kernel_types)?;
    let maps = Maps::take(&mut ebpf)?;
    let log = KernelLog::open(&mut ebpf)?;
    Ok(Loaded {
        ebpf,
        maps,
        log: Some(log),
    })
}

fn load_programs(ebpf: &mut Ebpf, kernel_types: &Btf) -> Result<(), KernelError> {
    for name in PROGRAMS.iter().chain([&LIVE_ITERATOR]) {
        let program = ebpf.program_mut(name).ok_or(KernelError::NoProgram(name))?;
        let loaded = if *name == LIVE_ITERATOR {
            <&mut Iter>::try_from(program)
                .and_then(|program| program.load("bpf_sk_storage_map", kernel_types))
        } else if *name == "mizzen_sock_ops" {
            <&mut SockOps>::try_from(program).and_then(SockOps::load)
        } else {
            <&mut CgroupSockAddr>::try_from(program).and_then(CgroupSockAddr::load)
        };
        // The message ends with the verifier's log.
        loaded.map_err(|error| KernelError::Verifier {
            program: name,
            log: with_causes(&error),
        })?;
    }
    Ok(())
}

impl Maps {
    fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            pods: typed(ebpf, map::PODS)?,
            host_pods: typed(ebpf, map::HOST_PODS)?,
            exclusions: typed(ebpf, map::EXCLUSIONS)?,
            daemons: typed(ebpf, map::DAEMONS)?,
            listeners: typed(ebpf, map::LISTENERS)?,
            workers: data(ebpf, map::WORKERS)?,
            node_state: typed(ebpf, map::NODE_STATE)?,
            services: typed(ebpf, map::SERVICES)?,
            cidrs: typed(ebpf, map::SERVICE_CIDRS)?,
            overrides: typed(ebpf, map::OVERRIDES)?,
            scopes: typed(ebpf, map::SCOPES)?,
            clusters: typed(ebpf, map::CLUSTERS)?,
            endpoints: typed(ebpf, map::ENDPOINTS)?,
            splits: typed(ebpf, map::SPLITS)?,
            live_counts: typed(ebpf, map::LIVE_COUNTS)?,
            sk_storage: storage(ebpf)?,
            original_dsts: original_dsts(ebpf)?,
            connecting: typed(ebpf, map::CONNECTING)?,
            flow_events: Some(typed(ebpf, map::FLOW_EVENTS)?),
            reasons: typed(ebpf, map::REASONS)?,
        })
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::NoMap(name))
}

/// Takes a map as its type, which checks key and value sizes.
fn typed<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, KernelError>
where
    T: TryFrom<Map>,
    T::Error: std::fmt::Display,
{
    T::try_from(take(ebpf, name)?).map_err(|error| KernelError::MapType {
        name,
        error: error.to_string(),
    })
}

fn data(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, KernelError> {
    let map = take(ebpf, name)?;
    if let Map::Array(data) | Map::HashMap(data) | Map::SkStorage(data) = map {
        return Ok(data);
    }
    Err(KernelError::MapType {
        name,
        error: format!("unexpected kind {map:?}"),
    })
}

/// The sizes are checked by a typed view, then the bare map is kept for raw calls.
fn storage(ebpf: &mut Ebpf) -> Result<MapData, KernelError> {
    let map = ebpf
        .map(map::SK_STORAGE)
        .ok_or(KernelError::NoMap(map::SK_STORAGE))?;
    SkStorage::<_, SocketState>::try_from(map).map_err(|error| KernelError::MapType {
        name: map::SK_STORAGE,
        error: error.to_string(),
    })?;
    data(ebpf, map::SK_STORAGE)
}

fn original_dsts(ebpf: &mut Ebpf) -> Result<MapData, KernelError> {
    let map = ebpf
        .map(map::ORIGINAL_DSTS)
        .ok_or(KernelError::NoMap(map::ORIGINAL_DSTS))?;
    HashMap::<_, OriginalDstKey, OriginalDstValue>::try_from(map).map_err(|error| {
        KernelError::MapType {
            name: map::ORIGINAL_DSTS,
            error: error.to_string(),
        }
    })?;
    data(ebpf, map::ORIGINAL_DSTS)
}

/// An error and what caused it, in one line; a verifier log keeps its lines.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
