//! Links between programs and the pods' cgroup: made in order, adopted from pins, watched.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use aya::{Ebpf, programs::Program};
use proxy_common::map::PROGRAMS;

use super::{
    KernelError,
    pin::{self, PinDirs},
    sys,
};

/// What [`super::KernelMaps::check_links`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkCheck {
    /// Every link is of the directory's cgroup.
    Attached,
    /// The cgroup was made anew; this many programs were attached to it.
    Reattached(usize),
    /// There is no such cgroup at the moment.
    NoCgroup,
}

/// The links of all programs.
pub(super) struct Links {
    cgroup: PathBuf,
    pins: PinDirs,
    by_program: HashMap<&'static str, OwnedFd>,
}

impl Links {
    pub(super) fn new(cgroup: &Path, pins: PinDirs) -> Self {
        Self {
            cgroup: cgroup.to_owned(),
            pins,
            by_program: HashMap::new(),
        }
    }

    /// Attaches every program in order: sockops before the address hooks, connect last, so that
    /// no connection is captured before its original destination can be kept.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        for program in PROGRAMS {
            self.attach_one(ebpf, program)?;
        }
        Ok(())
    }

    /// See [`super::KernelMaps::check_links`].
    pub(super) fn check(&mut self, ebpf: &mut Ebpf) -> Result<LinkCheck, KernelError> {
        let Ok(metadata) = fs::metadata(&self.cgroup) else {
            return Ok(LinkCheck::NoCgroup);
        };
        let mut count = 0;
        for program in PROGRAMS {
            let is_attached = self.by_program.get(program).is_some_and(|link| {
                sys::link_cgroup_id(link.as_fd()).is_ok_and(|id| id == metadata.ino())
            });
            if !is_attached {
                self.by_program.remove(program);
                self.attach_one(ebpf, program)?;
                count += 1;
            }
        }
        Ok(if count == 0 {
            LinkCheck::Attached
        } else {
            LinkCheck::Reattached(count)
        })
    }

    fn attach_one(&mut self, ebpf: &mut Ebpf, name: &'static str) -> Result<(), KernelError> {
        let failed = |error: io::Error| KernelError::Attach {
            program: name,
            cgroup: self.cgroup.clone(),
            error: error.to_string(),
        };
        let cgroup = File::open(&self.cgroup).map_err(failed)?;
        let cgroup_id = cgroup.metadata().map_err(failed)?.ino();
        let program = ebpf.program(name).ok_or(KernelError::NoProgram(name))?;
        let path = self.pins.links.join(name);
        let link = match adopt(&path, program, cgroup_id) {
            Some(link) => link,
            None => {
                // A pin of another cgroup, or of one that is gone, has no use.
                pin::remove_file(&path)?;
                let link = create(program, &cgroup, attach_type(name)).map_err(failed)?;
                sys::pin(link.as_fd(), &pin::path_string(&path)?).map_err(failed)?;
                link
            }
        };
        pin::set_mode(&path, 0o600)?;
        self.by_program.insert(name, link);
        Ok(())
    }
}

/// `enum bpf_attach_type` of the kernel.
fn attach_type(program: &str) -> u32 {
    match program {
        "mizzen_connect4" => 10,
        "mizzen_connect6" => 11,
        "mizzen_peer4" => 29,
        "mizzen_peer6" => 30,
        "mizzen_name4" => 31,
        "mizzen_name6" => 32,
        // BPF_CGROUP_SOCK_OPS
        _ => 3,
    }
}

/// The pinned link of this cgroup with its program swapped, if there is one.
fn adopt(path: &Path, program: &Program, cgroup_id: u64) -> Option<OwnedFd> {
    if !path.exists() {
        return None;
    }
    let link = sys::open_pin(&pin::path_string(path).ok()?).ok()?;
    let is_same_cgroup = sys::link_cgroup_id(link.as_fd()).is_ok_and(|id| id == cgroup_id);
    if !is_same_cgroup {
        return None;
    }
    match sys::link_update(link.as_fd(), program.fd().ok()?.as_fd()) {
        Ok(()) => Some(link),
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot swap the program behind a pinned link; attaching anew");
            None
        }
    }
}

fn create(program: &Program, cgroup: &File, attach_type: u32) -> io::Result<OwnedFd> {
    let program = program.fd().map_err(io::Error::other)?;
    sys::link_create(program.as_fd(), cgroup.as_fd(), attach_type)
}
