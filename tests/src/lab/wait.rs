//! Waiting for a condition, with a deadline and never for a time.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// `limit`, three times as long where `CI` is set: shared runners are slow.
pub fn patience(limit: Duration) -> Duration {
    if std::env::var_os("CI").is_some() {
        limit * 3
    } else {
        limit
    }
}

/// Asks `probe` until it gives a value, for at most [`patience`]`(limit)`.
///
/// An error of the probe counts as "not yet"; the last one is part of the error.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let limit = patience(limit);
    let started = Instant::now();
    loop {
        let last = match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if started.elapsed() > limit {
            let cause = last.map(|error| format!(": {error:#}")).unwrap_or_default();
            anyhow::bail!("waited {limit:?} in vain for {what}{cause}");
        }
        std::thread::sleep(PROBE_INTERVAL);
    }
}
