//! `cargo xtask build`: eBPF object first, then the binary that carries it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{process, toolchain, workspace};

/// Builds everything; returns the path of the release binary.
pub(crate) fn run() -> Result<PathBuf> {
    println!("[1/4] compiler for eBPF");
    let compiler = toolchain::find_or_install_compiler().context("step 1, compiler for eBPF")?;
    println!("      {}", compiler.describe());
    println!("[2/4] bpf-linker");
    let linker = toolchain::find_or_build_linker().context("step 2, bpf-linker")?;
    println!("      {}", linker.display());
    println!("[3/4] eBPF programs");
    build_object(&compiler, &linker).context("step 3, eBPF programs")?;
    println!("[4/4] mizzen");
    let mut cargo = process::cargo();
    cargo.args([
        "build",
        "--release",
        "--package",
        "proxy-user",
        "--bin",
        "mizzen",
    ]);
    process::run(&mut cargo).context("step 4, mizzen")?;
    let binary = workspace::mizzen();
    println!("      {}", binary.display());
    Ok(binary)
}

fn build_object(compiler: &toolchain::Compiler, linker: &std::path::Path) -> Result<()> {
    let mut cargo = process::cargo();
    cargo
        .args([
            "build",
            "--package",
            "proxy-ebpf",
            "--bin",
            "mizzen-ebpf",
            "--profile",
            "ebpf",
            "--target",
        ])
        .arg(toolchain::TARGET)
        .arg("--target-dir")
        .arg(workspace::ebpf_target_dir());
    compiler.configure(&mut cargo, linker);
    process::run(&mut cargo)?;

    let built = workspace::ebpf_target_dir()
        .join(toolchain::TARGET)
        .join("ebpf")
        .join("mizzen-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let object = workspace::ebpf_object();
    println!("      {} bytes, {}", bytes.len(), object.display());
    // Unchanged bytes keep their time, so that nothing is compiled again because of them.
    if fs::read(&object).is_ok_and(|existing| existing == bytes) {
        return Ok(());
    }
    if let Some(directory) = object.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(&object, bytes).with_context(|| format!("cannot write {}", object.display()))
}
