//! Mizzen's own metrics: what the node, its kernel maps and its configuration are doing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::metrics::{Counter, Gauge, MetricsRegistry};

/// Handles of the metrics that describe this node; whoever learns a number sets it.
#[derive(Clone)]
pub struct NodeMetrics {
    registry: Arc<MetricsRegistry>,
    /// Version of the snapshot in force.
    pub snapshot_version: Gauge,
    /// When it was put in force, in seconds since 1970; see [`Self::snapshot_applied`].
    snapshot_applied_time: Gauge,
    /// How long compiling it took, in seconds.
    compile_time: Gauge,
    /// Objects in force.
    pub config_objects: Gauge,
    /// Writes to kernel maps that failed.
    pub kernel_sync_errors: Counter,
    /// Endpoint sets that were swapped without compiling.
    pub endpoints_swapped: Counter,
    /// Flow events that the ring buffer could not take.
    pub flow_events_dropped: Counter,
    /// Captured connections that nobody accepted in time.
    pub original_dsts_swept: Counter,
}

/// One map's fill level.
#[derive(Debug, Clone, Copy)]
pub struct MapFill<'a> {
    /// Name of the map.
    pub map: &'a str,
    /// Entries in it.
    pub entries: u64,
    /// Entries that fit.
    pub capacity: u64,
}

impl NodeMetrics {
    /// Registers all of them; gauges show 0 until they are set.
    #[must_use]
    pub fn new(registry: Arc<MetricsRegistry>) -> Self {
        let gauge = |name, help| registry.gauge(name, help, &[]);
        let counter = |name, help| registry.counter(name, help, &[]);
        Self {
            snapshot_version: gauge(
                "mizzen_snapshot_version",
                "Version of the configuration snapshot in force.",
            ),
            snapshot_applied_time: gauge(
                "mizzen_snapshot_applied_timestamp_seconds",
                "When the snapshot in force was applied, in seconds since 1970.",
            ),
            compile_time: gauge(
                "mizzen_compile_duration_seconds",
                "How long compiling the snapshot in force took.",
            ),
            config_objects: gauge("mizzen_config_objects", "Configuration objects in force."),
            kernel_sync_errors: counter(
                "mizzen_kernel_sync_errors_total",
                "Writes to kernel maps that failed.",
            ),
            endpoints_swapped: counter(
                "mizzen_endpoint_sets_swapped_total",
                "Endpoint sets swapped without compiling: EndpointSlices or DNS changed.",
            ),
            flow_events_dropped: counter(
                "mizzen_flow_events_dropped_total",
                "Flow events lost because the ring buffer was full.",
            ),
            original_dsts_swept: counter(
                "mizzen_original_dsts_swept_total",
                "Captured connections that nobody accepted in time.",
            ),
            registry,
        }
    }

    /// Notes that a snapshot came into force.
    pub fn snapshot_applied(
        &self,
        version: u64,
        objects: usize,
        compile: Duration,
        at: SystemTime,
    ) {
        self.snapshot_version.set(version as f64);
        self.config_objects.set(objects as f64);
        self.compile_time.set(compile.as_secs_f64());
        let since = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.snapshot_applied_time.set(since.as_secs_f64());
    }

    /// Counts of findings in force, by severity.
    pub fn set_findings<'a>(&self, counts: impl IntoIterator<Item = (&'a str, usize)>) {
        for (severity, count) in counts {
            self.registry
                .gauge(
                    "mizzen_findings",
                    "Findings in force.",
                    &[("severity", severity)],
                )
                .set(count as f64);
        }
    }

    /// Total of decisions that `connect()` took for this reason.
    pub fn set_kernel_decisions(&self, reason: &str, total: u64) {
        self.registry
            .counter(
                "mizzen_kernel_decisions_total",
                "Decisions of the connect programs, by reason.",
                &[("reason", reason)],
            )
            .set_total(total);
    }

    /// Captured connections that are open, per pod (`namespace/name`).
    pub fn set_captured_connections(&self, pods: &[(String, u64)]) {
        let labels: Vec<[(&str, &str); 1]> =
            pods.iter().map(|(pod, _)| [("pod", &**pod)]).collect();
        let samples = labels
            .iter()
            .zip(pods)
            .map(|(labels, (_, count))| (labels.as_slice(), *count as f64));
        self.registry.replace_gauges(
            "mizzen_captured_connections",
            "Open captured connections of a pod; a pod has room for about 28000.",
            samples,
        );
    }

    /// Pods of this node by what is done with them.
    pub fn set_pods(&self, states: &[(&str, usize)]) {
        let labels: Vec<[(&str, &str); 1]> = states
            .iter()
            .map(|(state, _)| [("state", *state)])
            .collect();
        let samples = labels
            .iter()
            .zip(states)
            .map(|(labels, (_, count))| (labels.as_slice(), *count as f64));
        self.registry
            .replace_gauges("mizzen_pods", "Pods of this node, by state.", samples);
    }

    /// Fill levels of the kernel maps.
    pub fn set_map_fill(&self, maps: &[MapFill<'_>]) {
        for fill in maps {
            let labels = [("map", fill.map)];
            self.registry
                .gauge("mizzen_map_entries", "Entries in a kernel map.", &labels)
                .set(fill.entries as f64);
            self.registry
                .gauge(
                    "mizzen_map_capacity",
                    "Entries that fit into a kernel map.",
                    &labels,
                )
                .set(fill.capacity as f64);
        }
    }

    /// Age of a worker's last heartbeat.
    pub fn set_heartbeat_age(&self, worker: u32, age: Duration) {
        self.registry
            .gauge(
                "mizzen_worker_heartbeat_age_seconds",
                "Time since a worker's last sign of life.",
                &[("worker", &worker.to_string())],
            )
            .set(age.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::access_log::AccessLogCounters;
    use super::*;

    #[test]
    fn node_metrics_show_what_was_set() {
        let registry = Arc::new(MetricsRegistry::default());
        let metrics = NodeMetrics::new(Arc::clone(&registry));
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        metrics.snapshot_applied(7, 42, Duration::from_millis(20), at);
        metrics.set_findings([("error", 2), ("warning", 0)]);
        metrics.set_kernel_decisions("loopback", 5);
        metrics.set_captured_connections(&[("shop/web".to_owned(), 3)]);
        metrics.set_captured_connections(&[("shop/api".to_owned(), 1)]);
        metrics.set_pods(&[("captured", 4)]);
        metrics.set_map_fill(&[MapFill {
            map: "PODS",
            entries: 1,
            capacity: 1024,
        }]);
        metrics.set_heartbeat_age(0, Duration::from_millis(500));
        metrics.flow_events_dropped.set_total(9);
        let text = registry.render(at);
        for line in [
            "mizzen_snapshot_version 7\n",
            "mizzen_config_objects 42\n",
            "mizzen_compile_duration_seconds 0.02\n",
            "mizzen_snapshot_applied_timestamp_seconds 1000\n",
            "mizzen_findings{severity=\"error\"} 2\n",
            "mizzen_kernel_decisions_total{reason=\"loopback\"} 5\n",
            "mizzen_captured_connections{pod=\"shop/api\"} 1\n",
            "mizzen_pods{state=\"captured\"} 4\n",
            "mizzen_map_capacity{map=\"PODS\"} 1024\n",
            "mizzen_worker_heartbeat_age_seconds{worker=\"0\"} 0.5\n",
            "mizzen_flow_events_dropped_total 9\n",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
        assert!(
            !text.contains("shop/web"),
            "a pod that is gone leaves no sample"
        );
    }

    /// The manual names every family, and no family that is not there.
    #[test]
    fn the_manual_lists_all_metrics() {
        let registry = Arc::new(MetricsRegistry::default());
        let metrics = NodeMetrics::new(Arc::clone(&registry));
        metrics.set_findings([("error", 0)]);
        metrics.set_kernel_decisions("loopback", 0);
        metrics.set_captured_connections(&[]);
        metrics.set_pods(&[]);
        let (map, entries, capacity) = ("PODS", 0, 1);
        metrics.set_map_fill(&[MapFill {
            map,
            entries,
            capacity,
        }]);
        metrics.set_heartbeat_age(0, Duration::ZERO);
        registry.add_collector(Arc::new(AccessLogCounters::default()));
        let text = registry.render(SystemTime::UNIX_EPOCH);
        let families: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|line| line.split(' ').next())
            .collect();
        let manual = include_str!("../../../docs/metrics.md");
        let listed: BTreeSet<&str> = manual
            .lines()
            .filter(|line| line.starts_with("| `"))
            .flat_map(|line| line.split('`').skip(1).step_by(2))
            .filter(|name| name.starts_with("istio_") || name.starts_with("mizzen_"))
            .map(|name| name.split('{').next().unwrap_or(name))
            .collect();
        assert_eq!(families, listed);
    }
}
