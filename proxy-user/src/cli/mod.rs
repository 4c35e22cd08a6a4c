//! The command line: one thin file per subcommand.
//!
//! A subcommand asks (a directory or the daemon), then hands a value to [`output`].
//! `--help` is the manual. Start at [`main`].

mod cleanup;
mod client;
mod explain;
mod get;
mod offline;
mod output;
mod run;
mod status;
mod tables;
mod validate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::settings::{ADMIN_SOCKET, AdminAddress};

/// How a command ended; the numbers are in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// 0: done, and the answer is good.
    Good,
    /// 1: done, and the answer is not good.
    Bad,
}

/// 3: the command could not do its work.
const EXIT_FAILED: u8 = 3;

/// One eBPF and Rust proxy per node in place of a sidecar per pod, driven by Istio's
/// own resources.
#[derive(Debug, Parser)]
#[command(name = "mizzen", version, arg_required_else_help = true, after_long_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done, and the answer is good
  1  done, and the answer is not: validate found an error, status is not ready,
     explain found no destination
  2  the command line is wrong
  3  the command could not do its work: no daemon answers, a file cannot be read

Every flag of `mizzen run` has a twin in the environment and a key in the settings
file. The command line wins over the environment, the environment over the file.

Ports: 15001 inside each pod (captured connections), 15020 /metrics, 15021
/healthz/ready. The admin API is on a unix socket; its TCP port (15000 by custom) is
off by default.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon of this node.
    ///
    /// Reads the configuration, captures the pods' connections and routes them. A second
    /// `mizzen run` with the same arguments takes over from the first one.
    Run(Box<run::RunArgs>),
    /// Check configuration files and print what is wrong with them.
    ///
    /// Prints one line per finding: `file:line: kind/namespace/name: severity: message`.
    /// Ends with code 1 if one of them is an error.
    Validate(validate::ValidateArgs),
    /// Say where a request would go, and why.
    ///
    /// Says which rule matches and why the ones before it do not, the weighted
    /// destinations with their endpoints, timeout, retries and faults, and which path
    /// the connection takes. Asks the running daemon, or looks at --config DIR.
    Explain(explain::ExplainArgs),
    /// Show the health of the node.
    ///
    /// Ends with code 1 when the daemon is not ready.
    Status(status::StatusArgs),
    /// List what the daemon knows.
    Get(get::GetArgs),
    /// Remove every program, map, link and pin of Mizzen from this node.
    ///
    /// Pods fall back to what Kubernetes does by itself. Stop the daemon before.
    Cleanup(cleanup::CleanupArgs),
}

/// Where the daemon listens.
#[derive(Debug, clap::Args)]
struct AdminArg {
    /// Where the daemon answers: unix:PATH or IP:PORT.
    #[arg(long, env = "MIZZEN_ADMIN", value_name = "ADDRESS",
          default_value_t = AdminAddress::Unix(ADMIN_SOCKET.into()))]
    admin: AdminAddress,
}

/// Parses the command line, does what it says, and tells how it went.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Validate(args) => validate::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
    };
    match outcome {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::from(1),
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mizzen: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_lines_of_the_manual_are_understood() {
        for line in [
            "mizzen run --config /etc/mizzen",
            "mizzen run --kubernetes --node n1 --workers 2 --strict",
            "mizzen run --config d --strict=false --admin 127.0.0.1:15000",
            "mizzen run --config d --pins /sys/fs/bpf/x --metrics 127.0.0.1:1 --health 127.0.0.1:2",
            "mizzen run --config d --gateway istio=edge,app=gw --kernel-path-stale-after 5s",
            "mizzen validate a.yaml b",
            "mizzen validate a.yaml -o json",
            "mizzen explain --from shop/web http://reviews:9080/ -X POST -H end-user:jason",
            "mizzen explain --from shop/web tcp://echo:9000 --config d -o json",
            "mizzen status",
            "mizzen status -o json --admin unix:/tmp/a.sock",
            "mizzen get services",
            "mizzen get clusters reviews -o yaml",
            "mizzen get findings",
            "mizzen cleanup",
            "mizzen cleanup --pins /sys/fs/bpf/x",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
        }
        for line in [
            "mizzen",
            "mizzen get",
            "mizzen get everything",
            "mizzen validate",
            "mizzen explain http://a/",
            "mizzen run --capture some",
            "mizzen run --config d --workers 0",
            "mizzen run --config d --kernel-path-stale-after 5",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    /// `--help` is the manual: each flag says what it does, and those of `run` name
    /// their twin in the environment.
    #[test]
    fn every_flag_is_explained() {
        let cli = Cli::command();
        for command in cli.get_subcommands() {
            for argument in command.get_arguments() {
                let place = format!("{} {}", command.get_name(), argument.get_id());
                let help = argument.get_help().map(ToString::to_string);
                assert!(help.is_some_and(|help| help.len() > 10), "{place}");
                if command.get_name() == "run" {
                    let env = argument.get_env().and_then(|env| env.to_str());
                    assert!(env.is_some_and(|env| env.starts_with("MIZZEN_")), "{place}");
                }
            }
        }
    }
}
