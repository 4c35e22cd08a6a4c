//! A namespace and a cgroup of our own: one pod, two versions of a server, an echo server, and
//! direct servers where the virtual addresses of the tests are.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::*;
use crate::snapshot::{
    KernelView,
    clusters::ClusterKey,
    endpoints::{Endpoint, EndpointCell, EndpointSet, Health, Workload},
    kernel_view::{
        KernelAction, KernelBalancer, KernelCluster, KernelKey, KernelPlan, KernelScope,
        KernelService, SplitEntry, SplitTarget,
    },
};

pub(super) const VIP4: &str = "10.96.0.1";
pub(super) const VIP6: &str = "fd00:96::1";
pub(super) const HEARTBEAT_MAX: Duration = Duration::from_secs(2);
/// A port of the node's own services.
pub(super) const GUARDED: u16 = 7;
const BACKLOG: i32 = 8;

/// Root, the object and a cgroup2 tree; says loudly what is missing.
pub(super) fn can_run() -> bool {
    let missing = if !is_object_embedded() {
        "no eBPF object in this build; run cargo xtask build"
    } else if !rustix::process::geteuid().is_root() {
        "not root"
    } else if cgroup_root().is_none() {
        "no cgroup2 file system"
    } else {
        return true;
    };
    eprintln!("SKIPPED: {missing}");
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must run this test: {missing}"
    );
    false
}

fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// Whether this process runs the test `name` alone. If not, one that does is started and must
/// succeed.
pub(super) fn is_alone(name: &str) -> bool {
    const ALONE: &str = "MIZZEN_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let program = std::env::current_exe().expect("this program");
    let status = std::process::Command::new(program)
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .status()
        .expect("it starts");
    assert!(status.success(), "{name}: {status}");
    false
}

/// Runs `body` in a thread with a network namespace of its own; its threads and children inherit it.
pub(super) fn in_new_namespace(body: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        // SAFETY: only this thread moves into a new namespace.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        for line in [
            "link set lo up",
            "link add wan type veth peer name far",
            "link set far up",
            "link set wan up",
            "addr add 10.0.0.9/24 dev wan",
            "addr add fd00::9/64 dev wan nodad",
            "route add default via 10.0.0.1",
            "route add default via fd00::1",
        ] {
            ip(line);
        }
        for last in [11, 12, 13, 20, 21] {
            ip(&format!("addr add 10.0.0.{last}/32 dev lo"));
        }
        ip("addr add fd00::11/128 dev lo nodad");
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `body` in an empty namespace, as a process does that makes its own.
pub(super) fn in_another_namespace(body: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        // SAFETY: as in `in_new_namespace`.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        body();
    });
    thread.join().expect("no panic");
}

fn ip(line: &str) {
    run(&format!("ip {line}"));
}

/// Runs a command, which must succeed.
pub(super) fn run(line: &str) {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let status = Command::new(program)
        .args(words)
        .status()
        .expect("iproute2 and nftables are installed");
    assert!(status.success(), "{line}");
}

pub(super) fn options(name: &str) -> KernelOptions {
    let id = std::process::id();
    KernelOptions {
        cgroup: cgroup_root()
            .unwrap_or_default()
            .join(format!("mzebpf-{name}-{id}")),
        pins: PathBuf::from(format!("/sys/fs/bpf/mzebpf-{name}-{id}")),
        stale_after: Duration::from_secs(60),
        heartbeat_max: HEARTBEAT_MAX,
        is_strict: false,
        host_netns: NetnsCookie(0),
        guarded_ports: vec![GUARDED],
    }
}

/// The running daemon's part, or none.
pub(super) struct Slot(Option<Kernel>);

impl std::ops::Deref for Slot {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        self.0.as_ref().expect("the daemon runs")
    }
}

/// Kernel ids of the pinned links.
pub(super) fn pinned_link_ids(lab: &Lab) -> Vec<String> {
    let links = proxy_common::map::PROGRAMS
        .iter()
        .map(|name| lab.options.pins.join("links").join(name));
    links
        .map(|path| {
            let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("no nul");
            let link = sys::open_pin(&path).expect("it is pinned");
            let info = format!(
                "/proc/self/fdinfo/{}",
                std::os::fd::AsRawFd::as_raw_fd(&link)
            );
            let info = fs::read_to_string(info).expect("procfs");
            info.lines()
                .find(|line| line.starts_with("link_id"))
                .expect("a link")
                .to_owned()
        })
        .collect()
}

pub(super) struct Lab {
    pub(super) options: KernelOptions,
    pub(super) kernel: Slot,
    pub(super) original_dsts: Arc<dyn OriginalDstSource>,
    pub(super) pod: PodEntry,
    pub(super) netns: NetnsCookie,
    pub(super) cgroup_id: u64,
    pub(super) listener_v4: TcpListener,
    pub(super) listener_v6: TcpListener,
    home: PathBuf,
    is_beating: Arc<AtomicBool>,
}

impl Lab {
    pub(super) fn new(name: &str) -> Self {
        let mut options = options(name);
        let pod_cgroup = options.cgroup.join("pod");
        fs::create_dir_all(&pod_cgroup).expect("a cgroup");
        let home = own_cgroup();
        fs::write(pod_cgroup.join("cgroup.procs"), "0").expect("this process moves");
        for (address, text) in [
            ("10.0.0.11:9000", "v1"),
            ("10.0.0.12:9000", "v2"),
            ("10.0.0.20:80", "direct"),
            ("10.0.0.20:81", "direct"),
            ("10.0.0.21:80", "direct"),
        ] {
            serve(address, text);
        }
        serve("[fd00::11]:9000", "v1");
        serve("10.0.0.12:80", "direct");
        serve("10.0.0.13:7", "");
        let listener_v4 = listener("127.0.0.1:15001");
        let listener_v6 = listener("[::1]:15001");
        let netns = netns_cookie(&listener_v4);
        let pod = PodEntry {
            id: PodId::namespace(netns.0),
            netns,
            scope: "shop".into(),
            worker: 3,
            is_ready: true,
            addresses: vec![
                "10.0.0.9".parse().expect("an address"),
                "fd00::9".parse().expect("an address"),
            ],
            listener_v4: Some(15001),
            listener_v6: Some(15001),
            has_way_out_v4: true,
            has_way_out_v6: true,
            on_proxy_down: OnProxyDown::Degrade,
            exclusions: Exclusions::default(),
        };
        options.host_netns = netns;
        let kernel = Kernel::open(&options).expect("the object loads");
        let lab = Self {
            original_dsts: kernel.original_dsts(),
            kernel: Slot(Some(kernel)),
            cgroup_id: inode(&pod_cgroup),
            options,
            pod,
            netns,
            listener_v4,
            listener_v6,
            home,
            is_beating: Arc::new(AtomicBool::new(false)),
        };
        lab.sync(&lab.view());
        lab.register();
        lab.kernel.attach().expect("attached");
        lab
    }

    /// The pod, its listeners, its worker's heartbeat.
    pub(super) fn register(&self) {
        self.upsert(&self.pod);
        for (family, listener) in [
            (Family::V4, &self.listener_v4),
            (Family::V6, &self.listener_v6),
        ] {
            self.kernel
                .set_listener(self.pod.id, family, listener.as_fd())
                .expect("room");
        }
        if !self.is_beating.load(Ordering::Relaxed) {
            self.start_heartbeat(self.kernel.heartbeat(self.pod.worker).expect("room"));
        }
    }

    /// After a failed check: what queued is taken, so that the next one starts clean.
    pub(super) fn drain(&mut self) {
        if self.kernel.0.is_none() {
            self.open();
        }
        for listener in [&self.listener_v4, &self.listener_v6] {
            listener.set_nonblocking(true).expect("a flag");
            while let Ok((_, peer)) = listener.accept() {
                let _ = self.take(peer);
            }
            listener.set_nonblocking(false).expect("a flag");
        }
        self.register();
        self.sync(&self.view());
    }

    /// As the pod's worker takes an accepted connection.
    pub(super) fn take(&self, client: SocketAddr) -> Option<CapturedDst> {
        self.take_as(self.pod.id, client)
    }

    pub(super) fn take_as(&self, pod: PodId, client: SocketAddr) -> Option<CapturedDst> {
        self.original_dsts.take(&Accepted {
            pod,
            netns: self.netns,
            listener: 15001,
            listening_since_ns: 0,
            client,
        })
    }

    pub(super) fn upsert(&self, pod: &PodEntry) {
        self.kernel.upsert_pod(pod).expect("room");
    }

    pub(super) fn sync(&self, view: &KernelView) {
        let report = self.kernel.sync(view);
        assert_eq!(report.problems, []);
    }

    pub(super) fn start_heartbeat(&self, heartbeat: Box<dyn Heartbeat>) {
        heartbeat.beat();
        self.is_beating.store(true, Ordering::Relaxed);
        let is_beating = Arc::clone(&self.is_beating);
        thread::spawn(move || {
            while is_beating.load(Ordering::Relaxed) {
                heartbeat.beat();
                thread::sleep(Duration::from_millis(50));
            }
        });
    }

    /// Stops the beats; the handle starts them again.
    pub(super) fn stop_heartbeat(&self) -> Box<dyn Heartbeat> {
        let handle = self.kernel.heartbeat(self.pod.worker).expect("room");
        self.is_beating.store(false, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(60));
        handle
    }

    pub(super) fn reasons(&self) -> Vec<(Reason, u64)> {
        self.kernel.reasons().expect("the counters")
    }

    pub(super) fn live_count(&self, live_id: u32) -> u64 {
        self.kernel.live_count(live_id)
    }

    /// The daemon goes without a word; pins stay.
    pub(super) fn crash(&mut self) {
        self.is_beating.store(false, Ordering::Relaxed);
        self.kernel = Slot(None);
    }

    pub(super) fn open(&mut self) {
        let kernel = Kernel::open(&self.options).expect("pins are adopted");
        self.original_dsts = kernel.original_dsts();
        self.is_beating = Arc::new(AtomicBool::new(false));
        self.kernel = Slot(Some(kernel));
    }

    /// Services of the tests, by last byte of their address.
    pub(super) fn view(&self) -> KernelView {
        let proxy = |degraded| KernelPlan {
            action: KernelAction::Proxy,
            degraded,
            deny_when_stale: false,
        };
        let balanced = |shares: &[(u32, SplitTarget)]| {
            let entries = shares.iter().map(|(weight, target)| SplitEntry {
                weight: *weight,
                target: *target,
            });
            KernelAction::Split(entries.collect())
        };
        let plain = |action| KernelPlan {
            action,
            degraded: KernelAction::Pass,
            deny_when_stale: false,
        };
        let versions = balanced(&[(80, SplitTarget::Cluster(0)), (20, SplitTarget::Cluster(1))]);
        let v1 = balanced(&[(1, SplitTarget::Cluster(0))]);
        let service = |address: &str, name: &str, plan: KernelPlan, by_kubernetes: bool| {
            let address: SocketAddr = address.parse().expect("an address");
            KernelService {
                key: KernelKey::Exact(address.ip(), address.port()),
                name: name.into(),
                plan: Some(plan),
                is_routed_by_kubernetes: by_kubernetes,
            }
        };
        KernelView {
            scopes: vec![KernelScope {
                key: "shop".into(),
                is_registry_only: false,
            }],
            services: vec![
                service("10.96.0.1:80", "http", proxy(KernelAction::Pass), false),
                service("[fd00:96::1]:80", "http6", proxy(KernelAction::Pass), false),
                service("10.96.0.2:80", "split", plain(versions.clone()), false),
                service("[fd00:96::2]:80", "split6", plain(versions.clone()), false),
                service(
                    "10.96.0.3:80",
                    "missing",
                    plain(balanced(&[(1, SplitTarget::Refuse)])),
                    false,
                ),
                service("10.96.0.4:80", "denied", plain(KernelAction::Refuse), false),
                service(
                    "10.96.0.5:7",
                    "echo",
                    plain(balanced(&[(1, SplitTarget::Cluster(2))])),
                    false,
                ),
                service("10.96.0.6:80", "degrades", proxy(v1), false),
                service("10.96.0.7:80", "denies", proxy(KernelAction::Refuse), false),
                service("10.0.0.20:80", "direct", proxy(KernelAction::Pass), true),
                service("10.0.0.21:80", "stale", plain(versions), true),
            ],
            overrides: Vec::new(),
            clusters: vec![
                cluster("v1", "10.0.0.11:9000", KernelBalancer::RoundRobin),
                cluster("v2", "10.0.0.12:9000", KernelBalancer::Random),
                cluster("echo", "10.0.0.13:7", KernelBalancer::LeastRequest),
            ],
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.is_beating.store(false, Ordering::Relaxed);
        // A failed test leaves as little as a passed one.
        let _ = cleanup(&self.options.pins);
        let _ = fs::write(self.home.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(self.options.cgroup.join("pod"));
        let _ = fs::remove_dir(&self.options.cgroup);
    }
}

pub(super) fn cluster(name: &str, address: &str, balancer: KernelBalancer) -> KernelCluster {
    let endpoint = Endpoint {
        address: address.parse().expect("an address"),
        weight: 1,
        health: Health::Healthy,
        priority: 0,
        workload: Arc::new(Workload::default()),
    };
    KernelCluster {
        key: ClusterKey {
            name: name.into(),
            variant: "".into(),
        },
        balancer,
        endpoints: Arc::new(EndpointCell::new(EndpointSet {
            endpoints: vec![endpoint],
        })),
        keepalive: None,
    }
}

/// The cgroup2 directory that this process is in.
fn own_cgroup() -> PathBuf {
    let line = fs::read_to_string("/proc/self/cgroup").expect("procfs");
    let path = line
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .expect("a cgroup2 entry");
    cgroup_root().expect("a cgroup2 mount").join(path)
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("it is there"))
}

/// Counters that moved, each as often as it did, in the order of their numbers; refusals are
/// counted twice by design and shown once.
pub(super) fn counted(lab: &Lab, before: &[(Reason, u64)]) -> Vec<Reason> {
    let after = lab.reasons();
    let moved = after
        .iter()
        .zip(before)
        .flat_map(|((reason, after), (_, before))| {
            std::iter::repeat_n(*reason, usize::try_from(after - before).expect("few"))
        });
    moved.filter(|reason| *reason != Reason::Refused).collect()
}

pub(super) fn sock_addr(address: &str) -> SockAddr {
    address.parse::<SocketAddr>().expect("an address").into()
}

pub(super) fn dial(address: &str) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(
        &address.parse().expect("an address"),
        Duration::from_secs(2),
    )
}

pub(super) fn dial_from(source: &str, address: &str) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&sock_addr(source))?;
    socket.connect_timeout(&sock_addr(address), Duration::from_secs(2))?;
    Ok(socket.into())
}

/// What a server says.
pub(super) fn reply(client: io::Result<TcpStream>) -> String {
    let mut client = client.expect("connected");
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("an option");
    let mut text = String::new();
    client
        .read_to_string(&mut text)
        .expect("the server answers");
    text
}

/// Connects and sends in one call (`MSG_FASTOPEN`).
pub(super) fn send_fast_open(socket: &Socket, address: &str) {
    socket
        .send_to_with_flags(b"early", &sock_addr(address), libc::MSG_FASTOPEN)
        .expect("sent");
}

/// Says `text` to everybody; empty: echoes.
fn serve(address: &str, text: &'static str) {
    let listener = TcpListener::bind(address).expect("a free address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else {
                return;
            };
            thread::spawn(move || {
                if text.is_empty() {
                    let mut reader = stream.try_clone().expect("a descriptor");
                    let _ = io::copy(&mut reader, &mut stream);
                } else {
                    let _ = stream.write_all(text.as_bytes());
                }
            });
        }
    });
}

fn listener(address: &str) -> TcpListener {
    let domain = if address.starts_with('[') {
        Domain::IPV6
    } else {
        Domain::IPV4
    };
    let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
    socket.bind(&sock_addr(address)).expect("a free port");
    socket.listen(BACKLOG).expect("it listens");
    // A connection that does not come must fail the test, not hang it.
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("an option");
    socket.into()
}

fn netns_cookie(socket: &TcpListener) -> NetnsCookie {
    let (mut cookie, mut len) = (0_u64, 8);
    // SAFETY: value and length are valid, and the option writes eight bytes.
    let result = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    NetnsCookie(cookie)
}
