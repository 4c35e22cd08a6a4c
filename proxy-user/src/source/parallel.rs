//! Reads many files on several threads; which thread reads which file changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::document::SyntaxError;
use super::object::{FileContent, read_file};
use super::share::Shared;

/// Most threads that read: a node has better things to do with its cores than to start
/// a little earlier.
const THREADS_MAX: usize = 4;

/// Bytes below which a thread costs more than it saves.
const THREAD_LEN_MIN_BYTES: usize = 256 << 10;

/// The content of each file, in the order given.
pub(super) fn read_files(
    files: &[(&Arc<str>, &[u8])],
    shared: &Shared,
) -> Vec<Result<FileContent, SyntaxError>> {
    let len_bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let helpers = (len_bytes / THREAD_LEN_MIN_BYTES)
        .min(files.len())
        .min(cores)
        .min(THREADS_MAX)
        .saturating_sub(1);
    let next = AtomicUsize::new(0);
    let read_some = || {
        let mut some = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((file, bytes)) = files.get(index) else {
                return some;
            };
            some.push((index, read_file(file, bytes, shared)));
        }
    };
    let mut contents = thread::scope(|scope| {
        let helpers: Vec<_> = (0..helpers)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, read_some).ok())
            .collect();
        let mut contents = read_some();
        for helper in helpers {
            match helper.join() {
                Ok(some) => contents.extend(some),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        contents
    });
    contents.sort_by_key(|(index, _)| *index);
    contents.into_iter().map(|(_, content)| content).collect()
}
