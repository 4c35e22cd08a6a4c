//! `mizzen run`: build each stage, connect them, drain.

use crate::settings::Settings;

/// Runs the node's daemon until it is told to stop.
///
/// # Errors
/// A stage cannot start; the text says which and what to do.
pub fn run(_settings: Settings) -> anyhow::Result<()> {
    anyhow::bail!("the daemon is not part of this build")
}
