//! Debian packages that a task needs: found first, installed with a word about it when missing.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::process;

/// What tests, demo and benchmarks run beside Mizzen.
pub(crate) const LAB: &[&str] = &[
    "nginx-light",
    "wrk",
    "haproxy",
    "nghttp2-client",
    "iperf3",
    "nftables",
    "bpftool",
    "iproute2",
    "curl",
    "procps",
    "kmod",
    "openssl",
];

/// Installs those of `packages` that dpkg does not know as installed.
///
/// `purpose` completes "needed to ..."; an error says what to install by hand.
pub(crate) fn ensure(packages: &[&str], purpose: &str) -> Result<()> {
    if process::output(Command::new("dpkg-query").arg("--version")).is_none() {
        bail!(
            "cannot install packages: this system has no dpkg; install what Debian calls {} by other means, needed to \
             {purpose}",
            packages.join(" ")
        );
    }
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!(
        "installing with apt-get, needed to {purpose}: {}",
        missing.join(" ")
    );
    if !is_root()? {
        bail!(
            "cannot install packages without root; run: apt-get update && apt-get install {}",
            missing.join(" ")
        );
    }
    let way_out = || {
        format!(
            "cannot install packages; by hand: apt-get install {}",
            missing.join(" ")
        )
    };
    process::run(Command::new("apt-get").args(["-qq", "update"])).with_context(way_out)?;
    process::run(
        Command::new("apt-get")
            .args(["-qq", "-y", "--no-install-recommends", "install"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .with_context(way_out)
}

fn is_installed(package: &str) -> bool {
    process::output(Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]))
        .is_some_and(|status| status.contains("install ok installed"))
}

/// Whether this process runs as user 0 in effect.
pub(crate) fn is_root() -> Result<bool> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    Ok(effective == Some("0"))
}
