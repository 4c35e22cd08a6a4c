//! A nameserver of the lab's own: it says what a test wants, or nothing at all.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use super::netns::NetNs;

/// How a nameserver behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    /// Answers from its zone.
    #[default]
    Well,
    /// Answers nothing, as if it were gone.
    Silent,
    /// Answers SERVFAIL.
    Failing,
}

/// A nameserver on one address. Dropping it ends it.
#[derive(Debug)]
pub struct NameServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    is_over: AtomicBool,
}

/// Guarded by [`Shared::state`].
#[derive(Debug, Default)]
struct State {
    mood: Mood,
    ttl_s: u32,
    zone: HashMap<String, Vec<IpAddr>>,
    queries: u64,
}

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

impl NameServer {
    /// Listens for UDP on `address` inside a namespace. Answers live for `ttl_s` seconds.
    pub fn start(netns: &NetNs, address: SocketAddr, ttl_s: u32) -> anyhow::Result<Self> {
        let socket = netns
            .within(|| UdpSocket::bind(address))?
            .with_context(|| format!("cannot listen on {address}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                ttl_s,
                ..State::default()
            }),
            is_over: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(&socket, &serving));
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// From now on `name` has these addresses.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        let mut state = self.shared.state();
        state.zone.insert(name.to_owned(), addresses.to_vec());
    }

    /// From now on it behaves so.
    pub fn set_mood(&self, mood: Mood) {
        self.shared.state().mood = mood;
    }

    /// Questions so far.
    pub fn queries(&self) -> u64 {
        self.shared.state().queries
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It looks every 100 ms.
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 1500];
    while !shared.is_over.load(Ordering::Relaxed) {
        let Ok((len, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let answer = buffer
            .get(..len)
            .and_then(|query| answer(query, &mut shared.state()));
        if let Some(answer) = answer {
            // A client that has gone asks again.
            let _: io::Result<usize> = socket.send_to(&answer, client);
        }
    }
}

/// The answer to one question (RFC 1035 4.1), if there is one.
fn answer(query: &[u8], state: &mut State) -> Option<Vec<u8>> {
    let (name, end) = question_name(query)?;
    let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
    let question = query.get(12..end + 4)?;
    state.queries += 1;
    let known = state.zone.get(&name);
    let (code, addresses) = match (state.mood, known) {
        (Mood::Silent, _) => return None,
        (Mood::Failing, _) => (2, Vec::new()),
        (Mood::Well, None) => (3, Vec::new()),
        (Mood::Well, Some(all)) => {
            let is_meant = |ip: &&IpAddr| match kind {
                TYPE_A => ip.is_ipv4(),
                TYPE_AAAA => ip.is_ipv6(),
                _ => false,
            };
            (0, all.iter().filter(is_meant).copied().collect())
        }
    };
    let mut answer = query.get(..2)?.to_vec();
    // A response, recursion desired and available; one question.
    answer.extend([0x81, 0x80 | code, 0, 1]);
    answer.extend(u16::try_from(addresses.len()).ok()?.to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(question);
    for ip in addresses {
        // The name by reference to the question, class IN.
        answer.extend([0xc0, 0x0c]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(state.ttl_s.to_be_bytes());
        let octets = match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        answer.extend(u16::try_from(octets.len()).ok()?.to_be_bytes());
        answer.extend(octets);
    }
    Some(answer)
}

/// The name that is asked for, lower case and without the final dot, and where it ends.
fn question_name(query: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            return Some((labels.join(".").to_ascii_lowercase(), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + len)?).into_owned());
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_by_all_addresses_of_its_kind() {
        let mut state = State {
            ttl_s: 7,
            ..State::default()
        };
        let addresses = ["10.0.0.1", "fd00::1", "10.0.0.2"];
        let addresses = addresses.map(|text| text.parse().expect("an address"));
        state.zone.insert("a.b".to_owned(), addresses.to_vec());
        let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01A\x01b\0\0\x01\0\x01";
        let found = answer(query, &mut state).expect("an answer");
        let expected = b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\0\x01A\x01b\0\0\x01\0\x01\
            \xc0\x0c\0\x01\0\x01\0\0\0\x07\0\x04\x0a\0\0\x01\
            \xc0\x0c\0\x01\0\x01\0\0\0\x07\0\x04\x0a\0\0\x02";
        assert_eq!(found, expected);
        state.mood = Mood::Silent;
        assert_eq!(answer(query, &mut state), None);
        assert_eq!(answer(b"\x12\x34", &mut state), None);
    }
}
