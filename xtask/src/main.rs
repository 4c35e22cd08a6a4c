//! Developer tasks, one file each: `cargo xtask build|test|demo|bench|prove|check`.
//!
//! Every task starts from a bare clone: what it needs and does not find, it installs or
//! builds, saying so, and where it cannot it names the step and the way out.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod build;
mod check;
mod lab;
mod packages;
mod process;
mod test;
mod toolchain;
mod workspace;

/// Mizzen's developer tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the eBPF programs and the self-contained `target/release/mizzen`.
    Build,
    /// Build, then run every test; the last line reads `N passed, N failed`.
    Test {
        /// Handed to `cargo test` as they are, for example `-p proxy-user` or `-- --nocapture`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build, then walk through the classic Istio tasks on pods in this machine's lab.
    Demo {
        /// Handed to the demo as they are, for example `--keep`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build, then measure Mizzen beside its peers.
    Bench {
        /// Handed to the benchmark as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build, then fuzz and soak for as long as asked.
    Prove {
        /// Handed to the prover as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check formatting and lints with warnings denied, the eBPF crate included.
    Check,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Build => build::run().map(|_| ()),
        Task::Test { arguments } => test::run(&arguments),
        Task::Demo { arguments } => lab::run("demo", &arguments),
        Task::Bench { arguments } => lab::run("bench", &arguments),
        Task::Prove { arguments } => lab::run("prove", &arguments),
        Task::Check => check::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
