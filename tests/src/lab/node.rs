//! [`Lab`]: the node, its pods and services, its configuration directory.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;

use super::cgroup::{Driver, cgroup2_root};
use super::netns::NetNs;
use super::network::{apply_service_proxy, service_addresses, set_up_node};
use super::objects::{
    LabService, cluster_yaml, endpoint_slices_yaml, hosts_file, pods_yaml, services_yaml,
    virtual_ports,
};
use super::pod::{Pod, Surroundings, run_in, start_pause};
use super::process::{Finished, Place, Process, workload_binary};
use super::record::{Record, remove_on_signal, start_time, sweep_leftovers};
use super::spec::{PodSpec, ServiceSpec};

/// Name of the lab's node, as its Node object and `--node` have it.
pub const NODE_NAME: &str = "lab-node";

/// Makes the names of two labs of one process differ.
static LABS_MADE: AtomicU32 = AtomicU32::new(0);

/// How a lab is to be built.
#[derive(Debug)]
pub struct LabBuilder {
    driver: Driver,
}

impl LabBuilder {
    /// Chooses the layout of the cgroup tree.
    #[must_use]
    pub fn driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self
    }

    /// Builds the node. Removes first what killed runs left behind.
    pub fn build(self) -> anyhow::Result<Lab> {
        sweep_leftovers(false)?;
        let owner = std::process::id();
        let name = format!("{owner}-{}", LABS_MADE.fetch_add(1, Ordering::Relaxed));
        mount_bpffs()?;
        let record = Record {
            owner,
            owner_started: start_time(owner).context("cannot read /proc/self/stat")?,
            cgroup: cgroup2_root()?.join(format!("mizzen-lab-{name}")),
            pins: PathBuf::from(format!("/sys/fs/bpf/mizzen-lab-{name}")),
            dir: std::env::temp_dir().join(format!("mizzen-lab-{name}")),
            is_kept: false,
            name,
        };
        record.save()?;
        remove_on_signal();
        let guard = RecordGuard(Some(record));
        let record = guard.record()?;
        let node_cgroup = record.cgroup.join("node");
        for directory in [&node_cgroup, &record.cgroup.join(self.driver.pods_root())] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make the cgroup {}", directory.display()))?;
        }
        for part in ["config", "hosts", "logs", "files"] {
            fs::create_dir_all(record.dir.join(part))?;
        }
        fs::write(
            record.dir.join("resolv.conf"),
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        )?;
        let pause = start_pause(
            &node_cgroup,
            None,
            None,
            &record.dir.join("logs/node.pause.log"),
        )?;
        let net = PathBuf::from(format!("/proc/{}/ns/net", pause.pid()));
        let netns = NetNs::open(&net)?;
        let place = Place {
            cgroup: node_cgroup,
            net: Some(net),
            mnt: None,
        };
        set_up_node(&place, &netns)?;
        let lab = Lab {
            driver: self.driver,
            place,
            netns,
            _pause: pause,
            state: Mutex::new(State::default()),
            record: guard,
        };
        lab.publish(&mut lab.state())?;
        Ok(lab)
    }
}

/// Removes what the record names when the lab, or its half-finished building, ends.
#[derive(Debug)]
struct RecordGuard(Option<Record>);

impl RecordGuard {
    fn record(&self) -> anyhow::Result<Record> {
        self.0.clone().context("the lab has been given away")
    }
}

impl Drop for RecordGuard {
    fn drop(&mut self) {
        let Some(record) = self.0.take() else {
            return;
        };
        if let Some(keep) = std::env::var_os("MIZZEN_KEEP_LOGS") {
            keep_logs(&record, Path::new(&keep));
        }
        if let Err(error) = record.remove() {
            eprintln!("the lab {} is not all gone: {error:#}", record.name);
        }
    }
}

/// Copies a lab's logs and configuration to `MIZZEN_KEEP_LOGS`, for looking at afterwards.
fn keep_logs(record: &Record, keep: &Path) {
    for part in ["logs", "config"] {
        let target = keep.join(&record.name).join(part);
        let copied = fs::create_dir_all(&target).and_then(|()| {
            for entry in fs::read_dir(record.dir.join(part))? {
                let entry = entry?;
                fs::copy(entry.path(), target.join(entry.file_name()))?;
            }
            Ok(())
        });
        if let Err(error) = copied {
            eprintln!("the {part} of lab {} are not kept: {error}", record.name);
        }
    }
}

/// What changes while a lab runs.
#[derive(Debug, Default)]
struct State {
    pods: Vec<Arc<Pod>>,
    services: Vec<LabService>,
    /// Lines that every hosts file has besides the services.
    extra_hosts: String,
    /// Pods made so far: indexes are not used twice.
    pods_made: u16,
    /// What the service proxy was last told.
    proxied: Vec<super::network::VirtualPort>,
}

/// A node with its pods. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    driver: Driver,
    place: Place,
    netns: NetNs,
    /// Holds the node's namespace.
    _pause: Process,
    state: Mutex<State>,
    record: RecordGuard,
}

impl Lab {
    /// A lab in the cgroupfs layout, unless told otherwise.
    pub fn builder() -> LabBuilder {
        LabBuilder {
            driver: Driver::Cgroupfs,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> &Record {
        self.record
            .0
            .as_ref()
            .expect("only `keep` takes the record, and it takes the lab too")
    }

    /// Unique name of this lab.
    pub fn name(&self) -> &str {
        &self.record().name
    }

    /// The lab's directory: configuration, hosts files, logs, sockets.
    pub fn dir(&self) -> &Path {
        &self.record().dir
    }

    /// The directory that the daemon is given as `--config`.
    pub fn config_dir(&self) -> PathBuf {
        self.dir().join("config")
    }

    /// Where the daemon pins its programs and maps.
    pub fn pins(&self) -> &Path {
        &self.record().pins
    }

    /// The pods' cgroup root, `--cgroup` of the daemon.
    pub fn pods_cgroup(&self) -> PathBuf {
        self.record().cgroup.join(self.driver.pods_root())
    }

    /// Layout of the cgroup tree.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// The node's own place: its namespace, outside the pods' cgroup.
    pub fn node_place(&self) -> &Place {
        &self.place
    }

    /// The node's network namespace.
    pub fn node_netns(&self) -> &NetNs {
        &self.netns
    }

    /// Adds a pod, starts its workload and publishes its objects.
    pub fn add_pod(&self, spec: PodSpec) -> anyhow::Result<Arc<Pod>> {
        let pod = self.create_pod(spec)?;
        self.announce_pod(&pod)?;
        pod.start_workload()?;
        Ok(pod)
    }

    /// Adds a pod whose objects are published only after its process has started.
    pub fn add_pod_unannounced(&self, spec: PodSpec) -> anyhow::Result<Arc<Pod>> {
        let pod = self.create_pod(spec)?;
        pod.start_workload()?;
        Ok(pod)
    }

    /// Publishes the objects of a pod that was added unannounced.
    pub fn announce_pod(&self, pod: &Arc<Pod>) -> anyhow::Result<()> {
        let mut state = self.state();
        state.pods.push(Arc::clone(pod));
        self.publish(&mut state)
    }

    fn create_pod(&self, spec: PodSpec) -> anyhow::Result<Arc<Pod>> {
        let (index, hosts) = {
            let mut state = self.state();
            state.pods_made += 1;
            let hosts = self.hosts_path(&spec.namespace);
            if !hosts.exists() {
                let text = hosts_file(&spec.namespace, &state.services, &state.extra_hosts);
                fs::write(&hosts, text)?;
            }
            // Index 0 is the network's own address, 1 the gateway's.
            (state.pods_made + 1, hosts)
        };
        let what = format!("pod {}/{}", spec.namespace, spec.name);
        let around = Surroundings {
            node: &self.place,
            lab_cgroup: &self.record().cgroup,
            driver: self.driver,
            hosts: &hosts,
            resolv: &self.dir().join("resolv.conf"),
            logs: &self.dir().join("logs"),
            index,
        };
        Ok(Arc::new(Pod::create(spec, &around).context(what)?))
    }

    /// Ends a pod and withdraws its objects.
    pub fn remove_pod(&self, pod: &Arc<Pod>) -> anyhow::Result<()> {
        let mut state = self.state();
        state.pods.retain(|other| !Arc::ptr_eq(other, pod));
        pod.remove()?;
        self.publish(&mut state)
    }

    /// Adds a service and gives it virtual addresses.
    pub fn add_service(&self, spec: ServiceSpec) -> anyhow::Result<Vec<IpAddr>> {
        let mut state = self.state();
        let index = u16::try_from(state.services.len() + 1).context("too many services")?;
        let addresses = service_addresses(spec.families, index);
        state.services.push(LabService {
            spec,
            addresses: addresses.clone(),
        });
        self.publish(&mut state)?;
        Ok(addresses)
    }

    /// The first virtual address of a service.
    pub fn service_address(&self, namespace: &str, name: &str) -> anyhow::Result<IpAddr> {
        self.service_addresses(namespace, name)?
            .first()
            .copied()
            .with_context(|| format!("the service {namespace}/{name} has no address"))
    }

    /// All virtual addresses of a service, IPv4 first.
    pub fn service_addresses(&self, namespace: &str, name: &str) -> anyhow::Result<Vec<IpAddr>> {
        self.state()
            .services
            .iter()
            .find(|service| service.spec.namespace == namespace && service.spec.name == name)
            .map(|service| service.addresses.clone())
            .with_context(|| format!("the lab has no service {namespace}/{name}"))
    }

    /// A pod by its name.
    pub fn pod(&self, namespace: &str, name: &str) -> anyhow::Result<Arc<Pod>> {
        self.state()
            .pods
            .iter()
            .find(|pod| pod.spec().namespace == namespace && pod.spec().name == name)
            .cloned()
            .with_context(|| format!("the lab has no pod {namespace}/{name}"))
    }

    /// Adds a name to every pod's hosts file.
    pub fn add_host(&self, name: &str, address: IpAddr) -> anyhow::Result<()> {
        let mut state = self.state();
        state.extra_hosts.push_str(&format!("{address} {name}\n"));
        self.publish(&mut state)
    }

    /// Brings objects, hosts files and the service proxy up to date.
    fn publish(&self, state: &mut State) -> anyhow::Result<()> {
        let mut namespaces: BTreeSet<String> = BTreeSet::from(["default".to_owned()]);
        namespaces.extend(state.pods.iter().map(|pod| pod.spec().namespace.clone()));
        namespaces.extend(
            state
                .services
                .iter()
                .map(|service| service.spec.namespace.clone()),
        );
        let namespaces: Vec<String> = namespaces.into_iter().collect();
        for namespace in &namespaces {
            let path = self.hosts_path(namespace);
            // In place: the pods see this very file through a bind mount.
            fs::write(
                path,
                hosts_file(namespace, &state.services, &state.extra_hosts),
            )?;
        }
        let proxied = virtual_ports(&state.services, &state.pods);
        if proxied != state.proxied || state.proxied.is_empty() {
            apply_service_proxy(&self.place, &proxied)?;
            state.proxied = proxied;
        }
        for (name, text) in [
            ("lab-cluster.yaml", cluster_yaml(&namespaces)),
            ("lab-services.yaml", services_yaml(&state.services)),
            (
                "lab-endpoints.yaml",
                endpoint_slices_yaml(&state.services, &state.pods),
            ),
            ("lab-pods.yaml", pods_yaml(&state.pods)),
        ] {
            if fs::read_to_string(self.config_dir().join(name))
                .ok()
                .as_deref()
                != Some(&text)
            {
                self.write_config(name, &text)?;
            }
        }
        Ok(())
    }

    fn hosts_path(&self, namespace: &str) -> PathBuf {
        self.dir().join("hosts").join(namespace)
    }

    /// Puts a file into the configuration directory, in one step (a rename).
    pub fn write_config(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        let draft = self.dir().join(format!("{name}.draft"));
        fs::write(&draft, yaml)?;
        fs::rename(&draft, self.config_dir().join(name))
            .with_context(|| format!("cannot write the configuration {name}"))
    }

    /// Removes a file from the configuration directory.
    pub fn remove_config(&self, name: &str) -> anyhow::Result<()> {
        fs::remove_file(self.config_dir().join(name))
            .with_context(|| format!("cannot remove the configuration {name}"))
    }

    /// Runs a command on the node, outside the pods.
    pub fn run_on_node(&self, command: &[&str]) -> anyhow::Result<Finished> {
        run_in(&self.place, command)
    }

    /// Runs a command at any place to its end.
    pub fn run_at(&self, place: &Place, command: &[&str]) -> anyhow::Result<Finished> {
        run_in(place, command)
    }

    /// Starts `mizzen-workload` on the node, outside the pods.
    pub fn spawn_on_node(&self, name: &str, args: &[&str]) -> anyhow::Result<Process> {
        let mut command = self.place.command(workload_binary()?)?;
        command.args(args);
        Process::start(command, &self.dir().join(format!("logs/node.{name}.log")))
    }

    /// Leaves the lab running after its owner's end.
    ///
    /// [`sweep_leftovers`] with `kept`, or [`super::remove_lab`], removes it later.
    pub fn keep(mut self) -> anyhow::Result<()> {
        if let Some(mut record) = self.record.0.take() {
            record.is_kept = true;
            record.save()?;
        }
        // Dropping the handles would end the processes that are to stay.
        std::mem::forget(self);
        Ok(())
    }
}

/// Mounts bpffs where it belongs, if nobody has.
fn mount_bpffs() -> anyhow::Result<()> {
    const BPFFS: &str = "/sys/fs/bpf";
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    if mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("bpf"))
    {
        return Ok(());
    }
    rustix::mount::mount(
        "bpf",
        BPFFS,
        "bpf",
        rustix::mount::MountFlags::empty(),
        None,
    )
    .with_context(|| format!("cannot mount bpffs at {BPFFS} (needs root)"))
}
