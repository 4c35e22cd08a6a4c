//! Runs one file of end-to-end checks on one shared lab.
//!
//! A lab takes a while to build and must be removed at the end, which statics
//! of the standard harness never are. So these test files have `harness = false`
//! and call [`main`]; arguments and the closing line are those of `cargo test`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::lab::{cgroup2_root, find_mizzen};

/// One check: its name, a sentence, and what it does with the shared fixture.
pub type Check<F> = (&'static str, fn(&mut F) -> anyhow::Result<()>);

/// What a file of checks cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Root, cgroup v2 and network namespaces.
    Lab,
    /// The lab, eBPF and a built `mizzen`.
    Daemon,
}

/// Lists functions as checks under their own names.
#[macro_export]
macro_rules! checks {
    ($($check:ident),* $(,)?) => { &[$((stringify!($check), $check)),*] };
}

/// Builds the fixture once, runs every check on it and drops it.
///
/// Where something is missing: a failure if `CI` is set, a loud skip elsewhere.
pub fn main<F>(needs: Needs, set_up: fn() -> anyhow::Result<F>, checks: &[Check<F>]) -> ExitCode {
    let options = Options::from_args();
    let chosen: Vec<&Check<F>> = checks
        .iter()
        .filter(|check| options.chooses(check.0))
        .collect();
    if options.is_listing {
        for (name, _) in &chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let filtered = checks.len() - chosen.len();
    if chosen.is_empty() {
        return close(0, 0, 0, filtered);
    }
    if let Some(missing) = find_missing(needs) {
        if std::env::var_os("CI").is_some() {
            println!("nothing could run: {missing}");
            return close(0, chosen.len(), 0, filtered);
        }
        println!(
            "SKIPPED, ALL {} TESTS OF THIS FILE: {missing}",
            chosen.len()
        );
        return close(0, 0, chosen.len(), filtered);
    }
    let mut fixture = match set_up() {
        Ok(fixture) => fixture,
        Err(error) => {
            println!("the lab could not be set up: {error:#}");
            return close(0, chosen.len(), 0, filtered);
        }
    };
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in chosen {
        match run_one(&mut fixture, *check) {
            Ok(()) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Err(error) => {
                println!("test {name} ... FAILED\n{error:#}\n");
                failed += 1;
            }
        }
    }
    drop(fixture);
    close(passed, failed, 0, filtered)
}

/// A panic of a check is its failure, and the next one still runs.
fn run_one<F>(fixture: &mut F, check: fn(&mut F) -> anyhow::Result<()>) -> anyhow::Result<()> {
    catch_unwind(AssertUnwindSafe(|| check(fixture)))
        .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked; the message stands above")))
}

/// Prints the line that `cargo xtask test` sums.
fn close(passed: usize, failed: usize, ignored: usize, filtered: usize) -> ExitCode {
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; \
         0 measured; {filtered} filtered out\n"
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What keeps the checks from running, in words; `None` if nothing does.
pub fn find_missing(needs: Needs) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("the lab needs root".to_owned());
    }
    if let Err(error) = cgroup2_root() {
        return Some(format!("{error:#}"));
    }
    for tool in ["ip", "nft"] {
        let is_there = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()));
        if !is_there {
            return Some(format!(
                "{tool} is not installed (apt-get install iproute2 nftables)"
            ));
        }
    }
    if needs == Needs::Daemon && find_mizzen().is_none() {
        return Some("no mizzen binary (cargo xtask build, or set MIZZEN_BIN)".to_owned());
    }
    None
}

/// The arguments of `cargo test` that make sense here.
#[derive(Debug, Default)]
struct Options {
    filters: Vec<String>,
    skips: Vec<String>,
    is_exact: bool,
    is_listing: bool,
}

impl Options {
    fn from_args() -> Self {
        let mut options = Self::default();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--exact" => options.is_exact = true,
                "--list" => options.is_listing = true,
                "--skip" => options.skips.extend(args.next()),
                "--test-threads" | "--format" | "--color" | "-Z" => drop(args.next()),
                other if other.starts_with('-') => {}
                _ => options.filters.push(arg),
            }
        }
        options
    }

    fn chooses(&self, name: &str) -> bool {
        let is_match = |filter: &String| {
            if self.is_exact {
                name == filter
            } else {
                name.contains(filter.as_str())
            }
        };
        (self.filters.is_empty() || self.filters.iter().any(is_match))
            && !self.skips.iter().any(|skip| name.contains(skip.as_str()))
    }
}
