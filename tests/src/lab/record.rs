//! What a run has made, written down before it is made.
//!
//! A killed run cannot clean up, so each lab keeps a record under `/run`; the
//! next lab removes whatever a record names whose owner is gone. All processes
//! of a lab live in its cgroup, and its namespaces die with them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::cgroup::remove_tree;

/// Where the records are: a directory that a reboot empties, as it does cgroups.
const RECORDS: &str = "/run/mizzen-lab";

/// Everything outside its own processes that one lab has made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Unique name of the lab.
    pub(super) name: String,
    /// The process that owns the lab, with its start time: process ids are reused.
    pub(super) owner: u32,
    /// Field 22 of `/proc/PID/stat`, clock ticks since boot.
    pub(super) owner_started: u64,
    /// The lab's cgroup.
    pub(super) cgroup: PathBuf,
    /// Where the daemon pins its programs and maps.
    pub(super) pins: PathBuf,
    /// The lab's directory of files.
    pub(super) dir: PathBuf,
    /// Whether the lab stays when its owner ends (`demo --keep`).
    pub(super) is_kept: bool,
}

impl Record {
    /// Path of the record's own file.
    fn path(&self) -> PathBuf {
        Path::new(RECORDS).join(format!("{}.json", self.name))
    }

    /// Writes the record to disk.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        fs::create_dir_all(RECORDS).with_context(|| format!("cannot make {RECORDS}"))?;
        let text = serde_json::to_string(self)?;
        fs::write(self.path(), text)
            .with_context(|| format!("cannot write the lab's record {}", self.path().display()))
    }

    /// Ends the lab's processes and removes what it made, the record last.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        remove_tree(&self.cgroup)?;
        remove_if_there(fs::remove_dir_all(&self.pins), &self.pins)?;
        remove_if_there(fs::remove_dir_all(&self.dir), &self.dir)?;
        remove_if_there(fs::remove_file(self.path()), &self.path())
    }

    /// Whether the process that made the lab is still running.
    fn has_owner(&self) -> bool {
        start_time(self.owner) == Some(self.owner_started)
    }
}

/// Gone already is as good as removed.
fn remove_if_there(result: io::Result<()>, path: &Path) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// When the process `pid` started, in clock ticks since boot; `None` if it is not running.
///
/// Source: Linux, proc(5), `/proc/PID/stat`: state is field 3, start time field 22.
pub(super) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may hold anything: fields count from its end.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    // A zombie has ended, whether or not anybody reaps it.
    let is_running = !matches!(fields.next()?, "Z" | "X");
    is_running.then(|| fields.nth(18)?.parse().ok()).flatten()
}

/// All records on this machine; unreadable ones are left alone.
fn records() -> Vec<Record> {
    let Ok(entries) = fs::read_dir(RECORDS) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|text| serde_json::from_str(&text).ok())
        .collect()
}

/// Removes what killed runs left behind; with `kept`, also the labs of `demo --keep`.
///
/// Returns the names of the labs that were removed.
pub fn sweep_leftovers(kept: bool) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    for record in records() {
        if record.has_owner() || (record.is_kept && !kept) {
            continue;
        }
        record.remove()?;
        removed.push(record.name);
    }
    Ok(removed)
}

/// Removes the lab `name` at once: for signal handlers, which cannot drop it.
pub fn remove_lab(name: &str) -> anyhow::Result<()> {
    records()
        .iter()
        .filter(|record| record.name == name)
        .try_for_each(Record::remove)
}

/// On SIGINT and SIGTERM, removes all labs of this process and ends it.
pub(super) fn remove_on_signal() {
    static WATCHER: std::sync::Once = std::sync::Once::new();
    WATCHER.call_once(|| {
        std::thread::spawn(|| {
            if let Err(error) = wait_for_signal() {
                eprintln!("signals are not watched, an interrupted lab stays: {error}");
                return;
            }
            let own = std::process::id();
            for record in records()
                .iter()
                .filter(|record| record.owner == own && !record.is_kept)
            {
                if let Err(error) = record.remove() {
                    eprintln!("the lab {} is not all gone: {error:#}", record.name);
                }
            }
            // What shells report for a process that an interrupt ended.
            std::process::exit(130);
        });
    });
}

/// Returns when SIGINT or SIGTERM arrives.
fn wait_for_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
