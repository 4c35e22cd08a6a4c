//! Entering a pod: cgroup, network and mount namespace, then the program itself.
//!
//! A process of its own does it, because a thread cannot change cgroup or mount
//! namespace alone; `exec` keeps its process id.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Where to go before becoming the program.
#[derive(Debug, clap::Args)]
pub struct EnterArgs {
    /// Directory of the cgroup to join
    #[arg(long)]
    cgroup: PathBuf,
    /// Network namespace to join, as a path
    #[arg(long)]
    net: Option<PathBuf>,
    /// Mount namespace to join, as a path
    #[arg(long)]
    mnt: Option<PathBuf>,
    /// Make a new network namespace
    #[arg(long, conflicts_with = "net")]
    new_net: bool,
    /// File to show as /etc/hosts, in a new mount namespace
    #[arg(long, conflicts_with = "mnt")]
    hosts: Option<PathBuf>,
    /// File to show as /etc/resolv.conf, in a new mount namespace
    #[arg(long, requires = "hosts")]
    resolv: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<std::ffi::OsString>,
}

/// Enters and becomes the program; returns only with an error.
pub fn enter(args: &EnterArgs) -> anyhow::Result<()> {
    let (program, rest) = args.command.split_first().context("no program was given")?;
    // Everything is opened first: afterwards these paths may mean something else.
    let net = args.net.as_deref().map(open).transpose()?;
    let mnt = args.mnt.as_deref().map(open).transpose()?;
    std::fs::write(args.cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot join the cgroup {}", args.cgroup.display()))?;
    if let Some(net) = net {
        move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot join the network namespace")?;
    }
    if args.new_net {
        unshare(UnshareFlags::NEWNET)?;
    }
    if let Some(mnt) = mnt {
        move_into_link_name_space(mnt.as_fd(), Some(LinkNameSpaceType::Mount))
            .context("cannot join the mount namespace")?;
    }
    if let Some(hosts) = &args.hosts {
        unshare(UnshareFlags::NEWNS)?;
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .context("cannot make the mounts private")?;
        show(hosts, "/etc/hosts")?;
        if let Some(resolv) = &args.resolv {
            show(resolv, "/etc/resolv.conf")?;
        }
    }
    Err(Command::new(program).args(rest).exec()).with_context(|| format!("cannot run {program:?}"))
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn unshare(flags: UnshareFlags) -> anyhow::Result<()> {
    // SAFETY: the flags are NEWNET or NEWNS; neither unshares the table of file
    // descriptors, the one that owned descriptors of other code rely on.
    unsafe { unshare_unsafe(flags) }.context("cannot make a namespace (needs CAP_SYS_ADMIN)")
}

/// Binds `file` over `target`; a system without `target` does not read it either.
fn show(file: &Path, target: &str) -> anyhow::Result<()> {
    if !Path::new(target).exists() {
        return Ok(());
    }
    mount_bind(file, target).with_context(|| format!("cannot show a file as {target}"))
}

/// Says that it is ready, then holds its namespaces until it is killed.
pub fn pause() -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    loop {
        std::thread::park();
    }
}
