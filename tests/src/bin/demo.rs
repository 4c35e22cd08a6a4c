//! The main job, shown: `cargo xtask demo` runs this with `MIZZEN_BIN` set.

use std::process::ExitCode;

use clap::Parser as _;
use mizzen_tests::demo::{DemoArgs, run};

fn main() -> ExitCode {
    match run(&DemoArgs::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
