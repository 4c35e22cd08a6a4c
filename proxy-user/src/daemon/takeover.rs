//! An upgrade: a second daemon with the same arguments takes over from the first.
//!
//! The successor asks by a unix socket beside the admin socket, and the in-pod listeners
//! pass over it (`SCM_RIGHTS`, unix(7)) with whatever waits in their queues, so that no
//! connection is lost. The predecessor then drains what it has and ends.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_common::pod::PodId;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::net::UnixListener;

use crate::node::listener::HandedListener;
use crate::settings::{AdminAddress, Settings};

/// How long either side waits for the other's next words: closing ports and stopping the
/// control loop stand in between.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// A hello is a line of at most a path.
const HELLO_BYTES_MAX: u64 = 8192;
/// One record per listener: the pod's id and its space, and since when it listens. An id of
/// zero ends the list.
const RECORD_BYTES: usize = 20;

/// The socket of a daemon with these settings; `None` when admin is not a unix socket.
pub(super) fn socket_path(settings: &Settings) -> Option<PathBuf> {
    match &settings.admin {
        AdminAddress::Unix(path) => {
            let mut name = path.clone().into_os_string();
            name.push(".takeover");
            Some(PathBuf::from(name))
        }
        AdminAddress::Tcp(_) => None,
    }
}

/// Asks a running daemon with the same pins to make room.
///
/// Returns its listeners, or nothing where no daemon answers.
///
/// # Errors
/// A daemon answered and then broke off; it may still be running.
pub(super) fn request(path: &Path, pins: &Path) -> io::Result<Vec<HandedListener>> {
    let Ok(mut stream) = UnixStream::connect(path) else {
        return Ok(Vec::new());
    };
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    stream.write_all(hello(pins).as_bytes())?;
    let mut handed = Vec::new();
    while let Some(listener) = receive(&stream)? {
        handed.push(listener);
    }
    Ok(handed)
}

fn hello(pins: &Path) -> String {
    format!("take over {}\n", pins.display())
}

/// Waits for a successor.
#[derive(Debug)]
pub(super) struct Waiting {
    listener: UnixListener,
    hello: String,
}

/// A successor that was accepted and waits for the listeners.
#[derive(Debug)]
pub(super) struct Successor(UnixStream);

impl Waiting {
    /// Listens at `path`, which belongs to this daemon now.
    ///
    /// # Errors
    /// What `bind(2)` reports.
    pub(super) fn bind(path: &Path, pins: &Path) -> io::Result<Self> {
        // A file there is a predecessor's that has handed over, or died.
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            hello: hello(pins),
        })
    }

    /// The next caller that is root or our own user, and means these pins.
    pub(super) async fn successor(&self) -> Successor {
        loop {
            match self.next_caller().await {
                Ok(Some(successor)) => return successor,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a take-over failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn next_caller(&self) -> io::Result<Option<Successor>> {
        let (stream, _) = self.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return Ok(None);
        }
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
        let mut said = vec![0; self.hello.len()];
        (&stream).take(HELLO_BYTES_MAX).read_exact(&mut said)?;
        Ok((said == self.hello.as_bytes()).then_some(Successor(stream)))
    }
}

impl Successor {
    /// Passes the listeners on. From here on the successor accepts.
    ///
    /// # Errors
    /// The successor has gone; what it did not get closes with this process.
    pub(super) fn hand_over(self, listeners: &[HandedListener]) -> io::Result<()> {
        for listener in listeners {
            let fds = [listener.socket.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&fds));
            let record = record_of(listener);
            sendmsg(
                &self.0,
                &[IoSlice::new(&record)],
                &mut control,
                SendFlags::NOSIGNAL,
            )?;
        }
        (&self.0).write_all(&[0; RECORD_BYTES])
    }
}

/// The next listener; `None` at the end of the list.
fn receive(stream: &UnixStream) -> io::Result<Option<HandedListener>> {
    let mut record = [0; RECORD_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut record)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    )?;
    if received.bytes != RECORD_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the running daemon broke off a take-over",
        ));
    }
    let socket: Option<OwnedFd> = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        RecvAncillaryMessage::ScmCredentials(_) | _ => None,
    });
    let (pod, since_ns) = pod_of(record);
    Ok(socket.map(|socket| HandedListener {
        pod,
        since_ns,
        socket: TcpListener::from(socket),
    }))
}

fn record_of(listener: &HandedListener) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&listener.pod.id.to_le_bytes());
    record[8..12].copy_from_slice(&listener.pod.space.to_le_bytes());
    record[12..].copy_from_slice(&listener.since_ns.to_le_bytes());
    record
}

fn pod_of(record: [u8; RECORD_BYTES]) -> (PodId, u64) {
    let number = |bytes: &[u8]| {
        let widened = bytes.iter().rev().map(|byte| u64::from(*byte));
        widened.fold(0, |sum, byte| sum << 8 | byte)
    };
    let id = number(&record[..8]);
    let pod = match u32::try_from(number(&record[8..12])) {
        Ok(PodId::CGROUP) => PodId::cgroup(id),
        Ok(_) | Err(_) => PodId::namespace(id),
    };
    (pod, number(&record[12..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_arrive_with_the_connections_that_wait_in_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock.takeover");
        let pins = PathBuf::from("/sys/fs/bpf/of-this-daemon");
        let waiting = Waiting::bind(&path, &pins).expect("a socket");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut client = std::net::TcpStream::connect(address).expect("queued");
        let asking = std::thread::spawn({
            let path = path.clone();
            move || {
                // Another daemon's pins are no reason to make room.
                let stranger = request(&path, Path::new("/elsewhere/of-another-da"));
                (stranger.is_err(), request(&path, &pins))
            }
        });
        let successor = waiting.successor().await;
        let ours = [HandedListener {
            pod: PodId::cgroup(7),
            since_ns: u64::MAX - 1,
            socket: listener,
        }];
        successor.hand_over(&ours).expect("handed over");
        drop(ours);
        let (is_stranger_refused, handed) = asking.join().expect("no panic");
        assert!(is_stranger_refused);
        let handed = handed.expect("an answer");
        assert_eq!(handed.len(), 1);
        assert_eq!(handed[0].pod, PodId::cgroup(7));
        assert_eq!(handed[0].since_ns, u64::MAX - 1);
        let (mut server, _) = handed[0].socket.accept().expect("the queued connection");
        client.write_all(b"x").expect("open");
        let mut byte = [0];
        server.read_exact(&mut byte).expect("open");
    }

    #[test]
    fn without_a_daemon_nothing_is_handed_over() {
        let handed = request(
            Path::new("/nowhere/admin.sock.takeover"),
            Path::new("/pins"),
        );
        assert!(handed.expect("no daemon is no error").is_empty());
    }
}
