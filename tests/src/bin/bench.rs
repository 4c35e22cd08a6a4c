//! Mizzen beside its peers: `cargo xtask bench` runs this with `MIZZEN_BIN` set.

use std::process::ExitCode;

use clap::Parser as _;
use mizzen_tests::bench::{BenchArgs, run};

fn main() -> ExitCode {
    match run(&BenchArgs::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
