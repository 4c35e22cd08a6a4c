//! Pods in the cgroup tree: `pod<uid>` directories of either cgroup driver.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Directories deeper than this below the pods' root hold no pods (QoS class, pod).
const POD_DEPTH_MAX: usize = 4;
/// Container cgroups may nest (a container runtime inside a pod).
const CONTAINER_DEPTH_MAX: usize = 6;
/// More processes than this in one pod are not looked at for its namespace.
const PROCESSES_MAX: usize = 4096;

/// The pod's directory and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCgroup {
    /// Where it is.
    pub path: PathBuf,
    /// Inode of the directory, which is the id that `bpf_get_current_cgroup_id` gives.
    pub id: u64,
}

/// The mount point of cgroup v2, from `/proc/mounts`: unified, or beside v1 on hybrid systems.
///
/// # Errors
/// No cgroup v2 is mounted.
pub fn mount_point() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    find_mount_point(&mounts).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no cgroup2 file system is mounted; mount one at /sys/fs/cgroup",
        )
    })
}

fn find_mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// The id of the cgroup in which this process runs: the inode of its directory.
///
/// `/proc/self/cgroup` counts from the root of this process's cgroup namespace, which is the
/// container's own cgroup where the runtime makes it private. `mount`, the host's tree, starts
/// elsewhere then; a mount made here starts at that root (cgroup_namespaces(7)).
///
/// # Errors
/// `/proc` or cgroup v2 is not mounted.
pub fn own_id(mount: &Path) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    match own_root() {
        Ok(root) => {
            let path = Path::new(".").join(path);
            Ok(rustix::fs::statat(&root, &path, AtFlags::empty())?.st_ino)
        }
        Err(error) => {
            tracing::warn!(%error, "cannot mount cgroup v2 for a look; a private cgroup namespace would go unseen");
            Ok(fs::metadata(mount.join(path))?.ino())
        }
    }
}

/// The root of this process's cgroup namespace, by a mount that is attached nowhere.
fn own_root() -> io::Result<OwnedFd> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(fsmount(
        context.as_fd(),
        flags,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )?)
}

/// The pod uid that a directory's name holds: `pod<uid>` of cgroupfs, or
/// `kubepods[-class]-pod<uid with _>.slice` of systemd (kubelet's cgroup manager).
#[must_use]
pub fn pod_name_of(directory: &str) -> Option<String> {
    if let Some(uid) = directory.strip_prefix("pod") {
        return (!uid.is_empty()).then(|| uid.to_owned());
    }
    let inner = directory.strip_suffix(".slice")?;
    let uid = inner.rsplit_once("-pod")?.1;
    (!uid.is_empty()).then(|| uid.replace('_', "-"))
}

/// All pod cgroups below `root`, by the name in their directory (uid, or a static pod's hash).
/// A directory that vanishes meanwhile is left out.
#[must_use]
pub fn scan(root: &Path) -> HashMap<String, PodCgroup> {
    let mut found = HashMap::new();
    scan_into(root, 0, &mut found);
    found
}

fn scan_into(directory: &Path, depth: usize, found: &mut HashMap<String, PodCgroup>) {
    for (name, path) in children(directory) {
        if let Some(uid) = pod_name_of(&name) {
            if let Ok(metadata) = fs::metadata(&path) {
                found.insert(
                    uid,
                    PodCgroup {
                        path,
                        id: metadata.ino(),
                    },
                );
            }
        } else if depth < POD_DEPTH_MAX {
            scan_into(&path, depth + 1, found);
        }
    }
}

/// Processes of a pod, in all its container cgroups.
#[must_use]
pub fn processes(pod: &Path) -> Vec<u32> {
    let mut pids = Vec::new();
    processes_into(pod, 0, &mut pids);
    pids
}

fn processes_into(directory: &Path, depth: usize, pids: &mut Vec<u32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let free = PROCESSES_MAX.saturating_sub(pids.len());
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse::<u32>().ok())
            .filter(|pid| *pid != 0)
            .take(free),
    );
    if depth < CONTAINER_DEPTH_MAX {
        for (_, path) in children(directory) {
            processes_into(&path, depth + 1, pids);
        }
    }
}

/// Whether process `pid` runs in the cgroup `pod` or below it.
///
/// Not by `/proc/PID/cgroup`: from a private cgroup namespace its paths are relative.
#[must_use]
pub fn holds_process(pod: &Path, pid: u32) -> bool {
    processes(pod).contains(&pid)
}

/// Whether any process is left in the cgroup or below it (`cgroup.events`).
#[must_use]
pub fn is_populated(pod: &Path) -> bool {
    fs::read_to_string(pod.join("cgroup.events"))
        .is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
}

fn children(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cgroup_drivers_name_their_pods() {
        for (directory, uid) in [
            ("pod1a2b-3c", Some("1a2b-3c")),
            ("kubepods-burstable-pod1a2b_3c.slice", Some("1a2b-3c")),
            ("kubepods-pod1a2b_3c.slice", Some("1a2b-3c")),
            ("kubepods-burstable.slice", None), // a class, not a pod
            ("cri-containerd-0123.scope", None),
            ("pod", None),
        ] {
            assert_eq!(pod_name_of(directory).as_deref(), uid, "{directory}");
        }
    }

    #[test]
    fn cgroup2_is_found_on_unified_and_hybrid_systems() {
        for (mounts, expected) in [
            (
                "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
                Some("/sys/fs/cgroup"),
            ),
            (
                "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
                Some("/sys/fs/cgroup/unified"),
            ),
            ("proc /proc proc rw 0 0\n", None),
        ] {
            assert_eq!(
                find_mount_point(mounts),
                expected.map(PathBuf::from),
                "{mounts}"
            );
        }
    }
}
