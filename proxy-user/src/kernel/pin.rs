//! Pins: where links and maps live on bpffs, so that they outlive the daemon.
//!
//! `DIR/links/PROGRAM` holds the links, which every layout shares: a new daemon swaps the program
//! behind them, so that no connect sees two of ours or none. `DIR/v<N>/MAP` holds the maps of
//! layout N; those of other layouts are dropped once the new programs run.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
};

use proxy_common::{LAYOUT_VERSION, map::PROGRAMS};

use super::{KernelError, sys};

const BPF_FS_MAGIC: libc::c_long = 0xcafe_4a11;
const BPF_FS: &str = "/sys/fs/bpf";

/// Directories below `--pins`.
#[derive(Debug, Clone)]
pub(super) struct PinDirs {
    pub(super) root: PathBuf,
    pub(super) links: PathBuf,
    pub(super) maps: PathBuf,
}

impl PinDirs {
    /// Names only; nothing is made.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            links: root.join("links"),
            maps: root.join(format!("v{LAYOUT_VERSION}")),
        }
    }

    /// Makes the directories, readable by root alone; mounts bpffs where it belongs if it is not.
    pub(super) fn make(&self) -> Result<(), KernelError> {
        mount_bpffs(&self.root)?;
        for directory in [&self.root, &self.links, &self.maps] {
            fs::create_dir_all(directory)
                .map_err(|error| KernelError::file("make", directory, error))?;
            set_mode(directory, 0o700)?;
        }
        Ok(())
    }

    /// Closes the maps' pins to everybody but root.
    pub(super) fn protect_maps(&self) -> Result<(), KernelError> {
        for entry in entries(&self.maps)? {
            set_mode(&entry, 0o600)?;
        }
        Ok(())
    }

    /// Drops the maps of other layouts.
    pub(super) fn drop_other_layouts(&self) -> Result<(), KernelError> {
        for layout in self.other_layouts()? {
            tracing::info!(path = %layout.display(), "dropping maps of another layout");
            remove_directory(&layout)?;
        }
        Ok(())
    }

    /// Directories of maps that are not of this layout.
    pub(super) fn other_layouts(&self) -> Result<Vec<PathBuf>, KernelError> {
        let mut others = entries(&self.root)?;
        others.retain(|entry| {
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            let is_layout = name
                .strip_prefix('v')
                .is_some_and(|number| number.parse::<u32>().is_ok());
            is_layout && *entry != self.maps
        });
        Ok(others)
    }
}

/// Removes every link, map and directory below `pins`, connect programs first; returns how many
/// files there were. Programs go with the last link. A directory that is not there is no error.
///
/// # Errors
/// A file that cannot be removed.
pub fn cleanup(pins: &Path) -> Result<usize, KernelError> {
    let dirs = PinDirs::new(pins);
    if !pins.exists() {
        return Ok(0);
    }
    let mut count = 0;
    for name in PROGRAMS.iter().rev() {
        let path = dirs.links.join(name);
        // A link of a cgroup that is gone is detached already; the pin goes in any case.
        if let Ok(link) = sys::open_pin(&path_string(&path)?) {
            let _ = sys::link_detach(link.as_fd());
        }
        count += usize::from(remove_file(&path)?);
    }
    for entry in entries(pins)? {
        count += remove_directory(&entry)?;
    }
    fs::remove_dir(pins).map_err(|error| KernelError::file("remove", pins, error))?;
    Ok(count)
}

/// Removes one directory of pins with what is in it; returns how many files.
fn remove_directory(directory: &Path) -> Result<usize, KernelError> {
    let mut count = 0;
    for entry in entries(directory)? {
        count += usize::from(remove_file(&entry)?);
    }
    fs::remove_dir(directory).map_err(|error| KernelError::file("remove", directory, error))?;
    Ok(count)
}

/// Removes one file; false when it was not there.
pub(super) fn remove_file(path: &Path) -> Result<bool, KernelError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(KernelError::file("remove", path, error)),
    }
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), KernelError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| KernelError::file("protect", path, error))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let failed = |error| KernelError::file("read", directory, error);
    fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}

fn mount_bpffs(pins: &Path) -> Result<(), KernelError> {
    // The nearest directory that exists decides in which file system the pins would be.
    let existing = pins
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    if is_bpffs(existing)? {
        return Ok(());
    }
    if !pins.starts_with(BPF_FS) || !Path::new(BPF_FS).is_dir() {
        let error = io::Error::other(format!(
            "it is not on a bpf file system; choose a directory below {BPF_FS}"
        ));
        return Err(KernelError::file("use pins directory", pins, error));
    }
    tracing::info!(path = BPF_FS, "mounting the bpf file system");
    let (source, target) = (c"bpf", path_string(Path::new(BPF_FS))?);
    // SAFETY: all strings are nul-terminated and live until the call returns; no data is passed.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            source.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    if result != 0 {
        return Err(KernelError::file(
            "mount bpf file system on",
            BPF_FS,
            io::Error::last_os_error(),
        ));
    }
    Ok(())
}

fn is_bpffs(path: &Path) -> Result<bool, KernelError> {
    let name = path_string(path)?;
    let mut info = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the string is nul-terminated, and the kernel fills `info` when it returns zero.
    if unsafe { libc::statfs(name.as_ptr(), info.as_mut_ptr()) } != 0 {
        return Err(KernelError::file(
            "examine",
            path,
            io::Error::last_os_error(),
        ));
    }
    // SAFETY: the call succeeded.
    Ok(unsafe { info.assume_init() }.f_type == BPF_FS_MAGIC)
}

pub(super) fn path_string(path: &Path) -> Result<CString, KernelError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| {
        KernelError::file(
            "use",
            path,
            io::Error::new(io::ErrorKind::InvalidInput, error),
        )
    })
}
