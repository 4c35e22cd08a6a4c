//! Histograms with Envoy's default buckets.

use super::exposition::{Exposition, LabelText};

/// Upper bounds with their text; what is larger counts in `+Inf` only. Source: Envoy,
/// `source/common/stats/histogram_impl.cc`, default buckets.
const BUCKETS: [(f64, &str); 19] = [
    (0.5, "0.5"),
    (1.0, "1"),
    (5.0, "5"),
    (10.0, "10"),
    (25.0, "25"),
    (50.0, "50"),
    (100.0, "100"),
    (250.0, "250"),
    (500.0, "500"),
    (1_000.0, "1000"),
    (2_500.0, "2500"),
    (5_000.0, "5000"),
    (10_000.0, "10000"),
    (30_000.0, "30000"),
    (60_000.0, "60000"),
    (300_000.0, "300000"),
    (600_000.0, "600000"),
    (1_800_000.0, "1800000"),
    (3_600_000.0, "3600000"),
];

/// Counts per bucket, not cumulated, the last one for `+Inf`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Histogram {
    counts: [u64; BUCKETS.len() + 1],
    sum: f64,
}

impl Histogram {
    /// Counts one value in the first bucket whose bound it does not exceed.
    pub(super) fn record(&mut self, value: f64) {
        let bucket = BUCKETS.partition_point(|(bound, _)| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
    }

    /// Adds the counts of another shard.
    pub(super) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    /// Writes buckets (cumulated), sum and count.
    pub(super) fn write(&self, out: &mut Exposition, names: &HistogramNames, labels: &LabelText) {
        let mut total = 0;
        for (count, (_, bound)) in self.counts.iter().zip(BUCKETS) {
            total += count;
            out.sample_with(names.bucket, labels, Some(bound), total);
        }
        total += self.counts.last().copied().unwrap_or(0);
        out.sample_with(names.bucket, labels, Some("+Inf"), total);
        out.sample_with(names.sum, labels, None, self.sum);
        out.sample_with(names.count, labels, None, total);
    }
}

/// The names of one histogram's samples.
pub(super) struct HistogramNames {
    /// `…_bucket`
    pub(super) bucket: &'static str,
    /// `…_sum`
    pub(super) sum: &'static str,
    /// `…_count`
    pub(super) count: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        for (value, bucket) in [
            (0.0, 0),
            (0.5, 0),
            (0.51, 1),
            (1.0, 1),
            (5.0, 2),
            (3_600_000.0, 18),
            (3_600_000.1, 19),
        ] {
            let mut histogram = Histogram::default();
            histogram.record(value);
            assert_eq!(histogram.counts[bucket], 1, "value {value}");
        }
    }

    #[test]
    fn buckets_are_cumulated_in_the_text() {
        let mut histogram = Histogram::default();
        histogram.record(0.25);
        histogram.record(2.0);
        let mut second = Histogram::default();
        second.record(1e9);
        histogram.add(&second);
        let names = HistogramNames {
            bucket: "h_bucket",
            sum: "h_sum",
            count: "h_count",
        };
        let mut out = Exposition::default();
        histogram.write(&mut out, &names, &LabelText::new(&[("a", "b")]));
        let text = out.finish();
        for line in [
            "h_bucket{a=\"b\",le=\"0.5\"} 1\n",
            "h_bucket{a=\"b\",le=\"5\"} 2\n",
            "h_bucket{a=\"b\",le=\"3600000\"} 2\n",
            "h_bucket{a=\"b\",le=\"+Inf\"} 3\n",
            "h_sum{a=\"b\"} 1000000002.25\n",
            "h_count{a=\"b\"} 3\n",
        ] {
            assert!(text.contains(line), "{line:?} not in {text}");
        }
    }
}
