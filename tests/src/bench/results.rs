//! Pairs on disk, and the table that is made of them.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::load::Sample;
use super::{Comparison, Measure};

/// Resamples of the bootstrap: enough for a steady third digit of the interval.
const RESAMPLES: usize = 4000;

/// Ours and the peer's, measured one right after the other.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Pair {
    /// Our half.
    pub(crate) ours: Sample,
    /// The peer's half.
    pub(crate) peer: Sample,
}

#[derive(Serialize, Deserialize)]
struct Line {
    comparison: String,
    pair: Pair,
}

/// All pairs measured so far, on disk after each.
pub(crate) struct Results {
    path: PathBuf,
    lines: Vec<Line>,
}

impl Results {
    /// Reads what earlier runs have measured.
    pub(crate) fn open(path: &Path, is_fresh: bool) -> anyhow::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        if is_fresh && path.exists() {
            std::fs::remove_file(path)?;
        }
        let text = std::fs::read_to_string(path).unwrap_or_default();
        // A line that a killed run left half written is measured again.
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        Ok(Self {
            path: path.to_owned(),
            lines,
        })
    }

    /// The pairs of one comparison, in order.
    pub(crate) fn pairs(&self, comparison: &str) -> Vec<Pair> {
        self.lines
            .iter()
            .filter(|line| line.comparison == comparison)
            .map(|line| line.pair)
            .collect()
    }

    /// Adds one pair, on disk at once.
    pub(crate) fn add(&mut self, comparison: &str, pair: Pair) -> anyhow::Result<()> {
        let line = Line {
            comparison: comparison.to_owned(),
            pair,
        };
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        writeln!(file, "{}", serde_json::to_string(&line)?)?;
        self.lines.push(line);
        Ok(())
    }

    /// Prints one comparison's ratios with their intervals.
    pub(crate) fn print(&self, comparison: &Comparison) {
        let pairs = self.pairs(comparison.name);
        println!("\n{} ({} pairs)", comparison.name, pairs.len());
        for &(measure, goal) in comparison.goals {
            let values: Vec<(f64, f64)> = pairs
                .iter()
                .filter_map(|pair| Some((measure.of(&pair.ours)?, measure.of(&pair.peer)?)))
                .collect();
            let ratios: Vec<f64> = values
                .iter()
                .map(|(ours, peer)| (ours / peer).ln())
                .collect();
            let Some((mean, low, high)) = bootstrap(&ratios) else {
                println!("  {:<26} not measured", measure.name());
                continue;
            };
            // An upper end that reaches the goal meets it; for latencies, a lower end.
            let is_met = if measure == Measure::P99 {
                low <= goal
            } else {
                high >= goal
            };
            println!(
                "  {:<26} {:>10} against {:>10}   ratio {mean:.3} [{low:.3}, {high:.3}]   goal {} {goal}: {}",
                measure.name(),
                show(
                    measure,
                    median(values.iter().map(|value| value.0).collect())
                ),
                show(
                    measure,
                    median(values.iter().map(|value| value.1).collect())
                ),
                if measure == Measure::P99 { "<=" } else { ">=" },
                if is_met { "met" } else { "not met" }
            );
        }
    }
}

fn show(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Rate | Measure::PerCpuSecond => format!("{value:.0}"),
        Measure::P99 => format!("{:.2} ms", value * 1e3),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Geometric mean of ratios given as logarithms, with its 95 % bootstrap interval.
///
/// Source: Efron and Tibshirani, "An Introduction to the Bootstrap", percentile interval.
fn bootstrap(logs: &[f64]) -> Option<(f64, f64, f64)> {
    if logs.is_empty() {
        return None;
    }
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, count) =
            values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        sum / count
    };
    // A fixed seed: the same pairs print the same interval.
    let mut random = fastrand::Rng::with_seed(7);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| mean(&mut (0..logs.len()).map(|_| logs[random.usize(..logs.len())])))
        .collect();
    means.sort_by(f64::total_cmp);
    let low = means[RESAMPLES / 40];
    let high = means[RESAMPLES - 1 - RESAMPLES / 40];
    Some((mean(&mut logs.iter().copied()).exp(), low.exp(), high.exp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_mean_and_shrinks_where_pairs_agree() {
        let logs: Vec<f64> = (0..20)
            .map(|index| if index % 2 == 0 { 0.1 } else { -0.1 })
            .collect();
        let (mean, low, high) = bootstrap(&logs).expect("there are pairs");
        assert!((mean - 1.0).abs() < 1e-9 && low < 1.0 && high > 1.0 && high - low < 0.12);
        let (mean, low, high) = bootstrap(&[0.0; 5]).expect("there are pairs");
        assert!((mean - 1.0).abs() < 1e-9 && (high - low).abs() < 1e-9);
        assert!(bootstrap(&[]).is_none());
    }
}
