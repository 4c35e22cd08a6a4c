//! The `mizzen` binary: parses the command line and dispatches.

use std::process::ExitCode;

fn main() -> ExitCode {
    proxy_user::cli::main()
}
