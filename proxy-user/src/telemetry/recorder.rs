//! Where records go: metrics always, the access log when it is on.

use std::sync::Arc;
use std::time::Duration;

use super::access_log::AccessLog;
use super::metrics::MetricsRegistry;
use super::record::{ConnectionRecord, Recorder, RequestRecord};
use super::traffic::TrafficShard;

/// The process's metrics and access log.
#[derive(Clone)]
pub struct Telemetry {
    metrics: Arc<MetricsRegistry>,
    access_log: Option<AccessLog>,
}

impl Telemetry {
    /// Telemetry over this registry; `access_log`: `None` when it is off.
    #[must_use]
    pub fn new(metrics: Arc<MetricsRegistry>, access_log: Option<AccessLog>) -> Self {
        if let Some(log) = &access_log {
            metrics.add_collector(Arc::new(log.counters()));
        }
        Self {
            metrics,
            access_log,
        }
    }

    /// A recorder with a shard of its own: one per thread that moves traffic.
    #[must_use]
    pub fn recorder(&self) -> Arc<dyn Recorder> {
        Arc::new(ThreadRecorder {
            shard: self.metrics.traffic_shard(),
            access_log: self.access_log.clone(),
        })
    }

    /// The registry behind it.
    #[must_use]
    pub fn metrics(&self) -> &Arc<MetricsRegistry> {
        &self.metrics
    }

    /// Waits, at most `limit`, until every access log line so far is written.
    /// False when that did not happen in time.
    pub fn flush(&self, limit: Duration) -> bool {
        self.access_log.as_ref().is_none_or(|log| log.flush(limit))
    }
}

struct ThreadRecorder {
    shard: Arc<TrafficShard>,
    access_log: Option<AccessLog>,
}

impl Recorder for ThreadRecorder {
    fn request(&self, record: &RequestRecord) {
        self.shard.request(record);
        if let Some(log) = &self.access_log {
            log.request(record);
        }
    }

    fn connection_opened(&self, record: &ConnectionRecord) {
        self.shard.connection_opened(record);
    }

    fn connection_progress(&self, record: &ConnectionRecord, received: u64, sent: u64) {
        self.shard.connection_progress(record, received, sent);
    }

    fn connection_closed(
        &self,
        record: &ConnectionRecord,
        duration: Duration,
        received: u64,
        sent: u64,
    ) {
        self.shard.connection_closed(record, received, sent);
        if let Some(log) = &self.access_log {
            log.connection(record, duration);
        }
    }
}
