//! The kernel's own view of a namespace's TCP sockets.
//!
//! Tests read it to see where a connection really goes: `getpeername` shows an
//! application what it dialled, `/proc/net/tcp` shows the truth.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;

/// A TCP state that tests ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// `TCP_ESTABLISHED`.
    Established,
    /// `TCP_LISTEN`.
    Listen,
    /// `TCP_TIME_WAIT`.
    TimeWait,
    /// Any other.
    Other,
}

/// One line of `/proc/net/tcp` or `tcp6`.
#[derive(Debug, Clone, Copy)]
pub struct TcpEntry {
    /// Local address and port.
    pub local: SocketAddr,
    /// Remote address and port.
    pub remote: SocketAddr,
    /// State of the connection.
    pub state: TcpState,
}

impl TcpEntry {
    /// Whether the connection goes to a loopback address, as one to an in-pod listener does.
    pub fn is_to_loopback(&self) -> bool {
        self.remote.ip().to_canonical().is_loopback()
    }
}

/// The TCP sockets of the calling thread's namespace, both families.
///
/// Source: Linux, `Documentation/networking/proc_net_tcp.rst`.
pub fn tcp_table() -> anyhow::Result<Vec<TcpEntry>> {
    let mut entries = Vec::new();
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        entries.extend(text.lines().skip(1).filter_map(parse_line));
    }
    Ok(entries)
}

fn parse_line(line: &str) -> Option<TcpEntry> {
    let mut fields = line.split_whitespace().skip(1);
    let local = parse_address(fields.next()?)?;
    let remote = parse_address(fields.next()?)?;
    let state = match fields.next()? {
        "01" => TcpState::Established,
        "0A" => TcpState::Listen,
        "06" => TcpState::TimeWait,
        _ => TcpState::Other,
    };
    Some(TcpEntry {
        local,
        remote,
        state,
    })
}

/// Addresses are printed as 32-bit words of the machine's byte order.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<u8> = address
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok())
        .collect::<Option<Vec<u32>>>()?
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    let ip = match words.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(words).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_families_are_read() {
        for (line, local, state) in [
            (
                "   0: 0100007F:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0",
                "127.0.0.1:15001",
                TcpState::Listen,
            ),
            (
                "   1: 00000000000000000000000001000000:3A99 00000000000000000000000000000000:0000 01 0",
                "[::1]:15001",
                TcpState::Established,
            ),
        ] {
            let entry = parse_line(line).expect("the line is whole");
            assert_eq!(entry.local.to_string(), local);
            assert_eq!(entry.state, state);
        }
    }
}
