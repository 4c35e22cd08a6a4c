//! Log lines of the eBPF programs (`aya-log`), into the daemon's own log.
//!
//! Only failures are logged there, but a full map fails for every connection of the node: what
//! comes too fast is counted and left out.

use std::time::{Duration, Instant};

use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};

use super::{KernelError, load::with_causes};

/// Target of these lines in the daemon's log.
const TARGET: &str = "ebpf";
/// Lines per [`WINDOW`] that are written; enough to see what fails and for whom.
const LINES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// The one reader of the loaded programs' log buffer, which is not pinned: programs of another
/// daemon have their own.
pub struct KernelLog(EbpfLogger<Lines>);

impl KernelLog {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        EbpfLogger::init_with_logger(ebpf, Lines::default())
            .map(Self)
            .map_err(|error| KernelError::map("read", "AYA_LOGS", with_causes(&error)))
    }

    /// Writes what has come since the last call. The kernel wakes nobody for a line; call it
    /// every so often.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

/// Hands lines to `tracing`, and not too many of them.
#[derive(Default)]
struct Lines {
    /// Guards the count of one window; there is one reader, so it never waits.
    window: Mutex<Window>,
}

struct Window {
    began: Instant,
    written: u32,
    left_out: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            written: 0,
            left_out: 0,
        }
    }
}

impl Window {
    /// Whether one more line is written at `now`, and how many were left out in the window that
    /// this line ends.
    fn admit(&mut self, now: Instant) -> (bool, u64) {
        let mut left_out = 0;
        if now.duration_since(self.began) >= WINDOW {
            left_out = self.left_out;
            *self = Self {
                began: now,
                written: 0,
                left_out: 0,
            };
        }
        if self.written >= LINES_MAX {
            self.left_out += 1;
            return (false, left_out);
        }
        self.written += 1;
        (true, left_out)
    }
}

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let (is_admitted, left_out) = window.admit(Instant::now());
        drop(window);
        if left_out > 0 {
            tracing::warn!(target: TARGET, left_out, "more lines came than are written");
        }
        if !is_admitted {
            return;
        }
        let text = record.args();
        match record.level() {
            Level::Error => tracing::error!(target: TARGET, "{text}"),
            Level::Warn => tracing::warn!(target: TARGET, "{text}"),
            Level::Info => tracing::info!(target: TARGET, "{text}"),
            Level::Debug | Level::Trace => tracing::debug!(target: TARGET, "{text}"),
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_told_with_the_next_line() {
        let mut window = Window::default();
        let start = window.began;
        let admitted = (0..100).filter(|_| window.admit(start).0).count();
        assert_eq!(admitted, LINES_MAX as usize);
        assert_eq!(window.admit(start + WINDOW), (true, 80));
        assert_eq!(window.admit(start + WINDOW * 2), (true, 0));
    }
}
