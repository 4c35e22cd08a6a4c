//! A bounded table of metric series, found by the addresses of shared labels.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::exposition::LabelText;
use super::labels::{self, Peers};
use super::record::{DestinationLabels, WorkloadLabels};

/// Series per table and recording thread: about 1.5 KB each. Beyond it everything
/// new is counted in one series whose labels say `overflow`.
pub(super) const SERIES_MAX: usize = 4096;
/// Addresses under which series are known; each new snapshot brings new ones for the
/// same labels. Beyond it all are forgotten and found again by their text.
const ALIASES_MAX: usize = 4 * SERIES_MAX;
/// A series without traffic for so long is forgotten once the table is half full;
/// to a reader that is a restart of its counters.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// Series `S` by labels; `X` is what distinguishes series between the same peers.
pub(super) struct SeriesTable<X, S> {
    by_address: HashMap<Address<X>, Alias, BuildHasherDefault<AddressHasher>>,
    by_labels: HashMap<Arc<LabelText>, usize>,
    entries: Vec<Entry<S>>,
    overflow: Option<Entry<S>>,
}

impl<X, S> Default for SeriesTable<X, S> {
    fn default() -> Self {
        Self {
            by_address: HashMap::default(),
            by_labels: HashMap::new(),
            entries: Vec::new(),
            overflow: None,
        }
    }
}

struct Entry<S> {
    labels: Arc<LabelText>,
    series: S,
    /// Counted in since the last visit.
    is_touched: bool,
    /// Time of the last visit that found it touched.
    seen: SystemTime,
}

#[derive(PartialEq, Eq, Hash)]
struct Address<X> {
    source: usize,
    destination: usize,
    service: usize,
    extra: X,
}

/// Keeps the labels alive, so that no other labels get their addresses.
struct Alias {
    index: usize,
    _labels: (
        Arc<WorkloadLabels>,
        Arc<WorkloadLabels>,
        Arc<DestinationLabels>,
    ),
}

impl<X: Copy + Eq + Hash, S: Default> SeriesTable<X, S> {
    /// The series of these peers and `extra`; `render` is called for labels that are new here.
    pub(super) fn find(
        &mut self,
        peers: Peers<'_>,
        extra: X,
        render: impl FnOnce(Peers<'_>, X) -> LabelText,
    ) -> &mut S {
        let address = Address {
            source: Arc::as_ptr(peers.source).addr(),
            destination: Arc::as_ptr(peers.destination).addr(),
            service: Arc::as_ptr(peers.service).addr(),
            extra,
        };
        let known = self.by_address.get(&address).map(|alias| alias.index);
        let index = known.or_else(|| self.add(address, peers, render(peers, extra)));
        let entry = match index.and_then(|index| self.entries.get_mut(index)) {
            Some(entry) => entry,
            None => self
                .overflow
                .get_or_insert_with(|| Entry::new(Arc::new(labels::of_overflow()))),
        };
        entry.is_touched = true;
        &mut entry.series
    }

    /// The index of the series with these labels, from now on also known by `address`;
    /// `None` when the table is full.
    fn add(&mut self, address: Address<X>, peers: Peers<'_>, labels: LabelText) -> Option<usize> {
        let index = match self.by_labels.get(&labels) {
            Some(index) => *index,
            None if self.entries.len() >= SERIES_MAX => return None,
            None => {
                let labels = Arc::new(labels);
                self.by_labels
                    .insert(Arc::clone(&labels), self.entries.len());
                self.entries.push(Entry::new(labels));
                self.entries.len() - 1
            }
        };
        if self.by_address.len() >= ALIASES_MAX {
            self.by_address.clear();
        }
        let alias = Alias {
            index,
            _labels: (
                Arc::clone(peers.source),
                Arc::clone(peers.destination),
                Arc::clone(peers.service),
            ),
        };
        self.by_address.insert(address, alias);
        Some(index)
    }

    /// Shows every series, and forgets those that were idle for long if the table is
    /// half full.
    pub(super) fn visit(&mut self, now: SystemTime, mut show: impl FnMut(&Arc<LabelText>, &S)) {
        for entry in self.entries.iter_mut().chain(&mut self.overflow) {
            if entry.is_touched {
                entry.is_touched = false;
                entry.seen = now;
            }
            show(&entry.labels, &entry.series);
        }
        if self.entries.len() > SERIES_MAX / 2 {
            self.forget_idle(now);
        }
    }

    fn forget_idle(&mut self, now: SystemTime) {
        let before = self.entries.len();
        self.entries.retain(|entry| {
            now.duration_since(entry.seen)
                .is_ok_and(|idle| idle < IDLE_MAX)
        });
        if self.entries.len() == before {
            return;
        }
        self.by_address.clear();
        self.by_labels = self
            .entries
            .iter()
            .enumerate()
            .map(|(index, entry)| (Arc::clone(&entry.labels), index))
            .collect();
    }
}

impl<S: Default> Entry<S> {
    fn new(labels: Arc<LabelText>) -> Self {
        Self {
            labels,
            series: S::default(),
            is_touched: true,
            seen: SystemTime::UNIX_EPOCH,
        }
    }
}

/// Mixes a handful of words. Addresses and small numbers come from us, not from
/// peers, so nobody can choose them to collide.
#[derive(Default)]
struct AddressHasher(u64);

impl AddressHasher {
    fn mix(&mut self, word: u64) {
        // A multiplier with well spread bits (2^64 divided by the golden ratio).
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        // The table uses the lowest bits, the multiplication mixes into the highest.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u16(&mut self, word: u16) {
        self.mix(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::request;
    use super::*;

    fn render(_: Peers<'_>, extra: u32) -> LabelText {
        LabelText::new(&[("extra", &extra.to_string())])
    }

    fn texts(table: &mut SeriesTable<u32, u64>, now: SystemTime) -> Vec<(String, u64)> {
        let mut texts = Vec::new();
        table.visit(now, |labels, series| {
            texts.push((format!("{labels:?}"), *series));
        });
        texts
    }

    #[test]
    fn a_full_table_counts_the_rest_in_one_series() {
        let record = request();
        let peers = Peers {
            source: &record.source,
            destination: &record.destination,
            service: &record.service,
        };
        let mut table = SeriesTable::<u32, u64>::default();
        let too_many = u32::try_from(SERIES_MAX).expect("a small number") + 3;
        for extra in 0..too_many {
            *table.find(peers, extra, render) += 1;
        }
        *table.find(peers, 0, render) += 1; // what is known stays known
        let start = SystemTime::UNIX_EPOCH;
        let series = texts(&mut table, start);
        assert_eq!(series.len(), SERIES_MAX + 1);
        let (labels, count) = series.last().expect("the overflow");
        assert!(labels.contains("overflow"), "{labels}");
        assert_eq!(*count, 3);
        assert_eq!(series[0].1, 2);

        // An hour later only what was used since is left, and there is room again.
        *table.find(peers, 7, render) += 1;
        let later = start + IDLE_MAX;
        texts(&mut table, later);
        assert_eq!(texts(&mut table, later).len(), 2);
        *table.find(peers, too_many, render) += 1;
        *table.find(peers, 7, render) += 1;
        let series = texts(&mut table, later);
        assert_eq!(series[0].1, 3, "extra 7 kept its count: {series:?}");
        assert_eq!(series[1].1, 1);
    }
}
