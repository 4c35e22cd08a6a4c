//! Reads and watches a directory of YAML and JSON files and hands over complete
//! sets. Which objects are in force is decided by [`state`](super::state).
//!
//! Start at [`spawn_directory_source`] to follow a directory, and at
//! [`read_paths`] to look once. Files are `*.yaml`, `*.yml` and `*.json`, also
//! in subdirectories; names that begin with a dot are left out, as are the
//! `..data` links by which Kubernetes swaps a mounted ConfigMap.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use super::document::FILE_LEN_MAX_BYTES;
use super::state::{DirectoryState, FileText, Files, Loaded};
use crate::finding::{Finding, Origin, Severity};

/// Most files that are read. A mesh of 10,000 services with a file per object stays below.
const FILES_MAX: usize = 100_000;

/// Deepest subdirectory that is read.
const DIRECTORY_DEPTH_MAX: usize = 16;

/// How often a file that was emptied is read again before it is believed to be
/// empty: an editor truncates, then writes.
const EMPTY_READS_MAX: usize = 8;

/// How long to wait for changes, and for their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchTimes {
    /// Silence after which a burst of changes is over.
    pub debounce: Duration,
    /// Longest wait for that silence.
    pub settle_max: Duration,
    /// How often the directory is compared although no change was reported:
    /// network file systems and link targets elsewhere report none.
    pub poll: Duration,
}

impl Default for WatchTimes {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(30),
            settle_max: Duration::from_secs(1),
            poll: Duration::from_secs(2),
        }
    }
}

/// A directory that is being followed by a thread of its own. Dropping it ends the thread.
#[derive(Debug)]
pub struct DirectorySource {
    /// The newest complete set; the first is there from the beginning.
    pub updates: watch::Receiver<Arc<Loaded>>,
    is_stopped: Arc<AtomicBool>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for DirectorySource {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        // Full means that the thread is about to wake anyway.
        let _ = self.wake.try_send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads `directory`, then follows it.
///
/// # Errors
///
/// When the directory cannot be read now, or no thread can be made. Later
/// failures are findings, and the last set stays.
pub fn spawn_directory_source(directory: &Path, times: WatchTimes) -> io::Result<DirectorySource> {
    let (wake, changes) = sync_channel(1);
    let mut follower = Follower {
        directory: directory.to_owned(),
        times,
        state: DirectoryState::new(),
        listing: Listing::default(),
        watcher: None,
    };
    // Watch before reading, so that no change falls between the two.
    follower.renew_watcher(&wake);
    let first = follower.load()?;
    let (publish, updates) = watch::channel(Arc::new(first));
    let is_stopped = Arc::new(AtomicBool::new(false));
    let thread = std::thread::Builder::new()
        .name("config-directory".to_owned())
        .spawn({
            let (wake, is_stopped) = (wake.clone(), is_stopped.clone());
            move || follower.follow(&wake, &changes, &is_stopped, &publish)
        })?;
    Ok(DirectorySource {
        updates,
        is_stopped,
        wake,
        thread: Some(thread),
    })
}

/// Reads files and directories once, for commands that look offline. Names in
/// findings begin as `paths` do.
///
/// # Errors
///
/// When one of `paths` does not exist or a directory cannot be listed.
pub fn read_paths(paths: &[PathBuf]) -> io::Result<Files> {
    let mut found = BTreeMap::new();
    for path in paths {
        let metadata = fs::metadata(path)?;
        if metadata.is_dir() {
            list(path, 0, &mut found)?;
        } else {
            found.insert(path.clone(), metadata);
        }
    }
    Ok(found
        .iter()
        .map(|(path, metadata)| (path.to_string_lossy().into(), read_text(path, metadata)))
        .collect())
}

/// What changes when a file does: time of change, length, and which file it is.
type Stamp = (i64, i64, u64, u64);

fn stamp(metadata: &Metadata) -> Stamp {
    // The modification time can be set back (`cp -p`), the change time cannot.
    (
        metadata.ctime(),
        metadata.ctime_nsec(),
        metadata.len(),
        metadata.ino(),
    )
}

/// Whether a file changed so long ago that a further change must show in its
/// stamp: file systems count time in ticks of some milliseconds.
fn is_settled(metadata: &Metadata) -> bool {
    const TICKS: Duration = Duration::from_secs(1);
    let seconds = u64::try_from(metadata.ctime()).unwrap_or_default();
    let nanos = u32::try_from(metadata.ctime_nsec()).unwrap_or_default();
    let changed = UNIX_EPOCH + Duration::new(seconds, nanos);
    changed.elapsed().is_ok_and(|age| age > TICKS)
}

/// The files of a directory, by path, with their stamps.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listing {
    stamps: BTreeMap<PathBuf, Stamp>,
    /// Those that had a text when they were last read.
    filled: BTreeSet<PathBuf>,
    /// Those of them that need not be read again while their stamp is the same.
    settled: BTreeSet<PathBuf>,
}

struct Follower {
    directory: PathBuf,
    times: WatchTimes,
    state: DirectoryState,
    listing: Listing,
    /// The watcher, and the device and inode of the directory that it watches.
    watcher: Option<(RecommendedWatcher, (u64, u64))>,
}

impl Follower {
    fn follow(
        mut self,
        wake: &SyncSender<()>,
        changes: &Receiver<()>,
        is_stopped: &AtomicBool,
        publish: &watch::Sender<Arc<Loaded>>,
    ) {
        loop {
            let is_reported = match changes.recv_timeout(self.times.poll) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if is_stopped.load(Ordering::Relaxed) {
                return;
            }
            self.renew_watcher(wake);
            if is_reported {
                self.settle(changes);
            } else if !self.is_changed() {
                continue;
            }
            let loaded = match self.load() {
                Ok(loaded) => loaded,
                Err(error) => self.keep_last(&error, &publish.borrow()),
            };
            publish.send_replace(Arc::new(loaded));
        }
    }

    /// Waits until a burst of changes is over.
    fn settle(&self, changes: &Receiver<()>) {
        let end = Instant::now() + self.times.settle_max;
        while Instant::now() < end && changes.recv_timeout(self.times.debounce).is_ok() {}
    }

    fn is_changed(&self) -> bool {
        let mut found = BTreeMap::new();
        match list(&self.directory, 0, &mut found) {
            Ok(()) => {
                let stamps = found.iter().map(|(path, metadata)| (path, stamp(metadata)));
                !stamps.eq(self
                    .listing
                    .stamps
                    .iter()
                    .map(|(path, stamp)| (path, *stamp)))
            }
            Err(_) => true,
        }
    }

    fn load(&mut self) -> io::Result<Loaded> {
        let mut read_count = 0;
        loop {
            let (listing, files) = read_directory(&self.directory, &self.listing)?;
            read_count += 1;
            let is_emptied = listing
                .stamps
                .keys()
                .any(|path| self.listing.filled.contains(path) && !listing.filled.contains(path));
            if !is_emptied || read_count > EMPTY_READS_MAX {
                self.listing = listing;
                return Ok(self.state.apply(&files));
            }
            std::thread::sleep(self.times.debounce);
        }
    }

    /// The last set, with a finding about the directory.
    fn keep_last(&self, error: &io::Error, last: &Loaded) -> Loaded {
        const CODE: &str = "directory-unreadable";
        let mut loaded = last.clone();
        loaded.findings.retain(|finding| finding.code != CODE);
        let message =
            format!("cannot read the directory: {error}; what it last held stays in force");
        let origin = Origin {
            file: self.directory.to_string_lossy().into(),
            line: 0,
        };
        loaded
            .findings
            .push(Finding::new(Severity::Error, CODE, message).with_origin(origin));
        loaded.findings.sort();
        loaded
    }

    /// Watches the directory that is there now; it may have been replaced.
    /// Without a watcher, polling finds the changes.
    fn renew_watcher(&mut self, wake: &SyncSender<()>) {
        let Ok(metadata) = fs::metadata(&self.directory) else {
            return;
        };
        let identity = (metadata.dev(), metadata.ino());
        if self
            .watcher
            .as_ref()
            .is_some_and(|(_, watched)| *watched == identity)
        {
            return;
        }
        let wake = wake.clone();
        let report = move |event: notify::Result<notify::Event>| {
            let is_access = event.is_ok_and(|event| event.kind.is_access() && !is_close(&event));
            if !is_access {
                // Full means that a reload is due anyway.
                let _ = wake.try_send(());
            }
        };
        self.watcher = notify::recommended_watcher(report)
            .and_then(|mut watcher| {
                watcher.watch(&self.directory, RecursiveMode::Recursive)?;
                Ok((watcher, identity))
            })
            .inspect_err(|error| {
                tracing::warn!(%error, directory = %self.directory.display(), "cannot watch, polling");
            })
            .ok();
    }
}

/// Whether a file that was open for writing was closed.
fn is_close(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
}

/// All files below `directory`, named relative to it.
fn read_directory(directory: &Path, last: &Listing) -> io::Result<(Listing, Files)> {
    let mut found = BTreeMap::new();
    list(directory, 0, &mut found)?;
    let mut listing = Listing::default();
    let mut files = Files::new();
    for (path, metadata) in found {
        let stamp = stamp(&metadata);
        let is_unchanged = last.settled.contains(&path) && last.stamps.get(&path) == Some(&stamp);
        let text = if is_unchanged {
            FileText::Unchanged
        } else {
            read_text(&path, &metadata)
        };
        let is_filled = match &text {
            FileText::Read(bytes) => !bytes.is_empty(),
            FileText::Unchanged => true,
            FileText::Unreadable(_) => false,
        };
        if is_filled {
            listing.filled.insert(path.clone());
            if is_settled(&metadata) {
                listing.settled.insert(path.clone());
            }
        }
        let name = path.strip_prefix(directory).unwrap_or(&path);
        files.insert(name.to_string_lossy().into(), text);
        listing.stamps.insert(path, stamp);
    }
    Ok((listing, files))
}

fn read_text(path: &Path, metadata: &Metadata) -> FileText {
    if metadata.len() > FILE_LEN_MAX_BYTES as u64 {
        return FileText::Unreadable("larger than 64 MiB; split it".to_owned());
    }
    match fs::read(path) {
        Ok(bytes) => FileText::Read(bytes),
        Err(error) => FileText::Unreadable(error.to_string()),
    }
}

/// Adds the files below `directory` to `found`.
fn list(directory: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Metadata>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Gone between the listing and now, or a link that leads nowhere.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if metadata.is_dir() {
            // Links to directories may form a circle.
            if !is_link && depth < DIRECTORY_DEPTH_MAX {
                match list(&path, depth + 1, found) {
                    // Removed while we look: the next change reports it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    listed => listed?,
                }
            }
            continue;
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        if metadata.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
            if found.len() >= FILES_MAX {
                return Err(io::Error::other(format!("more than {FILES_MAX} files")));
            }
            found.insert(path, metadata);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
