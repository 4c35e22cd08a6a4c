//! Mutations of seeds: bytes, tokens, pieces of other seeds.

/// Longest input: beyond, mutations only get slower.
const INPUT_MAX_BYTES: usize = 16 * 1024;
/// Most mutations of one input.
const MUTATIONS_MAX: usize = 6;

/// Draws inputs. Equal seeds draw equal inputs.
pub(super) struct Mutator {
    random: fastrand::Rng,
    tokens: &'static [&'static str],
}

impl Mutator {
    /// A mutator that also inserts these tokens.
    pub(super) fn new(seed: u64, tokens: &'static [&'static str]) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            tokens,
        }
    }

    /// The next input, made from one of the seeds, which are never none.
    pub(super) fn next(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.pick(seeds);
        for _ in 0..self.random.usize(1..=MUTATIONS_MAX) {
            self.mutate(&mut input, seeds);
        }
        input.truncate(INPUT_MAX_BYTES);
        input
    }

    fn pick(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        seeds
            .get(self.random.usize(..seeds.len().max(1)))
            .cloned()
            .unwrap_or_default()
    }

    fn mutate(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.random.usize(..=input.len());
        match self.random.u8(..8) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.random.u8(..8);
                }
            }
            1 => {
                let byte = self.random.u8(..);
                input.insert(at, byte);
            }
            2 => {
                let end = (at + self.random.usize(1..32)).min(input.len());
                input.drain(at..end);
            }
            3 => {
                // A piece again: duplicate keys, repeated headers.
                let end = (at + self.random.usize(1..200)).min(input.len());
                let piece = input.get(at..end).map(<[u8]>::to_vec).unwrap_or_default();
                let to = self.random.usize(..=input.len());
                input.splice(to..to, piece);
            }
            4 => {
                let other = self.pick(seeds);
                let start = self.random.usize(..=other.len());
                let end = (start + self.random.usize(1..200)).min(other.len());
                input.splice(
                    at..at,
                    other.get(start..end).unwrap_or_default().iter().copied(),
                );
            }
            5 => input.truncate(at),
            _ => {
                if let Some(token) = self.random.choice(self.tokens.iter()) {
                    input.splice(at..at, token.bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_draw_equal_inputs_and_no_input_is_too_long() {
        let seeds = [
            b"kind: Service".to_vec(),
            vec![b'x'; INPUT_MAX_BYTES * 2],
            Vec::new(),
        ];
        let mut left = Mutator::new(1, &["---"]);
        let mut right = Mutator::new(1, &["---"]);
        for _ in 0..2000 {
            let input = left.next(&seeds);
            assert_eq!(input, right.next(&seeds));
            assert!(input.len() <= INPUT_MAX_BYTES);
        }
    }
}
