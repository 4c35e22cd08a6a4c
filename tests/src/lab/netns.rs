//! Network namespaces by handle.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// An open network namespace. It lives at least as long as this handle.
#[derive(Debug)]
pub struct NetNs(File);

impl NetNs {
    /// Opens the namespace behind `path`, such as `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path)
            .with_context(|| format!("cannot open the network namespace {}", path.display()))?;
        Ok(Self(file))
    }

    /// Runs `task` on a thread of its own inside the namespace.
    ///
    /// The caller's thread never changes namespace, so nothing needs to come back.
    pub fn within<T: Send>(&self, task: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                        .context("cannot enter a network namespace (needs CAP_SYS_ADMIN)")?;
                    Ok(task())
                })
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("a task inside a namespace panicked")))
        })
    }
}
