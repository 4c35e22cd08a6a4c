//! TCP connections in every way that applications make them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;
use rustix::event::epoll;
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::outcome::now_ns;

/// Longest wait for anything on one connection.
const LIMIT: Duration = Duration::from_secs(15);

/// How the client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// `connect()` blocks.
    Blocking,
    /// `connect()` answers EINPROGRESS, epoll says when it is done.
    Nonblocking,
    /// `sendto(MSG_FASTOPEN)`, no `connect()` at all.
    Fastopen,
    /// A Multipath TCP socket.
    Mptcp,
}

/// Which connections to make.
#[derive(Debug, Clone, clap::Args)]
pub struct TcpClientArgs {
    /// HOST:PORT
    #[arg(long)]
    pub to: String,
    /// Connections to make, one after another
    #[arg(short, long, default_value_t = 1)]
    pub number: u64,
    /// How to connect
    #[arg(long, value_enum, default_value = "blocking")]
    pub mode: Mode,
    /// Use an IPv6 socket for an IPv4 destination
    #[arg(long)]
    pub v4_mapped: bool,
    /// Address and port to bind before connecting
    #[arg(long)]
    pub bind: Option<SocketAddr>,
    /// Device to bind before connecting
    #[arg(long)]
    pub device: Option<String>,
    /// Line to send; `#` becomes the connection's number
    #[arg(long, default_value = "hello")]
    pub send: String,
    /// Close right after sending, without reading
    #[arg(long)]
    pub no_read: bool,
    /// Read a line before sending: the server speaks first
    #[arg(long)]
    pub read_first: bool,
    /// End the sending side after the line and read to the end
    #[arg(long)]
    pub half_close: bool,
    /// Print the result, then keep the connections open until killed
    #[arg(long)]
    pub hold: bool,
    /// With --hold: an exchange on each connection, every so many milliseconds
    #[arg(long)]
    pub again_every_ms: Option<u64>,
    /// Make connections until SIGTERM, this many milliseconds apart
    #[arg(long)]
    pub every_ms: Option<u64>,
}

/// One connection as its client saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When `connect()` started, monotonic.
    pub started_ns: u64,
    /// When it had answered.
    pub connected_ns: u64,
    /// When it was over.
    pub ended_ns: u64,
    /// `getsockname` after connecting.
    pub local: String,
    /// `getpeername` after connecting.
    pub peer: String,
    /// The server's first line, if it speaks first.
    pub greeting: String,
    /// What the server answered.
    pub reply: String,
    /// What went wrong; empty if nothing did.
    pub error: String,
}

/// Connects as the arguments say and prints the list of [`Seen`].
pub fn run(args: &TcpClientArgs) -> anyhow::Result<()> {
    let stop = stop_flag()?;
    let addresses: Vec<SocketAddr> = args
        .to
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {}", args.to))?
        .collect();
    let mut all = Vec::new();
    let mut held = Vec::new();
    let mut number = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed)
        && (args.every_ms.is_some() || number < args.number)
    {
        let (seen, stream) = one(args, &addresses, number);
        all.push(seen);
        if args.hold {
            held.extend(stream);
        }
        number += 1;
        if let Some(pause) = args.every_ms {
            std::thread::sleep(Duration::from_millis(pause));
        }
    }
    println!("{}", serde_json::to_string(&all)?);
    std::io::stdout().flush()?;
    if args.hold {
        hold(&held, args.again_every_ms, &stop)?;
    }
    Ok(())
}

/// Keeps connections; with a pause given, talks on each and stops at the first failure.
fn hold(
    held: &[Socket],
    again_every_ms: Option<u64>,
    stop: &std::sync::atomic::AtomicBool,
) -> anyhow::Result<()> {
    let mut round = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(again_every_ms.unwrap_or(50)));
        if again_every_ms.is_none() {
            continue;
        }
        round += 1;
        for socket in held {
            let mut stream = TcpStream::from(socket.try_clone()?);
            stream.write_all(format!("again {round}\n").as_bytes())?;
            let mut reply = String::new();
            BufReader::new(stream).read_line(&mut reply)?;
            anyhow::ensure!(
                reply.trim_end().ends_with(&format!("again {round}")),
                "got {reply:?}"
            );
        }
    }
    println!("held through {round} rounds");
    Ok(())
}

/// Becomes true at SIGTERM.
fn stop_flag() -> anyhow::Result<std::sync::Arc<std::sync::atomic::AtomicBool>> {
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let raised = std::sync::Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut terminate = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    std::thread::spawn(move || {
        runtime.block_on(terminate.recv());
        raised.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    Ok(flag)
}

/// One connection to the first address that answers, as applications go through them.
fn one(args: &TcpClientArgs, addresses: &[SocketAddr], number: u64) -> (Seen, Option<Socket>) {
    let mut seen = Seen {
        started_ns: now_ns(),
        ..Seen::default()
    };
    let mut result = Err(anyhow::anyhow!("no address"));
    for &address in addresses {
        result = attempt(args, address, number, &mut seen);
        if result.is_ok() || seen.connected_ns != 0 {
            break;
        }
    }
    seen.ended_ns = now_ns();
    match result {
        Ok(socket) => (seen, Some(socket)),
        Err(error) => {
            seen.error = error.root_cause().to_string();
            (seen, None)
        }
    }
}

fn attempt(
    args: &TcpClientArgs,
    address: SocketAddr,
    number: u64,
    seen: &mut Seen,
) -> anyhow::Result<Socket> {
    let address = match address {
        SocketAddr::V4(v4) if args.v4_mapped => {
            SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port())
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    };
    let line = format!("{}\n", args.send.replace('#', &number.to_string()));
    let socket = prepare(args, address)?;
    let sent = match args.mode {
        Mode::Blocking | Mode::Mptcp => {
            socket.connect(&address.into())?;
            0
        }
        Mode::Nonblocking => {
            connect_by_epoll(&socket, address)?;
            0
        }
        Mode::Fastopen => {
            socket.send_to_with_flags(line.as_bytes(), &address.into(), libc::MSG_FASTOPEN)?
        }
    };
    seen.connected_ns = now_ns();
    seen.local = text(socket.local_addr());
    seen.peer = text(socket.peer_addr());
    let mut stream = TcpStream::from(socket.try_clone()?);
    let mut reader = BufReader::new(stream.try_clone()?);
    if args.read_first {
        seen.greeting = read_line(&mut reader)?;
    }
    stream.write_all(line.as_bytes().get(sent..).unwrap_or_default())?;
    if args.half_close {
        stream.shutdown(std::net::Shutdown::Write)?;
        reader.read_to_string(&mut seen.reply)?;
    } else if !args.no_read {
        seen.reply = read_line(&mut reader)?;
    }
    Ok(socket)
}

fn read_line(reader: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    anyhow::ensure!(!line.is_empty(), "the connection ended without an answer");
    Ok(line.trim_end().to_owned())
}

/// A socket of the right kind, bound as asked.
fn prepare(args: &TcpClientArgs, address: SocketAddr) -> anyhow::Result<Socket> {
    let protocol = match args.mode {
        Mode::Mptcp => Protocol::MPTCP,
        Mode::Blocking | Mode::Nonblocking | Mode::Fastopen => Protocol::TCP,
    };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol))?;
    // Linux bounds a blocking connect by the time-out for sending (socket(7)).
    socket.set_write_timeout(Some(LIMIT))?;
    socket.set_read_timeout(Some(LIMIT))?;
    if let Some(device) = &args.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(bind) = args.bind {
        socket.set_reuse_address(true)?;
        socket.bind(&bind.into())?;
    }
    Ok(socket)
}

fn connect_by_epoll(socket: &Socket, address: SocketAddr) -> anyhow::Result<()> {
    socket.set_nonblocking(true)?;
    let in_progress = match socket.connect(&address.into()) {
        Ok(()) => false,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => true,
        Err(error) => return Err(error.into()),
    };
    if in_progress {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(1);
        epoll::add(&poll, socket, data, epoll::EventFlags::OUT)?;
        let limit = Timespec {
            tv_sec: LIMIT.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 1];
        let (ready, _) = epoll::wait(&poll, &mut events, Some(&limit))?;
        anyhow::ensure!(!ready.is_empty(), "connect did not end in time");
    }
    if let Some(error) = socket.take_error()? {
        return Err(error.into());
    }
    socket.set_nonblocking(false)?;
    Ok(())
}

fn text(address: std::io::Result<SockAddr>) -> String {
    match address {
        Ok(address) => address
            .as_socket()
            .map_or_else(|| "not an internet address".to_owned(), |it| it.to_string()),
        Err(error) => error.to_string(),
    }
}

/// Connects as its very first act, then sends a line `text`; prints one [`Seen`].
pub fn first_connect(to: &str, text: &str) -> anyhow::Result<()> {
    let address: SocketAddr = to
        .parse()
        .with_context(|| format!("not ADDRESS:PORT: {to}"))?;
    let started_ns = now_ns();
    let connected = TcpStream::connect_timeout(&address, LIMIT);
    let mut seen = Seen {
        started_ns,
        connected_ns: now_ns(),
        ..Seen::default()
    };
    match connected
        .map_err(anyhow::Error::from)
        .and_then(|mut stream| {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(format!("{text}\n").as_bytes())?;
            read_line(&mut BufReader::new(stream))
        }) {
        Ok(reply) => seen.reply = reply,
        Err(error) => seen.error = error.root_cause().to_string(),
    }
    seen.ended_ns = now_ns();
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

/// Sends one datagram from a connected socket and prints the answer as JSON text.
pub fn udp(to: &str) -> anyhow::Result<()> {
    let address = to.to_socket_addrs()?.next().context("no address")?;
    let any: IpAddr = if address.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(address)?;
    socket.send(b"hello")?;
    let mut buffer = [0_u8; 2048];
    let count = socket.recv(&mut buffer)?;
    let reply = String::from_utf8_lossy(&buffer[..count]).into_owned();
    println!(
        "{}",
        serde_json::json!({ "reply": reply, "peer": socket.peer_addr()?.to_string() })
    );
    Ok(())
}

/// Sends one ICMP echo request over a connected raw socket and prints what came back.
///
/// Source: RFC 792, echo or echo reply message.
pub fn ping(to: std::net::Ipv4Addr) -> anyhow::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))
        .context("cannot open a raw socket (needs CAP_NET_RAW)")?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(&SocketAddr::new(to.into(), 0).into())?;
    // Type 8, code 0, checksum, identifier 1, sequence number 1.
    let checksum = !(0x0800_u16 + 1 + 1);
    let [high, low] = checksum.to_be_bytes();
    socket.send(&[8, 0, high, low, 0, 1, 0, 1])?;
    let mut buffer = [0_u8; 256];
    let count = (&socket).read(&mut buffer)?;
    // The raw socket shows the IPv4 header, 20 bytes without options.
    let kind = buffer[..count].get(20).copied().context("a short answer")?;
    println!(
        "{}",
        serde_json::json!({ "type": kind, "peer": text(socket.peer_addr()) })
    );
    Ok(())
}
