//! The servers: admin on a unix socket or an address, metrics and health on theirs.
//!
//! All of them share one thread with a runtime of its own, so that a scrape or a
//! dump never delays a connection. On the unix socket only root and the daemon's
//! own user are served; who calls is asked of the kernel (`SO_PEERCRED`).

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::node::Node;
use super::respond::{Answer, Context, Role, respond};
use crate::settings::AdminAddress;
use crate::telemetry::MetricsRegistry;

/// Connections served at a time, over all servers; more wait in the backlog.
const CONNECTIONS_MAX: usize = 64;
/// Largest body of a POST.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a request may take to arrive, and a connection to live.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(120);

/// Where each server listens; `None` leaves it out.
#[derive(Debug, Clone, Default)]
pub struct ServerAddresses {
    /// Everything.
    pub admin: Option<AdminAddress>,
    /// `/metrics`.
    pub metrics: Option<SocketAddr>,
    /// `/healthz/ready`.
    pub health: Option<SocketAddr>,
}

/// One of the servers could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The unix socket.
    #[error("cannot listen on {path}: {source} (choose another place with --admin unix:PATH)")]
    Socket {
        /// Path of the socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A TCP port.
    #[error("cannot listen on {address}: {source} (choose another one with {flag} IP:PORT)")]
    Port {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The thread.
    #[error("cannot start the admin thread: {0}")]
    Thread(io::Error),
}

/// The running servers. Dropping it ends them and removes the socket.
pub struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    socket: Option<OwnedSocket>,
    /// Where metrics are served, with the port that was given when 0 was asked for.
    pub metrics: Option<SocketAddr>,
    /// Where health is served.
    pub health: Option<SocketAddr>,
    /// Where admin is served, if by TCP.
    pub admin: Option<SocketAddr>,
}

/// A socket file that we made; a successor may have replaced it since.
struct OwnedSocket {
    path: PathBuf,
    inode: u64,
}

impl Drop for OwnedSocket {
    fn drop(&mut self) {
        let is_ours = fs::metadata(&self.path).is_ok_and(|now| now.ino() == self.inode);
        if is_ours {
            // Gone already is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

enum Listener {
    Unix(std::os::unix::net::UnixListener),
    Tcp(std::net::TcpListener),
}

impl Servers {
    /// Binds all addresses, then serves them from a thread of its own. An admin socket
    /// that another daemon has is taken over: callers reach the newest.
    ///
    /// # Errors
    /// An address cannot be bound, or no thread can be started.
    pub fn spawn(
        addresses: &ServerAddresses,
        node: Arc<dyn Node>,
        metrics: Arc<MetricsRegistry>,
    ) -> Result<Self, ServerError> {
        let mut listeners = Vec::new();
        let mut servers = Self {
            stop: None,
            thread: None,
            socket: None,
            metrics: None,
            health: None,
            admin: None,
        };
        match &addresses.admin {
            None => {}
            Some(AdminAddress::Unix(path)) => {
                let (listener, socket) = bind_unix(path).map_err(|source| ServerError::Socket {
                    path: path.clone(),
                    source,
                })?;
                servers.socket = Some(socket);
                listeners.push((Role::Admin, Listener::Unix(listener)));
            }
            Some(AdminAddress::Tcp(address)) => {
                let (listener, local) = bind_tcp(*address, "--admin")?;
                servers.admin = Some(local);
                listeners.push((Role::Admin, Listener::Tcp(listener)));
            }
        }
        if let Some(address) = addresses.metrics {
            let (listener, local) = bind_tcp(address, "--metrics")?;
            servers.metrics = Some(local);
            listeners.push((Role::Metrics, Listener::Tcp(listener)));
        }
        if let Some(address) = addresses.health {
            let (listener, local) = bind_tcp(address, "--health")?;
            servers.health = Some(local);
            listeners.push((Role::Health, Listener::Tcp(listener)));
        }
        let (stop, stopped) = oneshot::channel();
        let context = Context { node, metrics };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ServerError::Thread)?;
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || runtime.block_on(serve_all(listeners, context, stopped)))
            .map_err(ServerError::Thread)?;
        servers.stop = Some(stop);
        servers.thread = Some(thread);
        Ok(servers)
    }
}

/// Binds under a name of our own, closes it to others, then moves it to its place:
/// nobody can connect in between, and a predecessor's socket is replaced in one step.
fn bind_unix(path: &Path) -> io::Result<(std::os::unix::net::UnixListener, OwnedSocket)> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|there| !is_socket(&there)) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is no socket is in its place",
        ));
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
    let inode = fs::metadata(&temporary)?.ino();
    fs::rename(&temporary, path)?;
    listener.set_nonblocking(true)?;
    let socket = OwnedSocket {
        path: path.to_owned(),
        inode,
    };
    Ok((listener, socket))
}

fn is_socket(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type())
}

/// Binds a port; with `SO_REUSEPORT`, so that during an upgrade both daemons can.
fn bind_tcp(
    address: SocketAddr,
    flag: &'static str,
) -> Result<(std::net::TcpListener, SocketAddr), ServerError> {
    let bind = || {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(128)?;
        let listener = std::net::TcpListener::from(socket);
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bind().map_err(|source| ServerError::Port {
        address,
        flag,
        source,
    })
}

async fn serve_all(
    listeners: Vec<(Role, Listener)>,
    context: Context,
    stopped: oneshot::Receiver<()>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = tokio::task::JoinSet::new();
    for (role, listener) in listeners {
        let (context, slots) = (context.clone(), Arc::clone(&slots));
        match listener {
            Listener::Unix(listener) => match UnixListener::from_std(listener) {
                Ok(listener) => drop(tasks.spawn(serve_unix(listener, role, context, slots))),
                Err(error) => tracing::error!(%error, "the admin socket cannot be served"),
            },
            Listener::Tcp(listener) => match TcpListener::from_std(listener) {
                Ok(listener) => drop(tasks.spawn(serve_tcp(listener, role, context, slots))),
                Err(error) => tracing::error!(%error, ?role, "a port cannot be served"),
            },
        }
    }
    // An error means that the owner is gone, which is a stop too.
    let _ = stopped.await;
    tasks.shutdown().await;
}

/// Waits for a free slot and the next connection.
macro_rules! next_connection {
    ($listener:ident, $slots:ident) => {{
        let Ok(slot) = Arc::clone(&$slots).acquire_owned().await else {
            return;
        };
        match $listener.accept().await {
            Ok((stream, _)) => (slot, stream),
            Err(error) => {
                // Descriptors may be exhausted: wait, or this becomes a busy loop.
                tracing::warn!(%error, "accept for admin");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        }
    }};
}

async fn serve_unix(listener: UnixListener, role: Role, context: Context, slots: Arc<Semaphore>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (slot, stream) = next_connection!(listener, slots);
        let own = rustix::process::geteuid().as_raw();
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == own => {}
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), "admin refused to a foreign user");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "admin refused: the caller is not known");
                continue;
            }
        }
        let context = context.clone();
        connections.spawn(async move {
            serve_connection(stream, role, context).await;
            drop(slot);
        });
    }
}

async fn serve_tcp(listener: TcpListener, role: Role, context: Context, slots: Arc<Semaphore>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (slot, stream) = next_connection!(listener, slots);
        let context = context.clone();
        connections.spawn(async move {
            serve_connection(stream, role, context).await;
            drop(slot);
        });
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    role: Role,
    context: Context,
) {
    let service = service_fn(move |request| answer(request, role, context.clone()));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, ?role, "admin connection"),
        Err(_) => tracing::debug!(?role, "admin connection lived too long"),
    }
}

async fn answer(
    request: Request<Incoming>,
    role: Role,
    context: Context,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    // A browser sends Origin; no page may steer or read a daemon through one.
    if head.headers.contains_key(http::header::ORIGIN) {
        return Ok(response(Answer {
            status: 403,
            content_type: "text/plain; charset=utf-8",
            body: "not for browsers\n".to_owned(),
        }));
    }
    let body = match timeout(
        REQUEST_TIME_MAX,
        Limited::new(body, BODY_BYTES_MAX).collect(),
    )
    .await
    {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => {
            return Ok(response(Answer {
                status: 400,
                content_type: "text/plain; charset=utf-8",
                body: "the body is too large or did not arrive\n".to_owned(),
            }));
        }
    };
    let answer = respond(role, head.method.as_str(), head.uri.path(), &body, &context);
    Ok(response(answer))
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    if let Ok(status) = http::StatusCode::from_u16(answer.status) {
        *response.status_mut() = status;
    }
    let content_type = http::HeaderValue::from_static(answer.content_type);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, content_type);
    response
}
