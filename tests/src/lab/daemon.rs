//! The Mizzen daemon on the lab's node.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;

use super::netns::NetNs;
use super::node::{Lab, NODE_NAME};
use super::process::{Finished, Place, Process, run};
use super::spec::PodSpec;
use super::wait::wait_until;
use crate::workload::http_client::get_once;

/// Where the daemon serves metrics, inside the node's namespace.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);
/// Where the daemon answers health probes.
const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15021);

/// Where the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// A host-network pod under `kubepods`, as a DaemonSet's.
    Pod,
    /// The same in a private cgroup namespace, as container runtimes make it on cgroup v2.
    PrivatePod,
    /// A process of the node, outside the pods' cgroup.
    Node,
}

/// How the daemon is started.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// Where it runs.
    pub placement: Placement,
    /// Text of its settings file.
    pub settings: String,
    /// Arguments after those of the lab.
    pub extra_args: Vec<String>,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self {
            placement: Placement::Pod,
            settings: String::new(),
            extra_args: Vec::new(),
        }
    }
}

/// The binary under test: `MIZZEN_BIN`, else the release build beside this one.
pub fn find_mizzen() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MIZZEN_BIN") {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let here = std::env::current_exe().ok()?;
    here.ancestors()
        .map(|dir| dir.join("release/mizzen"))
        .find(|path| path.is_file())
}

/// A running daemon. Dropping it kills it; its pins stay, as after a crash.
#[derive(Debug)]
pub struct Daemon {
    mizzen: PathBuf,
    placement: Placement,
    args: Vec<String>,
    place: Place,
    netns: NetNs,
    admin: String,
    log: PathBuf,
    process: Process,
}

impl Lab {
    /// Starts the daemon and waits until it is ready.
    pub fn start_daemon(&self, options: &DaemonOptions) -> anyhow::Result<Daemon> {
        let mizzen = find_mizzen()
            .context("no mizzen binary (cargo xtask build, or set MIZZEN_BIN to one)")?;
        let settings = self.dir().join("settings.yaml");
        std::fs::write(&settings, &options.settings)?;
        let place = self.daemon_place(options.placement)?;
        let path = |path: &Path| path.display().to_string();
        let admin = format!("unix:{}", self.dir().join("admin.sock").display());
        let mut args = vec!["run".to_owned()];
        for (flag, value) in [
            ("--config", path(&self.config_dir())),
            ("--node", NODE_NAME.to_owned()),
            ("--cgroup", path(&self.pods_cgroup())),
            ("--admin", admin.clone()),
            ("--settings", path(&settings)),
            ("--files", path(&self.dir().join("files"))),
            ("--pins", path(self.pins())),
            ("--metrics", METRICS.to_string()),
            ("--health", HEALTH.to_string()),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        args.extend(options.extra_args.iter().cloned());
        let log = self.dir().join("logs/mizzen.log");
        let net = place.net.clone().context("the daemon has no namespace")?;
        let process = spawn(&mizzen, options.placement, &args, &place, &log)?;
        let mut daemon = Daemon {
            mizzen,
            placement: options.placement,
            args,
            place,
            netns: NetNs::open(&net)?,
            admin,
            log,
            process,
        };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// The daemon's place; its pod is made once and used again by a second daemon.
    fn daemon_place(&self, placement: Placement) -> anyhow::Result<Place> {
        let node = self.node_place().clone();
        match placement {
            Placement::Node => Ok(node),
            Placement::Pod | Placement::PrivatePod => {
                let pod = match self.pod("mizzen-system", "mizzen") {
                    Ok(pod) => pod,
                    Err(_) => {
                        self.add_pod(PodSpec::new("mizzen-system", "mizzen").host_network())?
                    }
                };
                // The node's own files: it needs the cgroup tree and bpffs.
                Ok(Place {
                    cgroup: pod.place().cgroup.clone(),
                    ..node
                })
            }
        }
    }
}

fn spawn(
    mizzen: &Path,
    placement: Placement,
    args: &[String],
    place: &Place,
    log: &Path,
) -> anyhow::Result<Process> {
    let mut command = if placement == Placement::PrivatePod {
        // It execs, so the process id stays that of the daemon.
        let mut command = place.command("unshare")?;
        command.arg("--cgroup").arg(mizzen);
        command
    } else {
        place.command(mizzen)?
    };
    command.args(args);
    Process::start(command, log)
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has logged, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `/healthz/ready` answers 200.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let result = wait_until("the daemon to be ready", Duration::from_secs(20), || {
            if let Some(status) = self.process.exit_status()? {
                // No use in waiting for a process that has ended.
                return Ok(Some(Err(status)));
            }
            let (status, _) = self.get(HEALTH, "/healthz/ready")?;
            Ok((status == 200).then_some(Ok(())))
        });
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => anyhow::bail!("the daemon ended, {status}; {}", self.last_lines()),
            Err(error) => Err(error.context(self.last_lines())),
        }
    }

    /// The end of its log, for error messages.
    fn last_lines(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!(
            "its log ends:\n{}",
            lines[lines.len().saturating_sub(30)..].join("\n")
        )
    }

    fn get(&self, address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
        self.netns.within(|| get_once(address, path))?
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.get(METRICS, "/metrics")?.1)
    }

    /// Sum of all series of one metric that have all of these label texts, such as `reporter="source"`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let text = self.metrics()?;
        Ok(text
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
                    && labels.iter().all(|label| line.contains(label))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// Kills it as a crash would and reaps it.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(Duration::from_secs(10))?;
        Ok(())
    }

    /// Stops it without ending it (SIGSTOP).
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets a stopped one go on (SIGCONT).
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Ends it in order (SIGTERM).
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        if self.process.exit_status()?.is_none() {
            self.process.signal(Signal::TERM)?;
            self.process.wait(Duration::from_secs(30))?;
        }
        Ok(())
    }

    /// Waits for its end, which something else brings about.
    pub fn wait_end(&mut self) -> anyhow::Result<()> {
        self.process.wait(Duration::from_secs(30)).map(drop)
    }

    /// Starts it again with the same arguments, and waits until it is ready.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = spawn(
            &self.mizzen,
            self.placement,
            &self.args,
            &self.place,
            &self.log,
        )?;
        self.wait_ready()
    }

    /// Runs a `mizzen` command against this daemon.
    pub fn cli(&self, args: &[&str]) -> anyhow::Result<Finished> {
        let mut command = self.place.command(&self.mizzen)?;
        command.args(args).env("MIZZEN_ADMIN", &self.admin);
        run(command, "")
    }

    /// Runs a `mizzen` command with `-o json` and reads its answer.
    pub fn cli_json(&self, args: &[&str]) -> anyhow::Result<serde_json::Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let text = self
            .cli(&all)?
            .ok()
            .with_context(|| format!("mizzen {}", all.join(" ")))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// The value of `MIZZEN_ADMIN` that finds this daemon.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// The binary that runs.
    pub fn mizzen(&self) -> &Path {
        &self.mizzen
    }

    /// Leaves it running after its owner's end, with the lab.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}
