//! Proving: whatever reads foreign bytes, run on mutated input many times.
//!
//! In: seeds from `config/` and from each target, and a number of executions. Out:
//! counts, and for a panic or a hang the input that caused it, in a file. The
//! mutations are drawn from a seed that is printed, so that a run can be repeated.
//! Start at [`run`].

mod change;
mod documents;
mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

pub use documents::features;
use mutate::Mutator;
use targets::{TARGETS, Target};

/// How long is proved.
#[derive(Debug, clap::Parser)]
#[command(about = "Feeds mutated input to whatever reads foreign bytes")]
pub struct ProveArgs {
    /// Executions of each target
    #[arg(long, default_value_t = 1_000_000)]
    executions: u64,
    /// Minutes for each target, whatever the executions; the first limit reached ends it
    #[arg(long)]
    minutes: Option<u64>,
    /// Only targets whose name contains this text
    #[arg(long)]
    only: Option<String>,
    /// Seed of the mutations; drawn anew by default
    #[arg(long)]
    seed: Option<u64>,
    /// Add inputs that show something new to tests/corpus
    #[arg(long)]
    grow: bool,
    /// Where inputs that fail are kept
    #[arg(long, default_value = "target/prove")]
    keep: PathBuf,
}

/// One input may take this long; more is a hang for whoever waits for it.
const SLOW: Duration = Duration::from_secs(2);

/// Runs every target. Returns whether none failed.
pub fn run(args: &ProveArgs) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}: the same mutations come again with --seed {seed}");
    let mut is_clean = true;
    let is_asked = |name: &str| {
        args.only
            .as_ref()
            .is_none_or(|text| name.contains(text.as_str()))
    };
    for target in TARGETS.iter().filter(|target| is_asked(target.name)) {
        is_clean &= report(target.name, &prove(target, args, seed)?);
    }
    if is_asked(documents::NAME) {
        is_clean &= report(documents::NAME, &documents::prove(args, seed)?);
    }
    Ok(is_clean)
}

/// Prints how a target fared. Returns whether nothing failed.
fn report(name: &str, report: &Report) -> bool {
    println!(
        "{name}: {} executions in {:.0} s, {} failed",
        report.executions,
        report.took.as_secs_f64(),
        report.failures.len()
    );
    for path in &report.failures {
        println!("  {}", path.display());
    }
    report.failures.is_empty()
}

struct Report {
    executions: u64,
    took: Duration,
    failures: Vec<PathBuf>,
}

/// More failing inputs than these say nothing new.
const FAILURES_MAX: usize = 10;

fn prove(target: &Target, args: &ProveArgs, seed: u64) -> anyhow::Result<Report> {
    let seeds = (target.seeds)()?;
    anyhow::ensure!(!seeds.is_empty(), "{} has no seeds", target.name);
    let started = Instant::now();
    let until = args
        .minutes
        .map(|minutes| started + Duration::from_secs(minutes * 60));
    let done = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<anyhow::Result<Vec<PathBuf>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|index| {
                let (seeds, done) = (&seeds, &done);
                let mut mutator = Mutator::new(seed.wrapping_add(index as u64), target.tokens);
                scope.spawn(move || {
                    let mut failures = Vec::new();
                    while done.fetch_add(1, Ordering::Relaxed) < args.executions
                        && until.is_none_or(|until| Instant::now() < until)
                        && failures.len() < FAILURES_MAX
                    {
                        let input = mutator.next(seeds);
                        if let Some(reason) = try_one(target, &input) {
                            failures.push(keep(&args.keep, target.name, reason, &input)?);
                        }
                    }
                    Ok(failures)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("a worker panicked")))
            })
            .collect()
    });
    let mut failures = Vec::new();
    for result in results {
        failures.extend(result?);
    }
    let executions = done.load(Ordering::Relaxed).min(args.executions);
    Ok(Report {
        executions,
        took: started.elapsed(),
        failures,
    })
}

/// What is wrong with one input; `None` if nothing is.
fn try_one(target: &Target, input: &[u8]) -> Option<&'static str> {
    let started = Instant::now();
    if try_run(|| (target.run)(input)).is_none() {
        return Some("panic");
    }
    (started.elapsed() > SLOW).then_some("slow")
}

/// What a function returns; `None` if it panics.
fn try_run<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

fn keep(directory: &Path, name: &str, reason: &str, input: &[u8]) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join(format!("{name}-{reason}-{:016x}", fastrand::u64(..)));
    std::fs::write(&path, input).with_context(|| format!("cannot keep {}", path.display()))?;
    Ok(path)
}
