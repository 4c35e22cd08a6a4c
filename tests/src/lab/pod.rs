//! One pod: a namespace on the bridge, a cgroup under `kubepods`, its processes.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::cgroup::{Driver, remove_tree};
use super::netns::NetNs;
use super::network::{connect_pod, pod_addresses};
use super::process::{Finished, Place, Process, run, workload_binary};
use super::sockets::{TcpEntry, TcpState, tcp_table};
use super::spec::{Attachment, PodSpec};
use super::wait::{patience, wait_until};
use crate::workload::outcome::Summary;
use crate::workload::tcp_client::Seen;

/// What a pod needs to know of its node.
pub(super) struct Surroundings<'a> {
    /// The node's own place.
    pub(super) node: &'a Place,
    /// The lab's cgroup, parent of the pods' root.
    pub(super) lab_cgroup: &'a Path,
    /// Layout of the cgroup tree.
    pub(super) driver: Driver,
    /// The pod's hosts file.
    pub(super) hosts: &'a Path,
    /// A resolver configuration that asks nobody.
    pub(super) resolv: &'a Path,
    /// Directory of logs.
    pub(super) logs: &'a Path,
    /// Number of the pod in this lab.
    pub(super) index: u16,
}

/// A running pod. [`super::Lab::remove_pod`] or the lab's end removes it.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    uid: String,
    addresses: Vec<IpAddr>,
    cgroup: PathBuf,
    place: Place,
    logs: PathBuf,
    processes: Mutex<Vec<Process>>,
}

impl Pod {
    /// Makes the cgroups, the namespace and the pause process; starts no workload yet.
    pub(super) fn create(spec: PodSpec, around: &Surroundings<'_>) -> anyhow::Result<Self> {
        let uid = random_uid();
        let cgroup = match spec.attachment {
            Attachment::External => around.lab_cgroup.join("outside").join(&uid),
            Attachment::Bridge | Attachment::HostNetwork => around
                .lab_cgroup
                .join(around.driver.pod_path(spec.qos, &uid)),
        };
        let container = |id: &str| cgroup.join(around.driver.container_name(id));
        let (pause, app) = (container(&random_hex(32)), container(&random_hex(32)));
        for directory in [&pause, &app] {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot make the cgroup {}", directory.display()))?;
        }
        let log = around
            .logs
            .join(format!("{}.{}.pause.log", spec.namespace, spec.name));
        let net = (spec.attachment == Attachment::HostNetwork).then_some(around.node);
        let pause_process = start_pause(&pause, net, Some((around.hosts, around.resolv)), &log)?;
        let pid = pause_process.pid();
        let net = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let mnt = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
        let addresses = pod_addresses(spec.attachment, spec.families, around.index);
        let wiring = Place {
            cgroup: around.node.cgroup.clone(),
            net: Some(net.clone()),
            mnt: None,
        };
        connect_pod(
            around.node,
            &wiring,
            pid,
            around.index,
            spec.attachment,
            &addresses,
        )?;
        Ok(Self {
            spec,
            uid,
            addresses,
            cgroup,
            place: Place {
                cgroup: app,
                net: Some(net),
                mnt: Some(mnt),
            },
            logs: around.logs.to_owned(),
            processes: Mutex::new(vec![pause_process]),
        })
    }

    /// Starts the main process, if the pod has one.
    pub(super) fn start_workload(&self) -> anyhow::Result<()> {
        let Some(args) = &self.spec.workload else {
            return Ok(());
        };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let main = self.spawn_workload("app", &args)?;
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(main);
        Ok(())
    }

    /// What was asked for.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.addresses
            .first()
            .copied()
            .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }

    /// Its first IPv6 address.
    pub fn address_v6(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv6)
    }

    /// The pod-level cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Where its processes run.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A handle of its network namespace.
    pub fn netns(&self) -> anyhow::Result<NetNs> {
        NetNs::open(
            self.place
                .net
                .as_deref()
                .context("the pod has no namespace")?,
        )
    }

    /// Runs a command in the pod to its end.
    pub fn run(&self, command: &[&str]) -> anyhow::Result<Finished> {
        run_in(&self.place, command)
    }

    /// Runs `mizzen-workload` in the pod and reads the JSON that it prints.
    pub fn workload(&self, args: &[&str]) -> anyhow::Result<serde_json::Value> {
        let mut command = self.place.command(workload_binary()?)?;
        command.args(args).env("POD_NAME", &self.spec.name);
        let text = run(command, "")?
            .ok()
            .with_context(|| format!("mizzen-workload {} in {}", args.join(" "), self.spec.name))?;
        serde_json::from_str(&text).with_context(|| format!("not the JSON of a workload: {text}"))
    }

    /// Makes HTTP requests from the pod: arguments of `mizzen-workload http-client`.
    pub fn ask(&self, args: &[&str]) -> anyhow::Result<Summary> {
        let all: Vec<&str> = std::iter::once("http-client")
            .chain(args.iter().copied())
            .collect();
        Ok(serde_json::from_value(self.workload(&all)?)?)
    }

    /// Makes TCP connections from the pod: arguments of `mizzen-workload tcp-client`.
    pub fn dial(&self, args: &[&str]) -> anyhow::Result<Vec<Seen>> {
        let all: Vec<&str> = std::iter::once("tcp-client")
            .chain(args.iter().copied())
            .collect();
        Ok(serde_json::from_value(self.workload(&all)?)?)
    }

    /// What the main process has written so far.
    pub fn app_log(&self) -> String {
        let log = format!("{}.{}.app.log", self.spec.namespace, self.spec.name);
        std::fs::read_to_string(self.logs.join(log)).unwrap_or_default()
    }

    /// Starts any program at a place of the pod's; `name` is part of its log's name.
    pub fn spawn_at(
        &self,
        place: &Place,
        name: &str,
        program: &str,
        args: &[String],
    ) -> anyhow::Result<Process> {
        let mut command = place.command(program)?;
        command.args(args);
        let log = format!("{}.{}.{name}.log", self.spec.namespace, self.spec.name);
        Process::start(command, &self.logs.join(log))
    }

    /// Starts `mizzen-workload` in the pod; `name` is part of its log's name.
    pub fn spawn_workload(&self, name: &str, args: &[&str]) -> anyhow::Result<Process> {
        self.spawn_workload_at(&self.place, name, args)
    }

    /// Starts `mizzen-workload` in the pod's namespace but outside the pods' cgroup.
    pub fn spawn_workload_at(
        &self,
        place: &Place,
        name: &str,
        args: &[&str],
    ) -> anyhow::Result<Process> {
        let mut command = place.command(workload_binary()?)?;
        command.args(args).env("POD_NAME", &self.spec.name);
        let suffix = if name == "app" {
            String::new()
        } else {
            format!(".{}", random_hex(4))
        };
        let log = format!(
            "{}.{}.{name}{suffix}.log",
            self.spec.namespace, self.spec.name
        );
        Process::start(command, &self.logs.join(log))
    }

    /// The TCP sockets of the pod's namespace, as the kernel has them.
    pub fn tcp_sockets(&self) -> anyhow::Result<Vec<TcpEntry>> {
        self.netns()?.within(tcp_table)?
    }

    /// Waits until something listens on a TCP port of the pod.
    pub fn wait_listening(&self, port: u16) -> anyhow::Result<()> {
        let what = format!(
            "{}/{} to listen on {port}",
            self.spec.namespace, self.spec.name
        );
        wait_until(&what, Duration::from_secs(20), || {
            let is_listening = self
                .tcp_sockets()?
                .iter()
                .any(|entry| entry.state == TcpState::Listen && entry.local.port() == port);
            Ok(is_listening.then_some(()))
        })
    }

    /// Ends its processes and removes its cgroup.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        processes.clear();
        remove_tree(&self.cgroup)
    }
}

/// Runs a command at a place to its end.
pub(super) fn run_in(place: &Place, command: &[&str]) -> anyhow::Result<Finished> {
    let (program, args) = command.split_first().context("no command")?;
    let mut child = place.command(program)?;
    child.args(args);
    run(child, "")
}

/// Starts a pause process in a namespace of its own, or in the one of `net`.
///
/// With `files`, its mount namespace shows the lab's hosts and resolver files.
pub(super) fn start_pause(
    cgroup: &Path,
    net: Option<&Place>,
    files: Option<(&Path, &Path)>,
    log: &Path,
) -> anyhow::Result<Process> {
    let workload = workload_binary()?;
    let mut command = std::process::Command::new(&workload);
    command.arg("enter").arg("--cgroup").arg(cgroup);
    match net.and_then(|place| place.net.as_ref()) {
        Some(path) => command.arg("--net").arg(path),
        None => command.arg("--new-net"),
    };
    if let Some((hosts, resolv)) = files {
        command
            .arg("--hosts")
            .arg(hosts)
            .arg("--resolv")
            .arg(resolv);
    }
    command.arg("--").arg(&workload).arg("pause");
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.stdin(std::process::Stdio::null());
    // A reused log would already say "ready".
    std::fs::write(log, "").with_context(|| format!("cannot write {}", log.display()))?;
    let mut process = Process::start(command, log)?;
    let started = Instant::now();
    while !process.output().contains("ready") {
        let ended = process.exit_status()?;
        anyhow::ensure!(
            ended.is_none() && started.elapsed() < patience(Duration::from_secs(10)),
            "a pause process did not start: {}",
            process.output()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(process)
}

/// A version 4 UUID as Kubernetes gives to pods.
fn random_uid() -> String {
    let hex = random_hex(16);
    format!(
        "{}-{}-4{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

/// `bytes` random bytes in hex: ids of containers and pods.
pub(super) fn random_hex(bytes: usize) -> String {
    (0..bytes)
        .map(|_| format!("{:02x}", fastrand::u8(..)))
        .collect()
}
