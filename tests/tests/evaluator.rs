//! The proxy and `explain` against the naive evaluator, over generated meshes.
//!
//! Everything runs in this process: endpoints and service addresses are loopback
//! addresses, one echo server answers on all of them, and captured destinations are
//! handed to the worker by a table instead of the kernel.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use mizzen_tests::evaluator::generate::{self, Ports};
use mizzen_tests::evaluator::model::{Client, Mesh, Request};
use mizzen_tests::evaluator::naive::{Outcome, Share, evaluate};
use mizzen_tests::evaluator::yaml;
use proxy_common::pod::PodId;
use proxy_user::admin::explain_query;
use proxy_user::admin::view::ExplainQuery;
use proxy_user::compile::compile;
use proxy_user::compile::explain::{self, Explanation};
use proxy_user::net::{
    Accepted, CapturedDst, Heartbeat, NetnsCookie, NoNames, OriginalDst, OriginalDstSource, PodUid,
    SocketFactory,
};
use proxy_user::proxy::{
    PodHandle, Worker, WorkerCommand, WorkerConfig, WorkerHandle, WorkerLimits,
};
use proxy_user::settings::{CompileSettings, MeshSettings, NamespaceBudget, OnProxyDown};
use proxy_user::snapshot::{Publisher, Snapshot, SnapshotReader};
use proxy_user::source::state::{DirectoryState, FileText, Files};
use proxy_user::telemetry::record::WorkloadLabels;
use proxy_user::telemetry::{MetricsRegistry, Telemetry};
use socket2::{Domain, Socket, Type};

/// The acceptance asks for at least 500.
const CONFIGURATIONS: u64 = 600;
const REQUESTS_PER_CONFIGURATION: usize = 8;
const CLIENTS: usize = 4;

#[test]
fn proxy_and_naive_evaluator_agree_on_generated_meshes() {
    let servers = [Echo::start(), Echo::start()];
    let ports = Ports {
        first: servers[0].port,
        second: servers[1].port,
    };
    let mut bench = Bench::start();
    let mut requests = 0;
    let mut kinds: BTreeMap<&'static str, usize> = BTreeMap::new();
    for seed in 0..CONFIGURATIONS {
        let mut rng = Rng::with_seed(seed);
        let mesh = generate::mesh(&mut rng, ports);
        let clients: Vec<Client> = (0..CLIENTS).map(|_| generate::client(&mut rng)).collect();
        bench.publish(&mesh, &clients);
        for _ in 0..REQUESTS_PER_CONFIGURATION {
            let at = rng.usize(0..clients.len());
            let Some(request) = generate::request(&mut rng, &mesh, ports) else {
                continue;
            };
            let expected = evaluate(&mesh, &clients[at], &request);
            let answer = bench.ask(at, &request);
            let complaint = disagreement(&expected, &answer, &request);
            assert!(
                complaint.is_none(),
                "seed {seed}: {}\nclient {:?}\nrequest {request:?}\nexpected {expected:?}\nanswer {answer:?}\n{}",
                complaint.unwrap_or_default(),
                clients[at],
                bench.yaml
            );
            let explained = bench.explain(at, &clients[at], &request);
            let complaint = misexplained(&expected, &explained);
            assert!(
                complaint.is_none(),
                "seed {seed}: explain: {}\nclient {:?}\nrequest {request:?}\nexpected {expected:?}\nexplained {explained:#?}\n{}",
                complaint.unwrap_or_default(),
                clients[at],
                bench.yaml
            );
            *kinds.entry(kind(&expected)).or_default() += 1;
            requests += 1;
        }
    }
    println!("{CONFIGURATIONS} configurations, {requests} requests: {kinds:?}");
    // A generator that only ever misses would prove nothing.
    for expected in ["forward", "local", "passthrough", "redirect"] {
        assert!(
            kinds.get(expected).is_some_and(|count| *count > 20),
            "{expected} is rare: {kinds:?}"
        );
    }
}

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Status(_) => "local",
        Outcome::Redirect(_) => "redirect",
        Outcome::Forward { .. } => "forward",
        Outcome::Passthrough => "passthrough",
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    location: String,
    /// `address:port` of the server that answered, if it was ours, and the target that it saw.
    served: Option<(String, String)>,
}

fn disagreement(expected: &Outcome, answer: &Answer, request: &Request) -> Option<String> {
    match expected {
        Outcome::Status(status) => (answer.status != *status || answer.served.is_some())
            .then(|| format!("expected a local {status}")),
        Outcome::Redirect(target) => (answer.status != 301
            || !answer.location.ends_with(target.as_str()))
        .then(|| format!("expected a redirect to {target}")),
        Outcome::Passthrough => {
            let dialled = format!("{}:{}", request.dst_ip, request.dst_port);
            let is_there = answer
                .served
                .as_ref()
                .is_some_and(|(address, _)| *address == dialled);
            (!is_there).then(|| format!("expected {dialled} itself"))
        }
        Outcome::Forward { shares, target } => match &answer.served {
            None => {
                let may_fail = shares.iter().any(|(_, share)| *share == Share::Unavailable);
                (answer.status != 503 || !may_fail).then(|| "no share may fail".to_owned())
            }
            Some((address, seen)) => {
                let is_allowed = shares.iter().any(|(_, share)| match share {
                    Share::Endpoints(addresses) => addresses.contains(address),
                    Share::Unavailable => false,
                });
                if !is_allowed {
                    return Some(format!("{address} is in no share"));
                }
                (seen != target).then(|| format!("upstream saw {seen}, not {target}"))
            }
        },
    }
}

/// What explain says otherwise: outcome, weights and endpoints, share by share.
fn misexplained(expected: &Outcome, explained: &Explanation) -> Option<String> {
    use explain::Outcome as Said;
    match (expected, &explained.outcome) {
        (Outcome::Status(404), Said::NotFound)
        | (Outcome::Status(502), Said::BlackHole)
        | (Outcome::Passthrough, Said::Passthrough)
        | (Outcome::Redirect(_), Said::Redirect { status: 301 }) => None,
        (Outcome::Status(status), Said::DirectResponse { status: said }) => {
            (status != said).then(|| format!("status {said}"))
        }
        (Outcome::Forward { shares, .. }, Said::Forward { destinations, .. }) => {
            let said: Vec<(u32, Share)> = destinations
                .iter()
                .map(|destination| (destination.weight, share_of(destination)))
                .collect();
            (said != *shares).then(|| format!("shares {said:?}"))
        }
        (_, said) => Some(format!("another outcome: {said:?}")),
    }
}

fn share_of(destination: &explain::DestinationView) -> Share {
    let addresses = destination
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.clone());
    if destination.state == "ok" {
        Share::Endpoints(addresses.collect())
    } else {
        Share::Unavailable
    }
}

/// A server on all addresses that answers with its own address and the target it saw.
struct Echo {
    port: u16,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve_echo(stream));
            }
        });
        Self { port }
    }
}

/// Serves one connection until its client closes it.
fn serve_echo(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let mut pending = Vec::new();
    loop {
        let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n") else {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => pending.extend_from_slice(&buffer[..count]),
            }
            continue;
        };
        let head = String::from_utf8_lossy(&pending[..end]).into_owned();
        pending.drain(..end + 4);
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nx-served-by: {local}\r\nx-target: {target}\r\ncontent-length: 0\r\n\r\n"
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A worker with one pod per client.
struct Bench {
    publisher: Publisher,
    reader: SnapshotReader,
    listeners: Vec<SocketAddr>,
    table: Arc<Table>,
    yaml: String,
    _worker: WorkerHandle,
}

/// Original destinations by the client's address.
#[derive(Default)]
struct Table(Mutex<HashMap<SocketAddr, SocketAddr>>);

impl OriginalDstSource for Table {
    fn take(&self, accepted: &Accepted) -> Option<CapturedDst> {
        let dst = self
            .0
            .lock()
            .expect("no panic while it is held")
            .remove(&accepted.client)?;
        Some(CapturedDst {
            dst: OriginalDst(dst),
        })
    }
}

/// Upstream sockets of this namespace; servers of the test are on loopback.
struct PlainSockets;

impl SocketFactory for PlainSockets {
    fn open_tcp(&self, towards: SocketAddr) -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(towards), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

struct NoHeartbeat;

impl Heartbeat for NoHeartbeat {
    fn beat(&self) {}
}

fn uid(at: usize) -> String {
    format!("client-{at}")
}

impl Bench {
    fn start() -> Self {
        let (publisher, reader) = Publisher::new(Snapshot::default());
        let table = Arc::new(Table::default());
        let telemetry = Telemetry::new(Arc::new(MetricsRegistry::default()), None);
        let worker = Worker::spawn(WorkerConfig {
            id: 0,
            snapshot: reader.clone(),
            original_dsts: Arc::clone(&table) as Arc<dyn OriginalDstSource>,
            names: Arc::new(NoNames),
            recorder: telemetry.recorder(),
            heartbeat: Box::new(NoHeartbeat),
            limits: WorkerLimits::default(),
        })
        .expect("a worker");
        let listeners = (0..CLIENTS)
            .map(|at| {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
                let address = listener.local_addr().expect("bound");
                let pod = PodHandle {
                    uid: PodUid(uid(at).into()),
                    id: PodId::namespace(at as u64 + 1),
                    netns: NetnsCookie(at as u64 + 1),
                    listening_since_ns: 0,
                    listeners: vec![listener],
                    sockets: Arc::new(PlainSockets),
                    labels: Arc::new(WorkloadLabels::unknown()),
                };
                worker
                    .send(WorkerCommand::AddPod(pod))
                    .expect("the worker runs");
                address
            })
            .collect();
        Self {
            publisher,
            reader,
            listeners,
            table,
            yaml: String::new(),
            _worker: worker,
        }
    }

    fn publish(&mut self, mesh: &Mesh, clients: &[Client]) {
        let named: Vec<(Client, String)> = clients
            .iter()
            .enumerate()
            .map(|(at, client)| (client.clone(), uid(at)))
            .collect();
        self.yaml = yaml::documents(mesh, &named);
        let files: Files = [(Arc::from("mesh.yaml"), FileText::from(self.yaml.as_str()))]
            .into_iter()
            .collect();
        let loaded = DirectoryState::new().apply(&files);
        let errors: Vec<String> = loaded
            .findings
            .iter()
            .filter(|finding| finding.is_error())
            .map(ToString::to_string)
            .collect();
        assert!(
            errors.is_empty(),
            "the generator writes valid objects: {errors:#?}\n{}",
            self.yaml
        );
        let compiled = compile(&loaded.objects, &settings(mesh.is_registry_only));
        self.publisher.publish(compiled.snapshot);
    }

    fn explain(&self, at: usize, client: &Client, request: &Request) -> Explanation {
        let mut headers = vec![("host".to_owned(), request.host.clone())];
        headers.extend(request.headers.iter().cloned());
        let query = ExplainQuery {
            from: format!("{}/client{at}", client.namespace),
            url: format!(
                "http://{}:{}{}",
                request.dst_ip, request.dst_port, request.target
            ),
            method: request.method.clone(),
            headers,
        };
        explain_query(&self.reader.load(), &query).expect("a good question")
    }

    fn ask(&self, at: usize, request: &Request) -> Answer {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .expect("a free port");
        let local = socket
            .local_addr()
            .ok()
            .and_then(|address| address.as_socket())
            .expect("bound");
        let ip: IpAddr = request.dst_ip.parse().expect("an address");
        let dst = SocketAddr::new(ip, request.dst_port);
        self.table
            .0
            .lock()
            .expect("no panic while it is held")
            .insert(local, dst);
        socket
            .connect(&self.listeners[at].into())
            .expect("the worker listens");
        let mut stream = TcpStream::from(socket);
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout");
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\n",
            request.method, request.target, request.host
        );
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if request.method == "POST" {
            head.push_str("content-length: 0\r\n");
        }
        head.push_str("connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("the worker reads");
        let mut answer = Vec::new();
        let result = read_head(&mut stream, &mut answer);
        parse(&String::from_utf8_lossy(&answer), result)
    }
}

/// Reads up to the end of the head: an echo server keeps its connection open when the
/// bytes were passed through.
fn read_head(stream: &mut TcpStream, into: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    while !into.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => into.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(())
}

fn parse(text: &str, result: std::io::Result<()>) -> Answer {
    let header = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    assert!(status.is_some(), "no answer: {text:?} {result:?}");
    Answer {
        status: status.unwrap_or_default(),
        location: header("location").unwrap_or_default(),
        served: header("x-served-by").zip(header("x-target")),
    }
}

fn settings(is_registry_only: bool) -> CompileSettings {
    CompileSettings {
        node: "here".to_owned(),
        mesh: MeshSettings {
            is_registry_only,
            ..MeshSettings::default()
        },
        on_proxy_down: OnProxyDown::Degrade,
        is_capture_labelled: false,
        capture_host_network: false,
        accept_unenforced_policies: false,
        namespace_budget: NamespaceBudget::default(),
    }
}
