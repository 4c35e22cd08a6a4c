//! `mizzen cleanup`: removes what is pinned on this node.

use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::Context;

use super::client::Client;
use super::{AdminArg, Outcome, output};
use crate::admin::view::StatusView;
use crate::settings::PINS_DIR;

/// Flags of `mizzen cleanup`.
#[derive(Debug, clap::Args)]
pub(super) struct CleanupArgs {
    /// Directory of the pins, as the daemon was given it.
    #[arg(long, env = "MIZZEN_PINS", value_name = "DIR", default_value = PINS_DIR)]
    pins: PathBuf,
    #[command(flatten)]
    admin: AdminArg,
}

/// Removes the pins, and with them links and programs; the last reference is theirs
/// once no daemon runs.
pub(super) fn run(args: &CleanupArgs) -> anyhow::Result<Outcome> {
    if let Ok(status) = Client::new(&args.admin.admin).get::<StatusView>("/status") {
        anyhow::ensure!(
            Path::new(&status.node.kernel.pins) != args.pins,
            "the daemon (pid {}) still uses {}; stop it first",
            status.node.pid,
            args.pins.display()
        );
    }
    let removed = remove_pins(&args.pins)
        .with_context(|| format!("cannot remove the pins in {}", args.pins.display()))?;
    output::print(&format!(
        "removed {removed} pins from {}\n",
        args.pins.display()
    ))?;
    Ok(Outcome::Good)
}

/// Unlinks everything below `directory`, deepest first, then the directory; pins of
/// connect programs go first, so that nothing is captured while the rest goes.
fn remove_pins(directory: &Path) -> io::Result<usize> {
    let mut entries: Vec<PathBuf> = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?,
    };
    let is_connect = |path: &PathBuf| path.to_string_lossy().contains("connect");
    entries.sort_by_key(|path| (!is_connect(path), path.clone()));
    let mut removed = 0;
    for path in entries {
        if fs::symlink_metadata(&path)?.is_dir() {
            removed += remove_pins(&path)?;
        } else {
            fs::remove_file(&path)?;
            removed += 1;
        }
    }
    fs::remove_dir(directory)?;
    Ok(removed)
}
