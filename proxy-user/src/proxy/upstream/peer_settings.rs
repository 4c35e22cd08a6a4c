//! How many streams an HTTP/2 server allows, read from its first frame.
//!
//! hyper queues streams beyond the server's limit on the same connection; the pool
//! must know the limit to open another one instead. The first frame of a server is
//! always SETTINGS (RFC 9113, 3.4 and 6.5).

use std::sync::atomic::{AtomicU32, Ordering};

const FRAME_HEAD_BYTES: usize = 9;
const SETTING_BYTES: usize = 6;
const FRAME_SETTINGS: u8 = 4;
const SETTINGS_MAX_CONCURRENT_STREAMS: u16 = 3;
/// A longer SETTINGS frame is not read: its limit is left to hyper's queue.
const SETTINGS_MAX_BYTES: usize = 512;

/// The server's limit, once known; no limit before.
#[derive(Debug)]
pub(super) struct StreamsMax(AtomicU32);

impl Default for StreamsMax {
    fn default() -> Self {
        Self(AtomicU32::new(u32::MAX))
    }
}

impl StreamsMax {
    pub(super) fn get(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|max| *max != u32::MAX)
    }
}

/// Reads along until the first frame is complete.
#[derive(Debug, Default)]
pub(super) struct SettingsReader {
    bytes: Vec<u8>,
    is_done: bool,
}

impl SettingsReader {
    /// A reader for a connection without SETTINGS.
    pub(super) fn done() -> Self {
        Self {
            bytes: Vec::new(),
            is_done: true,
        }
    }

    /// Takes the bytes that were just read; stores the limit when it shows.
    pub(super) fn read(&mut self, bytes: &[u8], streams_max: &StreamsMax) {
        if self.is_done || bytes.is_empty() {
            return;
        }
        self.bytes
            .extend_from_slice(bytes.get(..SETTINGS_MAX_BYTES).unwrap_or(bytes));
        match parse(&self.bytes) {
            Parsed::Incomplete if self.bytes.len() < SETTINGS_MAX_BYTES => return,
            Parsed::Limit(limit) => streams_max.0.store(limit, Ordering::Relaxed),
            Parsed::Incomplete | Parsed::None => {}
        }
        *self = Self::done();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Incomplete,
    Limit(u32),
    None,
}

fn parse(bytes: &[u8]) -> Parsed {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>() else {
        return Parsed::Incomplete;
    };
    let [len0, len1, len2, kind, ..] = *head;
    if kind != FRAME_SETTINGS {
        return Parsed::None;
    }
    let len = usize::from(len0) << 16 | usize::from(len1) << 8 | usize::from(len2);
    let Some(payload) = rest.get(..len) else {
        return Parsed::Incomplete;
    };
    let limit = payload
        .chunks_exact(SETTING_BYTES)
        .rev()
        .find_map(|setting| {
            let (id, value) = setting.split_first_chunk::<2>()?;
            let value = value.first_chunk::<4>()?;
            (u16::from_be_bytes(*id) == SETTINGS_MAX_CONCURRENT_STREAMS)
                .then(|| u32::from_be_bytes(*value))
        });
    match limit {
        Some(limit) => Parsed::Limit(limit),
        None => Parsed::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(settings: &[(u16, u32)]) -> Vec<u8> {
        let len = u8::try_from(settings.len() * SETTING_BYTES).expect("few");
        let mut bytes = vec![0, 0, len, FRAME_SETTINGS, 0, 0, 0, 0, 0];
        for (id, value) in settings {
            bytes.extend(id.to_be_bytes());
            bytes.extend(value.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn the_limit_is_found_however_the_frame_arrives() {
        for (settings, expected) in [
            (&[(4, 65_535), (3, 7)][..], Some(7)),
            (&[(3, 7), (3, 9)], Some(9)), // the last one counts
            (&[(4, 65_535)], None),
            (&[], None),
        ] {
            let bytes = frame(settings);
            for chunk in [1, 5, 1000] {
                let (limit, mut reader) = (StreamsMax::default(), SettingsReader::default());
                bytes
                    .chunks(chunk)
                    .for_each(|bytes| reader.read(bytes, &limit));
                assert_eq!(limit.get(), expected, "{settings:?} by {chunk}");
                assert!(reader.is_done);
            }
        }
    }

    #[test]
    fn foreign_bytes_end_the_reading() {
        for bytes in [&b"HTTP/1.1 400 Bad"[..], &[0xff; 600]] {
            let (limit, mut reader) = (StreamsMax::default(), SettingsReader::default());
            reader.read(bytes, &limit);
            reader.read(&[0; 600], &limit);
            assert!(reader.is_done && limit.get().is_none());
        }
    }
}
