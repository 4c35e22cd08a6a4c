//! `mizzen run`: builds each stage, connects them, waits, drains.
//!
//! The order: source, take-over, kernel maps, workers, admin, node; then the first
//! configuration; then the programs are attached, so that nothing is captured before somebody can serve it.

mod takeover;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::admin::{ServerAddresses, Servers};
use crate::api::ObjectSet;
use crate::control::{
    AccessLogState, AccessLogTarget, Control, FlowReader, Identity, LiveNode, Parts,
};
use crate::dns::{Dns, DnsFiles};
use crate::kernel::{Kernel, KernelMaps, KernelOptions};
use crate::net::NameResolver;
use crate::node::listener::HandedListener;
use crate::node::{HostGuard, cgroup, pod_watch};
use crate::proxy::{Worker, WorkerCommand, WorkerConfig, WorkerHandle, WorkerLimits};
use crate::settings::{AccessLogEncoding, AdminAddress, ConfigSource, MeshSettings, Settings};
use crate::snapshot::{Publisher, Snapshot, SnapshotReader};
use crate::source::directory::{DirectorySource, WatchTimes, spawn_directory_source};
use crate::source::mesh::mesh_config;
use takeover::{Successor, Waiting};

use crate::telemetry::{
    AccessLog, AccessLogFormat, MetricsRegistry, NodeMetrics, Telemetry, logging,
};

/// The connect program takes a worker for dead after this without a beat.
const HEARTBEAT_MAX: Duration = Duration::from_secs(3);
/// How long connections may go on after a stop signal.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How long they may go on once a successor takes the new ones.
const TAKEOVER_DRAIN_MAX: Duration = Duration::from_secs(20);
/// Handshakes under way when the listeners left the maps are queued within this.
const QUEUE_TIME: Duration = Duration::from_millis(100);
/// How long maps of another layout stay in force while the pods are looked for: a pod that
/// the new maps do not know would pass untouched.
const PODS_FIRST_MAX: Duration = Duration::from_secs(3);
/// How long the first configuration waits for the addresses of names. A resolver that takes
/// longer is dead, or slower than the clients' patience.
const NAMES_FIRST_MAX: Duration = Duration::from_secs(2);
/// Answers of DNS that may wait: the resolver waits when it is full.
const ANSWERS_MAX: usize = 1024;
/// Names that are known without asking DNS, hosts(5).
const HOSTS_FILE: &str = "/etc/hosts";
/// Node events that may wait: a few per pod, and the node waits when it is full.
const NODE_EVENTS_MAX: usize = 256;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps a stage from starting: what is missing and how to provide it.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    logging::start(&settings.log)?;
    tracing::info!(settings = %settings.document(), "effective settings");
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run_async(settings))
}

async fn run_async(settings: Settings) -> anyhow::Result<()> {
    let mount = cgroup::mount_point().context("cannot find cgroup v2")?;
    let pods_root = pods_root(&settings, &mount)?;
    let source = open_source(&settings)?;
    // The cluster's own mesh settings are among the first objects.
    let mesh = start_mesh(&settings, &source.updates.borrow().objects);
    let (access_log, access_log_state) = start_access_log(&settings, &mesh)?;
    // What a user can get wrong has been looked at: now a running daemon may make room.
    let (waiting, handed) = take_over(&settings)?;
    let host = host_guard(&settings)?;
    let kernel = open_kernel(&settings, &pods_root, &host)?;
    kernel
        .register_daemon(cgroup::own_id(&mount).context("cannot find the daemon's own cgroup")?)?;

    let (publisher, snapshot) = Publisher::new(Snapshot::default());
    let telemetry = Telemetry::new(Arc::new(MetricsRegistry::default()), access_log);
    let node_metrics = Arc::new(NodeMetrics::new(Arc::clone(telemetry.metrics())));
    let (answers, mut dns_answers) = mpsc::channel(ANSWERS_MAX);
    let files = DnsFiles {
        resolv_conf: settings.resolv_conf.clone(),
        hosts: PathBuf::from(HOSTS_FILE),
    };
    let dns = Dns::spawn(files, answers).context("cannot start the resolver")?;
    let workers = spawn_workers(&settings, &snapshot, &kernel, &dns.resolver(), &telemetry)?;
    let live = Arc::new(LiveNode::new(
        snapshot.clone(),
        Arc::clone(&kernel),
        settings.document(),
        identity(&settings, &pods_root, workers.len()),
    ));
    let flows = FlowReader::spawn(
        Arc::clone(&kernel),
        snapshot,
        Arc::clone(&live),
        telemetry.recorder(),
    )?;
    let servers = Servers::spawn(
        &ServerAddresses {
            admin: Some(settings.admin.clone()),
            metrics: Some(settings.metrics),
            health: Some(settings.health),
        },
        Arc::clone(&live) as Arc<dyn crate::admin::Node>,
        Arc::clone(telemetry.metrics()),
    )?;
    let (wanted, wanted_receiver) = watch::channel(Arc::new(Vec::new()));
    let (events, mut node_events) = mpsc::channel(NODE_EVENTS_MAX);
    let config = pod_watch::NodeConfig { pods_root };
    let node = pod_watch::spawn(config, wanted_receiver, events)?;

    let updates = source.updates.clone();
    let parts = Parts {
        settings,
        publisher,
        kernel: Arc::clone(&kernel),
        workers,
        wanted,
        metrics: node_metrics,
        live,
        access_log: access_log_state,
        host: Arc::new(host),
        handed,
    };
    let mut control = Control::new(parts, dns);
    let first = Arc::clone(&updates.borrow());
    control
        .apply_first(&first, &mut dns_answers, NAMES_FIRST_MAX)
        .await;
    if kernel.has_other_layout()? {
        control.find_pods(&mut node_events, PODS_FIRST_MAX).await;
    }
    kernel.attach().context("cannot attach the programs")?;
    kernel.renew()?;
    tracing::info!("ready");
    let stopped = stopped(waiting)?;
    let (control, stop) = control
        .run(updates, node_events, dns_answers, stopped)
        .await;

    tracing::info!(?stop, "draining");
    match stop {
        Stop::Signal => {
            let workers = control.release();
            // Connections that were captured just before are in the listeners' queues.
            tokio::time::sleep(QUEUE_TIME).await;
            drain(workers, DRAIN_MAX);
            drop(servers);
            drop(flows);
        }
        Stop::Successor(successor) => {
            // Its ports and the flow records are the successor's from now on.
            drop(servers);
            drop(flows);
            let (workers, listeners) = control.hand_over();
            successor
                .hand_over(&listeners)
                .context("the successor has gone")?;
            drop(listeners);
            drain(workers, TAKEOVER_DRAIN_MAX);
        }
    }
    drop(source);
    // The node's thread ended with its event channel.
    let _ = node.join();
    telemetry.flush(Duration::from_secs(1));
    Ok(())
}

/// What no rule may lead a host-network pod to: in-pod listeners are on loopback.
fn host_guard(settings: &Settings) -> anyhow::Result<HostGuard> {
    let admin = match &settings.admin {
        AdminAddress::Tcp(address) => Some(address.port()),
        AdminAddress::Unix(_) => None,
    };
    let ports = [settings.metrics.port(), settings.health.port()];
    HostGuard::new(ports.into_iter().chain(admin))
        .context("cannot read the network namespace's cookie (needs Linux 5.14)")
}

fn open_kernel(
    settings: &Settings,
    pods_root: &Path,
    host: &HostGuard,
) -> anyhow::Result<Arc<dyn KernelMaps>> {
    let kernel = Kernel::open(&KernelOptions {
        cgroup: pods_root.to_owned(),
        pins: settings.pins.clone(),
        stale_after: settings.kernel_path_stale_after,
        heartbeat_max: HEARTBEAT_MAX,
        is_strict: settings.is_strict,
        host_netns: host.netns,
        guarded_ports: host.ports().to_vec(),
    })?;
    Ok(Arc::new(kernel))
}

/// The pods' cgroup: as set, else `kubepods` of either driver below the mount.
fn pods_root(settings: &Settings, mount: &Path) -> anyhow::Result<PathBuf> {
    if let Some(set) = &settings.cgroup {
        anyhow::ensure!(
            set.is_dir(),
            "there is no cgroup {}; give the pods' cgroup with --cgroup",
            set.display()
        );
        return Ok(set.clone());
    }
    let candidates = [
        "kubepods.slice",
        "kubepods",
        "kubelet.slice/kubelet-kubepods.slice",
    ];
    let found = candidates
        .iter()
        .map(|name| mount.join(name))
        .find(|path| path.is_dir());
    found.with_context(|| {
        format!(
            "no kubepods cgroup below {}; give the pods' cgroup with --cgroup",
            mount.display()
        )
    })
}

fn open_source(settings: &Settings) -> anyhow::Result<DirectorySource> {
    match &settings.source {
        ConfigSource::Directory(directory) => {
            spawn_directory_source(directory, WatchTimes::default()).with_context(|| {
                format!(
                    "cannot read the configuration directory {}",
                    directory.display()
                )
            })
        }
        ConfigSource::Kubernetes => {
            anyhow::bail!("this version reads a directory only; give --config DIR")
        }
    }
}

/// The mesh's settings at the start: the settings file's over the ConfigMap's. What is wrong
/// with the ConfigMap is a finding of the control loop.
fn start_mesh(settings: &Settings, objects: &ObjectSet) -> MeshSettings {
    let root_namespace = settings.mesh(None).root_namespace;
    let config_map = mesh_config(objects, &root_namespace, &mut Vec::new());
    settings.mesh(config_map.as_ref())
}

/// The access log as the mesh wants it. One that cannot be opened ends the start only where the
/// settings file names it: the mesh's own must not keep the node from being served.
fn start_access_log(
    settings: &Settings,
    mesh: &MeshSettings,
) -> anyhow::Result<(Option<AccessLog>, AccessLogState)> {
    let wanted = AccessLogTarget::of(mesh);
    let state = |current, failed| AccessLogState { current, failed };
    match open_access_log(mesh) {
        Ok(access_log) => Ok((access_log, state(wanted, None))),
        Err(error) if settings.mesh_config.access_log_file.is_none() => {
            let off = AccessLogTarget::of(&MeshSettings::default());
            Ok((None, state(off, Some((wanted, format!("{error:#}"))))))
        }
        Err(error) => Err(error),
    }
}

fn open_access_log(mesh: &MeshSettings) -> anyhow::Result<Option<AccessLog>> {
    if mesh.access_log_file.is_empty() {
        return Ok(None);
    }
    let format = match mesh.access_log_encoding {
        AccessLogEncoding::Text => AccessLogFormat::Text,
        AccessLogEncoding::Json => AccessLogFormat::Json,
    };
    let log = AccessLog::open(&mesh.access_log_file, format).with_context(|| {
        format!(
            "cannot open the access log {} (mesh.accessLogFile)",
            mesh.access_log_file
        )
    })?;
    Ok(Some(log))
}

fn spawn_workers(
    settings: &Settings,
    snapshot: &SnapshotReader,
    kernel: &Arc<dyn KernelMaps>,
    names: &Arc<dyn NameResolver>,
    telemetry: &Telemetry,
) -> anyhow::Result<Vec<WorkerHandle>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = settings.workers.map_or(cores, usize::from);
    (0..u32::try_from(count)?)
        .map(|id| {
            let config = WorkerConfig {
                id,
                snapshot: snapshot.clone(),
                original_dsts: kernel.original_dsts(),
                names: Arc::clone(names),
                recorder: telemetry.recorder(),
                heartbeat: kernel.heartbeat(id)?,
                limits: WorkerLimits::default(),
            };
            Worker::spawn(config).with_context(|| format!("cannot start worker {id}"))
        })
        .collect()
}

fn identity(settings: &Settings, pods_root: &Path, workers: usize) -> Identity {
    let source = match &settings.source {
        ConfigSource::Directory(directory) => directory.display().to_string(),
        ConfigSource::Kubernetes => "kubernetes".to_owned(),
    };
    Identity {
        node: settings.node.clone(),
        source,
        cgroup: pods_root.display().to_string(),
        pins: settings.pins.display().to_string(),
        workers,
        heartbeat_max: HEARTBEAT_MAX,
    }
}

fn drain(workers: Vec<WorkerHandle>, deadline: Duration) {
    for worker in &workers {
        if let Err(error) = worker.send(WorkerCommand::Drain { deadline }) {
            tracing::warn!(worker = worker.id(), %error, "cannot drain");
        }
    }
    for worker in workers {
        if worker.join().is_err() {
            tracing::error!("a worker ended by a panic");
        }
    }
}

/// Asks a running daemon to make room, and waits for successors of our own.
fn take_over(settings: &Settings) -> anyhow::Result<(Option<Waiting>, Vec<HandedListener>)> {
    let Some(path) = takeover::socket_path(settings) else {
        return Ok((None, Vec::new()));
    };
    let handed = takeover::request(&path, &settings.pins)
        .with_context(|| format!("cannot take over from the daemon at {}", path.display()))?;
    if !handed.is_empty() {
        tracing::info!(listeners = handed.len(), "took over from a running daemon");
    }
    let waiting = Waiting::bind(&path, &settings.pins)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    Ok((Some(waiting), handed))
}

/// Why the daemon ends.
#[derive(Debug)]
enum Stop {
    /// SIGTERM or SIGINT.
    Signal,
    /// Another daemon takes over.
    Successor(Successor),
}

/// Resolves at the first SIGTERM or SIGINT, or when a successor asks.
fn stopped(waiting: Option<Waiting>) -> anyhow::Result<impl Future<Output = Stop>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let successor = async move {
        match waiting {
            Some(waiting) => waiting.successor().await,
            None => std::future::pending().await,
        }
    };
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => Stop::Signal,
            _ = interrupt.recv() => Stop::Signal,
            successor = successor => Stop::Successor(successor),
        }
    })
}

/// Two sockets per proxied connection: the soft limit of most systems (1024) is far too small.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the descriptor limit");
    }
}
