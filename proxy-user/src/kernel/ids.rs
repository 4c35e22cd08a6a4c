//! Numbers for what the maps name: small ids and endpoint ranges, reused only after a grace period.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// A freed number rests this long: programs that still hold it run for microseconds.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// FNV-1a, 64 bits: stable over versions, since it is kept in pinned maps.
pub(super) fn stable_hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        // A byte that UTF-8 never contains keeps ("a", "bc") and ("ab", "c") apart.
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

/// Ids from 1 to a limit, the lowest free one first.
pub(super) struct IdPool {
    next: u32,
    end: u32,
    free: BTreeSet<u32>,
    resting: VecDeque<(Instant, u32)>,
}

impl IdPool {
    /// Ids `first..end`; those in `taken` are in use.
    pub(super) fn new(first: u32, end: u32, taken: impl IntoIterator<Item = u32>) -> Self {
        let taken: BTreeSet<u32> = taken
            .into_iter()
            .filter(|id| (first..end).contains(id))
            .collect();
        let next = taken.last().map_or(first, |last| last + 1);
        let free = (first..next).filter(|id| !taken.contains(id)).collect();
        Self {
            next,
            end,
            free,
            resting: VecDeque::new(),
        }
    }

    /// A free id, or `None` when all are in use.
    pub(super) fn take(&mut self, now: Instant) -> Option<u32> {
        self.wake(now, |_| true);
        if let Some(id) = self.free.pop_first() {
            return Some(id);
        }
        (self.next < self.end).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Gives an id back, to be used again after the grace period.
    pub(super) fn give(&mut self, id: u32, now: Instant) {
        self.resting.push_back((now, id));
    }

    /// Frees rested ids that `may_wake` agrees to; the others rest on.
    pub(super) fn wake(&mut self, now: Instant, may_wake: impl Fn(u32) -> bool) {
        for _ in 0..self.resting.len() {
            let Some((since, id)) = self.resting.front().copied() else {
                return;
            };
            if now.duration_since(since) < GRACE {
                return;
            }
            self.resting.pop_front();
            if may_wake(id) {
                self.free.insert(id);
            } else {
                self.resting.push_back((now, id));
            }
        }
    }
}

/// Ranges of one flat array: first fit, neighbours joined when freed.
pub(super) struct RangePool {
    free: BTreeMap<u32, u32>,
    resting: VecDeque<(Instant, u32, u32)>,
}

impl RangePool {
    /// Slots `0..len`, except those in `taken` (start, count).
    pub(super) fn new(len: u32, taken: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut pool = Self {
            free: BTreeMap::new(),
            resting: VecDeque::new(),
        };
        let mut taken: Vec<(u32, u32)> =
            taken.into_iter().filter(|(_, count)| *count > 0).collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, count) in taken {
            if start > at {
                pool.free.insert(at, start.min(len) - at);
            }
            at = at.max(start.saturating_add(count)).min(len);
        }
        if at < len {
            pool.free.insert(at, len - at);
        }
        pool
    }

    /// Start of `count` free slots, or `None` when no gap is that large.
    pub(super) fn take(&mut self, count: u32, now: Instant) -> Option<u32> {
        while let Some((since, start, count)) = self.resting.front().copied() {
            if now.duration_since(since) < GRACE {
                break;
            }
            self.resting.pop_front();
            self.join(start, count);
        }
        if count == 0 {
            return Some(0);
        }
        let (start, free) = self
            .free
            .iter()
            .map(|(start, free)| (*start, *free))
            .find(|(_, free)| *free >= count)?;
        self.free.remove(&start);
        if free > count {
            self.free.insert(start + count, free - count);
        }
        Some(start)
    }

    /// Gives slots back, to be used again after the grace period.
    pub(super) fn give(&mut self, start: u32, count: u32, now: Instant) {
        if count > 0 {
            self.resting.push_back((now, start, count));
        }
    }

    fn join(&mut self, mut start: u32, mut count: u32) {
        if let Some(after) = self.free.remove(&(start + count)) {
            count += after;
        }
        if let Some((before, len)) = self
            .free
            .range(..start)
            .next_back()
            .map(|(before, len)| (*before, *len))
            && before + len == start
        {
            self.free.remove(&before);
            start = before;
            count += len;
        }
        self.free.insert(start, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rest_before_they_are_used_again() {
        let start = Instant::now();
        let mut pool = IdPool::new(1, 5, [1, 3]);
        assert_eq!(pool.take(start), Some(2));
        assert_eq!(pool.take(start), Some(4));
        assert_eq!(pool.take(start), None);
        pool.give(3, start);
        assert_eq!(pool.take(start), None);
        pool.wake(start + GRACE, |id| id != 3);
        assert_eq!(pool.take(start + GRACE), None);
        assert_eq!(pool.take(start + 2 * GRACE), Some(3));
    }

    #[test]
    fn ranges_join_their_neighbours_after_the_grace_period() {
        let start = Instant::now();
        let mut pool = RangePool::new(10, [(4, 2)]);
        assert_eq!(pool.take(5, start), None);
        assert_eq!(pool.take(4, start), Some(0));
        assert_eq!(pool.take(4, start), Some(6));
        pool.give(4, 2, start);
        pool.give(0, 4, start);
        assert_eq!(pool.take(1, start), None);
        assert_eq!(pool.take(6, start + GRACE), Some(0));
        assert_eq!(pool.take(0, start), Some(0));
    }

    #[test]
    fn hashes_keep_parts_apart() {
        assert_ne!(stable_hash(&["a", "bc"]), stable_hash(&["ab", "c"]));
        // Kept in pinned maps, so the value itself is part of the layout.
        assert_eq!(stable_hash(&[]), 0xcbf2_9ce4_8422_2325);
    }
}
