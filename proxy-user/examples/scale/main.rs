//! What a large mesh costs: generates it, reads it, compiles it, changes one object at a
//! time, and prints times and memory after each step.
//!
//! `cargo run --release -p proxy-user --example scale -- [services] [endpoints per service]
//! [virtual services] [namespaces]`, by default 10,000, 10, 5,000 and 200. As root, and with the
//! eBPF object built by `cargo xtask build`, also the kernel's maps, below a pin directory of
//! its own that is removed again; nothing is attached.

mod mesh;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::{Size, Version};
use proxy_user::api::ObjectSet;
use proxy_user::compile::{EndpointIndex, compile, compile_endpoints};
use proxy_user::finding::Finding;
use proxy_user::kernel::{Kernel, KernelError, KernelMaps, KernelOptions, cleanup};
use proxy_user::net::NetnsCookie;
use proxy_user::node::memory;
use proxy_user::settings::{CompileSettings, MeshSettings, NamespaceBudget, OnProxyDown};
use proxy_user::snapshot::{Publisher, Snapshot};
use proxy_user::source::state::{DirectoryState, FileText, Files, Loaded};

fn size() -> Size {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().ok());
    let mut next = |default| numbers.next().flatten().unwrap_or(default);
    Size {
        services: next(10_000),
        endpoints: next(10),
        virtual_services: next(5_000),
        namespaces: next(200),
    }
}

/// The daemon's stages from texts to the snapshot, and the kernel's maps if they can be had.
struct Stages {
    settings: CompileSettings,
    state: DirectoryState,
    publisher: Publisher,
    kernel: Option<Kernel>,
    in_force: Option<InForce>,
    /// CPU time of this process when the last step was done.
    cpu: Duration,
}

/// What the last step came to.
struct InForce {
    objects: ObjectSet,
    snapshot: Arc<Snapshot>,
    endpoints: EndpointIndex,
    findings: Vec<Finding>,
}

impl Stages {
    fn new(kernel: Option<Kernel>) -> Self {
        Self {
            settings: CompileSettings {
                node: "here".to_owned(),
                mesh: MeshSettings::default(),
                on_proxy_down: OnProxyDown::Degrade,
                is_capture_labelled: false,
                capture_host_network: false,
                accept_unenforced_policies: false,
                namespace_budget: NamespaceBudget::default(),
            },
            state: DirectoryState::new(),
            publisher: Publisher::new(Snapshot::default()).0,
            kernel,
            in_force: None,
            cpu: Duration::ZERO,
        }
    }

    /// Brings the texts into force, and prints what each stage took.
    fn apply(&mut self, what: &str, files: Files) {
        let start = Instant::now();
        let Loaded {
            objects, findings, ..
        } = self.state.apply(&files);
        drop(files);
        println!(
            "{what}\n    read {} objects, {} findings in {:.1?}, {} resident",
            objects.len(),
            findings.len(),
            start.elapsed(),
            resident(),
        );
        if !self.swap_endpoints(&objects) {
            self.compile(objects);
        }
        let cpu = cpu_time().saturating_sub(self.cpu);
        println!(
            "    in force after {:.1?}, {cpu:.1?} of CPU",
            start.elapsed()
        );
        self.cpu = cpu_time();
    }

    /// Endpoints alone; `false` if there is more to it.
    fn swap_endpoints(&mut self, objects: &ObjectSet) -> bool {
        let start = Instant::now();
        let Some(in_force) = &mut self.in_force else {
            return false;
        };
        let change = compile_endpoints(
            &in_force.objects,
            objects,
            &self.settings,
            &in_force.endpoints,
            &in_force.findings,
        );
        let Some(change) = change else {
            return false;
        };
        let view = &in_force.snapshot.kernel;
        let mut changed = Vec::new();
        for (cell, set) in change.sets {
            let of_cell = view.clusters.iter().enumerate();
            let of_cell = of_cell.filter(|(_, cluster)| Arc::ptr_eq(&cluster.endpoints, &cell));
            changed.extend(of_cell.map(|(index, _)| index));
            cell.store(set);
        }
        if let Some(kernel) = &self.kernel {
            kernel.sync_endpoints(view, &changed);
        }
        in_force.objects = objects.clone();
        in_force.findings = change.findings;
        println!("    endpoints swapped in {:.1?}", start.elapsed());
        true
    }

    fn compile(&mut self, objects: ObjectSet) {
        let start = Instant::now();
        let compiled = compile(&objects, &self.settings);
        assert_eq!(compiled.overspent, [], "within the default budget");
        println!(
            "    compiled {} clusters, {} scopes, {} findings in {:.1?}, {} resident",
            compiled.snapshot.clusters.len(),
            compiled.snapshot.scopes.len(),
            compiled.findings.len(),
            start.elapsed(),
            resident(),
        );
        let snapshot = self.publisher.publish(compiled.snapshot);
        if let Some(kernel) = &self.kernel {
            let start = Instant::now();
            let report = kernel.sync(&snapshot.kernel);
            println!(
                "    kernel: {} entries written, {} removed in {:.1?}",
                report.written,
                report.removed,
                start.elapsed()
            );
        }
        self.in_force = Some(InForce {
            objects,
            snapshot,
            endpoints: compiled.endpoints,
            findings: compiled.findings,
        });
        let start = Instant::now();
        memory::return_free_memory();
        println!(
            "    free memory returned in {:.1?}, {} resident",
            start.elapsed(),
            resident(),
        );
    }
}

/// A new text of one file; all others are as they were.
fn one_changed(size: &Size, kind: &str, text: &str) -> Files {
    let mut files: Files = (0..size.namespaces)
        .flat_map(|namespace| {
            ["services", "slices", "pods", "routes", "rules"]
                .map(|kind| (mesh::file_name(namespace, kind), FileText::Unchanged))
        })
        .collect();
    files.insert(mesh::file_name(0, kind), FileText::from(text));
    files
}

/// Resident memory, from `/proc/self/status`.
fn resident() -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kilobytes = kilobytes.and_then(|text| text.trim().parse::<u64>().ok());
    format!("{} MB", kilobytes.unwrap_or(0) / 1024)
}

/// CPU time of all threads of this process, in ticks of 10 ms.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, may have spaces; user and system time are fields 14 and 15.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// The kernel's maps below `pins`; nothing is attached, so that any cgroup will do.
fn kernel(pins: &Path) -> Result<Kernel, KernelError> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let cgroup = mounts.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let path = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    Kernel::open(&KernelOptions {
        cgroup: cgroup.unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup")),
        pins: pins.to_owned(),
        stale_after: Duration::from_secs(60),
        heartbeat_max: Duration::from_secs(3),
        is_strict: false,
        host_netns: NetnsCookie(1),
        guarded_ports: Vec::new(),
    })
}

/// Memory of all maps that this process has open, by the kernel's own count.
fn map_bytes() -> u64 {
    let mut maps = std::collections::BTreeMap::new();
    let entries = std::fs::read_dir("/proc/self/fdinfo").into_iter().flatten();
    for entry in entries.flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    maps.values().sum()
}

fn print_maps(kernel: &Kernel) {
    println!("kernel maps: {} MB", map_bytes() >> 20);
    for fill in kernel.fills() {
        if fill.entries > 0 {
            println!(
                "    {:14} {:>7} of {:>9} entries",
                fill.name, fill.entries, fill.entries_max
            );
        }
    }
}

fn main() {
    let size = size();
    let pins = PathBuf::from(format!("/sys/fs/bpf/mizzen-scale-{}", std::process::id()));
    let kernel = match kernel(&pins) {
        Ok(kernel) => Some(kernel),
        Err(error) => {
            println!("without kernel maps: {error}");
            None
        }
    };
    let mut stages = Stages::new(kernel);
    let mut version = Version {
        is_endpoint_gone: false,
        weight: 90,
    };
    let files = mesh::files(&size, version);
    println!("generated, {} resident", resident());
    stages.cpu = cpu_time();
    stages.apply("everything", files);
    if let Some(kernel) = &stages.kernel {
        print_maps(kernel);
    }
    for weight in [80, 70, 60] {
        version.is_endpoint_gone = !version.is_endpoint_gone;
        let slices = one_changed(&size, "slices", &mesh::slices(&size, version, 0));
        stages.apply("one EndpointSlice", slices);
        version.weight = weight;
        let routes = one_changed(&size, "routes", &mesh::routes(&size, version, 0));
        stages.apply("one VirtualService", routes);
    }
    println!("steady, {} resident", resident());
    drop(stages);
    if let Err(error) = cleanup(&pins) {
        println!("cannot remove {}: {error}", pins.display());
    }
}
