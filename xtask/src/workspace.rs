//! Where things are: the repository, cargo's target directory, the user's cache.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Directory of the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Cargo's target directory: `CARGO_TARGET_DIR` when it is set, else `target`.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// Target directory of the eBPF crate: its own, since it is built by another compiler.
pub(crate) fn ebpf_target_dir() -> PathBuf {
    target_dir().join("ebpf")
}

/// The eBPF object that `proxy-user/build.rs` embeds; nothing else lies in its directory.
pub(crate) fn ebpf_object() -> PathBuf {
    ebpf_target_dir().join("object").join("mizzen-ebpf")
}

/// The release binary that `build` makes.
pub(crate) fn mizzen() -> PathBuf {
    target_dir().join("release").join("mizzen")
}

/// Tools that outlive the clone, so that the next one finds them: `$XDG_CACHE_HOME/mizzen/tools`,
/// else `~/.cache/mizzen/tools` (XDG base directory specification).
pub(crate) fn tools_dir() -> Result<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(
            env::var_os("HOME")
                .context("neither XDG_CACHE_HOME nor HOME is set: no place to keep tools")?,
        )
        .join(".cache"),
    };
    Ok(cache.join("mizzen").join("tools"))
}
