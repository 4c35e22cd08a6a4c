//! A worker with a few client pods, and one server that is every endpoint: addresses of
//! services and pods are loopback addresses, and dialled addresses come from a table.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proxy_common::pod::PodId;
use proxy_user::compile::compile;
use proxy_user::net::{
    Accepted, CapturedDst, Heartbeat, NetnsCookie, NoNames, OriginalDst, OriginalDstSource, PodUid,
    SocketFactory,
};
use proxy_user::proxy::{
    PodHandle, Worker, WorkerCommand, WorkerConfig, WorkerHandle, WorkerLimits,
};
use proxy_user::settings::{CompileSettings, MeshSettings, NamespaceBudget, OnProxyDown};
use proxy_user::snapshot::{Publisher, Snapshot};
use proxy_user::source::state::{DirectoryState, FileText, Files};
use proxy_user::telemetry::record::WorkloadLabels;
use proxy_user::telemetry::{MetricsRegistry, Telemetry};

use crate::case::Ask;
use crate::mesh::{CLIENTS, SERVICES, mesh, server_name, uid, virtual_ip};

/// `protocolDetectionTimeout` of the setting `patient`.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// 0: nothing.
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
    /// `service/version`, or the address of a server without one.
    pub(crate) served: Option<String>,
    /// The target that the server read.
    pub(crate) target: String,
    /// The head that the server read.
    request: String,
}

fn lines_of(head: &str, name: &str) -> Vec<String> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

impl Answer {
    /// Lines of a header that the client got.
    pub(crate) fn header(&self, name: &str) -> Vec<String> {
        lines_of(&self.head, name)
    }

    /// Lines of a header that the server read.
    pub(crate) fn seen(&self, name: &str) -> Vec<String> {
        lines_of(&self.request, name)
    }
}

/// Answers with its own address and the head it read as the body, marked by a header.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || serve_one(stream));
    }
}

fn serve_one(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let mut pending = Vec::new();
    while read_head(&mut stream, &mut pending) {
        let end = head_end(&pending).unwrap_or(pending.len());
        let head: Vec<u8> = pending.drain(..end).collect();
        let head = String::from_utf8_lossy(&head);
        let length = head.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nx-served-by: {local}\r\nserver-timing: db\r\ncontent-length: {length}\r\n\r\n{head}"
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut windows = bytes.windows(4);
    windows.position(|it| it == b"\r\n\r\n").map(|at| at + 4)
}

/// Reads until a whole head is there; false when it never comes.
fn read_head(stream: &mut TcpStream, into: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    while head_end(into).is_none() {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(count) => into.extend_from_slice(&buffer[..count]),
        }
    }
    true
}

/// Original destinations by the client's address.
#[derive(Default)]
struct Table(Mutex<HashMap<SocketAddr, SocketAddr>>);

impl OriginalDstSource for Table {
    fn take(&self, accepted: &Accepted) -> Option<CapturedDst> {
        let mut known = self.0.lock().expect("no panic while it is held");
        let dst = OriginalDst(known.remove(&accepted.client)?);
        Some(CapturedDst { dst })
    }
}

/// Sockets of the test's own namespace.
struct PlainSockets;

impl SocketFactory for PlainSockets {
    fn open_tcp(&self, towards: SocketAddr) -> std::io::Result<socket2::Socket> {
        let domain = socket2::Domain::for_address(towards);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

struct NoHeartbeat;

impl Heartbeat for NoHeartbeat {
    fn beat(&self) {}
}

/// The worker, its pods and the server.
pub(crate) struct Bench {
    publisher: Publisher,
    listeners: Vec<SocketAddr>,
    table: Arc<Table>,
    server: u16,
    mesh: String,
    _worker: WorkerHandle,
}

impl Bench {
    pub(crate) fn start() -> Self {
        let server = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
        let port = server.local_addr().expect("bound").port();
        std::thread::spawn(move || serve(&server));
        let (publisher, reader) = Publisher::new(Snapshot::default());
        let table = Arc::new(Table::default());
        let telemetry = Telemetry::new(Arc::new(MetricsRegistry::default()), None);
        let worker = Worker::spawn(WorkerConfig {
            id: 0,
            snapshot: reader,
            original_dsts: Arc::clone(&table) as Arc<dyn OriginalDstSource>,
            recorder: telemetry.recorder(),
            heartbeat: Box::new(NoHeartbeat),
            names: Arc::new(NoNames),
            limits: WorkerLimits::default(),
        })
        .expect("a worker");
        let listeners = (0..CLIENTS.len()).map(|at| add_pod(&worker, at)).collect();
        Self {
            publisher,
            listeners,
            table,
            server: port,
            mesh: mesh(port),
            _worker: worker,
        }
    }

    /// Puts the common mesh and these objects in force; `SERVER` is the server's port.
    pub(crate) fn publish(&mut self, objects: &str, words: &[String]) -> Result<(), String> {
        let text = objects.replace("SERVER", &self.server.to_string());
        let files = Files::from([
            (Arc::from("mesh.yaml"), FileText::from(self.mesh.as_str())),
            (Arc::from("objects.yaml"), FileText::from(text.as_str())),
        ]);
        let loaded = DirectoryState::new().apply(&files);
        let refused = loaded
            .findings
            .iter()
            .find(|finding| finding.is_error() && finding.code != "not-honoured");
        if let Some(finding) = refused {
            return Err(finding.to_string());
        }
        let is_asked = |word: &str| words.iter().any(|known| known == word);
        let settings = CompileSettings {
            node: "here".to_owned(),
            mesh: MeshSettings {
                is_registry_only: is_asked("registryOnly"),
                protocol_detection_timeout: is_asked("patient").then_some(PATIENCE),
                ..MeshSettings::default()
            },
            on_proxy_down: OnProxyDown::Degrade,
            is_capture_labelled: false,
            capture_host_network: false,
            accept_unenforced_policies: false,
            namespace_budget: NamespaceBudget::default(),
        };
        let compiled = compile(&loaded.objects, &settings);
        self.publisher.publish(compiled.snapshot);
        Ok(())
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, ask: &Ask) -> Answer {
        self.exchange(&mut self.connect(ask), ask)
    }

    /// Requests one after the other on one connection.
    pub(crate) fn ask_often(&self, ask: &Ask, times: u32) -> Vec<Answer> {
        let mut stream = self.connect(ask);
        (0..times)
            .map(|_| self.exchange(&mut stream, ask))
            .collect()
    }

    /// A connection to the dialled address as the pod makes it.
    pub(crate) fn connect(&self, ask: &Ask) -> TcpStream {
        let (namespace, name) = ask.from.split_once('/').expect("namespace/pod");
        let mut clients = CLIENTS.iter();
        let client = clients.position(|it| (it.0, it.1) == (namespace, name));
        let listener = self.listeners[client.expect("a client")];
        let (name, port) = ask.to.split_once(':').expect("service:port");
        let ip = match SERVICES.iter().position(|service| service.1 == name) {
            Some(service) => IpAddr::V4(virtual_ip(service)),
            None => name.parse().expect("a service or an address"),
        };
        let port = port.replace("SERVER", &self.server.to_string());
        let dst = SocketAddr::new(ip, port.parse().expect("a port"));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .expect("a free port");
        let local = socket.local_addr().ok().and_then(|local| local.as_socket());
        let mut table = self.table.0.lock().expect("no panic while it is held");
        table.insert(local.expect("bound"), dst);
        drop(table);
        socket
            .connect(&listener.into())
            .expect("the worker listens");
        let stream = TcpStream::from(socket);
        let limit = Some(Duration::from_secs(30));
        stream.set_read_timeout(limit).expect("a time-out");
        stream
    }

    fn exchange(&self, stream: &mut TcpStream, ask: &Ask) -> Answer {
        let version = if ask.send.contains(" HTTP/") {
            ""
        } else {
            " HTTP/1.1"
        };
        let mut head = format!("{}{version}\r\n", ask.send);
        if !ask.host.is_empty() {
            head += &format!("host: {}\r\n", ask.host);
        }
        for (name, value) in &ask.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let mut bytes = Vec::new();
        if stream.write_all(head.as_bytes()).is_err() || !read_head(stream, &mut bytes) {
            return Answer::default();
        }
        let end = head_end(&bytes).expect("a head was read");
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = lines_of(&head, "content-length");
        let length = length.first().and_then(|text| text.parse::<usize>().ok());
        let is_bodiless = ask.send.starts_with("HEAD ");
        let wanted = if is_bodiless { 0 } else { length.unwrap_or(0) };
        let mut body = bytes.split_off(end);
        let mut buffer = [0; 4096];
        while body.len() < wanted {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => body.extend_from_slice(&buffer[..count]),
            }
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        let served = lines_of(&head, "x-served-by")
            .first()
            .map(|it| server_name(it));
        let request = if served.is_some() {
            body.clone()
        } else {
            String::new()
        };
        Answer {
            status: head
                .split(' ')
                .nth(1)
                .and_then(|it| it.parse().ok())
                .unwrap_or(0),
            target: request.split(' ').nth(1).unwrap_or_default().to_owned(),
            served,
            head,
            body,
            request,
        }
    }
}

fn add_pod(worker: &WorkerHandle, at: usize) -> SocketAddr {
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
    let sent = worker.send(WorkerCommand::AddPod(pod));
    sent.expect("the worker runs");
    address
}
