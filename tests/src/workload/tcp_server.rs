//! A TCP server that echoes lines behind its prefix, as Istio's tcp-echo sample does.
//!
//! Lines that start with `?` ask: `?peer` whom it sees, `?seen TEXT` whether any
//! connection sent that line, `?count` how many connections came, `?reset` for a
//! reset. At a client's end it says how many bytes came. The same port echoes UDP.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};

use super::http_server::listen;

/// Lines remembered for `?seen`: beyond, new ones are forgotten.
const SEEN_MAX: usize = 200_000;

/// Who the server is.
#[derive(Debug, clap::Args)]
pub struct TcpServerArgs {
    /// Text before each echoed line, such as "one"
    #[arg(long)]
    prefix: String,
    /// Ports to listen on, all addresses of both families
    #[arg(long, value_delimiter = ',', default_value = "9000")]
    ports: Vec<u16>,
    /// Speak first: a line sent as soon as a connection is accepted
    #[arg(long)]
    greeting: Option<String>,
}

#[derive(Debug, Default)]
struct Stats {
    connections: Cell<u64>,
    seen: RefCell<HashSet<String>>,
}

/// Serves until it is killed.
pub fn serve(args: TcpServerArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async move {
        let shared = Rc::new((args, Stats::default()));
        for &port in &shared.0.ports {
            let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            let listener = listen(address).await?;
            let udp = UdpSocket::bind(listener.local_addr()?)
                .await
                .context("cannot bind UDP")?;
            tokio::task::spawn_local(echo_udp(udp, shared.0.prefix.clone()));
            let shared = Rc::clone(&shared);
            tokio::task::spawn_local(async move {
                loop {
                    let Ok((stream, peer)) = listener.accept().await else {
                        continue;
                    };
                    let shared = Rc::clone(&shared);
                    tokio::task::spawn_local(async move {
                        // An error is the peer's doing, and the connection's end.
                        let _ = converse(stream, peer, &shared.0, &shared.1).await;
                    });
                }
            });
        }
        std::future::pending().await
    })
}

async fn echo_udp(socket: UdpSocket, prefix: String) {
    let mut buffer = [0_u8; 2048];
    loop {
        if let Ok((count, peer)) = socket.recv_from(&mut buffer).await {
            let text = format!("{prefix} {}", String::from_utf8_lossy(&buffer[..count]));
            let _ = socket.send_to(text.as_bytes(), peer).await;
        }
    }
}

async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    args: &TcpServerArgs,
    stats: &Stats,
) -> std::io::Result<()> {
    stats.connections.set(stats.connections.get() + 1);
    stream.set_nodelay(true)?;
    let prefix = &args.prefix;
    let mut stream = BufReader::new(stream);
    if let Some(greeting) = &args.greeting {
        stream
            .get_mut()
            .write_all(format!("{greeting}\n").as_bytes())
            .await?;
    }
    let mut line = Vec::new();
    let mut bytes = 0;
    loop {
        line.clear();
        let count = stream.read_until(b'\n', &mut line).await?;
        bytes += count;
        if count == 0 {
            let text = format!("{prefix} got {bytes} bytes\n");
            stream.get_mut().write_all(text.as_bytes()).await?;
            return stream.get_mut().shutdown().await;
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let answer = match text.split_once(' ').unwrap_or((&text, "")) {
            ("?peer", _) => SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string(),
            ("?seen", what) => stats.seen.borrow().contains(what).to_string(),
            ("?count", _) => stats.connections.get().to_string(),
            ("?reset", _) => {
                socket2::SockRef::from(stream.get_ref())
                    .set_linger(Some(std::time::Duration::ZERO))?;
                return Ok(());
            }
            _ => {
                let mut seen = stats.seen.borrow_mut();
                if seen.len() < SEEN_MAX {
                    seen.insert(text.clone());
                }
                text
            }
        };
        stream
            .get_mut()
            .write_all(format!("{prefix} {answer}\n").as_bytes())
            .await?;
    }
}
