//! All metrics of the process, and their text.
//!
//! Input: [`TrafficShard`]s, one per thread that records traffic, and handles of
//! counters and gauges that everybody else holds. Output: [`MetricsRegistry::render`],
//! which merges them. A scrape holds a shard's lock only while it copies numbers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::exposition::{Exposition, LabelText, MetricKind};
use super::traffic::{TrafficShard, TrafficTotals};

/// Holds every metric of the process.
#[derive(Default)]
pub struct MetricsRegistry {
    /// Guards the list only; each shard has a lock of its own.
    shards: Mutex<Vec<Arc<TrafficShard>>>,
    /// Guards the families of counters and gauges; touched on registration and scrape.
    families: Mutex<BTreeMap<&'static str, Family>>,
    /// Asked at scrape time, for numbers that live elsewhere (kernel maps).
    collectors: Mutex<Vec<Arc<dyn Collector>>>,
}

/// Numbers that live elsewhere, read when somebody scrapes.
pub trait Collector: Send + Sync {
    /// Writes whole families. Runs on the admin thread.
    fn collect(&self, out: &mut Exposition);
}

struct Family {
    kind: MetricKind,
    help: &'static str,
    samples: BTreeMap<LabelText, Arc<AtomicU64>>,
}

/// Only grows. Cheap to clone and to add to.
#[derive(Debug, Clone)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Counts `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Takes over a total that is counted elsewhere, such as in a kernel map.
    pub fn set_total(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }

    /// The current value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down; holds a real number.
#[derive(Debug, Clone)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// The current value.
    #[must_use]
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// A lock's content even if a holder panicked: all of them are counters and lists
/// that are whole between any two statements.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MetricsRegistry {
    /// A new shard for one recording thread. Its numbers stay in the totals for
    /// as long as the registry lives.
    #[must_use]
    pub fn traffic_shard(&self) -> Arc<TrafficShard> {
        let shard = Arc::new(TrafficShard::default());
        locked(&self.shards).push(Arc::clone(&shard));
        shard
    }

    /// The counter `name` with these labels; the same handle for the same labels.
    /// `name`: Prometheus style, with unit and `_total`. `help`: one sentence.
    pub fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> Counter {
        Counter(self.number(name, MetricKind::Counter, help, labels))
    }

    /// The gauge `name` with these labels; the same handle for the same labels.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
        Gauge(self.number(name, MetricKind::Gauge, help, labels))
    }

    fn number(
        &self,
        name: &'static str,
        kind: MetricKind,
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> Arc<AtomicU64> {
        let mut families = locked(&self.families);
        let family = families.entry(name).or_insert_with(|| Family {
            kind,
            help,
            samples: BTreeMap::new(),
        });
        let sample = family.samples.entry(LabelText::new(labels)).or_default();
        Arc::clone(sample)
    }

    /// Makes `samples` the only ones of the gauge `name`: what is not among them is gone.
    pub fn replace_gauges<'a>(
        &self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], f64)>,
    ) {
        let samples = samples
            .into_iter()
            .map(|(labels, value)| {
                let bits = Arc::new(AtomicU64::new(value.to_bits()));
                (LabelText::new(labels), bits)
            })
            .collect();
        let family = Family {
            kind: MetricKind::Gauge,
            help,
            samples,
        };
        locked(&self.families).insert(name, family);
    }

    /// Adds numbers that are read at scrape time.
    pub fn add_collector(&self, collector: Arc<dyn Collector>) {
        locked(&self.collectors).push(collector);
    }

    /// The text of one scrape. `now`: series that were idle for long may be
    /// forgotten when there are very many.
    #[must_use]
    pub fn render(&self, now: SystemTime) -> String {
        let mut out = Exposition::default();
        let shards = locked(&self.shards).clone();
        let mut totals = TrafficTotals::default();
        for shard in &shards {
            shard.add_to(&mut totals, now);
        }
        totals.write(&mut out);
        for (name, family) in locked(&self.families).iter() {
            out.family(name, family.kind, family.help);
            for (labels, value) in &family.samples {
                let bits = value.load(Ordering::Relaxed);
                match family.kind {
                    MetricKind::Gauge => out.sample_with(name, labels, None, f64::from_bits(bits)),
                    MetricKind::Counter | MetricKind::Histogram => {
                        out.sample_with(name, labels, None, bits);
                    }
                }
            }
        }
        let collectors = locked(&self.collectors).clone();
        for collector in collectors {
            collector.collect(&mut out);
        }
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_the_same_for_the_same_labels() {
        let registry = MetricsRegistry::default();
        let labels = [("reason", "no_listener")];
        registry.counter("m_total", "M.", &labels).add(2);
        registry.counter("m_total", "M.", &labels).add(3);
        registry.gauge("g", "G.", &[]).set(1.5);
        let text = registry.render(SystemTime::UNIX_EPOCH);
        assert!(
            text.contains("m_total{reason=\"no_listener\"} 5\n"),
            "{text}"
        );
        assert!(text.contains("# TYPE g gauge\ng 1.5\n"), "{text}");
    }

    #[test]
    fn replaced_gauges_leave_nothing_behind() {
        let registry = MetricsRegistry::default();
        for (pod, value) in [("a", 1.0), ("b", 2.0)] {
            let labels = [("pod", pod)];
            registry.replace_gauges("g", "G.", [(labels.as_slice(), value)]);
        }
        let text = registry.render(SystemTime::UNIX_EPOCH);
        assert!(text.contains("g{pod=\"b\"} 2\n"), "{text}");
        assert!(!text.contains("pod=\"a\""), "{text}");
    }

    #[test]
    fn collectors_are_asked_at_scrape_time() {
        struct Map;
        impl Collector for Map {
            fn collect(&self, out: &mut Exposition) {
                out.family("mizzen_map_entries", MetricKind::Gauge, "Entries.");
                out.sample("mizzen_map_entries", &[("map", "PODS")], 7);
            }
        }
        let registry = MetricsRegistry::default();
        registry.add_collector(Arc::new(Map));
        let text = registry.render(SystemTime::UNIX_EPOCH);
        assert!(
            text.contains("mizzen_map_entries{map=\"PODS\"} 7\n"),
            "{text}"
        );
    }
}
