//! Memory of the process as a whole.

/// Hands free memory back to the system.
///
/// While a snapshot is compiled the last one is still in use, so that the heap grows to
/// nearly twice what stays; glibc keeps that for later, and a node's memory is its pods'.
/// Takes a few milliseconds of the calling thread; others may wait for one of the
/// allocator's arenas meanwhile, so call it after a large change only.
pub fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes no pointer, locks what it looks at, and frees nothing that
    // is in use; it may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
