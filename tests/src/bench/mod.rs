//! Mizzen beside its peers, in one run on one lab, as paired ratios.
//!
//! Every comparison alternates ours and the peer's (A B, B A, ...), several
//! seconds each, so that slow drift of the machine falls on both. What counts is
//! the ratio of each pair; its mean stands with a bootstrap interval. Runs are
//! cut into parts that go on where the last one stopped. Start at [`run`].

mod load;
mod peers;
mod results;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::harness::{Needs, find_missing};
use load::Sample;
use peers::{Stage, Target};
use results::{Pair, Results};

/// How the benchmark is run.
#[derive(Debug, clap::Parser)]
#[command(about = "Measures Mizzen beside a direct connection, HAProxy, nginx and Envoy")]
pub struct BenchArgs {
    /// Pairs of each comparison
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// Seconds of each half of a pair
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Minutes after which no new pair starts; the next run goes on from there
    #[arg(long, default_value_t = 9)]
    minutes: u64,
    /// Connections that the load keeps open
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// Forget what earlier runs have measured
    #[arg(long)]
    fresh: bool,
    /// Only comparisons whose name contains this text
    #[arg(long)]
    only: Option<String>,
    /// File of results; by default beside the build
    #[arg(long)]
    results: Option<PathBuf>,
}

/// What of a half is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Requests in a second; more is better.
    Rate,
    /// Requests per CPU second of the proxy's process; more is better.
    PerCpuSecond,
    /// 99th percentile of latency; less is better.
    P99,
}

impl Measure {
    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "requests/s",
            Self::PerCpuSecond => "requests per CPU second",
            Self::P99 => "p99 latency",
        }
    }

    /// The value of a half; none where it makes no sense.
    pub(crate) fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Rate => Some(sample.requests / sample.seconds),
            Self::PerCpuSecond => {
                (sample.cpu_seconds > 0.0).then(|| sample.requests / sample.cpu_seconds)
            }
            Self::P99 => Some(sample.p99_seconds),
        }
    }
}

/// One comparison: ours against a peer, with the goals of the design.
pub(crate) struct Comparison {
    /// Its name, also in the results file.
    pub(crate) name: &'static str,
    ours: Target,
    peer: Target,
    /// A new connection for each request.
    is_connecting: bool,
    /// What is compared, and the ratio to reach (for latencies: to stay below).
    pub(crate) goals: &'static [(Measure, f64)],
}

const COMPARISONS: [Comparison; 6] = [
    Comparison {
        name: "kernel path / direct",
        ours: Target::KernelPath,
        peer: Target::Direct,
        is_connecting: false,
        goals: &[(Measure::Rate, 0.98), (Measure::P99, 1.02)],
    },
    Comparison {
        name: "kernel path / direct, a connection each",
        ours: Target::KernelPath,
        peer: Target::Direct,
        is_connecting: true,
        goals: &[(Measure::Rate, 0.95)],
    },
    Comparison {
        name: "proxy path / HAProxy",
        ours: Target::ProxyPath,
        peer: Target::Haproxy,
        is_connecting: false,
        goals: &[
            (Measure::Rate, 1.0),
            (Measure::PerCpuSecond, 1.0),
            (Measure::P99, 1.0),
        ],
    },
    Comparison {
        name: "proxy path / nginx",
        ours: Target::ProxyPath,
        peer: Target::Nginx,
        is_connecting: false,
        goals: &[
            (Measure::Rate, 1.0),
            (Measure::PerCpuSecond, 1.0),
            (Measure::P99, 1.0),
        ],
    },
    Comparison {
        name: "proxy path / Envoy",
        ours: Target::ProxyPath,
        peer: Target::Envoy,
        is_connecting: false,
        goals: &[
            (Measure::Rate, 1.0),
            (Measure::PerCpuSecond, 4.0),
            (Measure::P99, 0.5),
        ],
    },
    Comparison {
        name: "TCP relay / HAProxy",
        ours: Target::Relay,
        peer: Target::HaproxyTcp,
        is_connecting: false,
        goals: &[(Measure::Rate, 1.0), (Measure::PerCpuSecond, 1.0)],
    },
];

/// Measures what is still missing within the time given, then prints the table.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    if let Some(missing) = find_missing(Needs::Daemon) {
        anyhow::bail!("the benchmark cannot run: {missing}");
    }
    let path = match &args.results {
        Some(path) => path.clone(),
        None => default_results()?,
    };
    let mut results = Results::open(&path, args.fresh)?;
    let chosen: Vec<&Comparison> = COMPARISONS
        .iter()
        .filter(|it| {
            args.only
                .as_ref()
                .is_none_or(|text| it.name.contains(text.as_str()))
        })
        .collect();
    let is_missing = |results: &Results| {
        chosen
            .iter()
            .any(|comparison| results.pairs(comparison.name).len() < args.pairs)
    };
    if is_missing(&results) {
        measure(args, &chosen, &mut results)?;
    }
    for comparison in &chosen {
        results.print(comparison);
    }
    println!("\nresults: {}", path.display());
    if is_missing(&results) {
        println!("not all pairs are measured yet: run the same command again to go on");
    }
    Ok(())
}

fn default_results() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let target = here
        .ancestors()
        .nth(2)
        .context("the binary is in no build directory")?;
    Ok(target.join("bench/results.jsonl"))
}

fn measure(args: &BenchArgs, chosen: &[&Comparison], results: &mut Results) -> anyhow::Result<()> {
    let started = Instant::now();
    let budget = Duration::from_secs(args.minutes * 60);
    let stage = Stage::set_up()?;
    for comparison in chosen {
        for target in [comparison.ours, comparison.peer] {
            if let Some(reason) = stage.find_missing(target) {
                println!("{}: not measured, {reason}", comparison.name);
            }
        }
        let can_run = [comparison.ours, comparison.peer]
            .iter()
            .all(|&target| stage.find_missing(target).is_none());
        while can_run && results.pairs(comparison.name).len() < args.pairs {
            if started.elapsed() > budget {
                return Ok(());
            }
            let number = results.pairs(comparison.name).len();
            let half = |target: Target| {
                load::run(
                    &stage,
                    target,
                    comparison.is_connecting,
                    args.seconds,
                    args.connections,
                )
                .with_context(|| format!("{target:?}"))
            };
            // ABBA: every other pair begins with the peer.
            let pair = if number.is_multiple_of(2) {
                let ours = half(comparison.ours)?;
                Pair {
                    ours,
                    peer: half(comparison.peer)?,
                }
            } else {
                let peer = half(comparison.peer)?;
                Pair {
                    ours: half(comparison.ours)?,
                    peer,
                }
            };
            println!(
                "{} {}/{}: {:.0} against {:.0} requests/s",
                comparison.name,
                number + 1,
                args.pairs,
                pair.ours.requests / pair.ours.seconds,
                pair.peer.requests / pair.peer.seconds
            );
            results.add(comparison.name, pair)?;
        }
    }
    Ok(())
}
