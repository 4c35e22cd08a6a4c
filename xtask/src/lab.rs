//! `cargo xtask demo|bench|prove`: programs of the `tests` package, run on a fresh build.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};

use crate::{build, packages, process, workspace};

/// Builds Mizzen and the program `name`, then runs it with `MIZZEN_BIN` set.
pub(crate) fn run(name: &str, arguments: &[String]) -> Result<()> {
    packages::ensure(packages::LAB, &format!("run the {name}"))?;
    let mizzen = build::run()?;
    let mut cargo = process::cargo();
    cargo.args(["build", "--release", "--package", "mizzen-tests", "--bins"]);
    process::run(&mut cargo).with_context(|| format!("cannot build the {name}"))?;
    let program = workspace::target_dir().join("release").join(name);
    let mut command = Command::new(&program);
    command
        .current_dir(workspace::root())
        .args(arguments)
        .env("MIZZEN_BIN", mizzen);
    // In place of this process, so that Ctrl-C reaches one program, which cleans up.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
