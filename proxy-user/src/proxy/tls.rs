//! The server name in a ClientHello, read without decrypting anything.
//!
//! Source: RFC 8446 4.1.2 (ClientHello), RFC 6066 3 (server name).

/// What the first bytes of a connection are, as TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientHello {
    /// More bytes are needed.
    Incomplete,
    /// Not a ClientHello.
    NotTls,
    /// Its server name in lower case, if it carries one.
    Complete(Option<Box<str>>),
}

const RECORD_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;
/// RFC 8446, 5.1: a record's payload is at most 2^14 bytes.
const RECORD_MAX_BYTES: usize = 1 << 14;

/// Reads a ClientHello, also one that is split over several records.
#[must_use]
pub fn parse_client_hello(bytes: &[u8]) -> ClientHello {
    let message = match handshake_message(bytes) {
        Ok(message) => message,
        Err(outcome) => return outcome,
    };
    match server_name(&message) {
        Some(name) => ClientHello::Complete(name),
        None => ClientHello::NotTls,
    }
}

/// The body of the first handshake message, joined from its records.
fn handshake_message(bytes: &[u8]) -> Result<Vec<u8>, ClientHello> {
    let mut joined = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some((header, body)) = joined.split_first_chunk::<4>() {
            let [kind, len @ ..] = *header;
            if kind != HANDSHAKE_CLIENT_HELLO {
                return Err(ClientHello::NotTls);
            }
            let len = usize::from(len[0]) << 16 | usize::from(len[1]) << 8 | usize::from(len[2]);
            if let Some(message) = body.get(..len) {
                return Ok(message.to_vec());
            }
        }
        let Some((header, body)) = rest.split_first_chunk::<5>() else {
            return Err(match rest.first() {
                Some(kind) if *kind != RECORD_HANDSHAKE => ClientHello::NotTls,
                Some(_) | None => ClientHello::Incomplete,
            });
        };
        let [kind, major, _, len @ ..] = *header;
        let len = usize::from(u16::from_be_bytes(len));
        if kind != RECORD_HANDSHAKE || major != 3 || len == 0 || len > RECORD_MAX_BYTES {
            return Err(ClientHello::NotTls);
        }
        let Some((payload, tail)) = body.split_at_checked(len) else {
            return Err(ClientHello::Incomplete);
        };
        joined.extend_from_slice(payload);
        rest = tail;
    }
}

/// `None`: malformed. `Some(None)`: well-formed, without a name.
fn server_name(message: &[u8]) -> Option<Option<Box<str>>> {
    let mut reader = Reader(message);
    reader.take(2 + 32)?;
    let session_len = reader.u8()?;
    reader.take(session_len.into())?;
    let ciphers_len = reader.u16()?;
    reader.take(ciphers_len.into())?;
    let compressions_len = reader.u8()?;
    reader.take(compressions_len.into())?;
    if reader.0.is_empty() {
        return Some(None);
    }
    let extensions_len = reader.u16()?;
    let mut extensions = Reader(reader.take(extensions_len.into())?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let len = extensions.u16()?;
        let data = extensions.take(len.into())?;
        if kind == EXTENSION_SERVER_NAME {
            return host_name(data);
        }
    }
    Some(None)
}

fn host_name(data: &[u8]) -> Option<Option<Box<str>>> {
    let mut reader = Reader(data);
    let list_len = reader.u16()?;
    let mut list = Reader(reader.take(list_len.into())?);
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let len = list.u16()?;
        let name = list.take(len.into())?;
        if kind == NAME_TYPE_HOST {
            let name = std::str::from_utf8(name).ok()?;
            return Some(Some(name.to_ascii_lowercase().into_boxed_str()));
        }
    }
    Some(None)
}

/// Takes bytes from the front; `None` when there are too few.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]))
    }
}

/// Builds ClientHellos for tests.
#[cfg(test)]
pub(crate) mod testing {
    fn with_len16(bytes: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(bytes.len())
            .expect("short")
            .to_be_bytes()
            .to_vec();
        out.extend_from_slice(bytes);
        out
    }

    /// A ClientHello with this name, in records of at most `record_max` bytes.
    pub(crate) fn client_hello(name: Option<&str>, record_max: usize) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend(with_len16(&[0x13, 0x01]));
        body.extend([1, 0]);
        if let Some(name) = name {
            let mut entry = vec![0];
            entry.extend(with_len16(name.as_bytes()));
            let mut extension = vec![0, 0];
            extension.extend(with_len16(&with_len16(&entry)));
            body.extend(with_len16(&extension));
        }
        let mut message = vec![1, 0];
        message.extend(with_len16(&body));
        let records = message.chunks(record_max).map(|chunk| {
            let mut record = vec![22, 3, 1];
            record.extend(with_len16(chunk));
            record
        });
        records.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::client_hello;
    use super::*;

    #[test]
    fn the_name_is_found_whatever_the_records() {
        for record_max in [1, 10, 4096] {
            let hello = client_hello(Some("API.x.com"), record_max);
            let expected = ClientHello::Complete(Some("api.x.com".into()));
            assert_eq!(parse_client_hello(&hello), expected, "{record_max}");
        }
        let nameless = client_hello(None, 4096);
        assert_eq!(parse_client_hello(&nameless), ClientHello::Complete(None));
    }

    #[test]
    fn every_shorter_prefix_needs_more_and_none_panics() {
        let hello = client_hello(Some("a.b"), 20);
        for end in 0..hello.len() {
            assert_eq!(
                parse_client_hello(&hello[..end]),
                ClientHello::Incomplete,
                "{end}"
            );
        }
        for position in 0..hello.len() {
            let mut broken = hello.clone();
            broken[position] ^= 0xff;
            let _ = parse_client_hello(&broken);
        }
    }

    #[test]
    fn other_bytes_are_not_tls() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"\x16\x02\x00\x00\x05abcde",
            b"\x16\x03\x01\x00\x00",
        ] {
            assert_eq!(parse_client_hello(bytes), ClientHello::NotTls, "{bytes:?}");
        }
    }
}
