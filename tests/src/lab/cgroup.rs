//! The node's cgroup tree, in the two layouts that kubelet uses.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::wait::wait_until;

/// Which cgroup driver's layout the node has.
///
/// Source: Kubernetes, "Container runtimes", cgroup drivers; kubelet's
/// `pkg/kubelet/cm/cgroup_manager_linux.go` for the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// `kubepods/burstable/pod<uid>/<container>`.
    Cgroupfs,
    /// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope`.
    Systemd,
}

/// A pod's quality-of-service class; it is part of the cgroup's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Directly below the root of the pods.
    Guaranteed,
    /// Below `burstable`.
    Burstable,
    /// Below `besteffort`.
    BestEffort,
}

impl Driver {
    /// Name of the root of all pods.
    pub fn pods_root(self) -> &'static str {
        match self {
            Self::Cgroupfs => "kubepods",
            Self::Systemd => "kubepods.slice",
        }
    }

    /// Path of a pod's cgroup, relative to the parent of [`Driver::pods_root`].
    pub fn pod_path(self, qos: Qos, uid: &str) -> PathBuf {
        let root = Path::new(self.pods_root());
        match self {
            Self::Cgroupfs => match qos {
                Qos::Guaranteed => root.join(format!("pod{uid}")),
                Qos::Burstable => root.join("burstable").join(format!("pod{uid}")),
                Qos::BestEffort => root.join("besteffort").join(format!("pod{uid}")),
            },
            Self::Systemd => {
                // systemd reads `-` as a level of the tree, so kubelet writes `_`.
                let uid = uid.replace('-', "_");
                match qos {
                    Qos::Guaranteed => root.join(format!("kubepods-pod{uid}.slice")),
                    Qos::Burstable => root
                        .join("kubepods-burstable.slice")
                        .join(format!("kubepods-burstable-pod{uid}.slice")),
                    Qos::BestEffort => root
                        .join("kubepods-besteffort.slice")
                        .join(format!("kubepods-besteffort-pod{uid}.slice")),
                }
            }
        }
    }

    /// Name of one container's cgroup below its pod's.
    pub fn container_name(self, container_id: &str) -> String {
        match self {
            Self::Cgroupfs => container_id.to_owned(),
            Self::Systemd => format!("cri-containerd-{container_id}.scope"),
        }
    }
}

/// Mount point of the cgroup v2 tree, wherever this system has it.
///
/// `/sys/fs/cgroup` on unified systems, often `/sys/fs/cgroup/unified` on hybrid ones.
pub fn cgroup2_root() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(point))
        })
        .next()
        .context("no cgroup v2 tree is mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")
}

/// Kills every process below `cgroup` and removes the whole tree.
///
/// A tree that is not there is a success. Source: Linux, `cgroup-v2.rst`, `cgroup.kill`.
pub(super) fn remove_tree(cgroup: &Path) -> anyhow::Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    // Writing fails only where the tree went away in between: the wait below sees that.
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    wait_until(
        &format!("the cgroup {} to empty", cgroup.display()),
        Duration::from_secs(10),
        || match remove_directories(cgroup) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(())),
            Err(error) => {
                let _ = fs::write(cgroup.join("cgroup.kill"), "1");
                Err(error.into())
            }
        },
    )
}

/// Removes a cgroup's directories bottom up; files in them are the kernel's.
fn remove_directories(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_directories(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_paths_are_those_of_kubelet() {
        let uid = "0a1b-2c";
        for (driver, qos, expected) in [
            (Driver::Cgroupfs, Qos::Guaranteed, "kubepods/pod0a1b-2c"),
            (
                Driver::Cgroupfs,
                Qos::Burstable,
                "kubepods/burstable/pod0a1b-2c",
            ),
            (
                Driver::Systemd,
                Qos::BestEffort,
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0a1b_2c.slice",
            ),
        ] {
            assert_eq!(driver.pod_path(qos, uid), Path::new(expected));
        }
    }
}
