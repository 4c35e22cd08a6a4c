//! What a large mesh costs: generates it, reads it, compiles it, changes one object at a
//! time, and prints times and memory after each step.
//!
//! `cargo run --release -p proxy-user --example scale -- [services] [endpoints per service]
//! [virtual services] [namespaces]`, by default 10,000, 10, 5,000 and 200. As root, and with the
//! eBPF object built by `cargo xtask build`, also the kernel's maps, below a pin directory of
//! its own that is removed again; nothing is attached.

mod mesh;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mesh::{Size, Version};
use proxy_user::api::ObjectSet;
use proxy_user::compile::{WithinBudget, compile_within_budget};
use proxy_user::kernel::{Kernel, KernelError, KernelMaps, KernelOptions, cleanup};
use proxy_user::node::memory;
use proxy_user::settings::{CompileSettings, MeshSettings, NamespaceBudget, OnProxyDown};
use proxy_user::snapshot::{Publisher, Snapshot};
use proxy_user::source::state::{DirectoryState, FileText, Files};

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
    in_force: ObjectSet,
    publisher: Publisher,
    kernel: Option<Kernel>,
    /// CPU time of this process when the last step was done.
    cpu: Duration,
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
            in_force: ObjectSet::default(),
            publisher: Publisher::new(Snapshot::default()).0,
            kernel,
            cpu: Duration::ZERO,
        }
    }

    /// Brings the texts into force, and prints what each stage took.
    fn apply(&mut self, what: &str, files: Files) {
        let start = Instant::now();
        let loaded = self.state.apply(&files);
        drop(files);
        let read_time = start.elapsed();
        let read_mb = resident_mb();
        let start = Instant::now();
        let WithinBudget { compiled, objects } =
            compile_within_budget(&loaded.objects, &self.in_force, &self.settings);
        self.in_force = objects;
        let snapshot = self.publisher.publish(compiled.snapshot);
        let compile_time = start.elapsed();
        println!(
            "{what}: read {} objects, {} findings, {} in {read_time:.1?}; compiled {} clusters, \
             {} scopes, {} findings, {} in {compile_time:.1?}",
            loaded.objects.len(),
            loaded.findings.len(),
            megabytes(read_mb),
            snapshot.clusters.len(),
            snapshot.scopes.len(),
            compiled.findings.len(),
            megabytes(resident_mb()),
        );
        assert_eq!(compiled.overspent, [], "within the default budget");
        let mut in_force_time = read_time + compile_time;
        if let Some(kernel) = &self.kernel {
            let start = Instant::now();
            let report = kernel.sync(&snapshot.kernel);
            in_force_time += start.elapsed();
            println!(
                "    kernel: {} entries written, {} removed in {:.1?}",
                report.written,
                report.removed,
                start.elapsed()
            );
        }
        let cpu = cpu_time().saturating_sub(self.cpu);
        println!("    in force after {in_force_time:.1?}, {cpu:.1?} of CPU");
        drop((loaded, snapshot));
        let start = Instant::now();
        memory::return_free_memory();
        println!(
            "    {} after returning free memory in {:.1?}",
            megabytes(resident_mb()),
            start.elapsed()
        );
        self.cpu = cpu_time();
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

/// Resident memory in MB, from `/proc/self/status`.
fn resident_mb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB"));
    kilobytes
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
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

fn megabytes(count: u64) -> String {
    format!("{count} MB resident")
}

fn kernel(pins: &PathBuf) -> Result<Kernel, KernelError> {
    Kernel::open(&KernelOptions {
        cgroup: PathBuf::from("/sys/fs/cgroup/unified"),
        pins: pins.clone(),
        stale_after: Duration::from_secs(60),
        heartbeat_max: Duration::from_secs(3),
        is_strict: false,
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
    println!("generated, {}", megabytes(resident_mb()));
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
    println!("steady, {}", megabytes(resident_mb()));
    drop(stages);
    if let Err(error) = cleanup(&pins) {
        println!("cannot remove {}: {error}", pins.display());
    }
}
