//! Open connections as the kernel lists them, and the live counts that they prove.

use std::{collections::HashMap, io::Read, os::fd::AsFd};

use proxy_common::{
    flow::LiveFlow,
    map::{self, LIVE_ITERATOR},
    socket::SocketState,
};

use super::{
    KernelError,
    load::{Loaded, Maps},
    sync::Planner,
    sys,
};

/// The connections in `SK_STORAGE`, by the iterator program.
///
/// # Errors
/// What the kernel answers.
pub(super) fn read_live_flows(loaded: &mut Loaded) -> Result<Vec<LiveFlow>, KernelError> {
    let failed =
        |error: &dyn std::fmt::Display| KernelError::map("iterate over", map::SK_STORAGE, error);
    let program = loaded
        .ebpf
        .program(LIVE_ITERATOR)
        .ok_or(KernelError::NoProgram(LIVE_ITERATOR))?;
    let program = program.fd().map_err(|error| failed(&error))?;
    let mut iterator = sys::open_map_iterator(program.as_fd(), loaded.maps.sk_storage.fd().as_fd())
        .map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    iterator
        .read_to_end(&mut bytes)
        .map_err(|error| failed(&error))?;
    let flows = bytes.chunks_exact(size_of::<LiveFlow>()).map(|chunk| {
        // SAFETY: as long as the type, in which every bit pattern is valid; alignment does not
        // matter.
        unsafe { std::ptr::read_unaligned(chunk.as_ptr().cast::<LiveFlow>()) }
    });
    Ok(flows.collect())
}

/// Sets the count of each endpoint to the connections that there are. A connection that opens or
/// closes meanwhile makes a count wrong by one until the next time.
pub(super) fn repair_live_counts(
    maps: &mut Maps,
    planner: &Planner,
    flows: &[LiveFlow],
) -> Result<(), KernelError> {
    let mut counted: HashMap<u32, u64> = HashMap::new();
    for flow in flows
        .iter()
        .filter(|flow| flow.state.flags & SocketState::COUNTED != 0)
    {
        *counted.entry(flow.state.live_id).or_default() += 1;
    }
    for live_id in planner.live_ids() {
        let truth = counted.get(&live_id).copied().unwrap_or(0);
        let held = maps
            .live_counts
            .get(&live_id, 0)
            .map_err(|error| KernelError::map("read", map::LIVE_COUNTS, error))?;
        if held != truth {
            maps.live_counts
                .set(live_id, truth, 0)
                .map_err(|error| KernelError::map("write", map::LIVE_COUNTS, error))?;
        }
    }
    Ok(())
}
