//! Counts gRPC messages in a body (gRPC over HTTP/2, "Length-Prefixed-Message").

/// Flag and length before each message.
const PREFIX_LEN_BYTES: usize = 5;

/// Messages seen so far in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GrpcMessages {
    prefix: [u8; PREFIX_LEN_BYTES],
    /// Bytes of `prefix` that have come.
    prefix_len: usize,
    /// Bytes of the message under way that are still to come.
    left: usize,
    count: u64,
}

impl GrpcMessages {
    /// Reads a piece of the body.
    pub(crate) fn read(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.left > 0 {
                let len = self.left.min(data.len());
                self.left -= len;
                data = data.get(len..).unwrap_or_default();
                continue;
            }
            let len = data.len().min(PREFIX_LEN_BYTES - self.prefix_len);
            let (start, rest) = data.split_at(len);
            self.prefix[self.prefix_len..self.prefix_len + len].copy_from_slice(start);
            self.prefix_len += len;
            data = rest;
            if self.prefix_len == PREFIX_LEN_BYTES {
                let [_, a, b, c, d] = self.prefix;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.prefix_len = 0;
                self.count += 1;
            }
        }
    }

    /// Messages that have begun.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_count_the_same_however_the_body_is_cut() {
        let mut body = Vec::new();
        for len in [0, 3, 1, 300] {
            body.push(0);
            body.extend_from_slice(&u32::to_be_bytes(len));
            body.extend(std::iter::repeat_n(b'x', len as usize));
        }
        for step in [1, 2, 4, 5, 7, body.len()] {
            let mut messages = GrpcMessages::default();
            for piece in body.chunks(step) {
                messages.read(piece);
            }
            assert_eq!(messages.count(), 4, "by {step}");
        }
        let mut cut = GrpcMessages::default();
        cut.read(&[0, 0, 0, 0]);
        assert_eq!(cut.count(), 0);
    }
}
