//! Who gets a name or an address that several services claim, and what changes for a scope
//! when some of the claimants are other ones.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

/// Who claims: a service or a VirtualService, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// Of the registry.
    Service(usize),
    /// A VirtualService, for its hosts that no service has.
    Rules(usize),
}

/// The lowest rank wins: tier, class, bucket, then two indices.
pub(crate) type Rank = (u8, u8, u8, usize, usize);

/// One claim to one key.
#[derive(Debug)]
struct Claim<V> {
    rank: Rank,
    owner: Owner,
    value: V,
}

/// All claims of one view.
#[derive(Debug)]
pub(crate) struct Claims<K, V> {
    by_key: HashMap<K, Vec<Claim<V>>>,
    keys_by_owner: HashMap<Owner, Vec<K>>,
}

impl<K, V> Default for Claims<K, V> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            keys_by_owner: HashMap::new(),
        }
    }
}

/// What a scope has at one key: its own winner and the base's.
#[derive(Debug)]
pub(crate) struct Change<'c, V> {
    /// `None`: nobody is left.
    pub(crate) own: Option<&'c V>,
    /// `None`: the base has nothing there.
    pub(crate) base: Option<&'c V>,
}

impl<K: Hash + Eq + Ord + Clone, V> Claims<K, V> {
    /// Adds a claim.
    pub(crate) fn add(&mut self, key: K, rank: Rank, owner: Owner, value: V) {
        self.keys_by_owner
            .entry(owner)
            .or_default()
            .push(key.clone());
        // Nearly all keys are claimed once.
        self.by_key
            .entry(key)
            .or_insert_with(|| Vec::with_capacity(1))
            .push(Claim { rank, owner, value });
    }

    /// The winner of every key, in key order.
    pub(crate) fn winners(&self) -> BTreeMap<&K, &V> {
        self.by_key
            .keys()
            .filter_map(|key| Some((key, self.winner(key)?)))
            .collect()
    }

    /// The winner of one key.
    pub(crate) fn winner(&self, key: &K) -> Option<&V> {
        let claims = self.by_key.get(key)?;
        let first = claims.iter().min_by_key(|claim| claim.rank)?;
        Some(&first.value)
    }

    /// Every value at one key, in order of rank, without those of `left_out`.
    pub(crate) fn all<'c>(&'c self, key: &K, left_out: &HashSet<Owner>) -> Vec<(Rank, &'c V)> {
        let claims = self.by_key.get(key).map(Vec::as_slice).unwrap_or_default();
        let mut ranked: Vec<(Rank, &V)> = claims
            .iter()
            .filter(|claim| !left_out.contains(&claim.owner))
            .map(|claim| (claim.rank, &claim.value))
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked
    }

    /// Whether anybody but `left_out` claims the key.
    pub(crate) fn is_claimed(&self, key: &K, left_out: &HashSet<Owner>) -> bool {
        let claims = self.by_key.get(key).map(Vec::as_slice).unwrap_or_default();
        claims.iter().any(|claim| !left_out.contains(&claim.owner))
    }

    /// Keys that `owners` claim.
    pub(crate) fn keys_of<'c>(
        &'c self,
        owners: &'c HashSet<Owner>,
    ) -> impl Iterator<Item = &'c K> + 'c {
        owners
            .iter()
            .filter_map(|owner| self.keys_by_owner.get(owner))
            .flatten()
    }

    /// Every key that is claimed.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.by_key.keys()
    }

    /// What a scope sees whose claims are `own` for the owners `replaced`, and the base's
    /// (`self`) for all others: every key that either side of `replaced` claims.
    pub(crate) fn overlay<'c>(
        &'c self,
        own: &'c Self,
        replaced: &'c HashSet<Owner>,
    ) -> BTreeMap<&'c K, Change<'c, V>> {
        let keys = own.keys().chain(self.keys_of(replaced));
        let change = |key: &'c K| {
            let left = self.all(key, replaced).into_iter();
            let nobody = HashSet::new();
            let mine = own.all(key, &nobody);
            let winner = left.chain(mine).min_by_key(|(rank, _)| *rank);
            Change {
                own: winner.map(|(_, value)| value),
                base: self.winner(key),
            }
        };
        keys.map(|key| (key, change(key))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANK: Rank = (0, 0, 0, 0, 0);

    fn rank(order: usize) -> Rank {
        (0, 0, 0, order, 0)
    }

    #[test]
    fn the_lowest_rank_wins_whoever_came_first() {
        let mut claims = Claims::default();
        claims.add("a", rank(2), Owner::Service(2), "younger");
        claims.add("a", rank(1), Owner::Service(1), "older");
        claims.add("a", (1, 0, 0, 0, 0), Owner::Service(0), "short name");
        assert_eq!(claims.winner(&"a"), Some(&"older"));
    }

    #[test]
    fn an_overlay_replaces_some_owners_and_keeps_the_rest() {
        let mut base = Claims::default();
        base.add("a", rank(1), Owner::Service(1), "base 1");
        base.add("a", rank(2), Owner::Service(2), "base 2");
        base.add("b", RANK, Owner::Service(1), "base b");
        base.add("c", RANK, Owner::Service(3), "base c");
        let mut own = Claims::default();
        own.add("d", RANK, Owner::Service(1), "own d");
        let replaced = HashSet::from([Owner::Service(1)]);
        let found: Vec<_> = base
            .overlay(&own, &replaced)
            .into_iter()
            .map(|(key, change)| (*key, change.own.copied(), change.base.copied()))
            .collect();
        assert_eq!(
            found,
            [
                ("a", Some("base 2"), Some("base 1")), // the next in line
                ("b", None, Some("base b")),           // hidden
                ("d", Some("own d"), None),            // new; c is nobody's change
            ]
        );
    }
}
