//! `mizzen cleanup`: removes what is pinned on this node.

use std::path::{Path, PathBuf};

use super::client::Client;
use super::{AdminArg, Outcome, output};
use crate::admin::view::StatusView;
use crate::kernel;
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

/// Removes the pins, and with them links, programs and maps: once no daemon runs, theirs
/// is the last reference.
pub(super) fn run(args: &CleanupArgs) -> anyhow::Result<Outcome> {
    if let Ok(status) = Client::new(&args.admin.admin).get::<StatusView>("/status") {
        anyhow::ensure!(
            Path::new(&status.node.kernel.pins) != args.pins,
            "the daemon (pid {}) still uses {}; stop it first",
            status.node.pid,
            args.pins.display()
        );
    }
    // A daemon that does not answer there would keep its programs and maps alive.
    anyhow::ensure!(
        !kernel::is_in_use(&args.pins)?,
        "a daemon still uses {}, though none answers at {}; stop it first",
        args.pins.display(),
        args.admin.admin
    );
    let removed = kernel::cleanup(&args.pins)?;
    output::print(&format!(
        "removed {removed} pins from {}\n",
        args.pins.display()
    ))?;
    Ok(Outcome::Good)
}
