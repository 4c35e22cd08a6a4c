//! What the eBPF crate is built with: a rustc that has `core` for BPF, and bpf-linker.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{packages, process, workspace};

/// The target triple of the programs: BPF, little endian.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Debian's compiler and its prebuilt `core` for BPF.
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Its default features use the LLVM inside rustc, so no system LLVM is needed.
const BPF_LINKER_VERSION: &str = "0.10.3";

/// A compiler for the eBPF crate.
pub(crate) enum Compiler {
    /// Debian's rustc, whose `core` for BPF is prebuilt.
    Debian(PathBuf),
    /// A rustup nightly with `rust-src`: cargo builds `core` itself.
    Nightly,
}

impl Compiler {
    /// Sets what cargo needs to build or lint for BPF.
    pub(crate) fn configure(&self, cargo: &mut Command, linker: &Path) {
        cargo
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                ["-C", "link-arg=--btf", "-C", "target-cpu=v3"].join("\u{1f}"),
            )
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        match self {
            Self::Debian(rustc) => {
                // Building a target that is not a stable one needs the bootstrap switch.
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            }
            Self::Nightly => {
                cargo
                    .env("RUSTUP_TOOLCHAIN", "nightly")
                    .args(["-Z", "build-std=core"]);
            }
        }
    }

    /// Words for the progress line.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Debian(rustc) => format!("{} (Debian's rustc-web)", rustc.display()),
            Self::Nightly => "rustup's nightly with rust-src".to_owned(),
        }
    }
}

/// Finds a compiler, installs Debian's when there is none.
pub(crate) fn find_or_install_compiler() -> Result<Compiler> {
    if let Some(compiler) = find_compiler() {
        return Ok(compiler);
    }
    packages::ensure(DEBIAN_PACKAGES, "compile the eBPF programs").context(
        "no compiler for eBPF; either way out does: Debian 12 packages rustc-web and libstd-rust-web-dev-bpf, or \
         `rustup toolchain install nightly --component rust-src`",
    )?;
    find_compiler().with_context(|| {
        format!(
            "{DEBIAN_RUSTC} still has no core library for {TARGET} after installing {}",
            DEBIAN_PACKAGES.join(" ")
        )
    })
}

fn find_compiler() -> Option<Compiler> {
    // Debian's first: its LLVM is the one that the pinned bpf-linker was tried with.
    if has_core(Path::new(DEBIAN_RUSTC)) {
        return Some(Compiler::Debian(PathBuf::from(DEBIAN_RUSTC)));
    }
    let sysroot = process::output(
        Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]),
    )?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    sources.is_dir().then_some(Compiler::Nightly)
}

fn has_core(rustc: &Path) -> bool {
    let printed =
        process::output(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]));
    let Some(entries) = printed.and_then(|directory| fs::read_dir(directory.trim()).ok()) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

/// Path of bpf-linker; built once into the user's cache directory when it is not there.
pub(crate) fn find_or_build_linker() -> Result<PathBuf> {
    let root = workspace::tools_dir()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}"));
    let linker = root.join("bin").join("bpf-linker");
    if process::output(Command::new(&linker).arg("--version")).is_some() {
        return Ok(linker);
    }
    println!(
        "building bpf-linker {BPF_LINKER_VERSION} into {}, once, about two minutes",
        root.display()
    );
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let build = root.join("build");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // From the root directory, so that no other project's cargo configuration applies.
    cargo
        .current_dir("/")
        .args([
            "install",
            "bpf-linker",
            "--version",
            BPF_LINKER_VERSION,
            "--locked",
            "--force",
            "--root",
        ])
        .arg(&root)
        .env("CARGO_TARGET_DIR", &build);
    process::run(&mut cargo).with_context(|| {
        format!(
            "cannot build bpf-linker; it needs crates.io and a C++ compiler; by hand: cargo install bpf-linker \
             --version {BPF_LINKER_VERSION} --locked --root {}",
            root.display()
        )
    })?;
    // Intermediate files only; that they stay is no reason to stop.
    let _ = fs::remove_dir_all(&build);
    if process::output(Command::new(&linker).arg("--version")).is_none() {
        bail!("{} was built but does not run", linker.display());
    }
    Ok(linker)
}
