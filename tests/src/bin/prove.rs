//! Fuzzing, bounded: `cargo xtask prove` runs this.

use std::process::ExitCode;

use clap::Parser as _;
use mizzen_tests::prove::{ProveArgs, run};

fn main() -> ExitCode {
    match run(&ProveArgs::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
