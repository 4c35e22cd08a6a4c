//! `cargo xtask check`: formatting and lints, warnings denied.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{process, toolchain, workspace};

/// Debian's clippy, which matches the rustc that builds the eBPF crate.
const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";

/// Runs rustfmt and clippy over the workspace, then clippy over the eBPF crate.
pub(crate) fn run() -> Result<()> {
    println!("[1/3] formatting");
    process::run(process::cargo().args(["fmt", "--all", "--check"]))
        .context("mend with: cargo fmt --all")?;
    println!("[2/3] clippy");
    process::run(process::cargo().args([
        "clippy",
        "--workspace",
        "--exclude",
        "proxy-ebpf",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
    .context("step 2, clippy")?;
    println!("[3/3] clippy for eBPF");
    lint_ebpf().context("step 3, clippy for eBPF")
}

fn lint_ebpf() -> Result<()> {
    let compiler = toolchain::find_or_install_compiler()?;
    if matches!(compiler, toolchain::Compiler::Debian(_)) && !Path::new(DEBIAN_CLIPPY).exists() {
        println!(
            "      skipped: no clippy beside Debian's rustc; apt-get install rust-web-clippy adds it"
        );
        return Ok(());
    }
    let linker = toolchain::find_or_build_linker()?;
    let mut cargo = process::cargo();
    match compiler {
        // As `cargo clippy` does it, with the other compiler's driver.
        toolchain::Compiler::Debian(_) => cargo.arg("check"),
        toolchain::Compiler::Nightly => cargo.arg("clippy"),
    };
    cargo
        .args([
            "--package",
            "proxy-ebpf",
            "--target",
            toolchain::TARGET,
            "--target-dir",
        ])
        .arg(workspace::ebpf_target_dir());
    compiler.configure(&mut cargo, &linker);
    if matches!(compiler, toolchain::Compiler::Debian(_)) {
        cargo.env("RUSTC_WORKSPACE_WRAPPER", DEBIAN_CLIPPY);
    }
    cargo.env(
        "CLIPPY_ARGS",
        "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__",
    );
    process::run(&mut cargo)
}
