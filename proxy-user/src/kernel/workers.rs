//! Heartbeats of workers: the page of `WORKERS`, mapped into this process, so that a beat is one
//! memory write.

use std::{
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aya::maps::MapData;
use proxy_common::map::{WORKERS, WORKERS_MAX};

use super::KernelError;
use crate::net::{Heartbeat, monotonic_ns};

const PAGE_BYTES: usize = WORKERS_MAX as usize * size_of::<u64>();

/// The mapped array; unmapped with its last handle.
pub(super) struct HeartbeatPage(NonNull<AtomicU64>);

// SAFETY: the page is shared memory of atomics, valid until the last owner drops it.
unsafe impl Send for HeartbeatPage {}
// SAFETY: as above.
unsafe impl Sync for HeartbeatPage {}

impl HeartbeatPage {
    /// Maps the array (made with `BPF_F_MMAPABLE`, Linux 5.5).
    pub(super) fn map(workers: &MapData) -> Result<Self, KernelError> {
        let fd = workers.fd().as_fd().as_raw_fd();
        // SAFETY: a new shared mapping of the map's own pages; no existing memory is touched.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(KernelError::map(
                "map into memory",
                WORKERS,
                std::io::Error::last_os_error(),
            ));
        }
        let page = NonNull::new(page.cast())
            .ok_or_else(|| KernelError::map("map into memory", WORKERS, "null"))?;
        Ok(Self(page))
    }

    /// Time since the worker's last beat, if it ever had one.
    pub(super) fn age(&self, worker: u32) -> Option<Duration> {
        let beat_ns = self.slot(worker)?.load(Ordering::Relaxed);
        (beat_ns > 0).then(|| Duration::from_nanos(monotonic_ns().saturating_sub(beat_ns)))
    }

    fn slot(&self, worker: u32) -> Option<&AtomicU64> {
        // SAFETY: within the mapping, which holds WORKERS_MAX aligned values and lives as long as
        // `self`.
        (worker < WORKERS_MAX).then(|| unsafe { self.0.add(worker as usize).as_ref() })
    }
}

impl Drop for HeartbeatPage {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made; nobody holds a reference into it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
    }
}

/// One worker's handle.
pub(super) struct MappedHeartbeat {
    page: Arc<HeartbeatPage>,
    worker: u32,
}

impl MappedHeartbeat {
    /// The handle of worker `worker`, which counts as alive from now on.
    pub(super) fn new(page: Arc<HeartbeatPage>, worker: u32) -> Result<Self, KernelError> {
        if page.slot(worker).is_none() {
            return Err(KernelError::TooManyWorkers(worker));
        }
        let handle = Self { page, worker };
        handle.beat();
        Ok(handle)
    }
}

impl Heartbeat for MappedHeartbeat {
    fn beat(&self) {
        if let Some(slot) = self.page.slot(self.worker) {
            slot.store(monotonic_ns(), Ordering::Relaxed);
        }
    }
}
