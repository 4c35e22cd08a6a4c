//! `cargo xtask test`: every test of the workspace, closing with one line of sums.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use crate::{build, packages, process};

/// Builds, runs `cargo test` and prints `N passed, N failed` as the last line.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    packages::ensure(packages::LAB, "run the tests")?;
    let mizzen = build::run()?;
    let mut cargo = process::cargo();
    cargo
        .args([
            "test",
            "--workspace",
            "--exclude",
            "proxy-ebpf",
            "--no-fail-fast",
        ])
        .args(arguments);
    cargo.env("MIZZEN_BIN", mizzen).stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot start cargo test")?;
    let stdout = child
        .stdout
        .take()
        .context("cargo test has no standard output")?;
    let mut sums = Sums::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read the output of cargo test")?;
        sums.add(&line);
        println!("{line}");
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    println!("{} passed, {} failed", sums.passed, sums.failed);
    if !status.success() {
        bail!("cargo test ended with {status}");
    }
    Ok(())
}

#[derive(Default)]
struct Sums {
    passed: u64,
    failed: u64,
}

impl Sums {
    /// Counts a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let number_before = |word: &str| -> u64 {
            let before = result.split(word).next().unwrap_or_default();
            before
                .split_whitespace()
                .next_back()
                .and_then(|number| number.parse().ok())
                .unwrap_or(0)
        };
        self.passed += number_before(" passed");
        self.failed += number_before(" failed");
    }
}

#[cfg(test)]
mod tests {
    use super::Sums;

    #[test]
    fn sums_count_result_lines_only() {
        let mut sums = Sums::default();
        for line in [
            "running 3 tests",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "9 passed",
        ] {
            sums.add(line);
        }
        assert_eq!((sums.passed, sums.failed), (14, 3));
    }
}
