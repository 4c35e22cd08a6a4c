//! The access log: records become lines, a thread of its own writes them.
//!
//! The queue between them is bounded, so that a slow disk or reader costs lines,
//! never requests; every line that is lost is counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::access_format::Line;
use super::exposition::{Exposition, MetricKind};
use super::metrics::Collector;
use super::record::{ConnectionRecord, RequestRecord};

/// Lines that wait for the writer: about 4 MB. Beyond it new lines are dropped.
const QUEUE_LINES_MAX: usize = 8192;
/// Bytes gathered into one write.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// Istio's default text format.
    Text,
    /// Istio's JSON keys.
    Json,
}

/// Where access log lines go. Cheap to clone; the writer ends with the last clone.
#[derive(Clone)]
pub struct AccessLog {
    queue: SyncSender<Item>,
    format: AccessLogFormat,
    counters: AccessLogCounters,
}

enum Item {
    Line(String),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Lines written and lost, as metrics.
#[derive(Clone, Default)]
pub struct AccessLogCounters {
    written: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

impl AccessLogCounters {
    /// Lines lost: the queue was full or the target could not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Collector for AccessLogCounters {
    fn collect(&self, out: &mut Exposition) {
        for (name, help, value) in [
            (
                "mizzen_access_log_lines_total",
                "Access log lines written.",
                &self.written,
            ),
            (
                "mizzen_access_log_lines_dropped_total",
                "Access log lines lost because the writer was behind or failed.",
                &self.dropped,
            ),
        ] {
            out.family(name, MetricKind::Counter, help);
            out.sample(name, &[], value.load(Ordering::Relaxed));
        }
    }
}

impl AccessLog {
    /// Opens `target`: `/dev/stdout`, `/dev/stderr`, or a file that is appended to.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be started.
    pub fn open(target: &str, format: AccessLogFormat) -> io::Result<Self> {
        let writer: Box<dyn Write + Send> = match target {
            // Both may be closed pipes or files of another user: opening them by
            // name would fail where the descriptor works.
            "/dev/stdout" => Box::new(io::stdout()),
            "/dev/stderr" => Box::new(io::stderr()),
            path => Box::new(open_file(Path::new(path))?),
        };
        Self::to_writer(writer, format, QUEUE_LINES_MAX)
    }

    fn to_writer(
        writer: Box<dyn Write + Send>,
        format: AccessLogFormat,
        queue_lines_max: usize,
    ) -> io::Result<Self> {
        let (queue, lines) = sync_channel(queue_lines_max);
        let counters = AccessLogCounters::default();
        let written_by = counters.clone();
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&lines, writer, &written_by))?;
        Ok(Self {
            queue,
            format,
            counters,
        })
    }

    /// Logs a finished request.
    pub fn request(&self, record: &RequestRecord) {
        self.push(&Line::of_request(record));
    }

    /// Logs a closed connection.
    pub fn connection(&self, record: &ConnectionRecord, duration: Duration) {
        self.push(&Line::of_connection(record, duration));
    }

    fn push(&self, line: &Line<'_>) {
        let line = match self.format {
            AccessLogFormat::Text => line.text(),
            AccessLogFormat::Json => line.json(),
        };
        if self.queue.try_send(Item::Line(line)).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines written and lost.
    #[must_use]
    pub fn counters(&self) -> AccessLogCounters {
        self.counters.clone()
    }

    /// Waits, at most `limit`, until every line so far is written; false if it was not.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let (done, written) = sync_channel(1);
        let mut item = Item::Flush(done);
        loop {
            match self.queue.try_send(item) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(_)) if Instant::now() >= deadline => return false,
                Err(TrySendError::Full(refused)) => {
                    item = refused;
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        written.recv_timeout(left).is_ok()
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        // Requests may carry secrets in their paths: not for everybody to read.
        .mode(0o640)
        .open(path)
}

/// The writer's thread: gathers what waits into one write, until all senders are gone.
fn write_lines(
    lines: &Receiver<Item>,
    mut writer: Box<dyn Write + Send>,
    counters: &AccessLogCounters,
) {
    let mut batch = Vec::with_capacity(BATCH_BYTES_MAX);
    let mut is_failing = false;
    while let Ok(first) = lines.recv() {
        let mut count = 0;
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(item) = next {
            match item {
                Item::Line(line) => {
                    batch.extend_from_slice(line.as_bytes());
                    count += 1;
                }
                Item::Flush(done) => waiting.push(done),
            }
            next = if batch.len() < BATCH_BYTES_MAX {
                lines.try_recv().ok()
            } else {
                None
            };
        }
        match writer.write_all(&batch).and_then(|()| writer.flush()) {
            Ok(()) => {
                counters.written.fetch_add(count, Ordering::Relaxed);
                is_failing = false;
            }
            Err(error) => {
                counters.dropped.fetch_add(count, Ordering::Relaxed);
                if !is_failing {
                    tracing::warn!(%error, "access log cannot be written, lines are lost");
                }
                is_failing = true;
            }
        }
        batch.clear();
        for done in waiting {
            // A caller that no longer waits needs no answer.
            let _ = done.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::testing::request;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn lines_are_appended_to_a_file_in_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("access.log");
        std::fs::write(&path, "kept\n").expect("a file");
        let target = path.to_str().expect("UTF-8");
        let log = AccessLog::open(target, AccessLogFormat::Text).expect("a writable file");
        for code in [200, 201] {
            let mut record = request();
            record.response_code = code;
            log.request(&record);
        }
        assert!(log.flush(LIMIT));
        let text = std::fs::read_to_string(&path).expect("the log");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "kept");
        assert!(lines[1].contains("\" 200 -"), "{text}");
        assert!(lines[2].contains("\" 201 -"), "{text}");
    }

    /// Writes nothing until it is told to.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Released when the test drops its end.
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_writer_that_is_stuck_costs_lines_and_never_waits() {
        let (release, stuck) = mpsc::channel();
        let log = AccessLog::to_writer(Box::new(Stuck(stuck)), AccessLogFormat::Json, 4)
            .expect("a thread");
        for _ in 0..100 {
            log.request(&request());
        }
        // One batch is held by the writer (at most 4 + 1 lines), four lines wait.
        let dropped = log.counters().dropped();
        assert!((91..=96).contains(&dropped), "{dropped}");
        assert!(!log.flush(Duration::from_millis(20)));
        drop(release);
        assert!(log.flush(LIMIT));
    }
}
