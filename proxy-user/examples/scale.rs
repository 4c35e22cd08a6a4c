//! How long a large mesh takes: generates it, reads it, compiles it, prints times and memory.
//!
//! `cargo run --release -p proxy-user --example scale -- [services] [endpoints per service]
//! [virtual services] [scopes]`, by default 10,000, 10, 5,000 and 200.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use proxy_user::compile::{compile, compile_endpoints};
use proxy_user::settings::{CompileSettings, MeshSettings, NamespaceBudget, OnProxyDown};
use proxy_user::source::state::{DirectoryState, FileText, Files};

struct Size {
    services: usize,
    endpoints: usize,
    virtual_services: usize,
    scopes: usize,
}

fn size() -> Size {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().ok());
    let mut next = |default| numbers.next().flatten().unwrap_or(default);
    Size {
        services: next(10_000),
        endpoints: next(10),
        virtual_services: next(5_000),
        scopes: next(200),
    }
}

/// The kinds by file. Every fourth service is TCP, every namespace has a DestinationRule
/// of its own, and one VirtualService in ten is private.
fn mesh(size: &Size) -> Files {
    let mut texts = [const { String::new() }; 5];
    let [services, slices, pods, routes, rules] = &mut texts;
    let write = |out: &mut String, text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "---\n{text}");
    };
    for service in 0..size.services {
        let namespace = service % size.scopes;
        let (a, b) = (service / 250, service % 250 + 1);
        let name = if service % 4 == 3 { "tcp" } else { "http" };
        write(
            services,
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: s{service}, namespace: ns{namespace}}}\n\
             spec: {{clusterIP: 10.{a}.0.{b}, ports: [{{name: {name}, port: 80, targetPort: 8080}}]}}"
            ),
        );
        let mut endpoints = String::new();
        for endpoint in 0..size.endpoints {
            let number = service * size.endpoints + endpoint;
            let (x, y, z) = (number / 62_500, number / 250 % 250, number % 250 + 1);
            let ip = format!("11.{x}.{y}.{z}");
            let node = if number < size.scopes {
                "here"
            } else {
                "there"
            };
            let namespace = if number < size.scopes {
                number
            } else {
                namespace
            };
            let _ = writeln!(
                endpoints,
                "- {{addresses: [{ip}], targetRef: {{kind: Pod, namespace: ns{namespace}, \
                 name: p{number}}}}}"
            );
            write(
                pods,
                format!(
                    "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}, namespace: ns{namespace}, uid: u{number}, \
                 labels: {{app: s{service}, version: v{}}}}}\n\
                 spec: {{nodeName: {node}}}\nstatus: {{podIPs: [{{ip: {ip}}}]}}",
                    endpoint % 2 + 1
                ),
            );
        }
        write(
            slices,
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{service}, \
             namespace: ns{namespace}, labels: {{kubernetes.io/service-name: s{service}}}}}\n\
             addressType: IPv4\nports: [{{name: {name}, port: 8080}}]\nendpoints:\n{endpoints}"
            ),
        );
    }
    for number in 0..size.virtual_services {
        let service = number % size.services.max(1);
        let namespace = service % size.scopes;
        let export = if number % 10 == 0 { "." } else { "*" };
        let section = if service % 4 == 3 { "tcp" } else { "http" };
        write(
            routes,
            format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{name: v{number}, namespace: ns{namespace}}}\n\
             spec:\n  hosts: [s{service}]\n  exportTo: ['{export}']\n  {section}:\n  - route:\n    \
             - {{destination: {{host: s{service}, subset: v1}}, weight: 90}}\n    \
             - {{destination: {{host: s{service}, subset: v2}}, weight: 10}}"
            ),
        );
        write(
            rules,
            format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
             metadata: {{name: d{number}, namespace: ns{namespace}}}\n\
             spec:\n  host: s{service}\n  subsets:\n  - {{name: v1, labels: {{version: v1}}}}\n  \
             - {{name: v2, labels: {{version: v2}}}}"
            ),
        );
    }
    let names = ["services", "slices", "pods", "routes", "rules"];
    let files = names.into_iter().zip(texts);
    files
        .map(|(name, text)| {
            (
                Arc::from(format!("{name}.yaml")),
                FileText::from(text.as_str()),
            )
        })
        .collect()
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

/// Another endpoint list for the first service, in a file of its own.
const CHANGED: &str = "one-slice.yaml";

fn changed_slice(address: &str) -> FileText {
    FileText::from(
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: extra, \
             namespace: ns0, labels: {{kubernetes.io/service-name: s0}}}}\naddressType: IPv4\n\
             ports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [{address}]}}]\n"
        )
        .as_str(),
    )
}

fn main() {
    let size = size();
    let mut files = mesh(&size);
    files.insert(Arc::from(CHANGED), changed_slice("12.0.0.1"));
    let settings = CompileSettings {
        node: "here".to_owned(),
        mesh: MeshSettings::default(),
        on_proxy_down: OnProxyDown::Degrade,
        is_capture_labelled: false,
        capture_host_network: false,
        accept_unenforced_policies: false,
        namespace_budget: NamespaceBudget::default(),
    };
    println!("{:40} {:>6} MB", "generated", resident_mb());
    let start = Instant::now();
    let mut state = DirectoryState::new();
    let loaded = state.apply(&files);
    println!(
        "{:40} {:>6} MB {:?}",
        format!(
            "read {} objects, {} findings",
            loaded.objects.len(),
            loaded.findings.len()
        ),
        resident_mb(),
        start.elapsed()
    );
    for turn in ["first", "second"] {
        let start = Instant::now();
        let compiled = compile(&loaded.objects, &settings);
        let snapshot = &compiled.snapshot;
        assert_eq!(compiled.overspent, [], "within the default budget");
        println!(
            "{:40} {:>6} MB {:?}",
            format!(
                "{turn} compile: {} clusters, {} scopes, {} kernel entries, {} overrides, {} findings",
                snapshot.clusters.len(),
                snapshot.scopes.len(),
                snapshot.kernel.services.len(),
                snapshot.kernel.overrides.len(),
                compiled.findings.len()
            ),
            resident_mb(),
            start.elapsed()
        );
    }
    let compiled = compile(&loaded.objects, &settings);
    for file in files.values_mut() {
        *file = FileText::Unchanged;
    }
    for turn in 2..5 {
        files.insert(Arc::from(CHANGED), changed_slice(&format!("12.0.0.{turn}")));
        let start = Instant::now();
        let next = state.apply(&files);
        let read = start.elapsed();
        let start = Instant::now();
        let change = compile_endpoints(
            &loaded.objects,
            &next.objects,
            &settings,
            &compiled.endpoints,
            &compiled.findings,
        );
        let sets = change.map_or(0, |change| change.sets.len());
        println!(
            "{:40} {:>6} MB {:?} (the objects in force: {read:?})",
            format!("one EndpointSlice: {sets} endpoint sets"),
            resident_mb(),
            start.elapsed()
        );
    }
}
